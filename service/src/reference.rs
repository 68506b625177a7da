//! The config reference, made from the types: what it says of a field is the field's own comment.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The reference of `T` in Markdown: one table per section.
pub fn markdown<T: schemars::JsonSchema>() -> String {
    let schema = schemars::schema_for!(T).to_value();
    let definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut page = Page { definitions, text: String::new() };
    page.section("", &schema);
    page.text
}

/// Paths of the fields of `T` that are a choice between tables, such as a camera's source.
pub fn choices<T: schemars::JsonSchema>() -> BTreeSet<String> {
    let schema = schemars::schema_for!(T).to_value();
    let definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut choices = BTreeSet::new();
    Page { definitions, text: String::new() }.choices("", &schema, &mut choices);
    choices
}

struct Page {
    definitions: Map<String, Value>,
    text: String,
}

impl Page {
    /// Follows a reference, also through the `anyOf` that stands for "or nothing".
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|r| r.rsplit('/').next())
            .and_then(|name| self.definitions.get(name));
        if let Some(target) = target {
            return self.resolve(target);
        }
        let choices = schema.get("anyOf").and_then(Value::as_array);
        match choices.map(Vec::as_slice) {
            Some([choice, null]) if null.get("type") == Some(&Value::from("null")) => {
                self.resolve(choice)
            }
            _ => schema,
        }
    }

    fn choices(&self, path: &str, schema: &Value, found: &mut BTreeSet<String>) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let target = self.resolve(property);
            let target = target.get("items").map_or(target, |items| self.resolve(items));
            match self.tables(target) {
                None => self.choices(&path, target, found),
                Some(tables) => {
                    for (choice, _, table) in tables {
                        self.choices(&format!("{path}.{choice}"), &table, found);
                    }
                    found.insert(path);
                }
            }
        }
    }

    fn section(&mut self, path: &str, schema: &Value) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return;
        };
        let required = schema.get("required").and_then(Value::as_array);
        let is_required = |name: &str| required.is_some_and(|r| r.iter().any(|v| v == name));
        let mut rows = String::new();
        let mut inner = Vec::new();
        for (name, property) in properties {
            let full = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let target = self.resolve(property).clone();
            let items = target.get("items").map(|items| self.resolve(items).clone());
            let help = text_of(property).or_else(|| text_of(&target)).unwrap_or_default();
            if target.get("properties").is_some() {
                inner.push((full, help, target));
            } else if let Some(items) = items.filter(|i| i.get("properties").is_some()) {
                inner.push((format!("{full}[]"), help, items));
            } else if let Some(choices) = self.tables(&target) {
                for (choice, choice_help, table) in choices {
                    inner.push((format!("{full}.{choice}"), choice_help, table));
                }
            } else {
                let default = match property.get("default") {
                    Some(Value::Null) | None if is_required(name) => "required".to_owned(),
                    Some(Value::Null) | None => String::new(),
                    Some(value) => format!("`{value}`"),
                };
                rows += &format!("| `{full}` | {} | {default} | {help} |\n", self.kind(&target));
            }
        }
        if !rows.is_empty() {
            self.text += "| field | type | default | meaning |\n|---|---|---|---|\n";
            self.text += &rows;
            self.text.push('\n');
        }
        for (full, help, target) in inner {
            self.text += &format!("### `{full}`\n\n{help}\n\n");
            self.section(&full, &target);
        }
    }

    /// The choices of an enum whose variants are tables, such as a camera's source.
    fn tables(&self, schema: &Value) -> Option<Vec<(String, String, Value)>> {
        let choices = schema.get("oneOf")?.as_array()?;
        let table = |choice: &Value| {
            let (name, inner) = choice.get("properties")?.as_object()?.iter().next()?;
            let help = text_of(choice).unwrap_or_default();
            Some((name.clone(), help, self.resolve(inner).clone()))
        };
        choices.iter().map(table).collect()
    }

    fn kind(&self, schema: &Value) -> String {
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            let words: Vec<_> =
                choices.iter().filter_map(|c| c.get("const")).map(|c| format!("`{c}`")).collect();
            return words.join(", ");
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            return words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
        }
        if let Some(items) = schema.get("items") {
            return format!("list of {}", self.kind(self.resolve(items)));
        }
        match schema.get("type") {
            Some(Value::String(kind)) => kind.clone(),
            Some(Value::Array(kinds)) => {
                let kinds = kinds.iter().filter_map(Value::as_str).filter(|k| *k != "null");
                kinds.collect::<Vec<_>>().join(" or ")
            }
            _ => String::new(),
        }
    }
}

fn text_of(schema: &Value) -> Option<String> {
    Some(schema.get("description")?.as_str()?.replace('\n', " "))
}
