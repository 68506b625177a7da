//! What tests do with topics at the broker: change a setting, write as devices do, delete, and look at what
//! lies there.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_wire::header::{self, Lane};
use picket_wire::{Outgoing, Topic, TopicNames};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, OwnedResourceSpecifier, ResourceSpecifier,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use crate::fleet::{Agent, Fleet};
use crate::process::until;
use crate::stack::Settings;

/// How long the broker may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// The headers that a device sends a message with; status has no lane.
pub fn headers(message: &Outgoing, lane: Lane) -> OwnedHeaders {
    let lane = (message.topic != Topic::Status).then_some((header::LANE, lane.as_str()));
    let own = message.headers.iter().map(|(key, value)| (*key, value.as_str()));
    let add = |all: OwnedHeaders, (key, value)| all.insert(Header { key, value: Some(value) });
    own.chain(lane).fold(OwnedHeaders::new(), add)
}

/// Sets one setting of a topic and returns what it was; the others stay as they are.
pub async fn set(stack: &Settings, topic: Topic, name: &str, value: &str) -> Result<String> {
    let admin: AdminClient<DefaultClientContext> =
        stack.kafka_client(Some(&stack.admin)).create()?;
    let topic = TopicNames::new(&stack.kafka.topic_prefix).name(topic);
    let specifier = ResourceSpecifier::Topic(&topic);
    let options = AdminOptions::new();
    let described = admin.describe_configs([&specifier], &options).await?;
    let config = described.into_iter().next().context("no answer")??;
    // What is not named is set to the broker's default, so all that is set is named.
    let is_set = |source: &ConfigSource| matches!(source, ConfigSource::DynamicTopic);
    let entries = config.entries.into_iter().filter(|entry| is_set(&entry.source));
    let mut all: HashMap<String, String> =
        entries.filter_map(|entry| Some((entry.name, entry.value?))).collect();
    let before = all.insert(name.to_owned(), value.to_owned());
    let entries = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let altered = admin.alter_configs([&AlterConfig { specifier, entries }], &options).await?;
    for result in altered {
        result.map_err(|(of, code): (OwnedResourceSpecifier, _)| {
            anyhow::anyhow!("set {name} = {value} of {of:?}: {code}")
        })?;
    }
    before.with_context(|| format!("{topic} had no {name} of its own"))
}

/// Which record.
pub type IdAndKind = (String, String);

/// Each id of a device on the topic of observations, with the values that came under it. Records of
/// other kinds may share the id of an observation, so the kind is part of it.
pub fn values_by_id(fleet: &Fleet, agent: &Agent) -> Result<BTreeMap<IdAndKind, Vec<Vec<u8>>>> {
    let mut values: BTreeMap<IdAndKind, Vec<Vec<u8>>> = BTreeMap::new();
    for message in fleet.messages(Topic::Observations)? {
        let headers = message.headers().context("a message without headers")?;
        let text = |name: &str| {
            let found = headers.iter().find(|header| header.key == name);
            let value =
                found.and_then(|header| header.value).with_context(|| format!("no {name}"))?;
            anyhow::Ok(String::from_utf8(value.to_vec())?)
        };
        if text(header::DEVICE)? == agent.device {
            let id = (text(header::ID)?, text(header::KIND)?);
            values.entry(id).or_default().push(message.payload().unwrap_or_default().to_vec());
        }
    }
    Ok(values)
}

/// The topic of observations holds each record of a device once. That is the broker's doing, and holds for
/// as long as one producer lives: after a crash, or with another producer, records may be sent again.
pub fn each_once(fleet: &Fleet, agent: &Agent) -> Result<()> {
    let values = values_by_id(fleet, agent)?;
    ensure!(!values.is_empty(), "the topic has nothing of {}", agent.device);
    let more = values.iter().filter(|(_, values)| values.len() > 1);
    let twice: Vec<_> = more.map(|(id, values)| (id, values.len())).collect();
    ensure!(twice.is_empty(), "more than once on the topic: {twice:?}");
    Ok(())
}

/// Deletes all records that a topic holds, as the broker does when their time is over.
pub async fn delete_records(fleet: &Fleet, topic: Topic) -> Result<()> {
    let stack = fleet.stack.settings();
    let admin: AdminClient<DefaultClientContext> =
        stack.kafka_client(Some(&stack.admin)).create()?;
    let name = TopicNames::new(&stack.kafka.topic_prefix).name(topic);
    let reader: BaseConsumer = stack.kafka_client(Some(&stack.admin)).create()?;
    let metadata = reader.fetch_metadata(Some(&name), ANSWER)?;
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics().first().context("no such topic")?.partitions() {
        all.add_partition_offset(&name, partition.id(), Offset::End)?;
    }
    let deleted = admin.delete_records(&all, &AdminOptions::new()).await?;
    for partition in deleted.elements() {
        let failed = || format!("delete what {name} holds of partition {}", partition.partition());
        partition.error().with_context(failed)?;
    }
    Ok(())
}

/// Deletes topics, and returns once the broker tells of them no more.
pub async fn delete(fleet: &Fleet, topics: &[Topic]) -> Result<()> {
    let stack = fleet.stack.settings();
    let admin: AdminClient<DefaultClientContext> =
        stack.kafka_client(Some(&stack.admin)).create()?;
    let names = TopicNames::new(&stack.kafka.topic_prefix);
    let names: Vec<String> = topics.iter().map(|topic| names.name(*topic)).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    for deleted in admin.delete_topics(&all, &AdminOptions::new()).await? {
        deleted.map_err(|(topic, code)| anyhow::anyhow!("delete {topic}: {code}"))?;
    }
    let reader: BaseConsumer = stack.kafka_client(Some(&stack.admin)).create()?;
    until("the topics to be gone", ANSWER, async || {
        let metadata = reader.fetch_metadata(None, ANSWER)?;
        let there = metadata.topics().iter().find(|topic| all.contains(&topic.name()));
        Ok(there.map_or(Ok(()), |topic| Err(format!("{} is there", topic.name()))))
    })
    .await
}

/// Writes messages that topics held to the partitions in which they lay, in their order.
pub async fn write_back(fleet: &Fleet, messages: &[OwnedMessage]) -> Result<()> {
    let stack = fleet.stack.settings();
    let mut config = stack.kafka_client(Some(&stack.admin));
    let producer: FutureProducer = config.set("enable.idempotence", "true").create()?;
    let mut underway = Vec::with_capacity(messages.len());
    for message in messages {
        let mut record = FutureRecord::to(message.topic()).partition(message.partition());
        if let Some(key) = message.key() {
            record = record.key(key);
        }
        if let Some(headers) = message.headers() {
            record = record.headers(headers.clone());
        }
        let record = record.payload(message.payload().unwrap_or_default());
        underway.push(producer.send_result(record).map_err(|(error, _)| error)?);
    }
    for sent in futures_util::future::try_join_all(underway).await? {
        sent.map_err(|(error, _)| error)?;
    }
    Ok(())
}
