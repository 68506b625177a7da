//! Settings of a topic that a test changes at the broker.

use std::collections::HashMap;

use anyhow::{Context, Result};
use picket_wire::{Topic, TopicNames};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, OwnedResourceSpecifier, ResourceSpecifier,
};
use rdkafka::client::DefaultClientContext;

use crate::stack::Settings;

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
