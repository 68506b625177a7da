//! The aggregator's config: one strict TOML file; each stage owns its section.

use std::path::Path;

use picket_service::config::{self, ConfigError, Loaded, Problem};
use picket_service::logging::LogSettings;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{classify, consume, store, track, upsert, web};

/// The whole file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The Kafka cluster that the devices write to.
    pub consume: consume::Settings,
    /// How objects are followed from frame to frame.
    #[serde(default)]
    pub track: track::Settings,
    /// What is kept, where and for how long.
    pub upsert: upsert::Settings,
    /// The MongoDB replica set that holds everything the centre knows.
    pub store: store::Settings,
    /// The pages, the API and the metrics.
    #[serde(default)]
    pub web: web::Settings,
    /// A second look at frames, by the command `classify`.
    #[serde(default)]
    pub classify: Option<classify::Settings>,
    /// What is logged, and how.
    #[serde(default)]
    pub log: LogSettings,
}

/// Reads and checks the file.
pub fn load(path: &Path) -> Result<Loaded<Settings>, ConfigError> {
    config::load(path, Settings::check)
}

/// `[track]` of a file whose other sections may be missing and are not looked into.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the other sections are named so that a misspelt one is refused")]
struct TrackAlone {
    #[serde(default)]
    track: track::Settings,
    consume: Option<serde_json::Value>,
    upsert: Option<serde_json::Value>,
    store: Option<serde_json::Value>,
    web: Option<serde_json::Value>,
    classify: Option<serde_json::Value>,
    log: Option<serde_json::Value>,
}

/// Reads how objects are followed, for a command that needs nothing else of the file.
pub fn load_track(path: &Path) -> Result<track::Settings, ConfigError> {
    let check = |file: &TrackAlone| file.track.validate().map_err(|why| Problem::new("track", why));
    Ok(config::load(path, check)?.settings.track)
}

impl Settings {
    /// Refuses what cannot work, naming the field.
    fn check(&self) -> Result<(), Problem> {
        self.consume.check().map_err(|p| p.within("consume"))?;
        self.track.validate().map_err(|why| Problem::new("track", why))?;
        self.upsert.check().map_err(|p| p.within("upsert"))?;
        self.store.check().map_err(|p| p.within("store"))?;
        self.web.check().map_err(|p| p.within("web"))?;
        self.check_horizon()?;
        self.check_classify()?;
        self.log.check()
    }

    /// A second look has a group of its own, and waits for no observation that is gone by then.
    fn check_classify(&self) -> Result<(), Problem> {
        let Some(classify) = &self.classify else { return Ok(()) };
        classify.check().map_err(|p| p.within("classify"))?;
        if classify.group == self.consume.group {
            let problem = format_args!(
                "{:?} is the group of consume.group, and the two would take frames from each other: give \
                 it a name of its own",
                classify.group
            );
            return Err(Problem::new("classify.group", problem));
        }
        let (hours, days) = (classify.wait_hours, self.upsert.observations_days);
        if u64::from(hours) > u64::from(days) * 24 {
            let problem = format_args!(
                "{hours} hours is longer than observations are kept (upsert.observations_days, {days} \
                 days): at most {}",
                u64::from(days) * 24
            );
            return Err(Problem::new("classify.wait_hours", problem));
        }
        Ok(())
    }

    /// What is missing is waited for, and what came meanwhile is read back then: it must be there.
    fn check_horizon(&self) -> Result<(), Problem> {
        let (hours, days) = (self.consume.horizon_hours, self.upsert.observations_days);
        if u64::from(hours) > u64::from(days) * 24 {
            let problem = format_args!(
                "{hours} hours is longer than observations are kept (upsert.observations_days, {days} \
                 days): at most {}",
                u64::from(days) * 24
            )
            .to_string();
            return Err(Problem::new("consume.horizon_hours", problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use schemars::{Schema, schema_for};

    use super::*;

    #[test]
    fn a_second_look_has_a_group_of_its_own_and_waits_no_longer_than_observations_are_kept() {
        let refused = |classify: &str| {
            let text = format!(
                "consume = {{ brokers = ['a:1'], allow_plaintext = true, group = 'g' }}\n\
                 upsert = {{ images_directory = '/images', observations_days = 8 }}\n\
                 store.hosts = ['a:1']\n\
                 classify = {{ model = '/m.onnx', runtime_library = '/r.so', {classify} }}"
            );
            let settings: Settings = toml::from_str(&text).unwrap();
            settings.check().err().map(|problem| problem.field)
        };
        assert_eq!(refused("wait_hours = 192"), None);
        assert_eq!(refused("group = 'g'").as_deref(), Some("classify.group"));
        assert_eq!(refused("wait_hours = 193").as_deref(), Some("classify.wait_hours"));
        assert_eq!(refused("top = 0").as_deref(), Some("classify.top"));
    }

    #[test]
    fn a_file_read_for_tracking_alone_may_have_every_section_and_no_other() {
        let sections = |schema: Schema| {
            let properties = schema.get("properties").and_then(|p| p.as_object()).unwrap();
            properties.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(sections(schema_for!(TrackAlone)), sections(schema_for!(Settings)));
    }
}
