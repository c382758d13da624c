//! A JSON schema (draft 7) of the configuration, for editors. The keys are those that the parser asks for; what is
//! said of each, and its default, is what config/imapool.toml says. Pure.

use serde_json::{Map, Value, json};

use crate::config::Config;

/// The file that explains every key.
const EXPLAINED: &str = include_str!("../config/imapool.toml");

/// The schema, as text.
pub fn text() -> String {
    format!("{:#}\n", schema())
}

fn schema() -> Value {
    let mut sections = Map::new();
    for (section, name) in Config::keys() {
        if section.is_empty() {
            sections.insert(name.to_owned(), table(name));
        }
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "imapool's configuration",
        "type": "object",
        "additionalProperties": false,
        "required": ["listener", "backend"],
        "properties": sections,
    })
}

fn table(section: &str) -> Value {
    let keys = Config::keys().into_iter().filter(|(of, _)| *of == section);
    let properties: Map<String, Value> = keys.map(|(_, key)| (key.to_owned(), property(section, key))).collect();
    let mut table = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !is_repeated(section) {
        return table;
    }
    table["required"] = json!(["address"]);
    json!({ "type": "array", "minItems": 1, "items": table })
}

fn is_repeated(section: &str) -> bool {
    ["listener", "backend"].contains(&section)
}

fn property(section: &str, key: &str) -> Value {
    let mut property = kind(section, key);
    let (words, default) = explained(section, key);
    property["description"] = words.into();
    // What a listener or a backend must say is an example there.
    if let Some(default) = default.filter(|_| !is_repeated(section) || !["name", "address"].contains(&key)) {
        property["default"] = default;
    }
    property
}

/// What a key may be. It is an error of ours, which a test finds, when the parser takes what this does not.
fn kind(section: &str, key: &str) -> Value {
    match (section, key) {
        ("listener" | "backend", "tls") => json!({ "enum": ["none", "starttls", "implicit"] }),
        ("backend", "id") => json!({ "enum": ["auto", "always", "never"] }),
        ("listener", "plaintext_login") => json!({ "enum": ["never", "loopback", "always"] }),
        ("pool", "mode") => json!({ "enum": ["session", "multiplex"] }),
        ("log", "format") => json!({ "enum": ["text", "json"] }),
        ("log", "level") => json!({ "enum": ["error", "warn", "info", "debug", "trace"] }),
        ("log", "sessions") => json!({ "type": "boolean" }),
        ("pool", "per_credential") => json!({ "enum": ["tokens", "always", "never", true, false] }),
        ("listener", "reset_on_client_close" | "reuse_port") | ("backend", "forward_client_id" | "send_proxy") => {
            json!({ "type": "boolean" })
        }
        ("pool", "max_per_account") => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        ("pool", "spare") => json!({ "type": "integer", "minimum": 0, "maximum": 100 }),
        ("limits", "sessions") => json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 }),
        ("pool", "max_total") | ("limits", "sessions_per_address") => {
            json!({ "type": "integer", "minimum": 0, "maximum": 1_000_000 })
        }
        ("limits", "unauthenticated") => json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 1_000_000 }, { "type": "string", "pattern": "^ *[0-9]+ *% *$" }
        ] }),
        ("limits", "command_line" | "literals") | ("pool", "drain_bytes") => {
            json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9.]+ *[A-Za-z]*$" }] })
        }
        ("listener", "proxy_protocol_from") | ("backend", "source_addresses") | ("admin", "hosts") => {
            json!({ "type": "array", "items": { "type": "string" } })
        }
        ("backend", "source_port_range") => json!({ "type": "string", "pattern": "^ *[0-9]+ *- *[0-9]+ *$" }),
        ("pool" | "auth" | "limits", _) | ("backend", "connect_timeout" | "login_timeout" | "reply_timeout") => {
            json!({ "type": "string", "pattern": "^ *([0-9]+ *[a-zµ]+ *)+$|^0$" })
        }
        _ => json!({ "type": "string" }),
    }
}

/// What config/imapool.toml says of a key: the comment before it, and its value there unless that is commented out.
fn explained(section: &str, key: &str) -> (String, Option<Value>) {
    let (mut here, mut words, mut fresh) = ("", Vec::new(), true);
    for line in EXPLAINED.lines() {
        if let Some(header) = line.strip_prefix('[') {
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

/// `key = value` or `#key = value`
fn setting(line: &str) -> Option<(&str, &str)> {
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
    use crate::config::{ConfigError, Fault};

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
        "\"\"",
        "\"x\"",
        "\"none\"",
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
    fn faults(section: &str, key: &str, value: &str) -> Vec<Fault> {
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
        if !is_repeated(section) {
            toml += &format!("[{section}]\n{}", line(section));
        }
        match Config::parse(&toml, "test") {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid(problems)) => problems.into_iter().map(|problem| problem.fault).collect(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn it_takes_what_the_parser_takes_and_no_other_type() {
        for (section, key) in Config::keys().into_iter().filter(|(section, _)| !section.is_empty()) {
            let schema = property(section, key);
            let mut taken = 0;
            for sample in SAMPLES {
                let faults = faults(section, key, sample);
                let accepted = accepts(&schema, &value_of(sample).unwrap());
                if faults.is_empty() {
                    taken += 1;
                    assert!(accepted, "{section}.{key} = {sample} is right, and not so by {schema}");
                }
                let wrong_type = |fault: &Fault| matches!(fault, Fault::WrongType { .. });
                if faults.iter().any(wrong_type) {
                    assert!(!accepted, "{section}.{key} = {sample} is of a wrong type, and not so by {schema}");
                }
            }
            assert!(taken > 0, "no sample is right for {section}.{key}");
        }
    }

    #[test]
    fn every_key_is_explained_and_every_default_is_right() {
        for (section, key) in Config::keys().into_iter().filter(|(section, _)| !section.is_empty()) {
            let property = property(section, key);
            assert!(property["description"].as_str().unwrap().len() > 10, "{section}.{key}: {property}");
            if let Some(default) = property.get("default") {
                assert!(accepts(&property, default), "{section}.{key}: {property}");
            }
        }
        assert_eq!(property("pool", "linger")["default"], "30s");
        assert_eq!(property("limits", "sessions")["default"], 20_000);
        assert!(property("listener", "certificate").get("default").is_none());
        assert!(
            property("limits", "literals")["description"].as_str().unwrap().starts_with("The longest command line")
        );
    }

    #[test]
    fn words_that_the_parser_does_not_know_are_refused() {
        for (section, key) in
            [("listener", "tls"), ("backend", "tls"), ("log", "level"), ("pool", "mode"), ("pool", "per_credential")]
        {
            let schema = property(section, key);
            for word in schema["enum"].as_array().unwrap() {
                // A word may ask for more lines, or for a later version; its type is right, and it is known.
                let refused = faults(section, key, &word.to_string());
                let unknown = |fault: &Fault| fault.to_string().contains("write one of");
                assert!(!refused.iter().any(unknown), "{section}.{key} = {word}");
            }
            assert!(!accepts(&schema, &json!("maybe")));
        }
    }
}
