//! The test's own ledger: what it saw the spool promise, and whether a spool that was opened again
//! keeps it.
//!
//! Each entry has the number of steps that the disk had done when the test knew of it, so that one
//! run can be judged as of any moment of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use picket_edge_agent::spool::{Outcome, Spooled};
use picket_wire::observation::GapOf;
use picket_wire::{CameraKey, CameraRecord, EpochId, Message, ObservationId, Topic, decode};

use crate::agent::Agent;

/// Frames that got a number: one that was looked at, or a run that was not.
#[derive(Debug, Clone)]
pub struct Captured {
    pub id: ObservationId,
    pub last: u64,
    pub picture: bool,
}

impl Captured {
    fn seqs(&self) -> RangeInclusive<u64> {
        self.id.seq..=self.last
    }
}

#[derive(Debug, Clone)]
enum Event {
    /// A start returned.
    Began(EpochId),
    /// A number was given out by the spool.
    Numbered(Captured),
    /// A flush returned; all that was captured before is promised.
    Committed(Vec<Captured>),
    /// The uplink got these.
    GivenOut(Vec<Spooled>),
    /// The uplink is about to say that it is done with these.
    Asked(Vec<Spooled>, Outcome),
    /// A flush returned after that.
    Settled(Vec<Spooled>),
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    events: Vec<(usize, Event)>,
    captured: Vec<Captured>,
    asked: Vec<Spooled>,
}

impl Ledger {
    pub fn began(&mut self, at: usize, epoch: EpochId) {
        self.events.push((at, Event::Began(epoch)));
    }

    pub fn captured(&mut self, at: usize, captured: Captured) {
        self.captured.push(captured.clone());
        self.events.push((at, Event::Numbered(captured)));
    }

    pub fn given_out(&mut self, at: usize, rows: &[Spooled]) {
        self.events.push((at, Event::GivenOut(rows.to_vec())));
    }

    /// To be noted before the spool is told.
    pub fn asks(&mut self, at: usize, rows: &[Spooled], outcome: &Outcome) {
        self.asked.extend_from_slice(rows);
        self.events.push((at, Event::Asked(rows.to_vec(), outcome.clone())));
    }

    /// To be noted after a flush returned.
    pub fn flushed(&mut self, at: usize) {
        self.events.push((at, Event::Committed(std::mem::take(&mut self.captured))));
        self.events.push((at, Event::Settled(std::mem::take(&mut self.asked))));
    }

    /// The process is gone, and what waited in its memory with it.
    pub fn crashed(&mut self) {
        self.captured.clear();
        self.asked.clear();
    }

    /// What was promised when the disk had done so many steps.
    pub fn promised(&self, at: usize) -> Promised {
        let mut promised = Promised::default();
        let until = self.events.iter().filter(|(position, _)| *position <= at);
        until.for_each(|(_, event)| promised.note(event));
        promised
    }
}

/// One row by what it says it is: a row's number may come again once the row was deleted.
type Name = (Topic, i64, String, String);

fn name(row: &Spooled) -> Name {
    let header = |name| row.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let text = |name| header(name).unwrap_or_default();
    (row.topic, row.id, text(picket_wire::header::KIND), text(picket_wire::header::ID))
}

type Seqs = BTreeMap<(CameraKey, EpochId), BTreeSet<u64>>;

/// What a spool owes.
#[derive(Debug, Default)]
pub struct Promised {
    epochs: Vec<EpochId>,
    numbered: Vec<Captured>,
    committed: Vec<Captured>,
    given_out: BTreeMap<Name, Spooled>,
    asked: BTreeMap<Name, Outcome>,
    settled: BTreeSet<Name>,
}

/// What a spool's rows say, and what the uplink has taken of them before.
#[derive(Debug, Default)]
struct Found {
    kept: Seqs,
    acknowledged: Seqs,
    gone: Seqs,
    pictures: BTreeSet<ObservationId>,
    pictures_gone: Vec<(CameraKey, EpochId, RangeInclusive<u64>)>,
    pictures_gone_count: BTreeMap<CameraKey, u64>,
}

impl Promised {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Began(epoch) => self.epochs.push(*epoch),
            Event::Numbered(captured) => self.numbered.push(captured.clone()),
            Event::Committed(captured) => self.committed.extend_from_slice(captured),
            Event::GivenOut(rows) => {
                self.given_out.extend(rows.iter().map(|row| (name(row), row.clone())));
            }
            Event::Asked(rows, outcome) => {
                self.asked.extend(rows.iter().map(|row| (name(row), outcome.clone())));
            }
            // A refused gap, epoch or clock record stays.
            Event::Settled(rows) => {
                let gone = |row: &&Spooled| {
                    self.asked[&name(row)] == Outcome::Acknowledged || row.is_replaceable()
                };
                self.settled.extend(rows.iter().filter(gone).map(name));
            }
        }
    }

    /// Looks at the rows alone.
    pub fn judge_rows(&self, agent: &Agent, context: &str) {
        let mut rows = agent.take(Topic::Observations);
        rows.extend(agent.take(Topic::Frames));
        self.check_rows(&rows, context);
        self.check_fates(&self.find(&rows), context);
        agent.reader.give_back(rows.iter().map(|row| row.id));
    }

    /// Looks at a spool that has just been opened again.
    pub fn judge(&self, agent: &Agent, context: &str) {
        let mut rows = agent.take(Topic::Observations);
        rows.extend(agent.take(Topic::Frames));
        self.check_rows(&rows, context);
        let found = self.find(&rows);
        self.check_fates(&found, context);
        self.check_pictures(&found, context);
        self.check_books(agent, &found, context);
        self.check_epoch(agent, &rows, context);
        agent.reader.give_back(rows.iter().map(|row| row.id));
    }

    /// What was given out is there with the same bytes, unless the uplink is done with it, or it had to
    /// go after it was given back and a gap tells so; what the uplink was seen to be done with is not
    /// there again.
    fn check_rows(&self, rows: &[Spooled], context: &str) {
        let found = self.find(rows);
        let there: BTreeMap<_, _> = rows.iter().map(|row| (name(row), row)).collect();
        assert_eq!(there.len(), rows.len(), "{context}: a row stands twice");
        for (name, given_out) in &self.given_out {
            match there.get(name) {
                Some(row) => assert_eq!(*row, given_out, "{context}: other bytes than were sent"),
                None => assert!(
                    self.asked.contains_key(name) || found.tells_of(given_out),
                    "{context}: {name:?} was sent and is lost"
                ),
            }
        }
        for name in &self.settled {
            assert!(!there.contains_key(name), "{context}: {name:?} was deleted and is back");
        }
    }

    fn find(&self, rows: &[Spooled]) -> Found {
        let mut found = Found::default();
        let there: BTreeSet<_> = rows.iter().map(name).collect();
        rows.iter().for_each(|row| found.take(row, false));
        let acknowledged = self
            .asked
            .iter()
            .filter(|(name, outcome)| **outcome == Outcome::Acknowledged && !there.contains(*name))
            .map(|(name, _)| (name, &self.given_out[name]));
        // The gaps first: of the others they may tell that these went.
        let (others, gaps): (Vec<_>, Vec<_>) =
            acknowledged.partition(|(_, row)| row.is_replaceable());
        gaps.iter().for_each(|(_, row)| found.take(row, true));
        for (name, row) in others {
            // A crash may take the word of an acknowledgement: the row is then one like any other, and
            // may have to go.
            let went_later = !self.settled.contains(name) && found.tells_of(row);
            if !went_later {
                found.take(row, true);
            }
        }
        found
    }

    /// Each frame that was promised is here, at the broker, or told as a gap, and only one of them.
    fn check_fates(&self, found: &Found, context: &str) {
        let fates = [&found.kept, &found.acknowledged, &found.gone];
        for captured in &self.committed {
            let line = (captured.id.key.clone(), captured.id.epoch);
            for seq in captured.seqs() {
                let is_in = |seqs: &Seqs| seqs.get(&line).is_some_and(|seqs| seqs.contains(&seq));
                let count = fates.iter().filter(|seqs| is_in(seqs)).count();
                assert!(count > 0, "{context}: {line:?} {seq} was committed and is lost");
            }
        }
        for (first, second) in [(0, 1), (0, 2), (1, 2)] {
            for (line, seqs) in fates[first] {
                let Some(others) = fates[second].get(line) else { continue };
                let both: Vec<_> = seqs.intersection(others).collect();
                assert!(both.is_empty(), "{context}: {line:?} {both:?} have two fates");
            }
        }
    }

    fn check_pictures(&self, found: &Found, context: &str) {
        for captured in self.committed.iter().filter(|captured| captured.picture) {
            let id = &captured.id;
            let line = (id.key.clone(), id.epoch);
            let told = found.pictures_gone.iter().any(|(key, epoch, seqs)| {
                *key == id.key && *epoch == id.epoch && seqs.contains(&id.seq)
            });
            let with_frame = found.gone.get(&line).is_some_and(|seqs| seqs.contains(&id.seq));
            let there = found.pictures.contains(id);
            assert!(there || told || with_frame, "{context}: the picture of {id} is lost");
        }
    }

    fn check_books(&self, agent: &Agent, found: &Found, context: &str) {
        let count = |seqs: &Seqs, key: &CameraKey| -> u64 {
            seqs.iter().filter(|((k, _), _)| k == key).map(|(_, seqs)| seqs.len() as u64).sum()
        };
        for camera in crate::agent::cameras() {
            let key = CameraKey { device: "gate".parse().unwrap(), camera: camera.clone() };
            let books = agent.spool.ledger().books(&camera).unwrap();
            assert!(books.balanced(), "{context}: {books:?}");
            let dropped: u64 = books.dropped.values().sum();
            let said = (books.spooled, books.acknowledged, dropped);
            let lines =
                [&found.kept, &found.acknowledged, &found.gone].map(|seqs| count(seqs, &key));
            assert_eq!(said, lines.into(), "{context}: books and rows of {camera}");
            let pictures: u64 = books.pictures_dropped.values().sum();
            let told = found.pictures_gone_count.get(&key).copied().unwrap_or(0);
            assert_eq!(pictures, told, "{context}: pictures dropped of {camera}");
        }
    }

    /// The highest number of an epoch in which something could have been captured.
    pub fn newest_epoch(&self) -> u64 {
        self.epochs.iter().map(|epoch| epoch.number).max().unwrap_or(0)
    }

    /// The new epoch is new, and says how far the one before is known.
    fn check_epoch(&self, agent: &Agent, rows: &[Spooled], context: &str) {
        let newest = self.newest_epoch();
        assert!(agent.epoch.number > newest, "{context}: epoch {} again", agent.epoch);
        let starts = rows.iter().filter_map(|row| match record(row) {
            Some(CameraRecord::Epoch(start)) if start.id.epoch == agent.epoch => Some(start),
            _ => None,
        });
        let starts: Vec<_> = starts.collect();
        assert_eq!(starts.len(), crate::agent::cameras().len(), "{context}: epoch records");
        for start in starts {
            let Some(previous) = start.previous else {
                assert!(self.epochs.is_empty(), "{context}: the epoch before is not named");
                continue;
            };
            let of_it = |captured: &&Captured| {
                captured.id.key == start.id.key && captured.id.epoch == previous.epoch
            };
            let last = |list: &[Captured]| list.iter().filter(of_it).map(|c| c.last).max();
            let committed = last(&self.committed).unwrap_or(0);
            let numbered = last(&self.numbered).unwrap_or(0);
            assert!(
                previous.last_committed >= committed,
                "{context}: {previous:?}, not {committed}"
            );
            assert!(previous.reserved >= numbered, "{context}: {previous:?} of {numbered}");
            assert!(previous.reserved >= previous.last_committed, "{context}: {previous:?}");
        }
    }
}

impl Found {
    /// Whether a gap stands for this row.
    fn tells_of(&self, row: &Spooled) -> bool {
        let (id, is_picture) = match message(row) {
            Message::Picture { picture, .. } => (picture.id, true),
            Message::Record { record, .. } => (record.id().clone(), false),
            _ => return false,
        };
        let of_pictures = |(key, epoch, seqs): &(CameraKey, EpochId, RangeInclusive<u64>)| {
            *key == id.key && *epoch == id.epoch && seqs.contains(&id.seq)
        };
        let with_frame = self.gone.get(&(id.key.clone(), id.epoch));
        with_frame.is_some_and(|seqs| seqs.contains(&id.seq))
            || (is_picture && self.pictures_gone.iter().any(of_pictures))
    }

    fn take(&mut self, row: &Spooled, acknowledged: bool) {
        let (id, run, gap) = match message(row) {
            Message::Picture { picture, .. } => {
                self.pictures.insert(picture.id);
                return;
            }
            Message::Record { record, .. } => {
                let gap = match &record {
                    CameraRecord::Gap(gap) => Some(gap.clone()),
                    _ => None,
                };
                (record.id().clone(), record.settles(), gap)
            }
            other => panic!("the spool holds {other:?}"),
        };
        if let Some(gap) = gap.as_ref().filter(|gap| gap.of != GapOf::Observations) {
            self.pictures_gone.push((id.key.clone(), id.epoch, gap.first..=gap.last));
            *self.pictures_gone_count.entry(id.key).or_default() += gap.count;
            return;
        }
        let Some((first, last)) = run else { return };
        let seqs = match (gap.is_some(), acknowledged) {
            (true, _) => &mut self.gone,
            (false, true) => &mut self.acknowledged,
            (false, false) => &mut self.kept,
        };
        let line = seqs.entry((id.key, id.epoch)).or_default();
        for seq in first..=last {
            assert!(line.insert(seq), "{seq} of {row:?} stands in two rows");
        }
    }
}

/// A row as the centre reads it.
fn message(row: &Spooled) -> Message {
    let mut headers: Vec<_> =
        row.headers.iter().map(|(n, v)| (n.clone(), v.clone().into_bytes())).collect();
    headers.push((picket_wire::header::LANE.to_owned(), b"live".to_vec()));
    decode(row.topic, row.key.as_bytes(), &headers, &row.value).unwrap()
}

/// A row of the observations topic as the centre reads it.
pub fn record(row: &Spooled) -> Option<CameraRecord> {
    match message(row) {
        Message::Record { record, .. } => Some(record),
        _ => None,
    }
}
