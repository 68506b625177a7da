//! What MongoDB itself holds the documents to: `$jsonSchema` made of the types that read them, so that
//! the two cannot drift apart. Pure.
//!
//! A field is required where its reader fails without it, and nowhere else; fields that nobody here
//! knows are welcome. So what an older build wrote, and what a newer one will, is valid as well, as long
//! as new fields have a default, which readers of stored documents need anyway.

use std::borrow::Cow;

use mongodb::bson::{self, Document};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::store::checkpoints::{CameraCheckpoint, PartitionCheckpoint, RunsCheckpoint};
use crate::store::classes::Waiting;
use crate::store::clocks::ClockDocument;
use crate::store::documents::{
    CameraDocument, DeviceDocument, FrameDocument, Ingest, LedgerDocument, ObservationDocument,
    TrackDocument, collection,
};
use crate::store::letters::LetterDocument;

/// A BSON date, in a schema.
pub struct Date;

impl JsonSchema for Date {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Date".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // No type of JSON; with this name an optional one becomes nullable like any other.
        json_schema!({ "type": "date" })
    }
}

/// What MongoDB does with a document that is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It takes it and says so in its log: what a device sent and the broker acknowledged must never be
    /// refused, whatever is wrong with a schema.
    Warn,
    /// It refuses it: only the aggregator writes these, one at a time, and without them a partition does
    /// not go on. Who spoils one by hand is told so at once.
    Refuse,
}

impl Action {
    /// As MongoDB has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Refuse => "error",
        }
    }

    /// Of a collection.
    pub fn of(name: &str) -> Self {
        match name {
            collection::CAMERAS
            | collection::CHECKPOINTS
            | collection::CLOCKS
            | collection::LEDGER
            | collection::SCHEMA => Self::Refuse,
            _ => Self::Warn,
        }
    }
}

/// The records of the log that are no observations, as far as they are alike.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "its schema is what it is for")]
struct OtherRecord {
    /// `<device>/<camera>/<epoch>-<instance>/<seq>~<kind>`, with more where several may begin at one `seq`.
    #[serde(rename = "_id")]
    id: String,
    /// What it says.
    kind: OtherKind,
    /// Device.
    device: String,
    /// Camera.
    camera: String,
    /// `<epoch>-<instance>`.
    epoch: String,
    /// Number of the frame in its epoch with which it begins.
    seq: i64,
    /// How it came here.
    ingest: Ingest,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "its schema is what it is for")]
enum OtherKind {
    Skip,
    Gap,
    Epoch,
    Clock,
    Certificate,
}

/// The form of the documents that this build writes and reads.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "its schema is what it is for")]
struct SchemaDocument {
    /// Always `schema`.
    #[serde(rename = "_id")]
    id: String,
    /// Raised with each form that older builds cannot read.
    version: i64,
    /// Version of the program that raised it.
    by: String,
    /// What no other database has. It stands beside the pictures as well, so that none is removed
    /// because a document of another database is not here.
    database_id: Option<String>,
}

/// What is published, and what MongoDB holds documents to. None of collections that are not the centre's.
pub fn validator(name: &str) -> Option<Value> {
    let mut schema = match name {
        collection::OBSERVATIONS => {
            let mut observation = of::<ObservationDocument>();
            only(&mut observation, "kind", json!({ "enum": ["observation"] }));
            either(
                "Observations, and the other records of their log.",
                [observation, of::<OtherRecord>()],
            )
        }
        collection::CHECKPOINTS => {
            let [mut partition, mut camera, mut runs] =
                [of::<PartitionCheckpoint>(), of::<CameraCheckpoint>(), of::<RunsCheckpoint>()];
            for (schema, pattern) in
                [(&mut partition, "^partition/"), (&mut camera, "^camera/"), (&mut runs, "^runs/")]
            {
                only(schema, "_id", json!({ "bsonType": "string", "pattern": pattern }));
            }
            either("Where to resume.", [partition, camera, runs])
        }
        collection::TRACKS => of::<TrackDocument>(),
        collection::FRAMES => of::<FrameDocument>(),
        collection::DEVICES => of::<DeviceDocument>(),
        collection::CAMERAS => of::<CameraDocument>(),
        collection::LEDGER => of::<LedgerDocument>(),
        collection::CLOCKS => of::<ClockDocument>(),
        collection::DEAD_LETTERS => of::<LetterDocument>(),
        collection::UNCLAIMED_CLASSES => of::<Waiting>(),
        collection::SCHEMA => of::<SchemaDocument>(),
        _ => return None,
    };
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".to_owned(), name.into());
    }
    Some(json!({ "$jsonSchema": schema }))
}

/// The same as MongoDB takes it.
pub fn validator_document(name: &str) -> Document {
    validator(name).and_then(|value| bson::serialize_to_document(&value).ok()).unwrap_or_default()
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    in_dialect(settings.into_generator().into_root_schema_for::<T>().to_value())
}

fn only(schema: &mut Value, field: &str, is: Value) {
    let Some(is) = is.as_object() else { return };
    if let Some(field) =
        schema.pointer_mut(&format!("/properties/{field}")).and_then(Value::as_object_mut)
    {
        field.extend(is.clone());
    }
}

fn either<const N: usize>(description: &str, schemas: [Value; N]) -> Value {
    json!({ "bsonType": "object", "description": description, "anyOf": Vec::from(schemas) })
}

/// MongoDB reads a dialect of JSON Schema's draft 4: types of BSON, no `$schema`, `format`, `const`,
/// `default`, and no schema that is `true`.
fn in_dialect(schema: Value) -> Value {
    let Value::Object(schema) = schema else { return json!({}) };
    let mut out = Map::new();
    for (key, value) in schema {
        match key.as_str() {
            "$schema" | "title" | "format" | "default" | "minimum" | "maximum" => {}
            "type" => _ = out.insert("bsonType".to_owned(), types(&value)),
            "const" => _ = out.insert("enum".to_owned(), json!([value])),
            "properties" => {
                let Value::Object(fields) = value else { continue };
                let fields = fields.into_iter().map(|(name, field)| (name, in_dialect(field)));
                out.insert(key, Value::Object(fields.collect()));
            }
            "items" => _ = out.insert(key, in_dialect(value)),
            "additionalProperties" if value.is_object() => {
                out.insert(key, in_dialect(value));
            }
            "anyOf" | "oneOf" | "allOf" => {
                let Value::Array(schemas) = value else { continue };
                out.insert(key, schemas.into_iter().map(in_dialect).collect());
            }
            _ => _ = out.insert(key, value),
        }
    }
    Value::Object(out)
}

fn types(value: &Value) -> Value {
    let names = match value {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => Vec::from_iter(name.as_str()),
    };
    let mut types = Vec::new();
    for name in names {
        match name {
            // Shells write small numbers as 32 bits.
            "integer" => types.extend(["int", "long"]),
            // Every kind of number that a reader of floats takes.
            "number" => types.extend(["double", "int", "long"]),
            "boolean" => types.push("bool"),
            other => types.push(other),
        }
    }
    match types.as_slice() {
        [one] => json!(one),
        _ => json!(types),
    }
}

#[cfg(test)]
mod tests;
