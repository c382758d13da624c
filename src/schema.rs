//! A JSON schema (draft 7) of the configuration, for editors. The keys, and what each may be, are those of the table
//! (`config/keys.rs`); what is said of each, and its default, is what config/imapool.toml says. Pure.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::{KEYS, Key, Shape};

/// The file that explains every key.
pub const EXPLAINED: &str = include_str!("../config/imapool.toml");

/// Sections of which there is at least one.
const REQUIRED: [&str; 2] = ["listener", "backend"];
/// Others that there may be several of.
const REPEATED: [&str; 3] = ["account", "group", "route"];

/// The schema, as text.
pub fn text() -> String {
    format!("{:#}\n", schema())
}

fn schema() -> Value {
    let sections: BTreeSet<_> = KEYS.iter().map(|key| key.section).collect();
    let sections: Map<String, Value> = sections.into_iter().map(|name| (name.to_owned(), table(name))).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "imapool's configuration",
        "type": "object",
        "additionalProperties": false,
        "required": REQUIRED,
        "properties": sections,
    })
}

fn table(section: &str) -> Value {
    let keys = KEYS.iter().filter(|key| key.section == section);
    let properties: Map<String, Value> = keys.map(|key| (key.name.to_owned(), property(key))).collect();
    let mut table = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let required = KEYS.iter().filter(|key| key.section == section && key.default.is_none());
    let required: Vec<_> = required.map(|key| key.name).collect();
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    match section {
        _ if REQUIRED.contains(&section) => json!({ "type": "array", "minItems": 1, "items": table }),
        _ if REPEATED.contains(&section) => json!({ "type": "array", "items": table }),
        _ => table,
    }
}

fn property(key: &Key) -> Value {
    let mut property = kind(&key.shape);
    let (words, default) = explained(key.section, key.name);
    property["description"] = words.into();
    // A required value is an example there, as is a name.
    if let Some(default) = default.filter(|_| key.default.is_some() && key.name != "name") {
        property["default"] = default;
    }
    property
}

/// It is an error of ours, which a test finds, when the parser takes what this does not.
fn kind(shape: &Shape) -> Value {
    let integer =
        |range: &RangeInclusive<usize>| json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() });
    let like = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::OneOf(words) => json!({ "enum": words }),
        Shape::Integer(range) => integer(range),
        Shape::Share(range) => json!({ "anyOf": [integer(range), like("^ *[0-9]+ *% *$")] }),
        Shape::Size(range) => json!({ "anyOf": [integer(range), like("^[0-9.]+ *[A-Za-z]*$")] }),
        Shape::Duration(range) if range.contains(&Duration::ZERO) => like("^ *([0-9]+ *[a-zµ]+ *)+$|^0$"),
        Shape::Duration(_) => like("^ *([0-9]+ *[a-zµ]+ *)+$"),
        Shape::DurationOrNever => like("^ *([0-9]+ *[a-zµ]+ *)+$|^0$|^never$"),
        Shape::Table(keys) => {
            let keys: Map<_, _> = keys.iter().map(|(name, shape)| ((*name).to_owned(), kind(shape))).collect();
            json!({ "type": "object", "additionalProperties": false, "properties": keys })
        }
        Shape::List => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Ports => like("^ *[0-9]+ *- *[0-9]+ *$"),
        Shape::OrNone(shape) => json!({ "anyOf": [{ "enum": [""] }, kind(shape)] }),
    }
}

/// What config/imapool.toml says of a key: the comment before it, and its value there unless that is commented out.
fn explained(section: &str, key: &str) -> (String, Option<Value>) {
    let (mut here, mut words, mut fresh) = ("", Vec::new(), true);
    for line in EXPLAINED.lines() {
        if let Some(header) = line.strip_prefix('#').unwrap_or(line).strip_prefix('[') {
            here = header.trim_matches(['[', ']']);
            words.clear();
        } else if let Some((name, value)) = setting(line) {
            if (here, name) == (section, key) {
                let default = if line.starts_with('#') { None } else { value_of(value) };
                return (words.join(" "), default);
            }
            fresh = true;
        } else if let Some(comment) = line.strip_prefix("# ") {
            // Several keys may follow one comment.
            if std::mem::take(&mut fresh) {
                words.clear();
            }
            words.push(comment);
        }
    }
    (String::new(), None)
}

/// `key = value`, or the same commented out.
#[must_use]
pub fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")?;
    let is_key = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_key.then_some((name, value))
}

fn value_of(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::config::{Config, ConfigError};
    use crate::platform::Has;

    /// Of every type, right and wrong for one key or another.
    const SAMPLES: &[&str] = &[
        "true",
        "0",
        "1",
        "7",
        "1000",
        "1000001",
        "-1",
        "1.5",
        "{}",
        "[]",
        "[1]",
        "[\"10.0.0.0/8\"]",
        "[\"192.0.2.7\"]",
        "[\"mail.example.org\"]",
        "[\"127.0.0.1:1\"]",
        "\"name\"",
        "\"exact\"",
        "\"http://127.0.0.1/a\"",
        "[\"Name: value\"]",
        "\"\"",
        "\"x\"",
        "\"none\"",
        "\"pool\"",
        "\"starttls\"",
        "\"implicit\"",
        "\"never\"",
        "\"always\"",
        "\"tokens\"",
        "\"session\"",
        "\"multiplex\"",
        "\"json\"",
        "\"trace\"",
        "\"30s\"",
        "\"1h 30m\"",
        "\"0s\"",
        "\"500ms\"",
        "\"64KiB\"",
        "\"1.5 MB\"",
        "\"4096\"",
        "\"/etc/x.pem\"",
        "\"40000-49999\"",
        "\"25%\"",
        "\"127.0.0.1:143\"",
        "\"unix:/run/x.sock\"",
    ];

    /// What this schema uses of JSON schema.
    fn accepts(schema: &Value, value: &Value) -> bool {
        let of_type = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => true,
        };
        let one_of =
            |key: &str, holds: &dyn Fn(&Value) -> bool| schema[key].as_array().is_none_or(|all| all.iter().any(holds));
        of_type
            && one_of("enum", &|word| word == value)
            && one_of("anyOf", &|schema| accepts(schema, value))
            && schema["minimum"].as_i64().is_none_or(|least| value.as_i64() >= Some(least))
            && schema["maximum"].as_i64().is_none_or(|most| value.as_i64() <= Some(most))
            && schema["pattern"]
                .as_str()
                .is_none_or(|pattern| value.as_str().is_some_and(|text| Regex::new(pattern).unwrap().is_match(text)))
            && value.as_array().is_none_or(|all| all.iter().all(|each| accepts(&schema["items"], each)))
    }

    /// The parser's faults in a configuration where a key has a value.
    fn faults(section: &str, key: &str, value: &str) -> Vec<String> {
        let address = |of: &str| if (section, key) == (of, "address") { "" } else { "address = \"127.0.0.1:1\"\n" };
        let line = |of: &str| if section == of { format!("{key} = {value}\n") } else { String::new() };
        let mut toml = String::new();
        for (header, of) in [("[[listener]]", "listener"), ("[[backend]]", "backend")] {
            toml += &format!(
                "{header}\n{}{}",
                address(of).replace(":1", if of == "backend" { ":2" } else { ":1" }),
                line(of)
            );
        }
        match section {
            // One is nothing without the other.
            "backend" if key == "certificate" => toml += "private_key = \"/etc/x.pem\"\n",
            "backend" if key == "private_key" => toml += "certificate = \"/etc/x.pem\"\n",
            "listener" | "backend" => {}
            // One that has a member, under any name, and one that leads somewhere.
            "group" => {
                let name = if key == "name" { value } else { "\"g\"" };
                let named = if key == "name" { "" } else { "name = \"g\"\n" };
                toml += &format!("group = {name}\n[[group]]\n{named}{}", line(section));
            }
            "route" if ["to", "file", "http"].contains(&key) => toml += &format!("[[route]]\n{}", line(section)),
            "route" => toml += &format!("[[route]]\nto = \"\"\n{}", line(section)),
            "account" if key == "users" => toml += &format!("[[account]]\n{}", line(section)),
            "account" => toml += &format!("[[account]]\nusers = [\"a\"]\n{}", line(section)),
            _ => toml += &format!("[{section}]\n{}", line(section)),
        }
        match Config::parse_for(Has::EVERYTHING, &toml) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid(problems)) => problems.into_iter().map(|problem| problem.what).collect(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn it_takes_what_the_parser_takes_and_no_other_type() {
        for key in KEYS.iter() {
            let (schema, section, key) = (property(key), key.section, key.name);
            let mut taken = 0;
            for sample in SAMPLES {
                let faults = faults(section, key, sample);
                let accepted = accepts(&schema, &value_of(sample).unwrap());
                if faults.is_empty() {
                    taken += 1;
                    assert!(accepted, "{section}.{key} = {sample} is right, and not so by {schema}");
                }
                let wrong_type = |fault: &String| fault.contains(", but must be ");
                if faults.iter().any(wrong_type) {
                    assert!(!accepted, "{section}.{key} = {sample} is of a wrong type, and not so by {schema}");
                }
            }
            assert!(taken > 0, "no sample is right for {section}.{key}");
        }
    }

    #[test]
    fn every_key_is_explained_and_every_default_is_right() {
        for key in KEYS.iter() {
            let (property, section, key) = (property(key), key.section, key.name);
            assert!(property["description"].as_str().unwrap().len() > 10, "{section}.{key}: {property}");
            if let Some(default) = property.get("default") {
                assert!(accepts(&property, default), "{section}.{key}: {property}");
            }
        }
        let schema = schema();
        let [pool, limits] = ["pool", "limits"].map(|section| &schema["properties"][section]["properties"]);
        assert_eq!((&pool["linger"]["default"], &limits["sessions"]["default"]), (&json!("30s"), &json!(20_000)));
        assert!(limits["literals"]["description"].as_str().unwrap().starts_with("The longest command line"));
        let listener = &schema["properties"]["listener"]["items"]["properties"];
        assert!(listener["certificate"]["description"].is_string() && listener["certificate"]["default"].is_null());
    }
}
