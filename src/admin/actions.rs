//! What can be done by `POST /api/...`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tracing::info;

use super::api::{octets, pairs};
use super::meant::Meant;
use super::{Refusal, Subject};
use crate::metrics::RetireReason;
use crate::routing::{Evacuation, HandError, Moved};
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
type Done = Result<Value, Refusal>;

fn wrong(why: &str) -> Refusal {
    Refusal(400, why.to_owned())
}

fn no_such(what: &str) -> Refusal {
    Refusal(404, format!("there is no such {what}"))
}

impl From<HandError> for Refusal {
    fn from(error: HandError) -> Self {
        let status = match error {
            HandError::Backend(_) => return no_such("backend"),
            HandError::NoFile
            | HandError::Alone(_)
            | HandError::Nowhere(_)
            | HandError::Replica(_)
            | HandError::Kept(_)
            | HandError::Silent { .. }
            | HandError::Unread => 409,
            HandError::Name | HandError::Target(_) | HandError::Write { .. } => 422,
        };
        Self(status, error.to_string())
    }
}

/// Carries out `POST /api/{path}?{query}`. `None`: there is no such action.
pub(super) async fn act(subject: &dyn Subject, path: &str, query: &str, origin: Origin) -> Option<Done> {
    let segments: Vec<_> = path.split('/').collect();
    Some(match segments[..] {
        ["accounts", account, "retire"] => retire(subject, origin, &octets(account)),
        ["accounts", account, "trace"] => trace(subject, origin, &octets(account), query),
        ["accounts", account, "close"] => close_all(subject, origin, "account", &octets(account)),
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
    let (accounts, users) = Meant::by(subject, user).accounts(subject).ok_or_else(|| no_such("account"))?;
    let connections: usize = accounts.iter().map(|account| account.usage().connections).sum();
    for account in &accounts {
        account.retire_all(RetireReason::Operator);
    }
    info!(%origin, user = shown::text(user), accounts = accounts.len(), connections, "retired by an administrator");
    Ok(json!({ "accounts": accounts.len(), "connections": connections, "users": users }))
}

/// For `seconds`, an hour at most and a minute by default.
fn trace(subject: &dyn Subject, origin: Origin, user: &[u8], query: &str) -> Done {
    let seconds = value(query, "seconds").map_or(Ok(TRACE), |seconds| seconds.parse::<u64>());
    let seconds = seconds.map_err(|_| wrong("seconds must be a number"))?.min(LONGEST_TRACE);
    let (accounts, users) = Meant::by(subject, user).accounts(subject).ok_or_else(|| no_such("account"))?;
    for account in &accounts {
        account.trace_for(Duration::from_secs(seconds));
    }
    info!(%origin, user = shown::text(user), accounts = accounts.len(), seconds, "protocol traced by an administrator");
    Ok(json!({ "accounts": accounts.len(), "seconds": seconds, "users": users }))
}

/// By `?account=`, `?client=` or `?listener=`, one of them.
fn close_those(subject: &dyn Subject, origin: Origin, query: &str) -> Done {
    match &pairs(query).collect::<Vec<_>>()[..] {
        [(kind, name)] => close_all(subject, origin, kind, name),
        _ => Err(wrong(WHOSE)),
    }
}

/// Those of an account, by a name of it; of a client: an IP address, or one with a port, or `unix` for all who came by
/// a Unix socket; or of those who came in by the listener of this name.
fn close_all(subject: &dyn Subject, origin: Origin, kind: &str, name: &[u8]) -> Done {
    let text = String::from_utf8_lossy(name);
    let mut records = subject.registry().all();
    match (kind, text.parse::<IpAddr>()) {
        ("account", _) => {
            let meant = Meant::by(subject, name);
            records.retain(|record| meant.is_session(record));
        }
        ("client", Ok(ip)) => {
            let ip = ip.to_canonical();
            records.retain(|record| record.client.ip().is_some_and(|client| client.to_canonical() == ip));
        }
        ("client", Err(_)) if text == "unix" || text.parse::<SocketAddr>().is_ok() => {
            records.retain(|record| record.client.to_string() == text);
        }
        ("client", Err(_)) => {
            return Err(Refusal(400, format!("{text:?} is no IP address: write one such as 192.0.2.7, or unix")));
        }
        ("listener", _) => records.retain(|record| record.listener.config.name == text),
        _ => return Err(wrong(WHOSE)),
    }
    if records.is_empty() {
        return Err(no_such(&format!("{kind} with a session")));
    }
    let mut users: Vec<_> = records.iter().filter_map(|record| record.user()).collect();
    users.sort();
    users.dedup();
    records.iter().for_each(|record| record.close());
    let of = format_args!("{kind} {}", shown::text(name));
    info!(%origin, %of, sessions = records.len(), "sessions closed by an administrator");
    Ok(json!({ "sessions": records.len(), "users": users }))
}

fn close(subject: &dyn Subject, origin: Origin, id: &str) -> Done {
    let record = id.parse().ok().and_then(|id| subject.registry().find(id)).ok_or_else(|| no_such("session"))?;
    record.close();
    info!(%origin, session = record.id, client = %record.client, "session closed by an administrator");
    Ok(json!({ "session": record.id }))
}

/// Of a key of a query.
fn value(query: &str, wanted: &str) -> Option<String> {
    let (_, value) = pairs(query).find(|(key, _)| *key == wanted)?;
    Some(String::from_utf8_lossy(&value).into_owned())
}

/// To the backend or group of `?to=`; without, to where the routes say. With `keep_sessions=true`, its sessions go on
/// there. Waits for `wait` seconds, half a minute at most.
async fn move_account(subject: &dyn Subject, origin: Origin, user: &[u8], query: &str) -> Done {
    let wait = value(query, "wait").map_or(Ok(MOVING), |seconds| seconds.parse::<u64>());
    let wait = wait.map_err(|_| wrong("wait must be a number of seconds"))?;
    let (to, wait, router) = (value(query, "to"), Duration::from_secs(wait.min(MOVING)), subject.router());
    match (value(query, "keep_sessions").as_deref(), to) {
        (None | Some("false"), to) => {
            let left = router.move_account(user, to.as_deref(), wait).await?;
            info!(%origin, user = shown::text(user), to, left, "moved by an administrator");
            Ok(json!({ "to": to, "left": left }))
        }
        (Some("true"), Some(to)) => {
            let Moved { left, kept } = router.move_with_sessions(&subject.pools(), user, &to, wait).await?;
            info!(%origin, user = shown::text(user), to, left, kept, "moved with its sessions by an administrator");
            Ok(json!({ "to": to, "left": left, "sessions": kept }))
        }
        (Some("true"), None) => Err(wrong("keep_sessions needs a target: say where to")),
        (Some(_), _) => Err(wrong("keep_sessions must be true or false")),
    }
}

/// `?to=` a number; without, as it is configured.
fn weigh(subject: &dyn Subject, origin: Origin, name: &[u8], query: &str) -> Done {
    let weight = match value(query, "to").map(|weight| weight.parse::<u32>()) {
        None => None,
        Some(Ok(weight)) if weight <= MOST_WEIGHT => Some(weight),
        Some(_) => return Err(wrong(&format!("to must be a number from 0 to {MOST_WEIGHT}"))),
    };
    let name = String::from_utf8_lossy(name);
    subject.router().weigh(&name, weight)?;
    info!(%origin, backend = name.as_ref(), weight, "weight set by an administrator");
    Ok(json!({ "backend": name, "weight": weight }))
}

fn evacuate(subject: &dyn Subject, origin: Origin, name: &[u8]) -> Done {
    let name = String::from_utf8_lossy(name);
    let Evacuation { leaving, bound } = subject.router().evacuate(&name)?;
    info!(%origin, backend = name.as_ref(), leaving, bound, "evacuated by an administrator");
    Ok(json!({ "backend": name, "leaving": leaving, "bound": bound }))
}

fn kick(subject: &dyn Subject, origin: Origin, user: &[u8]) -> Done {
    if !subject.router().kick(user) {
        return Err(no_such("account"));
    }
    info!(%origin, user = shown::text(user), "kicked by an administrator");
    Ok(json!({}))
}

fn serve(subject: &dyn Subject, origin: Origin, name: &[u8], verb: &str) -> Done {
    let service = match verb {
        "pause" => Service::Paused,
        "drain" => Service::Drained,
        _ => Service::Running,
    };
    if service != Service::Running {
        subject.router().may_be_set_apart(&String::from_utf8_lossy(name))?;
    }
    let backend = subject.pools().serve(name, service).ok_or_else(|| no_such("backend"))?;
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
    Ok(json!({
        "backend": backend.config.name, "service": service.as_str(), "connections": connections, "sessions": sessions,
    }))
}

async fn reload(subject: &dyn Subject, origin: Origin) -> Done {
    info!(%origin, "reload asked for by an administrator");
    Ok(json!({ "changes": subject.reload().await? }))
}
