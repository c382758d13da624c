//! Which client sessions there are: for the admin address, which may look at them and close them, and for the line
//! that is logged at the end of each.
//!
//! A session notes what it does in a [`Record`] of its own, by atomics that nobody else writes. A lock is taken when it
//! begins, when it logs in and when it takes an upstream connection; whoever looks at all of them holds it for
//! microseconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use crate::imap::command::Name;
use crate::listener::{ClientAddr, ListenerContext};
use crate::mailbox::line::Watch;
use crate::mailbox::registry::Status;
use crate::metrics::{Direction, Label as _, ListenerMetrics, SessionClose};
use crate::pool::Account;
use crate::residence::Tenant;
use crate::session::crowd::Place;
use crate::upstream::backend::Backend;

/// Locks that the sessions are spread over.
const SHARDS: u64 = 16;
/// See [`State::letting_go`]: it has not seen that yet.
const ASKED: u8 = 1;
/// It has, and something runs still.
const NOTICED: u8 = 2;
/// Upstream connections of one session that are remembered, the latest: a line of the log has an end.
const CONNECTIONS: usize = 16;

/// What is known of one session.
#[derive(Debug)]
pub struct Record {
    /// Unique in the process.
    pub id: u64,
    /// As the PROXY header says, where one is believed.
    pub client: ClientAddr,
    /// Where it was accepted.
    pub listener: Arc<ListenerContext>,
    /// When it was accepted.
    pub since: Instant,
    /// Those of its listener.
    numbers: Arc<ListenerMetrics>,
    /// Its place inside; until it has logged in, it may have to give it up.
    pub(super) place: Place,
    state: State,
}

/// What changes while it lasts.
#[derive(Debug, Default)]
struct State {
    tls: OnceLock<&'static str>,
    account: OnceLock<Arc<Account>>,
    through: OnceLock<Through>,
    received: AtomicU64,
    sent: AtomicU64,
    commands: AtomicU64,
    /// The command that runs on the backend: its place in [`Name::ALL`], from 1; 0: none.
    command: AtomicU8,
    /// The number of the upstream connection that it holds; 0: none.
    connection: AtomicU64,
    connections: Mutex<Vec<u64>>,
    /// The last command has come to a connection.
    ran: AtomicBool,
    /// The hub that it is in.
    hub: Mutex<Option<Watch>>,
    /// The mailbox that it has selected on a connection of its own.
    mailbox: Mutex<Option<String>>,
    ended: OnceLock<SessionClose>,
    closing: AtomicBool,
    /// Whether its account moves, so that what it has for itself is to be given up: [`ASKED`], [`NOTICED`] or 0.
    letting_go: AtomicU8,
    /// All sessions are asked to end.
    draining: AtomicBool,
}

/// Whose session it is that goes through to a replica, and to which.
#[derive(Debug)]
struct Through {
    user: String,
    replica: Arc<Backend>,
}

impl Tenant for Record {
    fn leave(&self) {
        self.close();
    }

    fn let_go(&self) {
        self.state.letting_go.store(ASKED, Ordering::Release);
        self.place.wake();
    }

    fn holds_on(&self) -> bool {
        self.state.connection.load(Ordering::Relaxed) > 0 || self.hub().is_some_and(|hub| hub.works_for(self.id))
    }

    fn goes_on(&self) -> bool {
        !self.is_closing() && self.state.ended.get().is_none()
    }
}

impl Record {
    /// `"TLSv1.3"`; `None` without TLS.
    pub fn tls(&self) -> Option<&'static str> {
        self.state.tls.get().copied()
    }

    /// Whose session it is; `None` before login.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.state.account.get()
    }

    /// Whose session it is, for people; `None` before login.
    pub fn user(&self) -> Option<String> {
        self.account().map(|account| account.name()).or_else(|| Some(self.state.through.get()?.user.clone()))
    }

    /// Whether it has logged in, as a user of whom this holds.
    pub fn is_of(&self, holds: impl FnOnce(&[u8]) -> bool) -> bool {
        match (self.account(), self.state.through.get()) {
            (Some(account), _) => holds(&account.key().user),
            (None, Some(through)) => holds(through.user.as_bytes()),
            (None, None) => false,
        }
    }

    /// The replica that it goes through to.
    pub fn replica(&self) -> Option<&Arc<Backend>> {
        self.state.through.get().map(|through| &through.replica)
    }

    /// Where it is logged in.
    pub fn backend(&self) -> Option<Arc<Backend>> {
        self.account().map(|account| account.backend()).or_else(|| self.replica().cloned())
    }

    /// Octets from the client, without TLS.
    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::Relaxed)
    }

    /// Octets to the client, without TLS.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Commands that have gone to the backend.
    pub fn commands(&self) -> u64 {
        self.state.commands.load(Ordering::Relaxed)
    }

    /// The command that runs on the backend.
    pub fn command(&self) -> Option<&'static str> {
        let place = usize::from(self.state.command.load(Ordering::Relaxed)).checked_sub(1)?;
        Name::ALL.get(place).map(|name| name.as_str())
    }

    /// The number of the upstream connection that it holds, or shares with others of its mailbox.
    pub fn connection(&self) -> Option<u64> {
        let own = Some(self.state.connection.load(Ordering::Relaxed)).filter(|id| *id > 0);
        own.or_else(|| self.hub()?.connection())
    }

    /// The mailbox that it has selected, as it was named.
    pub fn mailbox(&self) -> Option<String> {
        self.hub().map(|hub| hub.mailbox()).or_else(|| self.state.mailbox.lock().clone())
    }

    /// The hub that it is in.
    pub(crate) fn hub(&self) -> Option<Arc<Status>> {
        self.state.hub.lock().as_ref()?.hub()
    }

    /// It is in a hub, or on its way there.
    pub(crate) fn joins(&self, hub: Watch) {
        *self.state.hub.lock() = Some(hub);
    }

    /// A mailbox was selected on a connection of its own, or none is any more.
    pub(super) fn selects(&self, mailbox: Option<String>) {
        *self.state.mailbox.lock() = mailbox;
    }

    /// Whether an upstream connection is open for it, or will be as soon as it asks for anything: it holds one, or is
    /// in a mailbox.
    pub fn is_connected(&self) -> bool {
        self.state.connection.load(Ordering::Relaxed) > 0
            || self.state.hub.lock().as_ref().is_some_and(Watch::is_member)
            || self.state.through.get().is_some()
    }

    /// Ends the session, politely: at rest by BYE, else as soon as its command is over.
    pub fn close(&self) {
        self.state.closing.store(true, Ordering::Release);
        self.place.wake();
    }

    /// Whether somebody asked for its end.
    pub fn is_closing(&self) -> bool {
        self.state.closing.load(Ordering::Acquire)
    }

    /// Waits until somebody asks for its end, or for that of all, or it has to give way; or its account moves. For the
    /// session alone.
    pub(super) async fn closed(&self) {
        let woken = self.place.woken();
        if !self.is_to_end() && !self.place.is_given_up() && self.state.letting_go.load(Ordering::Acquire) != ASKED {
            woken.await;
        }
    }

    /// Whether somebody asked for its end, or for that of all.
    pub(super) fn is_to_end(&self) -> bool {
        self.is_closing() || self.state.draining.load(Ordering::Acquire)
    }

    /// Whether its account moves, and it has not given up what it had for itself. It is not woken for that again.
    pub(super) fn is_to_let_go(&self) -> bool {
        let letting_go = &self.state.letting_go;
        letting_go.load(Ordering::Acquire) > 0
            && letting_go.compare_exchange(ASKED, NOTICED, Ordering::AcqRel, Ordering::Acquire) != Err(0)
    }

    /// It has nothing for itself of where its account was. If it was asked anew meanwhile, it looks again.
    pub(super) fn has_let_go(&self) {
        let _ = self.state.letting_go.compare_exchange(NOTICED, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    fn drain(&self) {
        self.state.draining.store(true, Ordering::Release);
        self.place.wake();
    }

    pub(super) fn set_tls(&self, version: Option<&'static str>) {
        if let Some(version) = version {
            let _ = self.state.tls.set(version);
        }
    }

    pub(super) fn set_account(&self, account: &Arc<Account>) {
        let _ = self.state.account.set(Arc::clone(account));
    }

    pub(super) fn goes_through(&self, user: String, replica: Arc<Backend>) {
        let _ = self.state.through.set(Through { user, replica });
    }

    pub(super) fn add_received(&self, octets: usize) {
        add(&self.state.received, octets as u64);
        self.numbers.octets.add(Direction::Received, octets);
    }

    pub(super) fn add_sent(&self, octets: usize) {
        add(&self.state.sent, octets as u64);
        self.numbers.octets.add(Direction::Sent, octets);
    }

    pub(super) fn command_begins(&self, name: Name) {
        add(&self.state.commands, 1);
        self.state.command.store(name as u8 + 1, Ordering::Relaxed);
        self.state.ran.store(false, Ordering::Relaxed);
    }

    pub(super) fn command_ends(&self) {
        self.state.command.store(0, Ordering::Relaxed);
    }

    pub(super) fn takes(&self, connection: u64) {
        self.state.connection.store(connection, Ordering::Relaxed);
        self.ran_on(connection);
    }

    /// A command of it runs there, on a connection of its own or of others.
    pub(crate) fn ran_on(&self, connection: u64) {
        self.state.ran.store(true, Ordering::Relaxed);
        let mut connections = self.state.connections.lock();
        if connections.last() == Some(&connection) {
            return;
        }
        if connections.len() == CONNECTIONS {
            connections.remove(0);
        }
        connections.push(connection);
    }

    pub(super) fn gives_back(&self) {
        self.state.connection.store(0, Ordering::Relaxed);
        self.selects(None);
    }

    pub(super) fn ends(&self, close: SessionClose) {
        let _ = self.state.ended.set(close);
    }

    /// The one that its last command ran on, if it came to that.
    pub(super) fn last_connection(&self) -> Option<u64> {
        self.state.connections.lock().last().copied().filter(|_| self.state.ran.load(Ordering::Relaxed))
    }

    /// The line about the whole session.
    fn log(&self) {
        let connections: Vec<_> = self.state.connections.lock().iter().map(u64::to_string).collect();
        info!(
            target: "imapool::sessions",
            session = self.id,
            client = %self.client,
            listener = self.listener.config.name,
            tls = self.tls(),
            user = self.user(),
            relayed = self.replica().map(|replica| &*replica.config.name),
            connections = connections.join(","),
            commands = self.commands(),
            received = self.received(),
            sent = self.sent(),
            seconds = (self.since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            close = self.state.ended.get().map_or("error", |close| close.as_str()),
            "session ended"
        );
    }
}

/// Only the session itself writes, so that no locked instruction is needed.
fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Registry {
    shards: [Mutex<HashMap<u64, Arc<Record>>>; SHARDS as usize],
    last: AtomicU64,
    draining: AtomicBool,
    /// Those, too, that come by listeners which outlast that.
    ending: AtomicBool,
}

impl Registry {
    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Record>>> {
        &self.shards[(id % SHARDS) as usize]
    }

    /// A session begins; it is known for as long as the guard lives. `late`: it comes by a listener that outlasts the
    /// others.
    pub fn enroll(
        self: &Arc<Self>,
        client: ClientAddr,
        listener: &Arc<ListenerContext>,
        numbers: Arc<ListenerMetrics>,
        (place, late): (Place, bool),
    ) -> Enrolled {
        numbers.sessions.inc();
        let record = Arc::new(Record {
            id: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            client,
            listener: Arc::clone(listener),
            since: Instant::now(),
            numbers,
            place,
            state: State::default(),
        });
        self.shard(record.id).lock().insert(record.id, Arc::clone(&record));
        let ends = if late { &self.ending } else { &self.draining };
        if ends.load(Ordering::Acquire) {
            record.drain();
        }
        Enrolled { registry: Arc::clone(self), record }
    }

    /// Ends all sessions, those to come, too: at rest by BYE, else as soon as their command is over.
    pub fn drain(&self) {
        // Whoever is not among them yet enrolls after this, and sees it.
        self.draining.store(true, Ordering::Release);
        self.all().iter().for_each(|record| record.drain());
    }

    /// The same of all, by whatever listener they come.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.drain();
    }

    /// The session of this number.
    pub fn find(&self, id: u64) -> Option<Arc<Record>> {
        self.shard(id).lock().get(&id).cloned()
    }

    /// All sessions, the oldest first.
    pub fn all(&self) -> Vec<Arc<Record>> {
        let records = self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>());
        let mut records: Vec<_> = records.collect();
        records.sort_by_key(|record| record.id);
        records
    }
}

/// A session's place among all; dropping it ends the record, with its line in the log.
#[derive(Debug)]
pub struct Enrolled {
    registry: Arc<Registry>,
    /// What is known of the session.
    pub(crate) record: Arc<Record>,
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        // A hub that its command keeps busy may know the record for longer.
        self.record.place.leave();
        self.record.numbers.sessions.dec();
        self.registry.shard(self.record.id).lock().remove(&self.record.id);
        self.record.log();
    }
}

/// How long a session that was asked to end may take for the command it runs.
pub(super) const CLOSING: Duration = Duration::from_secs(5);
