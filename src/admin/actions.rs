//! What can be done by `POST /api/...`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tracing::info;

use super::Subject;
use super::api::octets;
use super::meant::Meant;
use crate::metrics::RetireReason;
use crate::routing::{Evacuation, HandError, Moved};
use crate::session::registry::Record;
use crate::shown;
use crate::upstream::backend::Service;

/// Seconds that a trace lasts, unless the request says otherwise, and at most.
const TRACE: u64 = 60;
/// See [`TRACE`].
const LONGEST_TRACE: u64 = 3600;

/// Seconds that a move is waited for at most.
const MOVING: u64 = 30;

/// The highest weight, as in the configuration.
const MOST_WEIGHT: u32 = 1_000_000;

/// What a request to close sessions lacks.
const WHOSE: &str = "say whose sessions: account, client or listener";

/// Where an action was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin(pub(super) Option<SocketAddr>);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("unix"),
        }
    }
}

/// What an action says.
pub(super) enum Done {
    /// 200
    Well(Value),
    /// 404
    NoSuch(&'static str),
    /// 400, 409 or 422, and why.
    Not(u16, String),
}

/// Carries out `POST /api/{path}?{query}`. `None`: there is no such action.
pub(super) async fn act(subject: &dyn Subject, path: &str, query: &str, origin: Origin) -> Option<Done> {
    let segments: Vec<_> = path.split('/').collect();
    Some(match segments[..] {
        ["accounts", account, "retire"] => retire(subject, origin, &octets(account)),
        ["accounts", account, "trace"] => trace(subject, origin, &octets(account), query),
        ["accounts", account, "close"] => close_all(subject, origin, &Whose::account(subject, &octets(account))),
        ["accounts", account, "move"] => move_account(subject, origin, &octets(account), query).await,
        ["accounts", account, "kick"] => kick(subject, origin, &octets(account)),
        ["sessions", "close"] => close_those(subject, origin, query),
        ["sessions", id, "close"] => close(subject, origin, id),
        ["backends", name, verb @ ("pause" | "resume" | "drain")] => serve(subject, origin, &octets(name), verb),
        ["backends", name, "weight"] => weigh(subject, origin, &octets(name), query),
        ["backends", name, "evacuate"] => evacuate(subject, origin, &octets(name)),
        ["reload"] => reload(subject, origin).await,
        _ => return None,
    })
}

/// Ends what imapool holds for an account, however its name is spelled: connections at rest at once, others when their
/// sessions end; and the next login is verified anew.
fn retire(subject: &dyn Subject, origin: Origin, user: &[u8]) -> Done {
    subject.pools().retiring();
    let (accounts, users) = Meant::by(subject, user).accounts(subject);
    if accounts.is_empty() {
        return Done::NoSuch("account");
    }
    let connections: usize = accounts.iter().map(|account| account.usage().connections).sum();
    for account in &accounts {
        account.retire_all(RetireReason::Operator);
    }
    info!(%origin, user = shown::text(user), accounts = accounts.len(), connections, "retired by an administrator");
    Done::Well(json!({ "accounts": accounts.len(), "connections": connections, "users": users }))
}

/// For `seconds`, an hour at most and a minute by default.
fn trace(subject: &dyn Subject, origin: Origin, user: &[u8], query: &str) -> Done {
    let seconds = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    let Ok(seconds) = seconds.map_or(Ok(TRACE), str::parse::<u64>) else {
        return Done::Not(400, "seconds must be a number".to_owned());
    };
    let seconds = seconds.min(LONGEST_TRACE);
    let (accounts, users) = Meant::by(subject, user).accounts(subject);
    if accounts.is_empty() {
        return Done::NoSuch("account");
    }
    for account in &accounts {
        account.trace_for(Duration::from_secs(seconds));
    }
    info!(%origin, user = shown::text(user), accounts = accounts.len(), seconds, "protocol traced by an administrator");
    Done::Well(json!({ "accounts": accounts.len(), "seconds": seconds, "users": users }))
}

/// Whose sessions are meant.
enum Whose<'a> {
    /// Of an account, by this name.
    Account(&'a [u8], Meant),
    /// Of this client: an IP address, or one with a port; `unix` for all who came by a Unix socket.
    Client(&'a str),
    /// Of those who came in by the listener of this name.
    Listener(&'a str),
}

impl<'a> Whose<'a> {
    fn account(subject: &dyn Subject, user: &'a [u8]) -> Self {
        Self::Account(user, Meant::by(subject, user))
    }

    fn parse(subject: &dyn Subject, key: &str, value: &'a str) -> Option<Self> {
        match key {
            "account" => Some(Self::account(subject, value.as_bytes())),
            "client" => Some(Self::Client(value)),
            "listener" => Some(Self::Listener(value)),
            _ => None,
        }
    }

    fn has(&self, record: &Record) -> bool {
        match self {
            Self::Account(_, meant) => meant.is_session(record),
            Self::Client(address) => match address.parse::<IpAddr>() {
                Ok(ip) => record.client.ip().is_some_and(|client| client.to_canonical() == ip.to_canonical()),
                Err(_) => record.client.to_string() == *address,
            },
            Self::Listener(name) => record.listener.config.name == *name,
        }
    }

    fn is_an_address(&self) -> bool {
        match self {
            Self::Client(address) => {
                *address == "unix" || address.parse::<IpAddr>().is_ok() || address.parse::<SocketAddr>().is_ok()
            }
            _ => true,
        }
    }

    fn no_such(&self) -> &'static str {
        match self {
            Self::Account(..) => "account with a session",
            Self::Client(_) => "client with a session",
            Self::Listener(_) => "listener with a session",
        }
    }
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(user, _) => write!(f, "account {}", shown::text(user)),
            Self::Client(address) => write!(f, "client {address}"),
            Self::Listener(name) => write!(f, "listener {name}"),
        }
    }
}

/// By `?account=`, `?client=` or `?listener=`, one of them.
fn close_those(subject: &dyn Subject, origin: Origin, query: &str) -> Done {
    let pairs: Vec<_> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let [(key, value)] = pairs[..] else { return Done::Not(400, WHOSE.to_owned()) };
    let value = String::from_utf8_lossy(&octets(&value.replace('+', " "))).into_owned();
    match Whose::parse(subject, key, &value) {
        Some(whose) if !whose.is_an_address() => {
            Done::Not(400, format!("{value:?} is no IP address: write one such as 192.0.2.7, or unix"))
        }
        Some(whose) => close_all(subject, origin, &whose),
        None => Done::Not(400, WHOSE.to_owned()),
    }
}

fn close_all(subject: &dyn Subject, origin: Origin, whose: &Whose<'_>) -> Done {
    let mut records = subject.registry().all();
    records.retain(|record| whose.has(record));
    if records.is_empty() {
        return Done::NoSuch(whose.no_such());
    }
    let mut users: Vec<_> = records.iter().filter_map(|record| record.user()).collect();
    users.sort();
    users.dedup();
    records.iter().for_each(|record| record.close());
    info!(%origin, of = %whose, sessions = records.len(), "sessions closed by an administrator");
    Done::Well(json!({ "sessions": records.len(), "users": users }))
}

fn close(subject: &dyn Subject, origin: Origin, id: &str) -> Done {
    let record = id.parse().ok().and_then(|id| subject.registry().find(id));
    let Some(record) = record else { return Done::NoSuch("session") };
    record.close();
    info!(%origin, session = record.id, client = %record.client, "session closed by an administrator");
    Done::Well(json!({ "session": record.id }))
}

/// Of a key of a query.
fn value(query: &str, wanted: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == wanted).map(|(_, value)| octets(&value.replace('+', " ")));
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}

/// To the backend or group of `?to=`; without, to where the routes say. With `keep_sessions=true`, its sessions go on
/// there. Waits for `wait` seconds, half a minute at most.
async fn move_account(subject: &dyn Subject, origin: Origin, user: &[u8], query: &str) -> Done {
    let Ok(wait) = value(query, "wait").map_or(Ok(MOVING), |seconds| seconds.parse::<u64>()) else {
        return Done::Not(400, "wait must be a number of seconds".to_owned());
    };
    let to = value(query, "to");
    let wait = Duration::from_secs(wait.min(MOVING));
    match value(query, "keep_sessions").as_deref() {
        None | Some("false") => {}
        Some("true") => return move_with_sessions(subject, origin, user, to.as_deref(), wait).await,
        Some(_) => return Done::Not(400, "keep_sessions must be true or false".to_owned()),
    }
    match subject.router().move_account(user, to.as_deref(), wait).await {
        Ok(left) => {
            info!(%origin, user = shown::text(user), to, left, "moved by an administrator");
            Done::Well(json!({ "to": to, "left": left }))
        }
        Err(error) => not(&error),
    }
}

async fn move_with_sessions(
    subject: &dyn Subject,
    origin: Origin,
    user: &[u8],
    to: Option<&str>,
    wait: Duration,
) -> Done {
    let Some(to) = to else { return Done::Not(400, "keep_sessions needs a target: say where to".to_owned()) };
    match subject.router().move_with_sessions(&subject.pools(), user, to, wait).await {
        Ok(Moved { left, kept }) => {
            info!(%origin, user = shown::text(user), to, left, kept, "moved with its sessions by an administrator");
            Done::Well(json!({ "to": to, "left": left, "sessions": kept }))
        }
        Err(error) => not(&error),
    }
}

fn not(error: &HandError) -> Done {
    let status = match error {
        HandError::Backend(_) => return Done::NoSuch("backend"),
        HandError::NoFile
        | HandError::Alone(_)
        | HandError::Nowhere(_)
        | HandError::Replica(_)
        | HandError::Kept(_)
        | HandError::Silent { .. }
        | HandError::Unread => 409,
        HandError::Name | HandError::Target(_) | HandError::Write { .. } => 422,
    };
    Done::Not(status, error.to_string())
}

/// `?to=` a number; without, as it is configured.
fn weigh(subject: &dyn Subject, origin: Origin, name: &[u8], query: &str) -> Done {
    let weight = match value(query, "to").map(|weight| weight.parse::<u32>()) {
        None => None,
        Some(Ok(weight)) if weight <= MOST_WEIGHT => Some(weight),
        Some(_) => return Done::Not(400, format!("to must be a number from 0 to {MOST_WEIGHT}")),
    };
    let name = String::from_utf8_lossy(name);
    match subject.router().weigh(&name, weight) {
        Ok(()) => {
            info!(%origin, backend = name.as_ref(), weight, "weight set by an administrator");
            Done::Well(json!({ "backend": name, "weight": weight }))
        }
        Err(error) => not(&error),
    }
}

fn evacuate(subject: &dyn Subject, origin: Origin, name: &[u8]) -> Done {
    let name = String::from_utf8_lossy(name);
    match subject.router().evacuate(&name) {
        Ok(Evacuation { leaving, bound }) => {
            info!(%origin, backend = name.as_ref(), leaving, bound, "evacuated by an administrator");
            Done::Well(json!({ "backend": name, "leaving": leaving, "bound": bound }))
        }
        Err(error) => not(&error),
    }
}

fn kick(subject: &dyn Subject, origin: Origin, user: &[u8]) -> Done {
    if !subject.router().kick(user) {
        return Done::NoSuch("account");
    }
    info!(%origin, user = shown::text(user), "kicked by an administrator");
    Done::Well(json!({}))
}

fn serve(subject: &dyn Subject, origin: Origin, name: &[u8], verb: &str) -> Done {
    let service = match verb {
        "pause" => Service::Paused,
        "drain" => Service::Drained,
        _ => Service::Running,
    };
    if service != Service::Running
        && let Err(error) = subject.router().may_be_set_apart(&String::from_utf8_lossy(name))
    {
        return not(&error);
    }
    let Some(backend) = subject.pools().serve(name, service) else { return Done::NoSuch("backend") };
    let mut sessions = 0;
    if service == Service::Drained {
        subject.pools().drain_backend(&backend);
        // Those that hold a connection there would keep it for as long as they last; those in a mailbox would have to
        // be told of it as it is, by another.
        for record in subject.registry().all() {
            let there = record.backend().is_some_and(|there| there.index == backend.index);
            if there && record.is_connected() {
                record.close();
                sessions += 1;
            }
        }
    }
    info!(%origin, backend = backend.config.name, service = service.as_str(), sessions, "set by an administrator");
    let connections = backend.metrics().connections_open();
    Done::Well(json!({
        "backend": backend.config.name, "service": service.as_str(), "connections": connections, "sessions": sessions,
    }))
}

async fn reload(subject: &dyn Subject, origin: Origin) -> Done {
    info!(%origin, "reload asked for by an administrator");
    match subject.reload().await {
        Ok(changes) => Done::Well(json!({ "changes": changes })),
        Err((status, why)) => Done::Not(status, why),
    }
}
