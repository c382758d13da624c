//! What is different between two configurations, and what comes of it when the second takes the place of the first.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// What a change does to a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It holds at once.
    AtOnce,
    /// It holds for sessions that begin from then on.
    NewSessions,
    /// It holds for upstream connections and sessions that begin from then on.
    NewConnections,
    /// Connections opened before are retired: those at rest at once, those that sessions share between two commands,
    /// the others when their sessions end.
    Reconnect,
    /// Its sessions are closed.
    Ended,
    /// It is not accepted any more at this address; sessions go on.
    Closed,
    /// Nothing, until imapool is started anew.
    Restart,
}

impl Effect {
    /// In words, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::AtOnce => "at once",
            Effect::NewSessions => "for new sessions",
            Effect::NewConnections => "for new connections",
            Effect::Reconnect => "connections are retired and opened anew",
            Effect::Ended => "its sessions are closed",
            Effect::Closed => "no new sessions there; those that are open go on",
            Effect::Restart => "NEEDS A RESTART",
        }
    }
}

/// One key that differs. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// With its section, and the name of a listener or backend: `pool.linger`, `listener "webmail".tls`. A listener or
    /// backend that is new or gone stands without a key.
    pub key: String,
    /// As JSON; absent: there was none.
    pub old: Option<String>,
    /// As JSON; absent: there is none any more.
    pub new: Option<String>,
    /// What it does.
    pub effect: Effect,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.old, &self.new) {
            (None, Some(new)) => write!(f, "+ {}: {new}", self.key),
            (Some(old), None) => write!(f, "- {}: {old}", self.key),
            (old, new) => {
                let [old, new] = [old, new].map(|value| value.as_deref().unwrap_or("none"));
                write!(f, "~ {}: {old} -> {new}", self.key)
            }
        }?;
        write!(f, "  ({})", self.effect.as_str())
    }
}

/// What differs between two configurations, each as [`Config`](super::Config) is serialised.
pub fn diff(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    let sections = old.as_object().into_iter().chain(new.as_object()).flat_map(|object| object.keys());
    let sections: std::collections::BTreeSet<_> = sections.collect();
    for section in sections {
        match section.as_str() {
            "listeners" => of_named("listener", &old[section], &new[section], &mut changes),
            "backends" => of_named("backend", &old[section], &new[section], &mut changes),
            name => of_table(name, name, &old[section], &new[section], &mut changes),
        }
    }
    changes
}

/// Listeners or backends: what tells them apart is the name.
fn of_named(kind: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    let by_name = |list: &Value| -> BTreeMap<String, Value> {
        let entries = list.as_array().into_iter().flatten();
        entries.map(|entry| (entry["name"].as_str().unwrap_or_default().to_owned(), entry.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    // Its place is taken by a new one at the same place of the configuration: `app::reload`.
    let is_replaced = |name: &str| {
        let at = old.as_array().and_then(|entries| entries.iter().position(|entry| entry["name"] == name));
        let there = at.and_then(|at| new[at]["name"].as_str());
        there.is_some_and(|there| !before.contains_key(there))
    };
    let place = |entry: &Value| match kind {
        "listener" => entry["address"].to_string(),
        _ => format!("\"{}:{}\"", entry["host"].as_str().unwrap_or_default(), entry["port"]),
    };
    for (name, entry) in &before {
        match after.get(name) {
            Some(now) => of_table(kind, &format!("{kind} \"{name}\""), entry, now, changes),
            None => {
                let effect = match kind {
                    "listener" => Effect::Closed,
                    _ if is_replaced(name) => Effect::Reconnect,
                    _ => Effect::Ended,
                };
                changes.push(Change { key: format!("{kind} \"{name}\""), old: Some(place(entry)), new: None, effect });
            }
        }
    }
    for (name, entry) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        let (key, new) = (format!("{kind} \"{name}\""), Some(place(entry)));
        changes.push(Change { key, old: None, new, effect: Effect::AtOnce });
    }
    let first = |list: &Value| list[0]["name"].as_str().unwrap_or_default().to_owned();
    let (was, is) = (first(old), first(new));
    if kind == "backend" && was != is && before.contains_key(&is) {
        let effect = Effect::NewSessions;
        changes.push(Change { key: "the default backend".into(), old: Some(was), new: Some(is), effect });
    }
}

fn of_table(section: &str, shown: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    let keys = old.as_object().into_iter().chain(new.as_object()).flat_map(|object| object.keys());
    let keys: std::collections::BTreeSet<_> = keys.collect();
    for key in keys {
        let (was, is) = (&old[key], &new[key]);
        if was != is {
            let present = |value: &Value| (!value.is_null()).then(|| value.to_string());
            let (old, new) = (present(was), present(is));
            let key_shown = format!("{shown}.{key}");
            let change = Change { key: key_shown, old, new, effect: effect(section, key) };
            changes.push(change);
        }
    }
}

fn effect(section: &str, key: &str) -> Effect {
    match (section, key) {
        ("backend", _) | ("pool", "per_credential") => Effect::Reconnect,
        ("pool", "mode") => Effect::NewSessions,
        ("pool", "linger" | "idle_timeout" | "max_lifetime" | "keepalive") => Effect::NewConnections,
        ("listener", _) => Effect::NewSessions,
        ("limits", "sessions" | "unauthenticated" | "sessions_per_address" | "drain_timeout") => Effect::AtOnce,
        ("limits", _) => Effect::NewSessions,
        ("log", "format") => Effect::Restart,
        _ => Effect::AtOnce,
    }
}

pub(super) fn words<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

pub(super) fn shown<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(super) fn shown_or_empty<S: Serializer>(
    value: &Option<impl fmt::Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_str(""),
    }
}

pub(super) fn ports<S: Serializer>(range: &Option<RangeInclusive<u16>>, serializer: S) -> Result<S::Ok, S::Error> {
    match range {
        Some(range) => serializer.collect_str(&format_args!("{}-{}", range.start(), range.end())),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn of(old: &str, new: &str) -> Vec<String> {
        let value = |text: &str| {
            let head = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:1143\"\n";
            serde_json::to_value(Config::parse(&format!("{head}{text}"), "t").unwrap()).unwrap()
        };
        diff(&value(old), &value(new)).iter().map(Change::to_string).collect()
    }

    const MAIN: &str = "[[backend]]\nname = \"main\"\naddress = \"127.0.0.1:143\"\n";

    #[test]
    fn the_same_in_other_words_is_no_change() {
        let written = format!("{MAIN}[pool]\nlinger = \"30000ms\"\n[admin]\naddress = \"127.0.0.1:9143\"\n");
        assert_eq!(of(MAIN, &written), [""; 0]);
    }

    #[test]
    fn each_change_says_what_it_does() {
        let new = format!("{MAIN}login_timeout = \"5s\"\n[pool]\nmax_total = 7\n[log]\nformat = \"json\"\n");
        let wanted = [
            "~ backend \"main\".login_timeout: \"30s\" -> \"5s\"  (connections are retired and opened anew)",
            "~ log.format: \"text\" -> \"json\"  (NEEDS A RESTART)",
            "~ pool.max_total: 0 -> 7  (at once)",
        ];
        assert_eq!(of(MAIN, &new), wanted);
        let apart = |word: &str| format!("{MAIN}[pool]\nper_credential = {word}\n");
        let wanted = "~ pool.per_credential: \"tokens\" -> \"always\"  (connections are retired and opened anew)";
        assert_eq!(of(MAIN, &apart("true")), [wanted]);
        assert_eq!(of(&apart("\"always\""), &apart("true")), [""; 0]);
    }

    #[test]
    fn listeners_and_backends_are_known_by_their_names() {
        let second = "[[listener]]\nname = \"second\"\naddress = \"127.0.0.1:1144\"\n";
        let spare = "[[backend]]\nname = \"spare\"\naddress = \"127.0.0.1:144\"\n";
        assert_eq!(
            of(&format!("{second}{MAIN}{spare}"), &format!("{spare}{MAIN}")),
            [
                "~ the default backend: main -> spare  (for new sessions)",
                "- listener \"second\": \"127.0.0.1:1144\"  (no new sessions there; those that are open go on)",
            ]
        );
        assert_eq!(of(MAIN, &format!("{MAIN}{spare}")), ["+ backend \"spare\": \"127.0.0.1:144\"  (at once)"]);
    }
}
