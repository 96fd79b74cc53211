//! Checks every value that tests read from ebusy against `docs/schema`.
//!
//! The schemas allow fields of later versions; here an unknown one is an error. This knows only the JSON Schema
//! keywords that the schemas use, and fails at others; a crate for all of it takes as long to compile as the rest of
//! the tests.

use std::{collections::BTreeMap, sync::LazyLock};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Compiled in: machines do not have the sources.
const FILES: [&str; 6] = [
    include_str!("../../docs/schema/ebusy.audit.1.json"),
    include_str!("../../docs/schema/ebusy.event.1.json"),
    include_str!("../../docs/schema/ebusy.incident.1.json"),
    include_str!("../../docs/schema/ebusy.match.1.json"),
    include_str!("../../docs/schema/ebusy.summary.1.json"),
    include_str!("../../docs/schema/ebusy.who.1.json"),
];

/// By title, which is `schema` of the values.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let schemas = FILES.iter().filter_map(|file| {
        let schema: Value = serde_json::from_str(file).ok()?;
        Some((schema["title"].as_str()?.to_owned(), schema))
    });
    schemas.collect()
});

/// A place in a value that does not match its schema.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
struct Mismatch {
    place: String,
    what: String,
}

/// Reads a value, whose field `schema` names its schema.
pub fn read<T: DeserializeOwned>(json: &str) -> Result<T> {
    let value: Value = serde_json::from_str(json).with_context(|| json.to_owned())?;
    let title = value["schema"].as_str().context("a value without `schema`")?;
    let schema = SCHEMAS
        .get(title)
        .with_context(|| format!("no schema of the name {title}"))?;
    if let Err(mismatch) = (Checker { root: schema }).check(schema, &value, "$") {
        bail!("not as docs/schema says: {mismatch}\n{json}");
    }
    serde_json::from_value(value).with_context(|| json.to_owned())
}

/// One value for each line.
pub fn read_lines<T: DeserializeOwned>(json: &str) -> Result<Vec<T>> {
    json.lines().map(read).collect()
}

#[derive(Clone, Copy)]
struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    fn check(self, schema: &Value, value: &Value, place: &str) -> Result<(), Mismatch> {
        let fail = |what: String| {
            let place = place.to_owned();
            Err(Mismatch { place, what })
        };
        let Some(keywords) = schema.as_object() else {
            return fail(format!("not a schema: {schema}"));
        };
        for (keyword, rule) in keywords {
            let holds = match keyword.as_str() {
                // These keywords do not restrict the value, or repeat another keyword.
                "$schema" | "$defs" | "title" | "description" | "additionalProperties" => true,
                "$ref" => {
                    let pointer = rule.as_str().and_then(|rule| rule.strip_prefix('#'));
                    let Some(target) = pointer.and_then(|pointer| self.root.pointer(pointer)) else {
                        return fail(format!("a reference to nothing: {rule}"));
                    };
                    self.check(target, value, place)?;
                    true
                }
                "anyOf" => {
                    self.choices(rule, value, place)?;
                    true
                }
                "oneOf" => self.choices(rule, value, place)? == 1,
                "properties" => {
                    self.properties(keywords, value, place)?;
                    true
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{place}[{index}]"))?;
                    }
                    true
                }
                "required" => {
                    list(rule).all(|name| name.as_str().is_some_and(|name| value.get(name).is_some()))
                }
                "type" => match rule {
                    Value::Array(types) => types.iter().any(|name| is_of(name, value)),
                    name => is_of(name, value),
                },
                "const" => value == rule,
                "enum" => list(rule).any(|choice| choice == value),
                "minimum" => value.is_null() || value.as_f64() >= rule.as_f64(),
                "maxItems" => value.as_array().map(|items| items.len() as u64) <= rule.as_u64(),
                "format" => match rule.as_str() {
                    Some("date-time") => is_text(value, |text| text.parse::<jiff::Timestamp>().is_ok()),
                    // How wide a number is.
                    Some("double" | "int32" | "int64" | "uint" | "uint32" | "uint64") => true,
                    _ => return fail(format!("an unknown format: {rule}")),
                },
                "contentEncoding" => is_text(value, |text| STANDARD.decode(text).is_ok()),
                _ => return fail(format!("an unknown keyword: {keyword}")),
            };
            if !holds {
                return fail(format!("`{keyword}` is {rule}"));
            }
        }
        // A map, whose fields are not named.
        if !keywords.contains_key("properties")
            && let (Some(rule), Some(fields)) = (keywords.get("additionalProperties"), value.as_object())
        {
            for (name, field) in fields {
                self.check(rule, field, &format!("{place}.{name}"))?;
            }
        }
        Ok(())
    }

    fn properties(self, schema: &Map<String, Value>, value: &Value, place: &str) -> Result<(), Mismatch> {
        for (name, field) in value.as_object().into_iter().flatten() {
            let place = format!("{place}.{name}");
            let Some(rule) = schema["properties"].get(name) else {
                let what = "an unknown field".to_owned();
                return Err(Mismatch { place, what });
            };
            self.check(rule, field, &place)?;
        }
        Ok(())
    }

    /// Counts the schemas that the value matches. If it matches none, the error is the deepest mismatch.
    fn choices(self, schemas: &Value, value: &Value, place: &str) -> Result<usize, Mismatch> {
        let results = list(schemas).map(|schema| self.check(schema, value, place));
        let (fits, failures): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
        if !fits.is_empty() {
            return Ok(fits.len());
        }
        let deepest = failures
            .into_iter()
            .filter_map(Result::err)
            .filter(|failure| failure.place != place)
            .max_by_key(|failure| failure.place.len());
        Err(deepest.unwrap_or_else(|| Mismatch {
            place: place.to_owned(),
            what: format!("{value} is none of the choices"),
        }))
    }
}

fn list(rule: &Value) -> impl Iterator<Item = &Value> {
    rule.as_array().into_iter().flatten()
}

fn is_of(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("array") => value.is_array(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("object") => value.is_object(),
        Some("string") => value.is_string(),
        _ => false,
    }
}

/// These keywords are for text only: if the type allows `null`, they do not apply to it.
fn is_text(value: &Value, is_good: impl FnOnce(&str) -> bool) -> bool {
    value.as_str().is_none_or(is_good)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Checker, FILES, SCHEMAS, read};

    fn problem(schema: &Value, value: &Value) -> Option<String> {
        let checked = Checker { root: schema }.check(schema, value, "$");
        checked.err().map(|mismatch| mismatch.to_string())
    }

    /// Schemas, each with a value that it allows, one that it does not, and the error message.
    fn each(rows: &[(Value, Value, Value, &str)]) {
        for (schema, good, bad, said) in rows {
            assert_eq!(problem(schema, good), None, "{schema}");
            assert_eq!(problem(schema, bad).as_deref(), Some(*said), "{schema}");
        }
    }

    #[test]
    fn keywords() {
        let field = json!({ "properties": { "a": { "type": "integer" } }, "required": ["a"] });
        let rows = [
            (
                json!({ "type": "integer" }),
                json!(1),
                json!(1.5),
                r#"$: `type` is "integer""#,
            ),
            (
                json!({ "type": ["string", "null"] }),
                json!(null),
                json!(1),
                r#"$: `type` is ["string","null"]"#,
            ),
            (
                json!({ "const": "a" }),
                json!("a"),
                json!("b"),
                r#"$: `const` is "a""#,
            ),
            (
                json!({ "enum": ["a", null] }),
                json!(null),
                json!("b"),
                r#"$: `enum` is ["a",null]"#,
            ),
            (json!({ "minimum": 1 }), json!(1), json!(0), "$: `minimum` is 1"),
            (
                json!({ "maxItems": 1 }),
                json!([1]),
                json!([1, 2]),
                "$: `maxItems` is 1",
            ),
            (
                json!({ "items": { "type": "null" } }),
                json!([null]),
                json!([null, 1]),
                r#"$[1]: `type` is "null""#,
            ),
            (
                field.clone(),
                json!({ "a": 1 }),
                json!({}),
                r#"$: `required` is ["a"]"#,
            ),
            (
                field.clone(),
                json!({ "a": 1 }),
                json!({ "a": "" }),
                r#"$.a: `type` is "integer""#,
            ),
            (
                field,
                json!({ "a": 1 }),
                json!({ "a": 1, "b": 1 }),
                "$.b: an unknown field",
            ),
            (
                json!({ "additionalProperties": { "type": "null" } }),
                json!({ "a": null }),
                json!({ "a": 1 }),
                r#"$.a: `type` is "null""#,
            ),
            (
                json!({ "format": "date-time" }),
                json!("2026-01-01T00:00:00.000000001Z"),
                json!("yesterday"),
                r#"$: `format` is "date-time""#,
            ),
            (
                json!({ "contentEncoding": "base64" }),
                json!("L/8="),
                json!("/\u{fffd}"),
                r#"$: `contentEncoding` is "base64""#,
            ),
        ];
        each(&rows);
        let unknown = problem(&json!({ "pattern": "a" }), &json!("a"));
        assert_eq!(unknown.as_deref(), Some("$: an unknown keyword: pattern"));
    }

    #[test]
    fn keywords_of_schemas() {
        each(&[
            (
                json!({ "$defs": { "n": { "minimum": 2 } }, "items": { "$ref": "#/$defs/n" } }),
                json!([2]),
                json!([1]),
                "$[0]: `minimum` is 2",
            ),
            (
                json!({ "anyOf": [{ "items": { "type": "null" } }, { "type": "null" }] }),
                json!([null]),
                json!([1]),
                r#"$[0]: `type` is "null""#,
            ),
            (
                json!({ "oneOf": [{ "const": "a" }, { "const": "b" }] }),
                json!("a"),
                json!("c"),
                r#"$: "c" is none of the choices"#,
            ),
            (
                json!({ "oneOf": [{ "type": "integer" }, { "type": "number" }] }),
                json!(1.5),
                json!(1),
                r#"$: `oneOf` is [{"type":"integer"},{"type":"number"}]"#,
            ),
        ]);
    }

    /// Checks also the parts that no value of a test reaches.
    #[test]
    fn the_schemas_have_known_keywords() {
        fn every(schema: &Value, root: &Value) {
            for (keyword, rule) in schema.as_object().unwrap() {
                // One by one: the first failing keyword would hide the later ones.
                let problem = Checker { root }.check(&json!({ keyword: rule }), &json!({}), "$");
                let text = problem.map_or_else(|mismatch| mismatch.to_string(), |()| String::new());
                assert!(
                    !text.contains(": an unknown ") && !text.contains(": a reference "),
                    "{text}"
                );
                match keyword.as_str() {
                    "properties" | "$defs" => {
                        rule.as_object().unwrap().values().for_each(|of| every(of, root));
                    }
                    "anyOf" | "oneOf" => rule.as_array().unwrap().iter().for_each(|of| every(of, root)),
                    "items" | "additionalProperties" => every(rule, root),
                    _ => {}
                }
            }
        }
        assert_eq!(SCHEMAS.len(), FILES.len());
        for schema in SCHEMAS.values() {
            every(schema, schema);
        }
    }

    #[test]
    fn a_value_is_read_where_it_is_as_its_schema_says() {
        let found = json!({
            "schema": "ebusy.match/1", "log": "a", "line": 1, "time": null, "incident": null, "by": [],
            "not_seen": null, "message": "",
        });
        assert_eq!(read::<Value>(&found.to_string()).unwrap(), found);
        let mut more = found.clone();
        more["more"] = json!(1);
        let error = read::<Value>(&more.to_string()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("not as docs/schema says: $.more: an unknown field\n{more}")
        );
        assert!(read::<Value>(r#"{ "schema": "ebusy.match/2" }"#).is_err());
        assert!(read::<Value>("{}").is_err());
    }
}
