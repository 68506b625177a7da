//! Configs, as the programs load them.
//!
//! An input is the file, and behind a line `# drop-in` what lies in its `conf.d`.

use std::fs;
use std::path::Path;

use picket_service::config::{ConfigError, Loaded, shown};
use picket_service::logging::chain;

use crate::spool_state::scratch;

const DROP_IN: &str = "\n# drop-in\n";

/// The agent's, and the parts of it that other commands read alone.
pub fn edge_agent(input: &[u8]) {
    use picket_edge_agent::config;
    with_files(input, |path| {
        let loaded = read_twice(path, config::load);
        let _ = config::state_dir(path);
        refused_well(path, config::publishing(path).err());
        if let Some(loaded) = loaded {
            loaded.settings.sources().unwrap();
            let _ = loaded.settings.zone();
        }
    });
}

/// The aggregator's.
pub fn aggregator(input: &[u8]) {
    use picket_aggregator::config;
    with_files(input, |path| drop(read_twice(path, config::load)));
}

fn with_files(input: &[u8], read: impl FnOnce(&Path)) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let dir = scratch();
    let path = dir.path().join("config.toml");
    let (main, drop_in) = text.split_once(DROP_IN).map_or((text, None), |(a, b)| (a, Some(b)));
    fs::write(&path, main).unwrap();
    if let Some(drop_in) = drop_in {
        let folder = dir.path().join("config.conf.d");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("10.toml"), drop_in).unwrap();
    }
    read(&path);
}

fn read_twice<T>(
    path: &Path,
    load: impl Fn(&Path) -> Result<Loaded<T>, ConfigError>,
) -> Option<Loaded<T>> {
    let (first, second) = (load(path), load(path));
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first.sha256, second.sha256, "the same files, another digest");
            let lines = shown(&first.fields);
            assert!(lines.lines().count() >= first.fields.len(), "each setting is shown");
            Some(first)
        }
        (Err(first), Err(second)) => {
            assert_eq!(chain(&first), chain(&second), "the same files, another error");
            refused_well(path, Some(first));
            None
        }
        (first, _) => panic!("taken once and refused once: {:?}", first.err()),
    }
}

/// An error says which file; one of a value also which field, and one of the text which line.
fn refused_well(path: &Path, error: Option<ConfigError>) {
    let Some(error) = error else { return };
    let text = chain(&error);
    let folder = path.parent().unwrap().display().to_string();
    assert!(text.contains(&folder), "it does not say which file: {text}");
    match error {
        ConfigError::Value { field, problem, .. } => {
            assert!(!field.is_empty() && !problem.is_empty(), "it names no field: {text}");
        }
        ConfigError::Parse { line, problem, .. } => {
            assert!(line > 0 && !problem.is_empty(), "it names no line: {text}");
        }
        ConfigError::Read { .. } | ConfigError::List { .. } => {}
    }
}
