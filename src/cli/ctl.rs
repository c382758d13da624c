//! `imapool ctl`: the actions.

use clap::Subcommand;
use imapool::shown::Plain;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::{Client, ClientError};

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Action {
    /// Retire all connections of an account, and have its next login verified anew.
    ///
    /// Connections at rest end at once, those in use when their sessions end. For a password that has changed, or a
    /// mailbox that has moved.
    Retire {
        /// The user's name; all that differ only in case and the like are meant.
        account: String,
    },
    /// Close a client session, or all of an account: at rest by BYE, else as soon as its command is over.
    Close {
        /// Its number, as `imapool top` and the log tell it.
        #[arg(required_unless_present = "account")]
        session: Option<u64>,
        /// The user's name instead; all that differ only in case and the like are meant.
        #[arg(long, value_name = "USER", conflicts_with = "session")]
        account: Option<String>,
    },
    /// Have sessions wait for connections to a backend, up to pool.checkout_timeout.
    Pause {
        /// The backend's name.
        backend: String,
    },
    /// Pause a backend, retire all connections to it, and close the sessions that hold one.
    Drain {
        /// The backend's name.
        backend: String,
    },
    /// Have a backend serve again.
    Resume {
        /// The backend's name.
        backend: String,
    },
    /// Log the commands and replies of an account for a while, without passwords, texts and messages.
    Trace {
        /// The user's name; all that differ only in case and the like are meant.
        account: String,
        /// For how long, at most an hour; "0s" ends it.
        #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
        time: std::time::Duration,
    },
    /// Read the configuration again, as SIGHUP does.
    Reload,
}

impl Action {
    fn path(&self) -> String {
        let segment = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        match self {
            Self::Retire { account } => format!("accounts/{}/retire", segment(account)),
            Self::Close { account: Some(account), .. } => format!("accounts/{}/close", segment(account)),
            Self::Close { session, .. } => format!("sessions/{}/close", session.unwrap_or_default()),
            Self::Pause { backend } => format!("backends/{}/pause", segment(backend)),
            Self::Drain { backend } => format!("backends/{}/drain", segment(backend)),
            Self::Resume { backend } => format!("backends/{}/resume", segment(backend)),
            Self::Trace { account, time } => format!("accounts/{}/trace?seconds={}", segment(account), time.as_secs()),
            Self::Reload => "reload".to_owned(),
        }
    }
}

/// Does it, and says what came of it.
///
/// # Errors
/// See [`ClientError`].
pub(crate) async fn run(client: &Client, action: &Action) -> Result<String, ClientError> {
    let told = client.post(&action.path()).await?;
    Ok(match action {
        Action::Retire { .. } => format!("{}: {} connections retired", users(&told), told["connections"]),
        Action::Close { account: Some(_), .. } => {
            format!("{}: {} sessions are being closed", users(&told), told["sessions"])
        }
        Action::Close { session, .. } => format!("session {} is being closed", session.unwrap_or_default()),
        Action::Pause { backend } | Action::Resume { backend } => {
            format!("{backend}: {}, {} connections", text(&told["service"]), told["connections"])
        }
        Action::Drain { backend } => {
            format!("{backend}: drained; {} sessions are being closed", told["sessions"])
        }
        Action::Trace { time, .. } if time.is_zero() => format!("{}: no longer traced", users(&told)),
        Action::Trace { time, .. } => {
            format!("{}: traced into the log for {}", users(&told), humantime::format_duration(*time))
        }
        Action::Reload => changes(&told["changes"]),
    })
}

/// The names that the account was found by.
fn users(told: &Value) -> String {
    let users: Vec<_> = told["users"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    users.iter().map(|user| Plain(user).to_string()).collect::<Vec<_>>().join(", ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn changes(changes: &Value) -> String {
    let changes: Vec<imapool::config::Change> = serde_json::from_value(changes.clone()).unwrap_or_default();
    if changes.is_empty() {
        return "reloaded; nothing has changed".to_owned();
    }
    let lines: Vec<_> = changes.iter().map(ToString::to_string).collect();
    format!("reloaded:\n{}", lines.join("\n"))
}
