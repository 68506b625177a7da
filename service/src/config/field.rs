//! A setting, and where it stands.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::secrets::without_user_and_query;
use super::{ConfigError, Problem, hex};

/// One setting of a config.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// Its path: `uplink.brokers`, `camera[front].sampling.fps`.
    pub name: String,
    /// As TOML writes it.
    value: String,
    /// The file that has the last word on it.
    pub path: PathBuf,
    /// Where in it, from 1.
    pub line: usize,
}

impl Field {
    /// Its value, fit to be shown: an address without its user, password and query.
    pub fn shown(&self) -> String {
        let bare = self.value.trim_matches('"');
        match bare.contains("://") && bare.len() + 2 == self.value.len() {
            true => format!("\"{}\"", without_user_and_query(bare)),
            false if self.value.contains("://") => "(holds addresses)".to_owned(),
            false => self.value.clone(),
        }
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.shown())
    }
}

/// A page of settings, each with the place where it stands; what is not on it has its default.
pub fn shown(fields: &[Field]) -> String {
    let line = |field: &Field| {
        format!("{} = {}  # {}:{}\n", field.name, field.shown(), field.path.display(), field.line)
    };
    fields.iter().map(line).collect()
}

/// Names of the settings in which two configs differ.
pub fn differences(old: &[Field], new: &[Field]) -> Vec<String> {
    let has = |fields: &[Field], field: &Field| {
        fields.iter().any(|other| (&other.name, &other.value) == (&field.name, &field.value))
    };
    let gone = old.iter().filter(|field| !has(new, field));
    let come = new.iter().filter(|field| !has(old, field));
    let mut names: Vec<_> = gone.chain(come).map(|field| field.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// SHA-256 of all settings in the order of their names, hex.
pub(super) fn digest(fields: &[Field]) -> String {
    let mut lines: Vec<_> =
        fields.iter().map(|field| format!("{} = {}\n", field.name, field.value)).collect();
    lines.sort();
    hex(&Sha256::digest(lines.concat()))
}

/// The error for what a config's own check found: it names the file that says so; where several
/// files have a part in the field, all of them.
pub(super) fn refuse(main: &Path, fields: &[Field], problem: Problem) -> ConfigError {
    let Problem { field, problem } = problem;
    let within = |name: &str| {
        name.strip_prefix(&field)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let mut paths: Vec<_> =
        fields.iter().filter(|f| within(&f.name)).map(|f| f.path.clone()).collect();
    paths.dedup();
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        paths.push(main.to_owned());
    }
    ConfigError::Value { paths, field, problem }
}

/// The settings of a table; `place` says where an offset is.
pub(super) fn list<'p>(
    table: &DeTable<'_>,
    place: impl Fn(usize) -> (&'p Path, usize),
) -> Vec<Field> {
    let mut fields = Vec::new();
    in_table(table, "", &mut |name, value, offset| {
        let (path, line) = place(offset);
        fields.push(Field { name, value, path: path.to_owned(), line });
    });
    fields
}

type Found<'a> = dyn FnMut(String, String, usize) + 'a;

fn in_table(table: &DeTable<'_>, path: &str, found: &mut Found<'_>) {
    for (key, value) in table {
        in_value(value, &join(path, key.get_ref()), key.span().start, found);
    }
}

fn in_value(value: &Spanned<DeValue<'_>>, path: &str, offset: usize, found: &mut Found<'_>) {
    match value.get_ref() {
        DeValue::Table(table) if !table.is_empty() => in_table(table, path, found),
        DeValue::Array(items) if are_tables(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = name_of(item).map_or_else(|| index.to_string(), str::to_owned);
                in_value(item, &format!("{path}[{name}]"), item.span().start, found);
            }
        }
        other => found(path.to_owned(), text(other), offset),
    }
}

fn text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()).to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(word) => word.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| text(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.get_ref(), text(value.get_ref())));
            let pairs: Vec<_> = pairs.map(|(key, value)| format!("{key} = {value}")).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether it is a list of tables, such as `[[camera]]`.
pub(super) fn are_tables(items: &DeArray<'_>) -> bool {
    !items.is_empty() && items.iter().all(|item| matches!(item.get_ref(), DeValue::Table(_)))
}

/// The `name` of an entry in such a list.
pub(super) fn name_of<'a>(entry: &'a Spanned<DeValue<'_>>) -> Option<&'a str> {
    let DeValue::Table(table) = entry.get_ref() else {
        return None;
    };
    match table.get("name")?.get_ref() {
        DeValue::String(name) => Some(name),
        _ => None,
    }
}
