//! Making the topics, with all settings that the promises rest on.
//!
//! - `min.insync.replicas`: an acknowledgement means two disks where there are three replicas.
//! - `unclean.leader.election.enable=false`: no acknowledged record is given up for availability.
//! - `message.timestamp.type=LogAppendTime`: expiry goes by the broker's clock, not by a camera's.
//! - `compression.type=producer`: pictures are not compressed again.
//!
//! A topic that exists is never changed: its number of partitions decides where a camera stands, and
//! a setting that differs may be somebody's decision. The difference is reported.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use picket_wire::{Topic, TopicNames};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::kafka::{self, ClientError, ClientLog};
use super::settings::Connection;

const LIMIT: Duration = Duration::from_secs(30);

/// Why the topics were not made.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The client could not be made.
    #[error("cannot set up the Kafka client")]
    Client(#[source] ClientError),
    /// The cluster could not be looked at.
    #[error("cannot ask the brokers at {brokers} for their topics")]
    Metadata {
        /// As configured.
        brokers: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// The thread that looked at it ended.
    #[error("asking the brokers did not end")]
    MetadataTask(#[source] tokio::task::JoinError),
    /// More replicas than brokers.
    #[error(
        "cannot make topics with {replicas} replicas: the cluster has {brokers} brokers; \
         add brokers or ask for fewer replicas"
    )]
    TooFewBrokers {
        /// As asked for.
        replicas: u16,
        /// As found.
        brokers: usize,
    },
    /// Numbers that make no topic.
    #[error("{what} must be 1 or more")]
    Zero {
        /// Which number.
        what: &'static str,
    },
    /// A topic could not be made.
    #[error("cannot make the topic {topic}")]
    Create {
        /// Which.
        topic: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// The settings of a topic could not be read.
    #[error("cannot read the settings of the topic {topic}")]
    Describe {
        /// Which.
        topic: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
}

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the topics' names begin with.
    pub topics: TopicNames,
    /// Partitions of each topic.
    pub partitions: u32,
    /// Copies of each record.
    pub replicas: u16,
}

/// What became of the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order of the design.
    pub topics: Vec<(String, Outcome)>,
}

/// What became of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Created,
    /// It was there, as it should be.
    Unchanged,
    /// It was there, and differs.
    Differs(Vec<Difference>),
}

/// A setting that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the setting.
    pub setting: String,
    /// As it is.
    pub is: String,
    /// As the design has it.
    pub should_be: String,
}

impl Report {
    /// Whether every topic is as it should be.
    pub fn is_as_designed(&self) -> bool {
        self.topics.iter().all(|(_, outcome)| !matches!(outcome, Outcome::Differs(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.topics {
            match outcome {
                Outcome::Created => writeln!(f, "{name}: created")?,
                Outcome::Unchanged => writeln!(f, "{name}: exists, unchanged")?,
                Outcome::Differs(differences) => {
                    writeln!(f, "{name}: exists and differs; it was not changed")?;
                    for d in differences {
                        writeln!(f, "  {} is {}, should be {}", d.setting, d.is, d.should_be)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// All settings of a topic but its partitions and replicas.
fn settings(topic: Topic, replicas: u16) -> BTreeMap<&'static str, String> {
    let insync = if replicas >= 3 { 2 } else { 1 };
    BTreeMap::from([
        ("cleanup.policy", "delete".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("max.message.bytes", topic.max_message_bytes().to_string()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("min.insync.replicas", insync.to_string()),
        ("retention.ms", topic.retention_ms().to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
    ])
}

/// Partitions and replicas of a topic that exists.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    partitions: usize,
    replicas: usize,
}

/// Makes the topics that are missing, and says how the others differ.
pub async fn create(connection: &Connection, options: &Options) -> Result<Report, TopicsError> {
    for (what, number) in
        [("partitions", options.partitions), ("replicas", options.replicas.into())]
    {
        if number == 0 {
            return Err(TopicsError::Zero { what });
        }
    }
    let config = kafka::client(connection, "picket-topics").map_err(TopicsError::Client)?;
    let admin: AdminClient<ClientLog> =
        config.create_with_context(ClientLog).map_err(|e| TopicsError::Client(e.into()))?;
    let admin = Arc::new(admin);
    let (brokers, existing) = look(&admin, connection).await?;
    if usize::from(options.replicas) > brokers {
        return Err(TopicsError::TooFewBrokers { replicas: options.replicas, brokers });
    }
    let mut report = Report { topics: Vec::new() };
    for topic in Topic::ALL {
        let name = options.topics.name(topic);
        let outcome = match existing.get(&name) {
            Some(shape) => compare(&admin, topic, &name, *shape, options).await?,
            None => match make(&admin, topic, &name, options).await? {
                Made::Created => Outcome::Created,
                // By somebody else meanwhile, or by a request of ours whose answer was late.
                Made::Existed => {
                    let (_, existing) = look(&admin, connection).await?;
                    let shape = existing.get(&name).copied().unwrap_or_default();
                    compare(&admin, topic, &name, shape, options).await?
                }
            },
        };
        report.topics.push((name, outcome));
    }
    Ok(report)
}

async fn look(
    admin: &Arc<AdminClient<ClientLog>>,
    connection: &Connection,
) -> Result<(usize, BTreeMap<String, Shape>), TopicsError> {
    let asking = admin.clone();
    // The call waits for the broker, which is why it has a thread of its own.
    let asked = tokio::task::spawn_blocking(move || asking.inner().fetch_metadata(None, LIMIT));
    let metadata = asked.await.map_err(TopicsError::MetadataTask)?.map_err(|source| {
        TopicsError::Metadata { brokers: connection.brokers.join(", "), source }
    })?;
    let shape = |topic: &rdkafka::metadata::MetadataTopic| Shape {
        partitions: topic.partitions().len(),
        replicas: topic.partitions().first().map_or(0, |p| p.replicas().len()),
    };
    let topics = metadata.topics().iter().map(|topic| (topic.name().to_owned(), shape(topic)));
    Ok((metadata.brokers().len(), topics.collect()))
}

enum Made {
    Created,
    Existed,
}

async fn make(
    admin: &AdminClient<ClientLog>,
    topic: Topic,
    name: &str,
    options: &Options,
) -> Result<Made, TopicsError> {
    let failed = |source| TopicsError::Create { topic: name.to_owned(), source };
    let settings = settings(topic, options.replicas);
    let partitions = i32::try_from(options.partitions).unwrap_or(i32::MAX);
    let replication = TopicReplication::Fixed(options.replicas.into());
    let mut new = NewTopic::new(name, partitions, replication);
    for (setting, value) in &settings {
        new = new.set(setting, value);
    }
    let admin_options = AdminOptions::new().operation_timeout(Some(LIMIT));
    let results = admin.create_topics([&new], &admin_options).await.map_err(failed)?;
    for result in results {
        match result {
            Ok(_) => {}
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(Made::Existed),
            Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
        }
    }
    Ok(Made::Created)
}

async fn compare(
    admin: &AdminClient<ClientLog>,
    topic: Topic,
    name: &str,
    shape: Shape,
    options: &Options,
) -> Result<Outcome, TopicsError> {
    let failed = |source| TopicsError::Describe { topic: name.to_owned(), source };
    let specifier = ResourceSpecifier::Topic(name);
    let described =
        admin.describe_configs([&specifier], &AdminOptions::new()).await.map_err(failed)?;
    let found = described
        .into_iter()
        .next()
        .unwrap_or(Err(RDKafkaErrorCode::UnknownTopicOrPartition))
        .map_err(|code| failed(KafkaError::AdminOp(code)))?;
    let found = found.entries.into_iter().map(|e| (e.name, e.value.unwrap_or_default()));
    Ok(judge(shape, &found.collect(), topic, options))
}

fn judge(
    shape: Shape,
    found: &BTreeMap<String, String>,
    topic: Topic,
    options: &Options,
) -> Outcome {
    let mut differences = Vec::new();
    let mut expect = |setting: &str, is: &str, should_be: &str| {
        if is != should_be {
            differences.push(Difference {
                setting: setting.to_owned(),
                is: is.to_owned(),
                should_be: should_be.to_owned(),
            });
        }
    };
    expect("partitions", &shape.partitions.to_string(), &options.partitions.to_string());
    expect("replicas", &shape.replicas.to_string(), &options.replicas.to_string());
    for (setting, should_be) in settings(topic, options.replicas) {
        expect(setting, found.get(setting).map_or("not set", String::as_str), &should_be);
    }
    if differences.is_empty() { Outcome::Unchanged } else { Outcome::Differs(differences) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(replicas: u16) -> Options {
        Options { topics: TopicNames::default(), partitions: 48, replicas }
    }

    #[test]
    fn an_acknowledgement_means_two_copies_where_there_are_three() {
        let insync =
            |replicas| settings(Topic::Observations, replicas)["min.insync.replicas"].clone();
        assert_eq!([insync(1), insync(2), insync(3), insync(5)], ["1", "1", "2", "2"]);
    }

    #[test]
    fn a_topic_that_differs_is_named_with_the_setting_and_both_values() {
        let mut found: BTreeMap<String, String> = settings(Topic::Frames, 3)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let shape = Shape { partitions: 48, replicas: 3 };
        assert_eq!(judge(shape, &found, Topic::Frames, &options(3)), Outcome::Unchanged);
        found.insert("unclean.leader.election.enable".to_owned(), "true".to_owned());
        let outcome = judge(Shape { partitions: 12, ..shape }, &found, Topic::Frames, &options(3));
        let text = Report { topics: vec![("picket.frames".to_owned(), outcome)] }.to_string();
        assert!(text.contains("partitions is 12, should be 48"), "{text}");
        assert!(text.contains("unclean.leader.election.enable is true, should be false"), "{text}");
    }

    #[test]
    fn dead_letters_have_room_for_the_largest_message_and_its_reason() {
        let bytes = |topic| settings(topic, 1)["max.message.bytes"].parse::<u32>().unwrap();
        assert_eq!(bytes(Topic::DeadLetter), bytes(Topic::Frames) + 64 * 1024);
    }
}
