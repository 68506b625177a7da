//! What the classifier is, what it reads and how much at a time.

use std::net::SocketAddr;
use std::path::PathBuf;

use picket_onnx::Provider;
use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

const MAX_BATCH: usize = 256;
/// A TiB: more is a slip of the finger.
const MAX_QUEUE_MIB: usize = 1024 * 1024;
/// A hundred years, as for every retention.
const MAX_WAIT_HOURS: u32 = 36_500 * 24;

/// Section `[classify]`: a second look at published frames, by the command `classify` alone. Without
/// this section that command refuses to start; `run` does not read it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Consumer group. All classifiers of one fleet share it; it must not be that of `consume.group`.
    #[serde(default = "default_group")]
    pub group: String,
    /// The model's file, with its description beside it: see `docs/classify.md`.
    pub model: PathBuf,
    /// The description; that beside the model, of the same name with `.toml` in place of `.onnx`, if
    /// unset.
    #[serde(default)]
    pub model_description: Option<PathBuf>,
    /// SHA-256 that the file must have, hex; not checked if unset.
    #[serde(default)]
    pub model_sha256: Option<String>,
    /// ONNX Runtime's shared library. The aggregator's package has none: `docs/classify.md` says where
    /// to get one.
    pub runtime_library: PathBuf,
    /// What computes the model. All but `cpu` are untested, and need a vendor's `runtime_library`. It
    /// refuses to start if this cannot be used.
    #[serde(default)]
    pub provider: Provider,
    /// Threads that one batch is computed on.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// How many labels are stored of each frame, the surest first.
    #[serde(default = "default_top")]
    pub top: usize,
    /// Most pictures in one batch. At the model's size they may take 512 MiB (12 bytes a pixel), which is
    /// looked at when the model is loaded.
    #[serde(default = "default_batch_pictures")]
    pub batch_pictures: usize,
    /// How long a batch waits for more pictures after its first, in milliseconds.
    #[serde(default = "default_batch_wait_ms")]
    pub batch_wait_ms: u64,
    /// Most memory for pictures that wait for their turn, in MiB. Beyond it reading pauses.
    #[serde(default = "default_queue_mib")]
    pub queue_mib: usize,
    /// How long what was found in a frame waits for its observation, in hours since it was found. What
    /// has none by then is given up and counted. No longer than `upsert.observations_days`.
    #[serde(default = "default_wait_hours")]
    pub wait_hours: u32,
    /// Address of `/metrics` and `/healthz`; must be a loopback one, since nothing here asks who is
    /// calling. Neither is served if unset.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
}

fn default_group() -> String {
    "picket-classify".to_owned()
}

fn default_threads() -> usize {
    1
}

fn default_top() -> usize {
    3
}

fn default_batch_pictures() -> usize {
    16
}

fn default_batch_wait_ms() -> u64 {
    100
}

fn default_queue_mib() -> usize {
    64
}

fn default_wait_hours() -> u32 {
    7 * 24
}

impl Settings {
    /// Refuses what cannot work. The model and the runtime are tried when they are loaded.
    pub fn check(&self) -> Result<(), Problem> {
        if self.group.is_empty() {
            return Err(Problem::new("group", "must not be empty"));
        }
        for (field, value, most) in [
            ("threads", self.threads, 64),
            ("top", self.top, 100),
            ("batch_pictures", self.batch_pictures, MAX_BATCH),
            ("queue_mib", self.queue_mib, MAX_QUEUE_MIB),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Problem::new(field, format_args!("{value} is not 1 to {most}")));
            }
        }
        if self.batch_wait_ms > 10_000 {
            return Err(Problem::new("batch_wait_ms", "must be 10000 or less"));
        }
        if !(1..=MAX_WAIT_HOURS).contains(&self.wait_hours) {
            let problem = format_args!("{} is not 1 to {MAX_WAIT_HOURS}", self.wait_hours);
            return Err(Problem::new("wait_hours", problem));
        }
        if let Some(hash) = &self.model_sha256
            && (hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            let problem = format_args!("{hash:?} must be 64 hex digits");
            return Err(Problem::new("model_sha256", problem));
        }
        match self.listen {
            Some(listen) if !listen.ip().is_loopback() => {
                let port = listen.port();
                let problem = format_args!(
                    "{listen} can be reached by others and this endpoint has no sign-in; use \
                     127.0.0.1:{port} or [::1]:{port}"
                );
                Err(Problem::new("listen", problem))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "model = '/m.onnx'\nruntime_library = '/r.so'\n";

    fn refused(line: &str) -> Option<String> {
        let settings: Settings = toml::from_str(&format!("{HEAD}{line}")).unwrap();
        settings.check().err().map(|problem| problem.field)
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_field() {
        assert_eq!(refused(""), None);
        assert_eq!(refused("listen = '[::1]:9465'"), None);
        for (line, field) in [
            ("group = ''", "group"),
            ("threads = 0", "threads"),
            ("top = 0", "top"),
            ("batch_pictures = 257", "batch_pictures"),
            ("batch_wait_ms = 10001", "batch_wait_ms"),
            ("queue_mib = 0", "queue_mib"),
            ("wait_hours = 0", "wait_hours"),
            ("model_sha256 = 'abc'", "model_sha256"),
            ("listen = '0.0.0.0:9465'", "listen"),
        ] {
            assert_eq!(refused(line).as_deref(), Some(field), "{line}");
        }
    }
}
