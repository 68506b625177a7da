//! Who may do what on Kafka, and the waiting until Kafka knows it.

use std::time::Duration;

use anyhow::{Context, Result};
use picket_pki::{Authority, IssueOptions, Role};
use picket_wire::topic::{Topic, TopicNames};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::acls::{self, Allow, Operation, Resource};
use super::settings::{Credentials, Settings};
use crate::process::until;

const KNOWN_LIMIT: Duration = Duration::from_secs(120);
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// A device's certificate, made unless it is there, with the right to write the three device topics.
/// Any process may call this that can read the stack's folder.
pub async fn enrol_device(settings: &Settings, name: &str) -> Result<Credentials> {
    let authority = Authority::open(&settings.pki_dir())?;
    let mut identity = authority.identity(Role::Device, name);
    if !identity.certificate.exists() {
        identity = authority.issue(Role::Device, name, &IssueOptions::default())?;
    }
    let device = Credentials::from(identity);
    settings.write_client_files(&device)?;

    let topics = Topic::OF_DEVICES.map(|topic| topic_name(settings, topic));
    // Writing includes asking where to write; producing idempotently needs no right of its own.
    let allow = topics.iter().map(|topic| Allow {
        principal: Role::Device.principal(name),
        resource: Resource::Topic(topic.clone()),
        operation: Operation::Write,
    });
    grant(settings, allow.collect()).await?;
    known(settings, &device, &topics).await?;
    Ok(device)
}

/// The aggregator's rights; it may create nothing.
pub async fn grant_aggregator(settings: &Settings) -> Result<()> {
    let principal = Role::Aggregator.principal(&settings.aggregator.name);
    let allow = |resource, operation| Allow { principal: principal.clone(), resource, operation };
    let topic = |topic| Resource::Topic(topic_name(settings, topic));
    let mut rights: Vec<Allow> =
        Topic::OF_DEVICES.map(|read| allow(topic(read), Operation::Read)).into();
    rights.extend([
        allow(topic(Topic::Tracks), Operation::Write),
        allow(topic(Topic::DeadLetter), Operation::Write),
        allow(topic(Topic::DeadLetter), Operation::Read),
        allow(Resource::GroupsFrom(settings.kafka.topic_prefix.clone()), Operation::Read),
    ]);
    grant(settings, rights).await?;
    let all = Topic::ALL.map(|topic| topic_name(settings, topic));
    known(settings, &settings.aggregator, &all).await
}

fn topic_name(settings: &Settings, topic: Topic) -> String {
    TopicNames::new(settings.kafka.topic_prefix.as_str()).name(topic)
}

async fn grant(settings: &Settings, rights: Vec<Allow>) -> Result<()> {
    let admin = settings.kafka_client(Some(&settings.admin));
    tokio::task::spawn_blocking(move || acls::create(&admin, &rights)).await?
}

/// Waits until the broker acts on new rights: the controller answers before the broker has heard.
/// A topic that may not be seen is "not authorised"; one that may, is there or "unknown".
async fn known(settings: &Settings, who: &Credentials, topics: &[String]) -> Result<()> {
    let client: BaseConsumer = settings.kafka_client(Some(who)).create()?;
    let client = std::sync::Arc::new(client);
    for topic in topics {
        let what = format!("Kafka to know the rights of {} on {topic}", who.name);
        until(&what, KNOWN_LIMIT, async || {
            let (client, topic) = (client.clone(), topic.clone());
            let seen = tokio::task::spawn_blocking(move || visible(&client, &topic)).await?;
            Ok(seen.map_err(|error| error.to_string()))
        })
        .await
        .context("enrol")?;
    }
    Ok(())
}

fn visible(client: &BaseConsumer, topic: &str) -> Result<(), KafkaError> {
    let refused = RDKafkaErrorCode::TopicAuthorizationFailed;
    let metadata = client.fetch_metadata(Some(topic), ASK_LIMIT)?;
    let error = metadata.topics().first().and_then(|topic| topic.error());
    match error.map(RDKafkaErrorCode::from) {
        Some(code) if code == refused => Err(KafkaError::MetadataFetch(code)),
        _ => Ok(()),
    }
}
