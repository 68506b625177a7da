//! `spool`: what waits on the disk, for the person at the box: to look at, to check, to carry away.
//!
//! All of it works beside the running agent and without one, and none of it changes the spool.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use picket_wire::CameraName;
use picket_wire::status::Books;

use crate::config::{self, Publishing};
use crate::control::{self, ControlError, Request, Sealed};
use crate::spool::{
    self, CarriedReader, Chosen, Count, Exported, Found, Group, Keyring, RowId, SpoolError, Stat,
    StateLock,
};
use crate::uplink::{self, Imported};

/// How long the agent may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// What can wait in a spool, as `--kind` has it.
const KINDS: [&str; 8] =
    ["observation", "skip", "gap", "epoch", "clock", "certificate", "frame", "crop"];

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Rows, bytes, age, and each camera's books.
    Stat(ConfigFile),
    /// What waits: of each camera, epoch and kind a line with its numbers, bytes and age.
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// Of this camera only.
        #[arg(long)]
        camera: Option<CameraName>,
        /// Of this kind only.
        #[arg(long, value_parser = KINDS)]
        kind: Option<String>,
        /// A line of JSON for each, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Copies what waits into a file, to be carried by hand: in the clear, also where the spool is
    /// encrypted. The spool keeps it: what its own link sends later is known at the centre, and stored
    /// once.
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// The file to be made.
        file: PathBuf,
        /// Of this camera only.
        #[arg(long)]
        camera: Option<CameraName>,
        /// Writes over a file that is there.
        #[arg(long)]
        overwrite: bool,
    },
    /// Publishes a file that `export` made, by this machine's `[uplink]`. Of the config only that and
    /// `device` are needed. Can be broken off and run again.
    Import {
        #[command(flatten)]
        config: ConfigFile,
        /// The file.
        file: PathBuf,
        /// Only looks whether the file is whole.
        #[arg(long)]
        check: bool,
    },
    /// Checks pages, rows, totals, books and epoch. Ends with 1, and says what, if anything is wrong.
    Verify(ConfigFile),
}

/// Which config.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The config file; `<its name>.conf.d/*.toml` beside it is laid over it.
    #[arg(long = "config", default_value = "/etc/picket/edge-agent.toml")]
    pub path: PathBuf,
}

/// Does it; false if what was looked at is not as it should be.
pub fn run(command: Command, out: &mut impl Write) -> Result<bool> {
    match command {
        Command::Stat(config) => {
            write_stat(&spool::stat(&config::state_dir(&config.path)?)?, out)?;
            Ok(true)
        }
        Command::List { config, camera, kind, json } => {
            let groups = spool::list(&config::state_dir(&config.path)?, &Chosen { camera, kind })?;
            write_list(&groups, json, Timestamp::now(), out)?;
            Ok(true)
        }
        Command::Export { config, file, camera, overwrite } => {
            let state_dir = config::state_dir(&config.path)?;
            let below = seal(&state_dir)?;
            let keyring = keyring(&config.path, &state_dir)?;
            let camera = camera.as_ref();
            let exported = spool::export(&state_dir, &keyring, &file, overwrite, camera, below)?;
            write_exported(&exported, &file, out)?;
            Ok(exported.unreadable == 0)
        }
        Command::Import { file, check: true, .. } => {
            write_whole(read_through(&file)?, &file, out)?;
            Ok(true)
        }
        Command::Import { config, file, check: false } => import(&config.path, &file, out),
        Command::Verify(config) => {
            let state_dir = config::state_dir(&config.path)?;
            // Without the master key all but the values can be looked at.
            let keyring = keyring(&config.path, &state_dir).unwrap_or_else(|error| {
                eprintln!("without the master key: {error:#}");
                Keyring::without_masters(&state_dir)
            });
            let found = spool::verify(&state_dir, &keyring)?;
            write_found(&found, &state_dir, out)?;
            Ok(found.is_whole())
        }
    }
}

/// Has the running agent let the rows as they are. Without one nothing changes them: those of an
/// agent that starts meanwhile come behind, and what stood before it is not touched by it.
fn seal(state_dir: &Path) -> Result<Option<RowId>> {
    match control::ask::<Sealed>(state_dir, &Request::SealSpool, ANSWER) {
        Ok(Sealed { below }) => Ok(Some(below)),
        Err(error @ ControlError::NotRunning { .. }) => match StateLock::take(state_dir) {
            // There may be nothing to lock in a copy of a state directory on a read-only disk.
            Ok(_) | Err(SpoolError::Lock { .. }) => Ok(None),
            Err(SpoolError::InUse { .. }) => Err(error).context(
                "an agent runs that cannot be asked to hold its spool still: stop it, then export",
            ),
            Err(other) => Err(other.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// What opens the values that are encrypted.
fn keyring(config: &Path, state_dir: &Path) -> Result<Keyring> {
    let settings = config::spool(config)?;
    Ok(Keyring::open(state_dir, settings.encryption.as_ref())?)
}

fn open(file: &Path) -> Result<CarriedReader<BufReader<File>>> {
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    CarriedReader::open(BufReader::with_capacity(1 << 20, opened))
        .with_context(|| file.display().to_string())
}

/// Reads all of it before any of it is believed.
fn read_through(file: &Path) -> Result<Count> {
    let mut reader = open(file)?;
    while reader.next_record().with_context(|| file.display().to_string())?.is_some() {}
    Ok(reader.so_far())
}

fn import(config: &Path, file: &Path, out: &mut impl Write) -> Result<bool> {
    let Publishing { device, uplink: settings } = config::publishing(config)?;
    write_whole(read_through(file)?, file, out)?;
    writeln!(out, "publishing to {} as {device}", settings.brokers.join(", "))?;
    out.flush()?;
    let began = Instant::now();
    // Read a second time rather than kept in memory; each record is proved again as it comes.
    let tell = |what: &str| eprintln!("{what}");
    let imported = uplink::import(&settings, &device, open(file)?, tell)?;
    write_imported(&imported, began.elapsed(), out)?;
    Ok(imported.refused.is_empty())
}

fn write_stat(stat: &Stat, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "records    {} ({} bytes)", stat.totals.records, stat.totals.record_bytes)?;
    writeln!(out, "pictures   {} ({} bytes)", stat.totals.pictures, stat.totals.picture_bytes)?;
    writeln!(out, "on disk    {} bytes", stat.file_bytes)?;
    if stat.totals.records + stat.totals.pictures > 0 {
        writeln!(out, "oldest     {}", age(stat.oldest_ms, Timestamp::now()))?;
    }
    if stat.batch_keys > 0 {
        writeln!(out, "encrypted  under {} batch keys", stat.batch_keys)?;
    }
    writeln!(out, "set aside  {} damaged databases", stat.set_aside)?;
    for (camera, account) in &stat.accounts {
        let (epoch, last) = (account.epoch, account.last_committed);
        writeln!(out, "{camera}  epoch {epoch}, last seq {last}: {}", sum(&account.books))?;
        let lost = by_reason(&account.books.pictures_dropped);
        if !lost.is_empty() {
            writeln!(out, "{camera}  pictures dropped: {lost}")?;
        }
    }
    Ok(())
}

/// The books as the sum that they are. What is in memory only the running agent knows.
fn sum(books: &Books) -> String {
    let dropped: u64 = books.dropped.values().sum();
    let reasons = by_reason(&books.dropped);
    format!(
        "captured {} = spooled {} + acknowledged {} + dropped {dropped}{}{}",
        books.captured,
        books.spooled,
        books.acknowledged,
        if reasons.is_empty() { String::new() } else { format!(" ({reasons})") },
        if books.balanced() { "" } else { "  DOES NOT BALANCE" },
    )
}

fn by_reason<R: std::fmt::Display>(counts: &std::collections::BTreeMap<R, u64>) -> String {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    counts.map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

fn write_list(
    groups: &[Group],
    json: bool,
    now: Timestamp,
    out: &mut impl Write,
) -> io::Result<()> {
    for group in groups {
        if json {
            serde_json::to_writer(&mut *out, group)?;
            writeln!(out)?;
            continue;
        }
        let Group { camera, epoch, kind, first, last, records, bytes, oldest_ms, .. } = group;
        let age = age(*oldest_ms, now);
        writeln!(
            out,
            "{camera}  epoch {epoch}  {kind:<11}  seq {first}-{last}  {records} records, {bytes} \
             bytes, {age}"
        )?;
    }
    if groups.is_empty() && !json {
        writeln!(out, "nothing waits")?;
    }
    Ok(())
}

fn age(then_ms: Option<i64>, now: Timestamp) -> String {
    let Some(then_ms) = then_ms else { return "of unknown age (no clock)".to_owned() };
    let s = now.as_millisecond().saturating_sub(then_ms) / 1000;
    match s {
        // The clock was set back since.
        ..0 => "younger than the clock".to_owned(),
        0..=119 => format!("{s} s old"),
        120..=7199 => format!("{} min old", s / 60),
        7200..=172_799 => format!("{} h old", s / 3600),
        _ => format!("{} days old", s / 86_400),
    }
}

fn write_exported(exported: &Exported, file: &Path, out: &mut impl Write) -> io::Result<()> {
    let Count { records, bytes } = exported.count;
    writeln!(out, "{}: {records} records, {bytes} bytes, on disk", file.display())?;
    writeln!(out, "NOT ENCRYPTED: whoever has the file sees the pictures")?;
    writeln!(out, "the spool keeps them; what was captured since is not in the file")?;
    for row in &exported.named {
        writeln!(out, "left out: {row}")?;
    }
    if exported.unreadable > 0 {
        writeln!(out, "{} rows cannot be read and are left out", exported.unreadable)?;
    }
    Ok(())
}

fn write_whole(
    Count { records, bytes }: Count,
    file: &Path,
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "{}: whole, {records} records, {bytes} bytes", file.display())
}

fn write_imported(imported: &Imported, took: Duration, out: &mut impl Write) -> io::Result<()> {
    let Imported { acknowledged, bytes, refused } = imported;
    let s = took.as_secs_f64();
    writeln!(out, "the broker has {acknowledged} records, {bytes} bytes, after {s:.1} s")?;
    for (id, reason) in refused {
        writeln!(out, "the broker will never take {id}: {reason}")?;
    }
    Ok(())
}

fn write_found(found: &Found, state_dir: &Path, out: &mut impl Write) -> io::Result<()> {
    for note in &found.notes {
        writeln!(out, "note: {note}")?;
    }
    for problem in &found.problems {
        writeln!(out, "WRONG: {problem}")?;
    }
    if found.further > 0 {
        writeln!(out, "and {} more", found.further)?;
    }
    let verdict = if found.is_whole() { "whole" } else { "NOT WHOLE" };
    writeln!(out, "the spool in {} is {verdict}: {} rows", state_dir.display(), found.rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_are_shown_as_a_sum_with_each_reason_and_a_false_one_is_said() {
        let mut books = Books { captured: 10, spooled: 3, acknowledged: 4, ..Books::default() };
        assert!(sum(&books).ends_with("DOES NOT BALANCE"), "{}", sum(&books));
        books.dropped.insert("spool-full".to_owned().try_into().unwrap(), 2);
        books.dropped.insert("too-large".to_owned().try_into().unwrap(), 1);
        assert_eq!(
            sum(&books),
            "captured 10 = spooled 3 + acknowledged 4 + dropped 3 (spool-full 2, too-large 1)"
        );
    }

    #[test]
    fn an_age_is_in_the_unit_that_a_person_would_use() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ages =
            [0, 119, 120, 7200, 172_800].map(|s: i64| age(Some((1_000_000 - s) * 1000), now));
        assert_eq!(ages, ["0 s old", "119 s old", "2 min old", "2 h old", "2 days old"]);
        assert!(age(None, now).contains("no clock"));
        assert!(age(Some(2_000_000_000), now).contains("younger"));
    }
}
