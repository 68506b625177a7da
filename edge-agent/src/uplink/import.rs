//! Publishes records that were carried here by hand, as the device that captured them would have.
//!
//! Bytes are not touched; the lane is the backlog. What has one key goes in the order of the file.
//! Nothing is remembered here: whoever breaks it off runs it again, and the centre knows what it has
//! by its id.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use picket_wire::observation::Reason;
use picket_wire::{DeviceName, Lane, TopicNames};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::link::{self, Verdict};
use super::producer::{ProducerError, Producers, Report};
use super::settings::{Settings, SettingsError};
use super::window::Ticket;
use crate::spool::{CarriedError, Spooled};

/// The one pair of producers that there is.
const PAIR: u32 = 0;
/// How often it is told that nothing is acknowledged.
const REMIND_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether a producer broke.
const LOOK: Duration = Duration::from_millis(500);

/// What the broker took.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Records and pictures that it acknowledged.
    pub acknowledged: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Those that it will never take, by id, and why.
    pub refused: Vec<(String, Reason)>,
}

/// Why not all were published.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The settings.
    #[error("the uplink's settings are not valid")]
    Settings(#[from] SettingsError),
    /// The producer.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The file.
    #[error("the file cannot be read on; {acknowledged} records went before")]
    File {
        /// How many the broker has.
        acknowledged: u64,
        /// Why.
        source: CarriedError,
    },
    /// The broker does not let it.
    #[error("{problem}; {acknowledged} records went before: mend it and import the file again")]
    Broker {
        /// How many the broker has.
        acknowledged: u64,
        /// In words.
        problem: String,
    },
}

/// Publishes `records` with these settings, and waits until each is acknowledged, however long the
/// broker is away; `tell` hears every few seconds why nothing goes.
pub fn import(
    settings: &Settings,
    device: &DeviceName,
    records: impl Iterator<Item = Result<Spooled, CarriedError>>,
    tell: impl FnMut(&str),
) -> Result<Imported, ImportError> {
    settings.check()?;
    let (reports_tx, reports) = crossbeam_channel::unbounded();
    let client_id = format!("picket-{device}-import");
    let producers = Producers::new(PAIR, settings, &client_id, &reports_tx)?;
    let import = Import {
        names: TopicNames::new(settings.topic_prefix.clone()),
        most: (settings.max_in_flight_records as usize, settings.max_in_flight_bytes),
        producers,
        reports,
        tell,
        sent: BTreeMap::new(),
        sent_bytes: 0,
        next: 1,
        suspects: VecDeque::new(),
        imported: Imported::default(),
        last_acknowledged: Instant::now(),
        complaint: None,
    };
    import.run(records)
}

struct Import<T> {
    names: TopicNames,
    /// Records and bytes on their way, at most.
    most: (usize, u64),
    producers: Producers,
    reports: Receiver<Report>,
    tell: T,
    sent: BTreeMap<Ticket, Spooled>,
    sent_bytes: u64,
    next: Ticket,
    /// Refused in company: each is tried alone before it is given up, since the broker refuses a
    /// whole batch for one of it.
    suspects: VecDeque<Spooled>,
    imported: Imported,
    last_acknowledged: Instant,
    complaint: Option<String>,
}

impl<T: FnMut(&str)> Import<T> {
    fn run(
        mut self,
        records: impl Iterator<Item = Result<Spooled, CarriedError>>,
    ) -> Result<Imported, ImportError> {
        for record in records {
            let acknowledged = self.imported.acknowledged;
            let record = record.map_err(|source| ImportError::File { acknowledged, source })?;
            self.send(record, false)?;
            while self.sent.len() >= self.most.0 || self.sent_bytes >= self.most.1 {
                self.wait(false)?;
            }
            self.try_suspects()?;
        }
        self.empty(false)?;
        self.try_suspects()?;
        Ok(std::mem::take(&mut self.imported))
    }

    fn empty(&mut self, alone: bool) -> Result<(), ImportError> {
        while !self.sent.is_empty() {
            self.wait(alone)?;
        }
        Ok(())
    }

    fn try_suspects(&mut self) -> Result<(), ImportError> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        self.empty(false)?;
        while let Some(suspect) = self.suspects.pop_front() {
            self.send(suspect, true)?;
            self.empty(true)?;
        }
        Ok(())
    }

    fn send(&mut self, record: Spooled, alone: bool) -> Result<(), ImportError> {
        let ticket = self.next;
        self.next += 1;
        let (topic, lane) = (record.topic, Some(Lane::Backlog));
        let handed =
            self.producers.send(topic, &record.key, &record.headers, lane, &record.value, ticket);
        match handed {
            Ok(()) => {
                self.sent_bytes += record.bytes();
                self.sent.insert(ticket, record);
                Ok(())
            }
            Err(code) => self.not_taken(record, code, alone),
        }
    }

    /// Takes what is reported; `alone` where one record is on its way by itself.
    fn wait(&mut self, alone: bool) -> Result<(), ImportError> {
        match self.reports.recv_timeout(LOOK) {
            Ok(Report::Delivered { ticket, result }) => {
                let Some(record) = self.sent.remove(&ticket) else { return Ok(()) };
                self.sent_bytes = self.sent_bytes.saturating_sub(record.bytes());
                if let Err(code) = result {
                    return self.not_taken(record, code, alone);
                }
                self.imported.acknowledged += 1;
                self.imported.bytes += record.value.len() as u64;
                (self.last_acknowledged, self.complaint) = (Instant::now(), None);
            }
            // A site's budget is for its own link; this is another.
            Ok(Report::Trouble { code: Code::AllBrokersDown, .. } | Report::Carried { .. }) => {}
            Ok(Report::Trouble { said, .. }) => self.complaint = Some(link::explain(&said)),
            Err(_) => {
                if let Some(said) = self.producers.fatal() {
                    return Err(self.broken(link::explain(&said)));
                }
            }
        }
        if self.last_acknowledged.elapsed() >= REMIND_EVERY {
            self.last_acknowledged = Instant::now();
            let problem = self.complaint.as_deref().unwrap_or("no answer yet");
            (self.tell)(&format!("waiting for the broker: {problem}"));
        }
        Ok(())
    }

    fn not_taken(&mut self, record: Spooled, code: Code, alone: bool) -> Result<(), ImportError> {
        match link::judge(code, record.topic, &self.names) {
            Verdict::Refused(reason) if alone => {
                self.imported.refused.push((record.id_text().to_owned(), reason));
                Ok(())
            }
            Verdict::Refused(_) => {
                self.suspects.push_back(record);
                Ok(())
            }
            Verdict::Problem(problem) => Err(self.broken(problem)),
            // The producer tries for ever what can be tried: this one has broken.
            Verdict::Retry => {
                let said = self.producers.fatal().unwrap_or_else(|| code.to_string());
                Err(self.broken(link::explain(&said)))
            }
        }
    }

    fn broken(&self, problem: String) -> ImportError {
        ImportError::Broker { acknowledged: self.imported.acknowledged, problem }
    }
}

impl<T> Drop for Import<T> {
    fn drop(&mut self) {
        // Without it the producers would go on trying what nobody waits for any more.
        self.producers.purge();
    }
}
