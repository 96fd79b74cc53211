//! JSON Schema of all output of ebusy, made from its types: `docs/schema`.
//!
//! Only tests are compiled with it; `cargo xtask schema` writes the files by [`the_files_are_current`].

use std::{borrow::Cow, env, fs, path::Path};

use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::RecursiveTransform,
};
use serde_json::{Value, json};

use crate::{
    cli::LogMatch,
    export::{EVENT_SCHEMA, Line},
    model::{Audit, Incident, Text, Timestamp, Who},
    report::Summary,
};

/// Set by `cargo xtask schema`.
const WRITE: &str = "EBUSY_WRITE_SCHEMA";
/// Types of events that have no time of their own: they became known between their neighbours.
const TIMELESS: [&str; 2] = ["start", "named"];

/// A schema by the name of its object, which is its title.
fn all() -> [(&'static str, Value); 6] {
    let mut event = of::<Line<'_>>(EVENT_SCHEMA);
    spread(&mut event);
    [
        (Audit::SCHEMA, of::<Audit>(Audit::SCHEMA)),
        (EVENT_SCHEMA, event),
        (Incident::SCHEMA, of::<Incident>(Incident::SCHEMA)),
        (LogMatch::SCHEMA, of::<LogMatch>(LogMatch::SCHEMA)),
        (Summary::SCHEMA, of::<Summary>(Summary::SCHEMA)),
        (Who::SCHEMA, of::<Who>(Who::SCHEMA)),
    ]
}

/// Unknown fields are allowed: users must accept those of later versions. Tests must not, so they close the schema.
fn of<T: JsonSchema>(name: &str) -> Value {
    let mut schema = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(as_written))
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    schema["title"] = name.into();
    schema["properties"]["schema"] = json!({ "const": name });
    schema
}

/// A field that is left out where it is unknown is not `null`. Defaults are for those who read captures.
fn as_written(schema: &mut Schema) {
    schema.remove("default");
    let required = schema.get("required").cloned().unwrap_or_else(|| json!([]));
    let Some(Value::Object(properties)) = schema.get_mut("properties") else {
        return;
    };
    let written = |name: &str| {
        required
            .as_array()
            .is_some_and(|names| names.iter().any(|it| it == name))
    };
    for (_, property) in properties.iter_mut().filter(|(name, _)| !written(name)) {
        if let Some(Value::Array(types)) = property.get_mut("type") {
            types.retain(|name| name != "null");
            property["type"] = types[0].take();
        }
        if let Some(Value::Array(choices)) = property.get_mut("anyOf") {
            choices.retain(|choice| *choice != json!({ "type": "null" }));
            let [Value::Object(only)] = choices.as_mut_slice() else {
                panic!("one of several: {property}");
            };
            let only = std::mem::take(only);
            let property = property.as_object_mut().unwrap();
            property.remove("anyOf");
            property.extend(only);
        }
    }
}

/// Fields of all events go into each: only so can a validator reject a field that an event does not have.
fn spread(event: &mut Value) {
    let event = event.as_object_mut().unwrap();
    let properties = event.remove("properties").unwrap();
    let required = event.remove("required").unwrap();
    event.remove("type");
    for choice in event["oneOf"].as_array_mut().unwrap() {
        let mut common = properties.as_object().unwrap().clone();
        if TIMELESS
            .iter()
            .any(|name| choice["properties"]["type"]["const"] == *name)
        {
            common["time"] = json!({ "type": "null" });
        } else {
            common["time"] = json!({ "$ref": "#/$defs/Timestamp" });
        }
        choice["properties"].as_object_mut().unwrap().append(&mut common);
        let names = choice["required"].as_array_mut().unwrap();
        names.extend(required.as_array().unwrap().iter().cloned());
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A path or name; U+FFFD for bytes that are not UTF-8.",
            "type": "string",
        })
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "RFC 3339 with nanoseconds.",
            "type": "string",
            "format": "date-time",
        })
    }
}

#[test]
fn the_files_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let write = env::var_os(WRITE).is_some();
    for (name, schema) in all() {
        let path = folder.join(format!("{}.json", name.replace('/', ".")));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if write {
            fs::write(&path, text).unwrap();
        } else {
            let current = fs::read_to_string(&path).is_ok_and(|there| there == text);
            assert!(
                current,
                "{} is not current; type: cargo xtask schema",
                path.display()
            );
        }
    }
}
