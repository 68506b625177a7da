//! Reading a config file: strict, and with errors that can be acted on.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Why a config was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the config file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or holds something that the type does not.
    #[error("{}:{line}: {field}{problem}{hint}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// The field with a colon behind it, or nothing.
        field: String,
        /// What is wrong.
        problem: String,
        /// What would be right, if known.
        hint: String,
    },
    /// A value that is well-formed and cannot work.
    #[error("{}: {field}: {problem}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// What a config type checks after parsing: the field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Problem {
    /// A problem of a field.
    pub fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// The same problem, seen from the file that holds the section.
    pub fn within(self, section: &str) -> Self {
        let field = match self.field.strip_prefix(section) {
            Some(rest) if rest.is_empty() || rest.starts_with('.') => self.field,
            _ => format!("{section}.{}", self.field),
        };
        Self { field, ..self }
    }
}

/// A config that was read: valid, and known by its digest.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

/// Reads `path`, and refuses what `check` finds.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    check: impl FnOnce(&T) -> Result<(), Problem>,
) -> Result<Loaded<T>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let settings = parse(path, &text)?;
    check(&settings).map_err(|p| ConfigError::Value {
        path: path.to_owned(),
        field: p.field,
        problem: p.problem,
    })?;
    Ok(Loaded { settings, sha256: hex(&Sha256::digest(text.as_bytes())) })
}

/// Bytes as hex digits, as digests are shown everywhere.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let deserializer = toml::Deserializer::parse(text).map_err(|e| refuse(path, text, "", &e))?;
    serde_path_to_error::deserialize(deserializer).map_err(|e| {
        let field = e.path().to_string();
        refuse(path, text, if field == "." { "" } else { &field }, e.inner())
    })
}

fn refuse(path: &Path, text: &str, field: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    let said = error.message().trim();
    ConfigError::Parse {
        path: path.to_owned(),
        line,
        field: if field.is_empty() { String::new() } else { without_secrets(field) + ": " },
        problem: without_secrets(said),
        hint: suggestion(said).map_or_else(String::new, |s| format!("; did you mean `{s}`?")),
    }
}

/// The message with its quoted value made fit for a journal: serde quotes what it refuses, and that
/// may be an address with a password in it. Not left out altogether, because a host in the wrong
/// place is found by its name.
fn without_secrets(message: &str) -> String {
    let begin = message.find(['"', '`']).map_or(0, |quote| quote + 1);
    // The last one that "expected" follows, as the value itself may hold quotes.
    let end = ["\", expected", "`, expected"].iter().filter_map(|text| message.rfind(text)).max();
    let end = end.or_else(|| message.rfind(['"', '`'])).filter(|end| *end > begin);
    let (head, rest) = message.split_at(begin);
    let (value, tail) = rest.split_at(end.unwrap_or(message.len()) - begin);
    format!("{head}{}{tail}", without_user_and_query(value))
}

/// What stands before the last `@` goes, not before the first: a password may hold one.
fn without_user_and_query(value: &str) -> String {
    let scheme = value.find("://").map(|at| at + "://".len());
    let (scheme, rest) = value.split_at(scheme.unwrap_or(0));
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => rest.to_owned(),
    };
    match rest.split_once('?') {
        Some((address, _)) if !scheme.is_empty() => format!("{scheme}{address}?***"),
        _ => format!("{scheme}{rest}"),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// The nearest of the expected names in serde's message "unknown field `x`, expected one of `a`,
/// `b`". The message is the one place where serde tells what would have been right.
fn suggestion(message: &str) -> Option<String> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let wrong = quoted.next()?;
    quoted
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(wrong.len()) / 2)
        .min()
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read by serde only")]
    struct Settings {
        uplink: Uplink,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read by serde only")]
    struct Uplink {
        brokers: Vec<String>,
        linger_ms: u32,
    }

    fn error(text: &str) -> String {
        parse::<Settings>(Path::new("agent.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_right_one_suggested() {
        let text = "[uplink]\nlinger_ms = 1\nbrokres = []\n";
        let error = error(text);
        assert!(error.starts_with("agent.toml:3: uplink"), "{error}");
        assert!(error.ends_with("did you mean `brokers`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_file_line_and_field() {
        let error = error("[uplink]\nbrokers = []\nlinger_ms = \"soon\"\n");
        assert!(error.starts_with("agent.toml:3: uplink.linger_ms: invalid type"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_toml_names_the_line() {
        assert!(error("[uplink\n").starts_with("agent.toml:1: "), "{}", error("[uplink\n"));
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read by serde only")]
    struct Wrong {
        source: Option<Vec<String>>,
        uplink: Option<Uplink>,
        store: Option<Store>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Store {
        Memory,
    }

    #[test]
    fn a_password_in_a_refused_value_is_never_shown() {
        let refused =
            |text: &str| parse::<Wrong>(Path::new("agent.toml"), text).unwrap_err().to_string();
        for (text, shown) in [
            (r#"source = "rtsp://admin:pw@cam/1""#, "rtsp://***@cam/1\""),
            (r#"source = "rtsp://admin:p@w?x\"pw@cam/1""#, "rtsp://***@cam/1\", expected"),
            (r#"source = "admin:pw@cam""#, "\"***@cam\""),
            (r#"uplink.brokers = "ssl://u:pw@h""#, "uplink.brokers: "),
            (r#"uplink.brokers = "ssl://u:pw@h""#, "ssl://***@h\""),
            (r#"store = "mongodb://u:pw@h/db?token=pw""#, "mongodb://***@h/db?***`"),
            (r#"store = "mongodb://h/db?token=pw""#, "mongodb://h/db?***`, expected `memory`"),
            (r#""rtsp://admin:pw@cam/1" = 1"#, "rtsp://***@cam/1"),
            ("source = rtsp://admin:pw@cam/1", "agent.toml:1: "),
            ("source = \"rtsp://admin:pw@cam/1", "agent.toml:1: "),
        ] {
            let error = refused(text);
            assert!(!error.contains("pw") && error.contains(shown), "{text}: {error}");
        }
    }
}
