//! Reading a config: strict, and with errors that can be acted on.
//!
//! A config is one file and its drop-ins: beside `agent.toml` the files `agent.conf.d/*.toml`, in
//! the order of their names. Tables are laid over each other key by key and the later file wins, so
//! that a package's or a fleet's file stays untouched while a site's says what differs there:
//!
//! - A list of tables that have a `name` (`[[camera]]`) is matched by it: an entry of a known name
//!   changes that entry, another is appended. Tables without a `name` are appended.
//! - Any other value is replaced, lists too; an empty list empties.
//! - A choice such as a camera's `source` is replaced when the later file chooses otherwise: what was
//!   said of a V4L2 device does not stand in the way of an RTSP address.
//!
//! Texts may hold variables, so that one config suits all boxes: see [`Machine::variable`].
//! `$${` stands for `${`.

mod field;
mod layers;
mod secrets;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeTable;

use crate::machine::Machine;
use crate::reference;

pub use field::{Field, differences, shown};
use layers::Layers;

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
    /// The folder of the drop-ins could not be listed.
    #[error("cannot list the config's drop-ins in {}", path.display())]
    List {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A value that is well-formed and cannot work.
    #[error("{}: {field}: {problem}", listed(paths))]
    Value {
        /// Which files say so.
        paths: Vec<PathBuf>,
        /// Which field.
        field: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
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
    /// SHA-256 of what the files say together, hex: the same wherever a setting stands.
    pub sha256: String,
    /// What the files say, setting by setting, and where each stands.
    pub fields: Vec<Field>,
}

/// Reads `path` and its drop-ins, and refuses what `check` finds.
pub fn load<T: DeserializeOwned + JsonSchema>(
    path: &Path,
    check: impl FnOnce(&T) -> Result<(), Problem>,
) -> Result<Loaded<T>, ConfigError> {
    let layers = Layers::read(path)?;
    let table = layers.merge(&Machine::this(), &reference::choices::<T>())?;
    let fields = layers.fields(&table);
    let settings = parse(&layers, table)?;
    check(&settings).map_err(|problem| field::refuse(path, &fields, problem))?;
    Ok(Loaded { settings, sha256: field::digest(&fields), fields })
}

/// The last text that the file or a drop-in gives this setting of the first level, whatever is wrong
/// with the rest of them, and with the other files: for what a person must be able to find also then.
/// Only the main file has to be there.
pub fn find_text(path: &Path, name: &str) -> Result<Option<String>, ConfigError> {
    layers::find_text(path, name, &Machine::this())
}

/// Bytes as hex digits, as digests are shown everywhere.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse<T: DeserializeOwned>(layers: &Layers, table: DeTable<'_>) -> Result<T, ConfigError> {
    let deserializer = toml::Deserializer::from(Spanned::new(0..0, table));
    serde_path_to_error::deserialize(deserializer).map_err(|e| {
        let field = e.path().to_string();
        layers.refuse(0, if field == "." { "" } else { &field }, e.inner())
    })
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

    #[derive(Debug, serde::Serialize, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        uplink: Uplink,
    }

    #[derive(Debug, serde::Serialize, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Uplink {
        brokers: Vec<String>,
        linger_ms: u32,
    }

    fn read<T: DeserializeOwned + JsonSchema>(texts: &[(&str, &str)]) -> Result<T, ConfigError> {
        let layers = Layers::of(texts);
        let table = layers.merge(&Machine::under("/nowhere"), &reference::choices::<T>())?;
        parse(&layers, table)
    }

    fn error(text: &str) -> String {
        read::<Settings>(&[("agent.toml", text)]).unwrap_err().to_string()
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

    #[derive(Debug, PartialEq, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Box {
        device: String,
        #[serde(default)]
        brokers: Vec<String>,
        #[serde(default)]
        camera: Vec<Camera>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Camera {
        name: String,
        source: Source,
        #[serde(default)]
        fps: u32,
    }

    #[derive(Debug, PartialEq, serde::Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    enum Source {
        V4l2(V4l2),
        Rtsp(Rtsp),
    }

    #[derive(Debug, PartialEq, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct V4l2 {
        device: String,
        #[serde(default)]
        width_px: u32,
    }

    #[derive(Debug, PartialEq, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Rtsp {
        url: String,
    }

    const BOX: &str = "device = \"gate\"\nbrokers = [\"a\", \"b\"]\n\
        [[camera]]\nname = \"north\"\nfps = 5\nsource.v4l2 = { device = \"/dev/video0\" }\n";

    #[test]
    fn a_later_file_wins_key_by_key_and_cameras_are_matched_by_name() {
        let north = "[[camera]]\nname = \"north\"\nsource.v4l2.width_px = 640\n";
        let south = "brokers = [\"c\"]\n[[camera]]\nname = \"south\"\n\
            source.v4l2 = { device = \"/dev/video1\" }\n";
        let read: Box = read(&[("a.toml", BOX), ("10.toml", north), ("20.toml", south)]).unwrap();
        assert_eq!((read.device.as_str(), read.brokers), ("gate", vec!["c".to_owned()]));
        let names: Vec<_> = read.camera.iter().map(|c| (c.name.as_str(), c.fps)).collect();
        assert_eq!(names, [("north", 5), ("south", 0)]);
        let device = "/dev/video0".to_owned();
        assert_eq!(read.camera[0].source, Source::V4l2(V4l2 { device, width_px: 640 }));
    }

    #[test]
    fn a_drop_in_that_chooses_another_source_replaces_the_former() {
        let drop_in = "[[camera]]\nname = \"north\"\nsource.rtsp.url = \"rtsp://cam/1\"\n";
        let read: Box = read(&[("a.toml", BOX), ("10.toml", drop_in)]).unwrap();
        assert_eq!(read.camera[0].source, Source::Rtsp(Rtsp { url: "rtsp://cam/1".to_owned() }));
        assert_eq!(read.camera[0].fps, 5);
    }

    #[test]
    fn an_error_names_the_very_file_and_line() {
        let of = |drop_in: &str| {
            read::<Box>(&[("a.toml", BOX), ("conf.d/10.toml", "\n"), ("conf.d/20.toml", drop_in)])
                .unwrap_err()
                .to_string()
        };
        let error = of("\n[[camera]]\nname = \"north\"\nfps = \"many\"\n");
        assert!(error.starts_with("conf.d/20.toml:4: camera[0].fps: invalid type"), "{error}");
        assert!(of("\ndevcie = 1\n").starts_with("conf.d/20.toml:2: "), "{}", of("devcie = 1"));
        assert!(of("\n\n[camera\n").starts_with("conf.d/20.toml:3: "), "{}", of("[camera"));
        let error = of("brokers = [\"x\",\n\"${host}\"]");
        assert!(error.starts_with("conf.d/20.toml:2: brokers: the variable ${host}"), "{error}");
    }

    #[test]
    fn the_digest_is_of_what_is_said_and_not_of_where() {
        let digest = |texts: &[(&str, &str)]| {
            let layers = Layers::of(texts);
            let choices = reference::choices::<Box>();
            let table = layers.merge(&Machine::under("/nowhere"), &choices).unwrap();
            field::digest(&layers.fields(&table))
        };
        let whole = digest(&[("a.toml", "device = \"gate\" # the gate\nbrokers = []\n")]);
        let split =
            [("a.toml", "brokers = [\"x\"]\n"), ("b.toml", "device = \"gate\"\nbrokers = []")];
        assert_eq!(whole, digest(&split));
        assert_ne!(whole, digest(&split[..1]));
    }

    #[test]
    fn a_setting_is_shown_with_its_place_and_without_its_secrets() {
        let drop_in = "[[camera]]\nname = \"north\"\nsource.rtsp.url = \"rtsp://u:pw@cam/1?t=pw\"\n\
            brokers = [\"ssl://u:pw@h\"]";
        let layers = Layers::of(&[("a.toml", BOX), ("10.toml", drop_in)]);
        let table =
            layers.merge(&Machine::under("/nowhere"), &reference::choices::<Box>()).unwrap();
        let fields = layers.fields(&table);
        let url = fields.iter().find(|f| f.name == "camera[north].source.rtsp.url").unwrap();
        assert_eq!((url.path.as_path(), url.line), (Path::new("10.toml"), 3));
        assert_eq!(url.shown(), "\"rtsp://***@cam/1?***\"");
        assert!(!format!("{fields:?}").contains("pw"), "{fields:?}");
    }

    #[test]
    fn drop_ins_are_read_by_name_and_only_toml_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, BOX).unwrap();
        let folder = dir.path().join("agent.conf.d");
        std::fs::create_dir(&folder).unwrap();
        for (file, device) in
            [("20-b.toml", "b"), ("10-a.toml", "a"), ("30.toml~", "c"), (".40.toml", "d")]
        {
            std::fs::write(folder.join(file), format!("device = \"{device}\"\n")).unwrap();
        }
        let loaded = load::<Box>(&path, |_| Ok(())).unwrap();
        assert_eq!(loaded.settings.device, "b");
        let problem = |_: &Box| Err(Problem::new("device", "is wrong"));
        let error = load::<Box>(&path, problem).unwrap_err().to_string();
        assert!(error.contains("20-b.toml: device: is wrong"), "{error}");
    }

    #[test]
    fn a_setting_is_found_whatever_is_wrong_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let folder = dir.path().join("agent.conf.d");
        std::fs::create_dir(&folder).unwrap();
        let found = |main: &str, drop_ins: &[&str]| {
            std::fs::write(&path, main).unwrap();
            for (n, text) in drop_ins.iter().enumerate() {
                std::fs::write(folder.join(format!("{n}.toml")), text).unwrap();
            }
            let machine = Machine::under("/nowhere");
            let found = layers::find_text(&path, "dir", &machine).unwrap();
            for n in 0..drop_ins.len() {
                std::fs::remove_file(folder.join(format!("{n}.toml"))).unwrap();
            }
            found
        };
        let (a, b) = ("dir = \"/a\"\n", "dir = \"/b\"\n");
        assert_eq!(found(a, &[]).as_deref(), Some("/a"));
        assert_eq!(found(a, &[b]).as_deref(), Some("/b"));
        // A typo in another drop-in, in the same file, a variable, and the setting itself.
        assert_eq!(found(a, &[b, "[[camera\n"]).as_deref(), Some("/b"));
        assert_eq!(found(a, &["dir = \"/b\"\n[[camera\n"]).as_deref(), Some("/b"));
        assert_eq!(found(a, &["device = \"${serial}\"\n"]).as_deref(), Some("/a"));
        assert_eq!(found(a, &["dir = \"/${serial}\"\n"]).as_deref(), Some("/a"));
        assert_eq!(found(a, &["dir = \"/b\n"]).as_deref(), Some("/a"));
        assert_eq!(found(a, &["dir = 7\n"]).as_deref(), Some("/a"));
        assert_eq!(found("", &["x = 1\n"]), None);
        std::fs::remove_file(&path).unwrap();
        assert!(layers::find_text(&path, "dir", &Machine::under("/nowhere")).is_err());
    }

    #[test]
    fn a_file_that_is_not_toml_names_the_line() {
        assert!(error("[uplink\n").starts_with("agent.toml:1: "), "{}", error("[uplink\n"));
    }

    #[derive(Debug, serde::Serialize, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Wrong {
        source: Option<Vec<String>>,
        uplink: Option<Uplink>,
        store: Option<Store>,
    }

    #[derive(Debug, serde::Serialize, serde::Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Store {
        Memory,
    }

    #[test]
    fn a_password_in_a_refused_value_is_never_shown() {
        let refused = |text: &str| read::<Wrong>(&[("agent.toml", text)]).unwrap_err().to_string();
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
