//! `imapool ctl`: the actions.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{ArgGroup, Subcommand};
use imapool::config::Change;
use imapool::shown::Plain;
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde_json::Value;
use tokio::time::Instant;

use super::client::Client;

/// How often a drain that is waited for is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the running imapool is to do.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Order {
    /// Retire all connections of an account, and have its next login verified anew.
    ///
    /// Connections at rest end at once, those in use when their sessions end. For a password that has changed, or a
    /// mailbox that has moved.
    Retire {
        /// The user's name; all that differ only in case and the like are meant.
        account: String,
    },
    /// Close a client session, or all of an account, a client or a listener: at rest by BYE, else as soon as its
    /// command is over.
    #[command(group = ArgGroup::new("whose").required(true))]
    Close {
        /// Its number, as `imapool top` and the log tell it.
        #[arg(group = "whose")]
        session: Option<u64>,
        /// All of this user; all that differ only in case and the like are meant.
        #[arg(long, value_name = "USER", group = "whose")]
        account: Option<String>,
        /// All from this IP address, one from an address and port, or "unix": all by Unix sockets.
        #[arg(long, value_name = "ADDRESS", group = "whose")]
        client: Option<String>,
        /// All that came in by the listener of this name; those that have not logged in, too.
        #[arg(long, value_name = "NAME", group = "whose")]
        listener: Option<String>,
    },
    /// Have sessions wait for connections to a backend, up to pool.checkout_timeout.
    Pause {
        /// The backend's name.
        backend: String,
    },
    /// Pause a backend, end all connections to it, and close the sessions that hold one or are in a mailbox.
    Drain {
        /// The backend's name.
        backend: String,
        /// Wait until no connection to it is open, for so long at most; if one still is then, fail.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        wait: Option<Duration>,
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
        time: Duration,
    },
    /// Move an account to another backend, whatever the routes say: its sessions end, its connections log out, then the
    /// other one serves it.
    ///
    /// Kept in routing.moves_file, so that it outlasts a restart. Returns when nothing of the account is left where it
    /// was, after half a minute at most; new logins wait for that.
    Move {
        /// The user's name; all that routes take for the same are meant.
        account: String,
        /// The name of a backend or group.
        #[arg(required_unless_present = "as_routed")]
        target: Option<String>,
        /// Back to where the routes say.
        #[arg(long, conflicts_with = "target")]
        as_routed: bool,
        /// Its sessions go on at the other one, which has a copy of the mail with the same UIDs: they notice nothing.
        /// Where a mailbox is not the same there, they hear BYE.
        #[arg(long, requires = "target", conflicts_with = "as_routed")]
        keep_sessions: bool,
    },
    /// Close all sessions and connections of an account. Its next login is served as any.
    Kick {
        /// The user's name; all that routes take for the same are meant.
        account: String,
    },
    /// Give a backend of a group another weight, until imapool ends: its share of the accounts, 0 for no new ones.
    /// Accounts that are there stay until they have had no session for the group's `stay`.
    Weight {
        /// The backend's name.
        backend: String,
        /// From 0 to 1000000.
        #[arg(required_unless_present = "as_configured")]
        weight: Option<u32>,
        /// As the configuration says.
        #[arg(long, conflicts_with = "weight")]
        as_configured: bool,
    },
    /// Empty a backend of a group: its weight is 0 from now on, and its accounts go to the others. Their sessions end
    /// by BYE, 200 accounts a second.
    Evacuate {
        /// The backend's name.
        backend: String,
        /// Wait until no account is there, for so long at most; if one still is then, fail.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        wait: Option<Duration>,
    },
    /// Read the configuration again, as SIGHUP does.
    Reload {
        /// By SIGHUP to this process, which says what came of it in the directory that RUNTIME_DIRECTORY names. Needs
        /// no token: for ExecReload= of a systemd unit.
        #[arg(long, value_name = "PID")]
        pid: Option<i32>,
    },
    /// Wait until no account has anything at a backend: no session, and no connection.
    WaitEmpty {
        /// The backend's name.
        backend: String,
        /// For so long at most; if there still is one then, fail.
        #[arg(long = "for", value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
        time: Duration,
    },
}

/// Does it, and says what came of it.
///
/// # Errors
/// See [`Client::post`]; and when what is waited for does not come.
pub(crate) async fn run(client: &Client, order: &Order) -> anyhow::Result<String> {
    let post = async |path: String| client.post(&path).await;
    Ok(match order {
        Order::Retire { account } => {
            let told = post(format!("accounts/{}/retire", segment(account))).await?;
            format!("{}: {} connections retired", users(&told), told["connections"])
        }
        Order::Close { account: Some(account), .. } => {
            let told = post(format!("accounts/{}/close", segment(account))).await?;
            format!("{}: {} sessions are being closed", users(&told), told["sessions"])
        }
        Order::Close { client: Some(address), .. } => close_those(client, "client", address).await?,
        Order::Close { listener: Some(name), .. } => close_those(client, "listener", name).await?,
        Order::Close { session, .. } => {
            let session = session.unwrap_or_default();
            post(format!("sessions/{session}/close")).await?;
            format!("session {session} is being closed")
        }
        Order::Pause { backend } => serve(client, backend, "pause").await?,
        Order::Resume { backend } => serve(client, backend, "resume").await?,
        Order::Drain { backend, wait } => {
            let told = post(format!("backends/{}/drain", segment(backend))).await?;
            let sessions = &told["sessions"];
            if let Some(time) = wait {
                wait_until_drained(client, backend, *time).await?;
                format!("{backend}: drained; {sessions} sessions were closed, no connection is open")
            } else {
                format!("{backend}: drained; {sessions} sessions are being closed")
            }
        }
        Order::Trace { account, time } => {
            // Whoever asks for half a second does not mean to end it.
            let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
            let told = post(format!("accounts/{}/trace?seconds={seconds}", segment(account))).await?;
            match told["seconds"].as_u64().unwrap_or_default() {
                0 => format!("{}: no longer traced", users(&told)),
                seconds => {
                    let time = humantime::format_duration(Duration::from_secs(seconds));
                    format!("{}: traced into the log for {time}", users(&told))
                }
            }
        }
        Order::Move { account, target, keep_sessions, .. } => {
            let to = target.as_ref().map(|target| format!("?to={}", segment(target))).unwrap_or_default();
            let keep = if *keep_sessions { "&keep_sessions=true" } else { "" };
            let told = post(format!("accounts/{}/move{to}{keep}", segment(account))).await?;
            let to = target.as_deref().unwrap_or("where the routes say");
            let (kept, left) = match (told["left"] == true, told["sessions"].as_u64()) {
                (true, Some(kept)) => (format!("; {kept} sessions go on there"), ""),
                (true, None) => (String::new(), ""),
                (false, _) => (String::new(), "; something of it is still where it was, and logins wait"),
            };
            format!("{}: goes to {}{kept}{left}", Plain(account), Plain(to))
        }
        Order::Kick { account } => {
            post(format!("accounts/{}/kick", segment(account))).await?;
            format!("{}: its sessions and connections are being closed", Plain(account))
        }
        Order::Weight { backend, weight: Some(weight), .. } => {
            post(format!("backends/{}/weight?to={weight}", segment(backend))).await?;
            format!("{backend}: weight {weight}")
        }
        Order::Weight { backend, .. } => {
            post(format!("backends/{}/weight", segment(backend))).await?;
            format!("{backend}: weight as configured")
        }
        Order::Evacuate { backend, wait } => {
            let told = post(format!("backends/{}/evacuate", segment(backend))).await?;
            let bound = match told["bound"].as_u64().unwrap_or_default() {
                0 => String::new(),
                bound => format!("; {bound} stay, as their routes name this very backend"),
            };
            if let Some(time) = wait {
                wait_until_empty(client, backend, *time).await?;
            }
            let now = if wait.is_some() { "have left" } else { "are leaving" };
            format!("{backend}: {} accounts {now}{bound}", told["leaving"])
        }
        Order::Reload { .. } => {
            let mut told = post("reload".to_owned()).await?;
            reloaded(&serde_json::from_value::<Vec<Change>>(told["changes"].take()).unwrap_or_default())
        }
        Order::WaitEmpty { backend, time } => {
            wait_until_empty(client, backend, *time).await?;
            format!("{backend}: no account is there")
        }
    })
}

/// Text as a segment of a path, or a value of a query.
fn segment(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

async fn close_those(client: &Client, key: &str, whose: &str) -> anyhow::Result<String> {
    let told = client.post(&format!("sessions/close?{key}={}", segment(whose))).await?;
    Ok(format!("{}: {} sessions are being closed", Plain(whose), told["sessions"]))
}

async fn serve(client: &Client, backend: &str, verb: &str) -> anyhow::Result<String> {
    let told = client.post(&format!("backends/{}/{verb}", segment(backend))).await?;
    let service = told["service"].as_str().unwrap_or("?");
    Ok(format!("{backend}: {service}, {} connections", told["connections"]))
}

async fn wait_until_drained(client: &Client, backend: &str, time: Duration) -> anyhow::Result<()> {
    let left = |open, time| format!("{backend}: drained, but {open} connections are open after {time}");
    wait_until_none(client, backend, time, still_open, left).await
}

async fn wait_until_empty(client: &Client, backend: &str, time: Duration) -> anyhow::Result<()> {
    let accounts = |row: &Value| Ok(row["accounts"].as_u64().unwrap_or_default());
    let left = |left, time| format!("{backend}: {left} accounts are there after {time}");
    wait_until_none(client, backend, time, accounts, left).await
}

/// Looks at a backend until `count` is zero; `left` says what still is when the time is over.
async fn wait_until_none(
    client: &Client,
    backend: &str,
    time: Duration,
    count: impl Fn(&Value) -> anyhow::Result<u64>,
    left: impl Fn(u64, humantime::FormattedDuration) -> String,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + time;
    loop {
        let told = client.get("backends").await?;
        let count = count(row(&told, backend)?)?;
        if count == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, left(count, humantime::format_duration(time)));
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What is told of a backend.
fn row<'t>(told: &'t Value, backend: &str) -> anyhow::Result<&'t Value> {
    let mut rows = told["rows"].as_array().into_iter().flatten();
    rows.find(|row| row["name"] == backend).with_context(|| format!("{backend}: there is no such backend"))
}

/// Connections that are open to a backend that is being drained; or why it is no longer.
fn still_open(row: &Value) -> anyhow::Result<u64> {
    let [name, service] = ["name", "service"].map(|key| row[key].as_str().unwrap_or_default());
    ensure!(service == "drained", "{name}: {service} again: somebody else has changed that meanwhile");
    let connections = row["connections"].as_object().into_iter().flatten();
    Ok(connections.filter_map(|(_, count)| count.as_u64()).sum())
}

/// The names that the account was found by.
fn users(told: &Value) -> String {
    let users: Vec<_> = told["users"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    users.iter().map(|user| Plain(user).to_string()).collect::<Vec<_>>().join(", ")
}

/// What came of a reload.
pub(crate) fn reloaded(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "reloaded; nothing has changed".to_owned();
    }
    let lines: Vec<_> = changes.iter().map(ToString::to_string).collect();
    format!("reloaded:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Nobody waits for the end of a drain that another operator has ended.
    #[test]
    fn what_a_drain_waits_for() {
        let told = |service: &str| {
            json!({ "rows": [
                { "name": "other", "service": "running", "connections": { "idle": 9 } },
                { "name": "main", "service": service, "connections": { "active": 2, "idle": 1 } },
            ] })
        };
        let open = |told: &Value, backend: &str| still_open(row(told, backend)?);
        assert_eq!(open(&told("drained"), "main").unwrap(), 3);
        assert!(open(&told("running"), "main").unwrap_err().to_string().starts_with("main: running again"));
        assert!(open(&told("drained"), "gone").is_err());
    }
}
