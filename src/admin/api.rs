//! What can be looked at by `/api/...`, as JSON.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

use super::Subject;
use super::meant::Meant;
use super::sampler::Sampler;
use crate::config::PoolMode;
use crate::mailbox::registry::{Registry, mailbox_name};
use crate::metrics::{ConnectionState, Label as _};
use crate::pool::Account;
use crate::routing::Decision;
use crate::session::registry::Record;
use crate::upstream::backend::Backend;

/// Rows of a page, unless the request says otherwise.
const PAGE: usize = 100;
/// Rows of a page at most.
const LONGEST_PAGE: usize = 1000;

/// A part of a list: `?offset=0&limit=100&sort=...&filter=...`
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    offset: usize,
    limit: usize,
    sort: String,
    filter: String,
    /// Of one user only.
    account: Option<Vec<u8>>,
    /// Of whom it is asked where they go, by which listener, and as which host.
    user: String,
    listener: Option<String>,
    server_name: Option<String>,
    /// How old what is told may be: so that many viewers cost one look.
    max_age: Duration,
}

impl Query {
    /// Of the part of a URL behind the question mark. What is not known or no number is as if it were not there.
    pub(super) fn parse(query: &str) -> Self {
        let mut this = Self { limit: PAGE, ..Self::default() };
        for (key, octets) in pairs(query) {
            let text = String::from_utf8_lossy(&octets).into_owned();
            match key {
                "offset" => this.offset = text.parse().unwrap_or_default(),
                "limit" => this.limit = text.parse().unwrap_or(PAGE).clamp(1, LONGEST_PAGE),
                "sort" => this.sort = text,
                "filter" => this.filter = text.to_lowercase(),
                "account" => this.account = Some(octets),
                "user" => this.user = text,
                "listener" => this.listener = Some(text),
                "server_name" => this.server_name = Some(text),
                "max_age" => this.max_age = Duration::from_secs(text.parse().unwrap_or_default()),
                _ => {}
            }
        }
        this
    }

    /// Whose it is that is asked for; none: anybody's.
    fn meant(&self, subject: &dyn Subject) -> Option<Meant> {
        self.account.as_ref().map(|user| Meant::by(subject, user))
    }

    /// Whether the filter is part of one of the names.
    fn finds(&self, names: &[&str]) -> bool {
        self.filter.is_empty() || names.iter().any(|name| name.to_lowercase().contains(&self.filter))
    }

    /// The part of the list.
    fn page<T>(&self, rows: &[T], row: impl Fn(&T) -> Value) -> Value {
        let page: Vec<_> = rows.iter().skip(self.offset).take(self.limit).map(row).collect();
        json!({ "total": rows.len(), "offset": self.offset, "limit": self.limit, "rows": page })
    }
}

/// One account, for those who look.
#[derive(Debug, Serialize)]
pub(super) struct AccountRow {
    /// The user's name as a segment of a path.
    id: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    authzid: Option<String>,
    backend: String,
    sessions: usize,
    connections: usize,
    /// What holds for it.
    mode: PoolMode,
    max_per_account: usize,
    in_use: usize,
    waiting: usize,
    waits: u64,
    unused_seconds: u64,
}

/// The name of a user, any octets, as one segment of a path.
pub(super) fn segment(user: &[u8]) -> String {
    percent_encode(user, NON_ALPHANUMERIC).to_string()
}

/// The keys and values of the part of a URL behind the question mark.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key, octets(&value.replace('+', " "))))
}

/// The octets of a segment.
pub(super) fn octets(segment: &str) -> Vec<u8> {
    percent_decode_str(segment).collect()
}

fn account_row(account: &Account, sessions: usize) -> AccountRow {
    let (key, usage, terms) = (account.key(), account.usage(), account.terms());
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    AccountRow {
        id: segment(&key.user),
        user: text(&key.user),
        authzid: (!key.authzid.is_empty()).then(|| text(&key.authzid)),
        backend: account.backend().config.name.clone(),
        sessions,
        connections: usage.connections,
        mode: terms.mode,
        max_per_account: terms.max_per_account,
        in_use: usage.in_use,
        waiting: usage.waiting,
        waits: usage.waits,
        unused_seconds: usage.unused_for.as_secs(),
    }
}

/// All accounts, in no order.
pub(super) fn account_rows(subject: &dyn Subject) -> Vec<AccountRow> {
    let mut sessions: HashMap<*const Account, usize> = HashMap::new();
    for record in subject.registry().all() {
        if let Some(account) = record.account() {
            *sessions.entry(Arc::as_ptr(account)).or_default() += 1;
        }
    }
    let count = |account: &Arc<Account>| sessions.get(&Arc::as_ptr(account)).copied().unwrap_or_default();
    subject.pools().accounts().iter().map(|account| account_row(account, count(account))).collect()
}

/// By `sessions` (the default), `connections`, `waiting`, `waits`, the most first; or by `name`.
pub(super) fn sort_accounts<'r>(rows: &mut [&'r AccountRow], sort: &str) {
    rows.sort_by_key(|row: &&'r AccountRow| {
        let most = match sort {
            "connections" => row.connections as u64,
            "waiting" => row.waiting as u64,
            "waits" => row.waits,
            "name" => 0,
            _ => row.sessions as u64,
        };
        (Reverse(most), &row.user, &row.backend)
    });
}

pub(super) fn accounts(sampler: &Sampler, query: &Query) -> Value {
    let all = sampler.accounts(query.max_age);
    let mut rows: Vec<_> = all.iter().filter(|row| query.finds(&[&row.user])).collect();
    sort_accounts(&mut rows, &query.sort);
    query.page(&rows, |row| json!(row))
}

/// One session, for those who look.
fn session_row(record: &Arc<Record>) -> Value {
    json!({
        "id": record.id,
        "client": record.client.to_string(),
        "listener": record.listener.config.name,
        "tls": record.tls(),
        "user": record.user(),
        "relayed": record.replica().map(|replica| &replica.config.name),
        "seconds": record.since.elapsed().as_secs(),
        "commands": record.commands(),
        "received": record.received(),
        "sent": record.sent(),
        "command": record.command(),
        "connection": record.connection(),
        "mailbox": record.mailbox(),
    })
}

/// Sorted by `id` (the default: the oldest first), `commands`, `received`, `sent`. `account`: those of one user.
pub(super) fn sessions(subject: &dyn Subject, query: &Query) -> Value {
    let mut records = subject.registry().all();
    if let Some(meant) = query.meant(subject) {
        records.retain(|record| meant.is_session(record));
    }
    if !query.filter.is_empty() {
        records.retain(|record| {
            let user = record.user().unwrap_or_default();
            query.finds(&[&user, &record.client.to_string()])
        });
    }
    records.sort_by_key(|record| {
        let most = match query.sort.as_str() {
            "commands" => record.commands(),
            "received" => record.received(),
            "sent" => record.sent(),
            _ => 0,
        };
        (Reverse(most), record.id)
    });
    query.page(&records, session_row)
}

/// Sorted by `age` (the default: the oldest first), or `sessions`, the most first.
pub(super) fn hubs(subject: &dyn Subject, query: &Query) -> Value {
    let mut hubs: Vec<_> =
        Registry::views(&subject.pools().accounts()).into_iter().map(|hub| (hub.account.name(), hub)).collect();
    if let Some(meant) = query.meant(subject) {
        hubs.retain(|(_, hub)| meant.is_account(&hub.account));
    }
    hubs.retain(|(user, hub)| query.finds(&[user, &hub.mailbox]));
    let by_sessions = query.sort == "sessions";
    hubs.sort_by_key(|(_, hub)| (by_sessions.then_some(Reverse(hub.sessions)), hub.id));
    query.page(&hubs, |(user, hub)| {
        json!({
            "id": hub.id,
            "user": user,
            "backend": hub.account.backend().config.name,
            "mailbox": hub.mailbox,
            "read_only": hub.read_only,
            "sessions": hub.sessions,
            "connection": hub.connection,
            "state": if hub.connection.is_some() { "connected" } else { "parked" },
            "seconds": hub.age.as_secs(),
        })
    })
}

/// Sessions of a connection that its row names.
const NAMED: usize = 20;

/// Who is on which connection.
fn users_of_connections(subject: &dyn Subject) -> HashMap<u64, Vec<u64>> {
    let mut users: HashMap<u64, Vec<u64>> = HashMap::new();
    for record in subject.registry().all() {
        if let Some(connection) = record.connection() {
            users.entry(connection).or_default().push(record.id);
        }
    }
    users.values_mut().for_each(|sessions| sessions.sort_unstable());
    users
}

/// The oldest first. What is being retired is among them until its socket is closed.
pub(super) fn connections(subject: &dyn Subject, query: &Query) -> Value {
    let mut connections = subject.budget().roster.views();
    if let Some(meant) = query.meant(subject) {
        connections.retain(|it| meant.is(it.user.as_bytes(), &it.backend));
    }
    connections.retain(|it| query.finds(&[&it.user, &it.backend]));
    let users = users_of_connections(subject);
    query.page(&connections, |it| {
        let sessions = users.get(&it.id).map(Vec::as_slice).unwrap_or_default();
        let state = match it.at_rest {
            _ if it.retiring => "retiring",
            Some(_) => "at rest",
            None => "in use",
        };
        json!({
            "id": it.id,
            "user": it.user,
            "backend": it.backend,
            "local_port": it.local_port,
            "state": state,
            "seconds": it.age.as_secs(),
            "at_rest_seconds": it.at_rest.map(|rest| rest.as_secs()),
            "mailbox": it.selected.as_deref().map(mailbox_name),
            "sessions": sessions.len(),
            "session_ids": &sessions[..sessions.len().min(NAMED)],
        })
    })
}

/// `accounts`: how many are there.
fn backend_row(subject: &dyn Subject, backend: &Backend, accounts: usize) -> Value {
    let metrics = backend.metrics();
    let connections: HashMap<_, _> =
        ConnectionState::ALL.iter().map(|state| (state.as_str(), metrics.connections_in(*state))).collect();
    let (in_use, capacity) = subject.budget().usage(backend.index);
    let config = subject.config();
    // What is told of routes is what they go by now.
    let routed = config.backends.iter().find(|known| known.name == backend.config.name);
    json!({
        "name": backend.config.name,
        "group": routed.and_then(|known| known.group.as_ref()),
        "weight": backend.weight_by_hand().map(|weight| weight as usize).or(routed.map(|known| known.weight)),
        "weight_by_hand": backend.weight_by_hand(),
        "health": backend.checked(),
        "accounts": accounts,
        "address": backend.config.address(),
        "service": backend.service().as_str(),
        "reachable": backend.is_reachable(),
        "outage": backend.outage(),
        "connections": connections,
        "budget": { "in_use": in_use, "capacity": capacity },
        "ports": {
            "in_use": metrics.ports_in_use.get(),
            "time_wait": metrics.ports_time_wait.get(),
            "capacity": metrics.ports_capacity.get(),
        },
        "checkouts": metrics.checkouts.so_far(),
        "retired": metrics.retired.so_far(),
        "dials": metrics.dials.so_far(),
        "gate": {
            "free": backend.gate_free(),
            "delayed": metrics.delayed.so_far(),
            "backing_off": metrics.backing_off.get(),
        },
    })
}

/// Where a user would go, and why.
pub(super) fn route(subject: &dyn Subject, query: &Query) -> Value {
    let config = subject.config();
    let listener = query.listener.as_ref().unwrap_or(&config.listeners[0].name);
    let router = subject.router();
    let Decision { backend, rule, key, login, asks, account, terms } =
        router.table().decide(&query.user, listener, query.server_name.as_deref());
    let residence = router.residences().find(key.as_bytes());
    let there = residence.and_then(|it| subject.pools().backend(it.backend())).map(|it| it.config.name.clone());
    json!({
        "backend": backend,
        "rule": rule,
        "key": key,
        "login": login,
        "asks_service": asks.is_some(),
        "there_now": there,
        "account": account,
        "terms": terms,
    })
}

pub(super) fn backends(subject: &dyn Subject) -> Vec<Value> {
    let accounts = subject.router().residences().counts();
    let accounts = |backend: &Backend| accounts.get(&backend.index).copied().unwrap_or_default();
    subject.pools().backends().iter().map(|backend| backend_row(subject, backend, accounts(backend))).collect()
}
