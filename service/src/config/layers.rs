//! The files of a config, laid one over the other.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::field::{self, Field};
use super::secrets::without_secrets;
use super::{ConfigError, suggestion};
use crate::machine::Machine;

type Value<'t> = Spanned<DeValue<'t>>;

/// The texts of all files. Each has a range of offsets of its own, as if they stood one behind the
/// other, so that one offset names a place in one of them also after they were merged.
pub(super) struct Layers(Vec<Layer>);

struct Layer {
    path: PathBuf,
    text: String,
    start: usize,
}

impl Layers {
    /// The file and its drop-ins.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut layers = Self(Vec::new());
        layers.add(path)?;
        for drop_in in drop_ins(&path.with_extension("conf.d"))? {
            layers.add(&drop_in)?;
        }
        Ok(layers)
    }

    fn add(&mut self, path: &Path) -> Result<(), ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        // One more, so that the end of a file is not the beginning of the next.
        let start = self.0.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.0.push(Layer { path: path.to_owned(), text, start });
        Ok(())
    }

    /// One file's text, as a test has it.
    #[cfg(test)]
    pub fn of(texts: &[(&str, &str)]) -> Self {
        let mut layers = Self(Vec::new());
        for (path, text) in texts {
            let start = layers.0.last().map_or(0, |last| last.start + last.text.len() + 1);
            layers.0.push(Layer { path: path.into(), text: (*text).to_owned(), start });
        }
        layers
    }

    /// The file and the line at an offset.
    pub fn place(&self, offset: usize) -> (&Path, usize) {
        let Some(layer) = self.0.iter().rev().find(|layer| layer.start <= offset) else {
            return (Path::new(""), 1);
        };
        let before = layer.text.bytes().take(offset - layer.start);
        (&layer.path, before.filter(|byte| *byte == b'\n').count() + 1)
    }

    /// All of them in one, the later over the earlier, with the machine's variables put in.
    pub fn merge(
        &self,
        machine: &Machine,
        choices: &BTreeSet<String>,
    ) -> Result<DeTable<'_>, ConfigError> {
        let mut merged = DeTable::new();
        for layer in &self.0 {
            let parsed =
                DeTable::parse(&layer.text).map_err(|e| self.refuse(layer.start, "", &e))?;
            let settle = Settle { layers: self, machine, start: layer.start };
            let table = settle.table(parsed.into_inner(), "")?;
            Laying { choices }.tables(&mut merged, table, "");
        }
        Ok(merged)
    }

    /// What the merged table says, setting by setting.
    pub fn fields(&self, table: &DeTable<'_>) -> Vec<Field> {
        field::list(table, |offset| self.place(offset))
    }

    /// An error in a text that begins at `start`.
    pub fn refuse(&self, start: usize, field: &str, error: &toml::de::Error) -> ConfigError {
        let (path, line) = self.place(start + error.span().map_or(0, |span| span.start));
        let said = error.message().trim();
        ConfigError::Parse {
            path: path.to_owned(),
            line,
            field: if field.is_empty() { String::new() } else { without_secrets(field) + ": " },
            problem: without_secrets(said),
            hint: suggestion(said).map_or_else(String::new, |s| format!("; did you mean `{s}`?")),
        }
    }
}

/// See [`super::find_text`].
pub(super) fn find_text(
    path: &Path,
    name: &str,
    machine: &Machine,
) -> Result<Option<String>, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let main = std::fs::read_to_string(path).map_err(read)?;
    let drop_ins = drop_ins(&path.with_extension("conf.d")).unwrap_or_default();
    let drop_ins = drop_ins.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let files = std::iter::once(main).chain(drop_ins);
    Ok(files.filter_map(|text| text_in(&text, name, machine)).next_back())
}

fn text_in(file: &str, name: &str, machine: &Machine) -> Option<String> {
    let (table, errors) = DeTable::parse_recoverable(file);
    let value = table.get_ref().get(name)?;
    let line = |at: usize| file.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let (first, last) = (line(value.span().start), line(value.span().end));
    // What the parser makes of a line with an error is a guess.
    let is_guessed = errors.iter().any(|error| {
        error.span().is_none_or(|span| line(span.start) <= last && line(span.end) >= first)
    });
    match value.get_ref() {
        DeValue::String(text) if !is_guessed => machine.expand(text).ok(),
        _ => None,
    }
}

/// The drop-ins of a folder, by name. What an editor or a package manager leaves behind has another
/// ending; a hidden file is not meant.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::List { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Makes a parsed file fit to be merged: its offsets moved to where its text begins, its texts its
/// own, its variables put in.
struct Settle<'a> {
    layers: &'a Layers,
    machine: &'a Machine,
    start: usize,
}

impl Settle<'_> {
    fn table<'t>(&self, table: DeTable<'t>, path: &str) -> Result<DeTable<'t>, ConfigError> {
        let mut settled = DeTable::new();
        for (key, value) in table {
            let field = field::join(path, key.get_ref());
            let span = self.moved(key.span());
            settled.insert(Spanned::new(span, key.into_inner()), self.value(value, &field)?);
        }
        Ok(settled)
    }

    fn value<'t>(&self, value: Value<'t>, path: &str) -> Result<Value<'t>, ConfigError> {
        let span = self.moved(value.span());
        let settled = match value.into_inner() {
            DeValue::Table(table) => DeValue::Table(self.table(table, path)?),
            DeValue::Array(items) => {
                let settled: Result<DeArray<'t>, _> =
                    items.into_iter().map(|item| self.value(item, path)).collect();
                DeValue::Array(settled?)
            }
            DeValue::String(text) => {
                let text = self.machine.expand(&text).map_err(|problem| {
                    let (file, line) = self.layers.place(span.start);
                    let (path, field) = (file.to_owned(), format!("{path}: "));
                    ConfigError::Parse { path, line, field, problem, hint: String::new() }
                })?;
                DeValue::String(Cow::Owned(text))
            }
            other => other,
        };
        Ok(Spanned::new(span, settled))
    }

    fn moved(&self, span: std::ops::Range<usize>) -> std::ops::Range<usize> {
        span.start + self.start..span.end + self.start
    }
}

/// Lays a later file over the earlier ones.
struct Laying<'a> {
    choices: &'a BTreeSet<String>,
}

impl Laying<'_> {
    fn tables<'t>(&self, below: &mut DeTable<'t>, above: DeTable<'t>, path: &str) {
        let chooses_otherwise =
            self.choices.contains(path) && !above.keys().any(|key| below.contains_key(key));
        if chooses_otherwise {
            *below = DeTable::new();
        }
        for (key, value) in above {
            let path = field::join(path, key.get_ref());
            let value = match below.remove(&key) {
                Some(known) => self.values(known, value, &path),
                None => value,
            };
            below.insert(key, value);
        }
    }

    fn values<'t>(&self, below: Value<'t>, above: Value<'t>, path: &str) -> Value<'t> {
        let span = above.span();
        match (below.into_inner(), above.into_inner()) {
            (DeValue::Table(mut below), DeValue::Table(above)) => {
                self.tables(&mut below, above, path);
                Spanned::new(span, DeValue::Table(below))
            }
            (DeValue::Array(below), DeValue::Array(above))
                if field::are_tables(&below) && field::are_tables(&above) =>
            {
                Spanned::new(span, DeValue::Array(self.entries(below, above, path)))
            }
            (_, above) => Spanned::new(span, above),
        }
    }

    /// Entries of a known name change it; two of one name in one file stay two, and are refused as
    /// such.
    fn entries<'t>(&self, below: DeArray<'t>, above: DeArray<'t>, path: &str) -> DeArray<'t> {
        let mut entries: Vec<Value<'t>> = below.into_iter().collect();
        let known = entries.len();
        for entry in above {
            let name = field::name_of(&entry).map(str::to_owned);
            let same =
                |below: &&mut Value<'t>| name.is_some() && field::name_of(below) == name.as_deref();
            match entries.iter_mut().take(known).find(same) {
                Some(below) => {
                    let former =
                        std::mem::replace(below, Spanned::new(0..0, DeValue::Boolean(true)));
                    *below = self.values(former, entry, path);
                }
                None => entries.push(entry),
            }
        }
        entries.into_iter().collect()
    }
}
