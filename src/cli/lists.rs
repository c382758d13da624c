//! The lists of the API, as tables: for `imapool status --list` and `imapool top`.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::Value;

use super::status::clean;

/// Rows that `imapool status --list` shows.
const ROWS: usize = 1000;

/// One of the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum List {
    /// Accounts.
    Accounts,
    /// Client sessions.
    Sessions,
    /// Mailboxes that sessions share.
    Hubs,
    /// Connections to the servers.
    Connections,
    /// The servers.
    Backends,
}

impl List {
    /// What it is called in the API.
    pub(crate) fn call(self) -> String {
        format!("{}?limit={ROWS}", self.view().call)
    }

    fn view(self) -> &'static View {
        &VIEWS[self as usize]
    }

    /// The first of its rows as a table, and how many more there are.
    pub(crate) fn table(self, list: &Value) -> String {
        let view = self.view();
        let rows: Vec<Vec<String>> = list["rows"].as_array().into_iter().flatten().map(|row| view.cells(row)).collect();
        let titles: Vec<String> = view.columns.iter().map(|(title, ..)| (*title).to_owned()).collect();
        let lines = || std::iter::once(&titles).chain(&rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<_> = (0..titles.len()).map(width).collect();
        let mut text = String::new();
        for line in lines() {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        let more = list["total"].as_u64().unwrap_or_default().saturating_sub(rows.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "… and {more} more");
        }
        text
    }
}

/// One list: its call, its columns (title, key, width), and by which of the keys it can be sorted.
pub(crate) struct View {
    pub(crate) call: &'static str,
    pub(crate) columns: &'static [(&'static str, &'static str, u16)],
    pub(crate) sorts: &'static [&'static str],
}

/// All lists. A terminal of 120 columns has room for the widths of each.
pub(crate) const VIEWS: [View; 5] = [
    View {
        call: "accounts",
        columns: &[
            ("ACCOUNT", "user", 32),
            ("BACKEND", "backend", 16),
            ("SESSIONS", "sessions", 9),
            ("CONNECTIONS", "connections", 12),
            ("OF", "max_per_account", 4),
            ("IN USE", "in_use", 7),
            ("WAITING", "waiting", 8),
            ("WAITS", "waits", 8),
        ],
        sorts: &["sessions", "connections", "waiting", "waits", "name"],
    },
    View {
        call: "sessions",
        columns: &[
            ("SESSION", "id", 8),
            ("CLIENT", "client", 21),
            ("USER", "user", 15),
            ("MAILBOX", "mailbox", 10),
            ("CONNECTION", "connection|relayed", 10),
            ("COMMAND", "command", 8),
            ("TLS", "tls", 7),
            ("SECONDS", "seconds", 7),
            ("COMMANDS", "commands", 8),
            ("RECEIVED", "received", 8),
            ("SENT", "sent", 8),
        ],
        sorts: &["id", "commands", "received", "sent"],
    },
    View {
        call: "hubs",
        columns: &[
            ("HUB", "id", 9),
            ("USER", "user", 24),
            ("MAILBOX", "mailbox", 24),
            ("BACKEND", "backend", 16),
            ("SESSIONS", "sessions", 9),
            ("STATE", "state", 10),
            ("CONNECTION", "connection", 11),
            ("SECONDS", "seconds", 8),
        ],
        sorts: &["age", "sessions"],
    },
    View {
        call: "connections",
        columns: &[
            ("CONNECTION", "id", 11),
            ("USER", "user", 24),
            ("BACKEND", "backend", 16),
            ("PORT", "local_port", 6),
            ("STATE", "state", 9),
            ("SECONDS", "seconds", 8),
            ("AT REST", "at_rest_seconds", 8),
            ("SESSIONS", "sessions", 9),
            ("MAILBOX", "mailbox", 20),
        ],
        sorts: &["age"],
    },
    View {
        call: "backends",
        columns: &[
            ("BACKEND", "name", 16),
            ("ADDRESS", "address", 28),
            ("SERVICE", "service", 9),
            ("REACHABLE", "reachable", 10),
            ("HEALTH", "health", 7),
            ("IN USE", "budget.in_use", 8),
            ("OF", "budget.capacity", 8),
            ("GROUP", "group", 10),
            ("WEIGHT", "weight", 7),
            ("ACCOUNTS", "accounts", 9),
            ("OUTAGE", "outage", 30),
        ],
        sorts: &["name"],
    },
];

impl View {
    pub(crate) fn cells(&self, row: &Value) -> Vec<String> {
        self.columns.iter().map(|(_, key, _)| shown(row, key)).collect()
    }
}

/// A value of a row; a dot in the key goes a level down, and `|` to another key where there is none.
fn shown(row: &Value, key: &str) -> String {
    let mut found = key.split('|').map(|key| key.split('.').fold(row, |value, key| &value[key]));
    match found.find(|value| !value.is_null()).unwrap_or(&Value::Null) {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_that_goes_through_is_shown_with_its_replica() {
        let rows = json!([
            { "id": 1, "user": "anna", "connection": 7, "relayed": null },
            { "id": 2, "user": "bert", "connection": null, "relayed": "imapool-1" },
            { "id": 3, "user": null, "connection": null, "relayed": null },
        ]);
        let table = List::Sessions.table(&json!({ "total": 3, "rows": rows }));
        let column = |line: &str| line.split_whitespace().nth(4).unwrap().to_owned();
        let column: Vec<_> = table.lines().map(column).collect();
        assert_eq!(column, ["CONNECTION", "7", "imapool-1", "-"]);
    }
}
