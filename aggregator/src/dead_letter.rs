//! `picket-aggregator dead-letter`: list, show, retry, drop.
//!
//! Reading the topic waits for the brokers on this thread. Nothing else runs on it: MongoDB's and
//! Kafka's own work has threads of its own.

mod report;
mod selection;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use picket_aggregator::config::Settings;
use picket_aggregator::consume::Connection;
use picket_aggregator::consume::letters::{
    self, Letter, LetterPlace, PutBack, Shelf, Standing, with_standing,
};
use picket_aggregator::store::Store;
use picket_aggregator::store::letters::LetterState;
use picket_wire::dead_letter::IDENTITY_CONFLICT;

use selection::{Filter, Newest, Selection, in_parts};

#[derive(Subcommand)]
pub enum Command {
    /// Lists them, the newest last, with what became of each.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only those that nobody has put back or dropped.
        #[arg(long)]
        open: bool,
        /// Most that are shown: the newest. 0 shows all, as they lie on the topic.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows one whole: headers and value.
    Show {
        /// PARTITION/OFFSET, as `list` has it.
        place: LetterPlace,
        /// Writes the value's bytes to this file, which must not be there yet.
        #[arg(long, value_name = "FILE")]
        value: Option<PathBuf>,
    },
    /// Puts messages back on the topics that they came from: once the aggregator can read them, or
    /// once what hindered it is gone.
    Retry {
        #[command(flatten)]
        selection: Selection,
        /// Also those that were put back or dropped before.
        #[arg(long)]
        again: bool,
        /// PEM file of a certificate that may write to the devices' topics, where the aggregator's own
        /// may not.
        #[arg(long, requires = "key_file")]
        certificate_file: Option<PathBuf>,
        /// PEM file of its key.
        #[arg(long, requires = "certificate_file")]
        key_file: Option<PathBuf>,
    },
    /// Marks messages as dealt with for good. They stay on the dead-letter topic until its retention
    /// takes them, and stay counted as refused.
    Drop {
        #[command(flatten)]
        selection: Selection,
        /// Also those whose retry was cut short (`retrying`) and cannot be ended by another one. Such a
        /// message may be on its topic all the same: it would then be stored, and be refused no more.
        #[arg(long)]
        force: bool,
    },
}

/// Carries a command out. Fails if anything that was asked for was not done.
pub async fn run(settings: Settings, command: Command) -> Result<ExitCode> {
    let shelf = Shelf::open(&settings.consume, &settings.consume.connection())?;
    let store = async || Store::connect(&settings.store).await;
    match command {
        Command::List { filter, open, limit, json } => {
            list(&shelf, &store().await?, filter, open, limit, json).await?;
        }
        Command::Show { place, value } => {
            let store = store().await?;
            let letter = with_standing(&store, vec![shelf.letter(place)?]).await?;
            let (letter, standing) = letter.into_iter().next().context("no letter")?;
            report::show(&letter, standing)?;
            if let Some(path) = value {
                let file = std::fs::File::create_new(&path);
                let written = file.and_then(|mut file| file.write_all(letter.record.body()));
                written.with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Command::Retry { selection, again, certificate_file, key_file } => {
            let own = settings.consume.connection();
            let connection = Connection {
                certificate_file: certificate_file.or(own.certificate_file),
                key_file: key_file.or(own.key_file),
                ..own
            };
            let put_back = PutBack::new(&settings.consume, &connection)?;
            return retry(&shelf, &store().await?, &put_back, &selection, again).await;
        }
        Command::Drop { selection, force } => {
            return drop(&shelf, &store().await?, &selection, force).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(
    shelf: &Shelf,
    store: &Store,
    filter: Filter,
    open: bool,
    limit: usize,
    json: bool,
) -> Result<()> {
    let mut newest = Newest::new(limit);
    let (mut found, mut still_open) = (0_u64, 0_u64);
    for part in in_parts(shelf.letters(filter.since_ms())?, |letter| filter.takes(letter)) {
        // Of the values nothing but their size is shown.
        for (letter, standing) in with_standing(store, part?).await? {
            if open && !standing.is_open() {
                continue;
            }
            found += 1;
            still_open += u64::from(standing.is_open());
            let line = report::Line::of(&letter, standing);
            match limit {
                0 => line.print(json)?,
                _ => newest.add((letter.record.broker_time_ms, letter.place), line),
            }
        }
    }
    for line in newest.into_sorted() {
        line.print(json)?;
    }
    if !json {
        let shown = if limit == 0 { found } else { found.min(limit as u64) };
        let older = match found - shown {
            0 => String::new(),
            older => format!("; {older} older ones are not shown (--limit)"),
        };
        println!("{found} letters on {}, {still_open} of them open{older}", shelf.topic());
    }
    Ok(())
}

/// Why nothing is done about a letter that is not open.
fn is_done(letter: &Letter, standing: Standing) -> Option<String> {
    let place = letter.place;
    match standing {
        Standing::Open | Standing::Retrying => None,
        done => Some(format!("{place}: {} already", done.as_str())),
    }
}

#[derive(Default)]
struct Counts {
    done: u64,
    passed_over: u64,
    conflicts: u64,
    failed: u64,
}

impl Counts {
    /// Prints them, also where the rest could not be looked at.
    fn end(&self, what: &str, ended: Result<()>) -> Result<ExitCode> {
        let Self { done, passed_over, conflicts, failed } = self;
        print!("{done} {what}");
        if *passed_over > 0 {
            print!(", {passed_over} passed over");
        }
        if *conflicts > 0 {
            print!(", {conflicts} identity conflicts left alone: they would be refused again");
        }
        println!();
        ended?;
        ensure!(*failed == 0, "{failed} could not be {what}");
        Ok(ExitCode::SUCCESS)
    }
}

async fn retry(
    shelf: &Shelf,
    store: &Store,
    put_back: &PutBack,
    selection: &Selection,
    again: bool,
) -> Result<ExitCode> {
    let mut counts = Counts::default();
    let ended = retry_all(shelf, store, put_back, selection, again, &mut counts).await;
    counts.end("put back", ended)
}

async fn retry_all(
    shelf: &Shelf,
    store: &Store,
    put_back: &PutBack,
    selection: &Selection,
    again: bool,
    counts: &mut Counts,
) -> Result<()> {
    for part in selection.letters(shelf)? {
        let mut going = Vec::new();
        for (letter, standing) in with_standing(store, part?).await? {
            let is_conflict = letter.reason == IDENTITY_CONFLICT;
            if !again && let Some(done) = is_done(&letter, standing) {
                counts.passed_over += 1;
                if selection.is_by_place() {
                    println!("{done}; --again puts it back once more");
                }
            } else if is_conflict && selection.is_all() {
                counts.conflicts += 1;
            } else {
                if standing == Standing::Retrying {
                    println!(
                        "{}: an earlier retry was cut short; if it is on its topic by now, this one \
                         adds nothing",
                        letter.place
                    );
                }
                if is_conflict {
                    println!(
                        "{}: its id is stored with other bytes: it will be refused again, and counted \
                         as that once",
                        letter.place
                    );
                }
                going.push(letter);
            }
        }
        let outcomes = letters::retry(store, put_back, going).await;
        for (letter, outcome) in outcomes.context("cannot note what is put back")? {
            match outcome {
                Ok(to) => {
                    counts.done += 1;
                    println!(
                        "{}: put back on {}/{}/{}",
                        letter.place, to.topic, to.partition, to.offset
                    );
                }
                Err(error) => {
                    counts.failed += 1;
                    eprintln!("{}: {:#}", letter.place, anyhow::Error::from(error));
                }
            }
        }
    }
    Ok(())
}

async fn drop(
    shelf: &Shelf,
    store: &Store,
    selection: &Selection,
    force: bool,
) -> Result<ExitCode> {
    let mut counts = Counts::default();
    let ended = drop_all(shelf, store, selection, force, &mut counts).await;
    if ended.is_ok() && counts.done == 0 && counts.failed == 0 && !selection.is_by_place() {
        bail!("nothing to drop");
    }
    counts.end("dropped", ended)
}

async fn drop_all(
    shelf: &Shelf,
    store: &Store,
    selection: &Selection,
    force: bool,
    counts: &mut Counts,
) -> Result<()> {
    for part in selection.letters(shelf)? {
        let mut going = Vec::new();
        for (letter, standing) in with_standing(store, part?).await? {
            match (is_done(&letter, standing), standing) {
                (Some(done), _) => {
                    counts.passed_over += 1;
                    if selection.is_by_place() {
                        println!("{done}");
                    }
                }
                (None, Standing::Retrying) if !force => {
                    counts.failed += 1;
                    eprintln!(
                        "{}: a retry was begun and cut short, so it may be on its way: end that first, \
                         by another retry, or drop it with --force",
                        letter.place
                    );
                }
                (None, Standing::Retrying) => going.push((letter, LetterState::Abandoned)),
                (None, _) => going.push((letter, LetterState::Dropped)),
            }
        }
        let dealt: Vec<_> =
            going.iter().map(|(letter, state)| (letters::dealt(letter), *state)).collect();
        store.drop_letters(&dealt).await?;
        counts.done += dealt.len() as u64;
        for (letter, state) in going {
            let may_come = match state {
                LetterState::Abandoned => "; if it is on its topic, it is stored all the same",
                _ => "",
            };
            println!("{}: dropped{may_come}", letter.place);
        }
    }
    Ok(())
}
