//! What is different between two configurations, and what comes of it when the second takes the place of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ListenAddr;
use super::keys::KEYS;

/// What a change does to a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It holds at once.
    AtOnce,
    /// It holds at once, unless the environment says otherwise.
    UnlessRustLog,
    /// It holds for sessions that begin from then on.
    NewSessions,
    /// It holds for upstream connections and sessions that begin from then on.
    NewConnections,
    /// It holds for mailboxes that sessions begin to share from then on.
    NewHubs,
    /// Connections opened before are retired: those at rest at once, those that sessions share between two commands,
    /// the others when their sessions end.
    Reconnect,
    /// Its sessions are closed.
    Ended,
    /// It is not accepted any more at this address; sessions go on.
    Closed,
    /// Nothing, until imapool is started anew.
    Restart,
    /// The whole configuration is refused; it takes a restart.
    Refused,
    /// A key of another version of imapool.
    Unknown,
}

impl Effect {
    /// In words, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::AtOnce => "at once",
            Effect::UnlessRustLog => "at once, unless RUST_LOG is set",
            Effect::NewSessions => "for new sessions",
            Effect::NewConnections => "for new connections",
            Effect::NewHubs => "for mailboxes that sessions begin to share",
            Effect::Reconnect => "connections are retired and opened anew",
            Effect::Ended => "its sessions are closed",
            Effect::Closed => "no new sessions there; those that are open go on",
            Effect::Restart => "NEEDS A RESTART",
            Effect::Refused => "A RELOAD IS REFUSED: it overlaps an address that is in use. NEEDS A RESTART",
            Effect::Unknown => "this version does not know the key",
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
    for section in keys(old, new) {
        match section.as_str() {
            "listeners" => of_named("listener", &old[section], &new[section], &mut changes),
            "backends" => of_named("backend", &old[section], &new[section], &mut changes),
            "groups" => of_named("group", &old[section], &new[section], &mut changes),
            "routes" => of_placed("route", &old[section], &new[section], &mut changes),
            "accounts" => of_placed("account", &old[section], &new[section], &mut changes),
            name => of_table(name, name, &old[section], &new[section], &mut changes),
        }
    }
    changes
}

/// Those of either, in order.
fn keys<'v>(old: &'v Value, new: &'v Value) -> BTreeSet<&'v String> {
    old.as_object().into_iter().chain(new.as_object()).flat_map(|object| object.keys()).collect()
}

/// As it is told, if it is there.
fn told(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| value.to_string())
}

/// Listeners or backends: what tells them apart is the name; but a listener that has only another name stays.
fn of_named(kind: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    let entries = |list: &Value| -> BTreeMap<String, Value> {
        let entries = list.as_array().into_iter().flatten();
        entries.map(|entry| (entry["name"].as_str().unwrap_or_default().to_owned(), entry.clone())).collect()
    };
    let (mut before, mut after) = (entries(old), entries(new));
    if kind == "listener" {
        renamed(&mut before, &after);
    }
    // Its place is taken by a new one at the same place of the configuration: `app::reload`.
    let is_replaced = |name: &str| {
        let at = old.as_array().and_then(|entries| entries.iter().position(|entry| entry["name"] == name));
        let Some(at) = at else { return false };
        let (was, is) = (&old[at], &new[at]);
        let is_unnamed = |entry: &Value| entry["name"] == host_and_port_of(entry);
        let is_same = place(was) == place(is) || (is_unnamed(was) && is_unnamed(is));
        is["name"].as_str().is_some_and(|there| !before.contains_key(there)) && is_same
    };
    for (name, entry) in &before {
        let key = format!("{kind} \"{}\"", entry["name"].as_str().unwrap_or_default());
        match after.remove(name) {
            Some(now) => of_table(kind, &key, entry, &now, changes),
            None => {
                let effect = match kind {
                    "listener" => Effect::Closed,
                    "group" => Effect::NewSessions,
                    _ if is_replaced(name) => Effect::Reconnect,
                    _ => Effect::Ended,
                };
                changes.push(Change { key, old: Some(place(entry)), new: None, effect });
            }
        }
    }
    for (name, entry) in after {
        let (key, new) = (format!("{kind} \"{name}\""), Some(place(&entry)));
        changes.push(Change { key, old: None, new, effect: Effect::AtOnce });
    }
    match kind {
        "listener" => refused(old, new, changes),
        "group" => {}
        _ => default_backend(old, new, &before, changes),
    }
}

/// Where it is; of a group, its name.
fn place(entry: &Value) -> String {
    match (&entry["host"], &entry["address"]) {
        (Value::String(host), _) => format!("\"{host}:{}\"", entry["port"]),
        (_, Value::Null) => entry["name"].to_string(),
        (_, address) => address.to_string(),
    }
}

/// Routes and accounts are known by their places, which say which of them comes first.
fn of_placed(kind: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    let effect = if kind == "route" { Effect::NewSessions } else { Effect::AtOnce };
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    for place in 0..count(old).max(count(new)) {
        let (was, is) = (&old[place], &new[place]);
        let key = format!("{kind} {}", place + 1);
        match (told(was), told(is)) {
            (Some(_), Some(_)) => of_table(kind, &key, was, is, changes),
            (old, new) => changes.push(Change { key, old, new, effect }),
        }
    }
}

/// What a backend without a name of its own is called.
fn host_and_port_of(entry: &Value) -> String {
    let port = entry["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    super::host_and_port(entry["host"].as_str().unwrap_or_default(), port.unwrap_or_default())
}

/// Puts a listener that is gone under the new name of its address: it goes on there.
fn renamed(before: &mut BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    for (name, entry) in after.iter().filter(|(_, entry)| !entry["address"].to_string().ends_with(":0\"")) {
        let same = |was: &&String| before[*was]["address"] == entry["address"] && !after.contains_key(*was);
        let was = before.keys().find(same).cloned().filter(|_| !before.contains_key(name));
        if let Some(listener) = was.and_then(|was| before.remove(&was)) {
            before.insert(name.clone(), listener);
        }
    }
}

/// What is to be listened on must not overlap with what is listened on: it is taken before that is given up.
fn refused(old: &Value, new: &Value, changes: &mut [Change]) {
    let listeners = |list: &Value| -> Vec<(String, ListenAddr, bool)> {
        let tcp = |entry: &Value| {
            let address = entry["address"].as_str()?.parse().ok().map(ListenAddr::Tcp)?;
            Some((entry["name"].as_str()?.to_owned(), address, entry["reuse_port"] == true))
        };
        list.as_array().into_iter().flatten().filter_map(tcp).collect()
    };
    let old = listeners(old);
    for (name, address, shares) in listeners(new) {
        let stays = old.iter().any(|(_, taken, _)| *taken == address);
        let taken = |(_, taken, also): &(_, ListenAddr, bool)| taken.overlaps(&address) && !(shares && *also);
        if !stays && old.iter().any(taken) {
            let key = format!("listener \"{name}\"");
            let ours = |change: &&mut Change| change.key == key || change.key == format!("{key}.address");
            changes.iter_mut().filter(ours).for_each(|change| change.effect = Effect::Refused);
        }
    }
}

fn default_backend(old: &Value, new: &Value, before: &BTreeMap<String, Value>, changes: &mut Vec<Change>) {
    let first = |list: &Value| list[0]["name"].as_str().unwrap_or_default().to_owned();
    let (was, is) = (first(old), first(new));
    if was != is && before.contains_key(&is) {
        let effect = Effect::NewSessions;
        changes.push(Change { key: "the default backend".into(), old: Some(was), new: Some(is), effect });
    }
}

fn of_table(section: &str, shown: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    for key in keys(old, new) {
        let (was, is) = (&old[key], &new[key]);
        if was != is {
            let (old, new) = (told(was), told(is));
            changes.push(Change { key: format!("{shown}.{key}"), old, new, effect: effect(section, key) });
        }
    }
}

/// What a reload does about each key: `app/reload.rs` does it.
fn effect(section: &str, key: &str) -> Effect {
    // What is told of a backend's address.
    let key = if section == "backend" && ["host", "port"].contains(&key) { "address" } else { key };
    let known = KEYS.iter().find(|known| (known.section, known.name) == (section, key));
    known.map_or(Effect::Unknown, |known| known.effect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::platform::Has;

    fn of(old: &str, new: &str) -> Vec<String> {
        let value = |text: &str| {
            let head = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:1143\"\n";
            serde_json::to_value(Config::parse_for(Has::EVERYTHING, &format!("{head}{text}")).unwrap()).unwrap()
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
        assert_eq!(
            of(&format!("{MAIN}{spare}"), MAIN),
            ["- backend \"spare\": \"127.0.0.1:144\"  (its sessions are closed)"]
        );
        let other_name = second.replace("second", "other");
        assert_eq!(
            of(&format!("{second}{MAIN}"), &format!("{other_name}{MAIN}")),
            ["~ listener \"second\".name: \"second\" -> \"other\"  (for new sessions)"]
        );
        assert_eq!(of(MAIN, &format!("{MAIN}{spare}")), ["+ backend \"spare\": \"127.0.0.1:144\"  (at once)"]);
    }

    #[test]
    fn routes_and_groups_are_for_new_sessions() {
        let grouped = MAIN.replace("address", "group = \"g\"\naddress");
        let routed = |stay: &str, to: &str| {
            format!(
                "{grouped}weight = 7\n[[group]]\nname = \"g\"\nstay = \"{stay}\"\n[[route]]\nusers = [\"a\"]\nto = \"{to}\"\n"
            )
        };
        let changes = of(&routed("1m", "g"), &format!("{}[[route]]\nto = \"\"\n", routed("2m", "main")));
        assert_eq!(changes.len(), 3, "{changes:?}");
        assert_eq!(changes[0], "~ group \"g\".stay: \"1m\" -> \"2m\"  (for new sessions)");
        assert_eq!(changes[1], "~ route 1.to: \"g\" -> \"main\"  (for new sessions)");
        assert!(changes[2].starts_with("+ route 2: ") && changes[2].ends_with("(for new sessions)"), "{changes:?}");
        let changes = of(MAIN, &routed("1m", "g"));
        assert!(changes.contains(&"~ backend \"main\".weight: 100 -> 7  (for new sessions)".to_owned()), "{changes:?}");
        assert!(changes.contains(&"+ group \"g\": \"g\"  (at once)".to_owned()), "{changes:?}");
    }

    /// By another value of a header alone, which is not told.
    #[test]
    fn another_header_is_seen() {
        let with =
            |value: &str| format!("{MAIN}[[route]]\nhttp = \"http://127.0.0.1:1/a\"\nheaders = [\"X-Key: {value}\"]\n");
        let changes = of(&with("hunter2"), &with("hunter3"));
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(changes[0].starts_with("~ route 1.headers: [\"X-Key: … ("), "{changes:?}");
        assert!(!changes[0].contains("hunter"), "{changes:?}");
        assert_eq!(of(&with("hunter2"), &with("hunter2")), [""; 0]);
    }

    #[test]
    fn accounts_are_known_by_their_places() {
        let of_two = |first: &str, second: &str| {
            format!("{MAIN}[[account]]\nusers = [\"a\"]\n{first}[[account]]\nusers = [\"b\"]\n{second}")
        };
        let changes = of(&of_two("", "mode = \"session\"\n"), &of_two("sessions = 3\n", "allow = false\n"));
        let wanted = [
            "~ account 1.sessions: 0 -> 3  (at once)",
            "~ account 2.allow: true -> false  (at once)",
            "~ account 2.mode: \"session\" -> \"\"  (for new sessions)",
        ];
        assert_eq!(changes, wanted);
        let changes = of(&of_two("", ""), MAIN);
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert!(changes[0].starts_with("- account 1: {") && changes[0].ends_with("(at once)"), "{changes:?}");
        let changes = of(MAIN, &format!("{MAIN}max_per_account = 9\nidle_timeout = \"60s\"\n"));
        let wanted = [
            "~ backend \"main\".idle_timeout: \"\" -> \"1m\"  (for new connections)",
            "~ backend \"main\".max_per_account: \"\" -> 9  (at once)",
        ];
        assert_eq!(changes, wanted);
    }

    /// What is bound before the old address is given up cannot be had then.
    #[test]
    fn an_address_that_overlaps_is_refused() {
        let second = |address: &str| format!("[[listener]]\nname = \"second\"\naddress = \"{address}\"\n{MAIN}");
        let refused = "(A RELOAD IS REFUSED: it overlaps an address that is in use. NEEDS A RESTART)";
        let change = of(&second("127.0.0.1:1144"), &second("0.0.0.0:1144"));
        let wanted = format!("~ listener \"second\".address: \"127.0.0.1:1144\" -> \"0.0.0.0:1144\"  {refused}");
        assert_eq!(change, [wanted]);
        let change = of(&second("127.0.0.1:1144"), &second("[::]:1144"));
        assert!(change[0].ends_with("(for new sessions)"), "{change:?}");
        let shared = second("127.0.0.1:1144").replace("\"second\"", "\"second\"\nreuse_port = true");
        let change = of(&shared, &shared.replace("127.0.0.1:1144", "0.0.0.0:1144"));
        assert!(change[0].ends_with("(for new sessions)"), "{change:?}");
    }

    /// As it is told, which has other keys for the address of a backend.
    #[test]
    fn it_is_known_of_every_key_what_a_reload_does_about_it() {
        let routed = format!(
            "{MAIN}group = \"g\"\n[[group]]\nname = \"g\"\n[[route]]\nto = \"g\"\n[[account]]\nusers = [\"a\"]\n"
        );
        let config = Config::parse(&format!("[[listener]]\naddress = \"127.0.0.1:1143\"\n{routed}"), "t").unwrap();
        let value = serde_json::to_value(config).unwrap();
        for (told, entry) in value.as_object().unwrap() {
            let entry = if entry.is_array() { &entry[0] } else { entry };
            let section = if told == "limits" { told } else { told.trim_end_matches('s') };
            for (key, value) in entry.as_object().unwrap_or_else(|| panic!("no {section}")) {
                assert_ne!(effect(section, key), Effect::Unknown, "{section}.{key}");
                // Durations are told as they are written.
                assert!(!value.is_object() || key == "check", "{section}.{key}: {value}");
            }
        }
        assert_eq!(effect("pool", "lingr"), Effect::Unknown);
    }
}
