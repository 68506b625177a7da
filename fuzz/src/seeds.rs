//! Inputs that the repository holds anyway: golden messages and the packaged configs.

use std::fs;
use std::path::{Path, PathBuf};

use picket_wire::Topic;
use serde_json::Value;

use crate::wire;

/// An input to begin with.
pub struct Seed {
    /// For which target.
    pub target: &'static str,
    /// What it is called.
    pub name: String,
    /// The input.
    pub input: Vec<u8>,
}

/// All of them, as they are now: a new kind of message is one without anybody thinking of it.
pub fn seeds() -> Vec<Seed> {
    let golden = in_folder("../wire/golden/0.1").into_iter().map(|path| {
        let message = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Seed { target: "wire", name, input: message_input(&message) }
    });
    let configs = [("config-edge-agent", "edge-agent"), ("config-aggregator", "aggregator")];
    let configs = configs.into_iter().map(|(target, name)| {
        let input = fs::read(here(&format!("../packaging/{name}/{name}.toml"))).unwrap();
        Seed { target, name: "packaged".to_owned(), input }
    });
    golden.chain(configs).collect()
}

fn message_input(golden: &Value) -> Vec<u8> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let topic = Topic::ALL.into_iter().find(|topic| golden["topic"] == topic.suffix()).unwrap();
    let lane = (topic != Topic::Status).then(|| ("picket-lane".to_owned(), "live".to_owned()));
    let headers = golden["headers"].as_object().unwrap().iter();
    let headers = headers.map(|(name, value)| (name.clone(), text(value)));
    let value = match &golden["value"] {
        Value::String(text) => text.as_bytes().to_vec(),
        bytes => serde_json::from_value(bytes.clone()).unwrap(),
    };
    wire::input(topic, &text(&golden["key"]), headers.chain(lane), &value)
}

/// The files of a folder beside this package, by name.
pub fn in_folder(name: &str) -> Vec<PathBuf> {
    let folder = here(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
