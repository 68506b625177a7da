//! A look at the broker for `doctor`: is it there, is it the right one, does it let us write?

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use picket_wire::{DeviceName, Topic, TopicNames};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, NoCustomPartitioner, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::link::{self, Verdict};
use super::producer::{self, ProducerError, Report, Reporter};
use super::security;
use super::settings::{Settings, SettingsError};

/// What a look at the broker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// Whether the connection is over TLS.
    pub tls: bool,
    /// Brokers that the cluster names.
    pub brokers: Vec<String>,
    /// Days until the device's certificate expires.
    pub certificate_days_left: Option<i64>,
    /// What the dates of the certificates say against the link, if they do.
    pub dates_problem: Option<String>,
    /// Per topic that devices write: its name, and partitions or what is wrong.
    pub topics: Vec<(String, Result<usize, String>)>,
}

/// Why no look could be taken.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The settings.
    #[error("the uplink's settings are not valid")]
    Settings(#[from] SettingsError),
    /// The producer.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The broker.
    #[error("cannot reach {brokers}: {why}")]
    Unreachable {
        /// Which were tried.
        brokers: String,
        /// In words.
        why: String,
    },
}

/// Asks the broker for the topics that devices write, and writes nothing.
pub fn probe(
    settings: &Settings,
    device: &DeviceName,
    limit: Duration,
) -> Result<ProbeReport, ProbeError> {
    settings.check()?;
    let (reports_tx, reports) = crossbeam_channel::unbounded();
    let client_id = format!("picket-{device}-doctor");
    let producer: BaseProducer<Reporter, NoCustomPartitioner> =
        producer::config(settings, &client_id)
            .map_err(ProducerError::from)?
            .create_with_context(Reporter::new(0, Topic::Observations, reports_tx))
            .map_err(ProducerError::from)?;
    let names = TopicNames::new(settings.topic_prefix.clone());
    let dates_problem = security::dates_problem(settings);
    let until = Instant::now() + limit;
    let mut brokers = Vec::new();
    let mut topics = Vec::new();
    for topic in Topic::OF_DEVICES {
        let name = names.name(topic);
        let left = until.saturating_duration_since(Instant::now());
        let answer = producer.client().fetch_metadata(Some(&name), left).map_err(|error| {
            // The reports say why; the answer only that there was none.
            producer.poll(Duration::from_millis(50));
            let why = newest_complaint(&reports).unwrap_or_else(|| error.to_string());
            let why = match &dates_problem {
                Some(dates) => format!("{dates}; {why}"),
                None => why,
            };
            ProbeError::Unreachable { brokers: settings.brokers.join(", "), why }
        })?;
        brokers = answer.brokers().iter().map(|b| format!("{}:{}", b.host(), b.port())).collect();
        let found = answer.topics().iter().find(|found| found.name() == name);
        topics.push((name, verdict(found, topic, &names)));
    }
    let certificate_days_left = security::days_left(settings);
    let tls = settings.uses_tls();
    Ok(ProbeReport { tls, brokers, certificate_days_left, dates_problem, topics })
}

fn verdict(
    found: Option<&MetadataTopic>,
    topic: Topic,
    names: &TopicNames,
) -> Result<usize, String> {
    let error = match found {
        None => Some(Code::UnknownTopicOrPartition),
        Some(found) => found.error().map(Code::from),
    };
    match (error, found) {
        (None, Some(found)) if !found.partitions().is_empty() => Ok(found.partitions().len()),
        (error, _) => {
            let code = error.unwrap_or(Code::UnknownTopicOrPartition);
            match link::judge(code, topic, names) {
                Verdict::Problem(problem) => Err(problem),
                Verdict::Retry | Verdict::Refused(_) => Err(code.to_string()),
            }
        }
    }
}

/// The newest that is not merely the sum of the others.
fn newest_complaint(reports: &Receiver<Report>) -> Option<String> {
    let said = reports.try_iter().filter_map(|report| match report {
        Report::Trouble { code: Code::AllBrokersDown, .. }
        | Report::Delivered { .. }
        | Report::Carried { .. } => None,
        Report::Trouble { said, .. } => Some(link::explain(&said)),
    });
    said.last()
}
