//! An account's hubs: who can be joined, and who has to give up its connection when others wait for one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::enabled::EnableSet;
use super::hub::Join;
use crate::pool::Account;

static NEXT_HUB: AtomicU64 = AtomicU64::new(1);

/// Sessions on their way into one hub; more of them open another.
const MAX_JOINING: usize = 64;

/// What others may know of a hub without asking its task.
#[derive(Debug)]
pub(crate) struct Status {
    /// Unique in the process.
    pub(crate) id: u64,
    account: Weak<Account>,
    /// The mailbox ([`crate::imap::command::Command::selected_mailbox`]).
    key: Bytes,
    since: Instant,
    /// Others may join: it is among those that are asked for their connection.
    is_shared: bool,
    /// The number of its connection; 0: it is parked.
    connection: AtomicU64,
    /// Since when nobody has asked for anything; `None`: it works, or has no connection.
    pub(super) resting_since: Mutex<Option<Instant>>,
    /// Its connection is wanted, or is not to be used any more.
    pub(super) wanted: Notify,
    pub(super) members: AtomicUsize,
}

/// Where a hub is found by others.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) joins: mpsc::Receiver<Join>,
    pub(super) status: Arc<Status>,
}

impl Entrance {
    fn new(account: &Arc<Account>, key: &Bytes, is_shared: bool) -> (Self, mpsc::Sender<Join>) {
        let (sender, joins) = mpsc::channel(MAX_JOINING);
        (Self { joins, status: Status::new(account, key, is_shared) }, sender)
    }

    /// Of a hub that nobody joins.
    pub(super) fn apart(account: &Arc<Account>, key: &Bytes) -> Self {
        Self::new(account, key, false).0
    }
}

/// A hub as it is at one moment.
#[derive(Debug)]
pub(crate) struct HubView {
    /// Unique in the process.
    pub(crate) id: u64,
    /// Whose mailbox it is.
    pub(crate) account: Arc<Account>,
    /// The mailbox's name, as it was selected.
    pub(crate) mailbox: String,
    /// Selected by EXAMINE.
    pub(crate) read_only: bool,
    /// The number of its connection; `None`: it is parked.
    pub(crate) connection: Option<u64>,
    /// Sessions in it.
    pub(crate) sessions: usize,
    /// Since it was opened.
    pub(crate) age: Duration,
}

struct Entry {
    key: Bytes,
    kind: EnableSet,
    joins: mpsc::Sender<Join>,
    status: Arc<Status>,
    /// Its name may mean another mailbox by now.
    renamed: bool,
}

impl Entry {
    /// Whether it is of the mailbox of this name, or of one below it.
    fn is_within(&self, name: &[u8]) -> bool {
        let rest = self.key.get(1..).and_then(|own| own.strip_prefix(name));
        // Which octet divides a name is the server's affair; the name may be spelled in UTF-8 here and not there.
        let spelled = |name: &[u8]| name.contains(&b'&') || !name.is_ascii();
        spelled(name) || rest.is_some_and(|rest| rest.first().is_none_or(|octet| !octet.is_ascii_alphanumeric()))
    }
}

/// Checkouts that wait for something of which there is no more, and hubs about to give up theirs.
#[derive(Debug, Default)]
struct Demand {
    waiting: AtomicUsize,
    yielding: AtomicUsize,
}

impl Demand {
    fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(Arc::clone(self))
    }

    /// More wait than hubs are about to give up theirs: the caller should.
    fn claim(self: &Arc<Self>) -> Option<Yielding> {
        let waiting = self.waiting.load(Ordering::Acquire);
        let claim = |yielding| (yielding < waiting).then_some(yielding + 1);
        self.yielding.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).ok()?;
        Some(Yielding(Arc::clone(self)))
    }
}

/// The hubs of all accounts: who has to give up its connection when there may be no more of them anywhere, or to one
/// backend.
#[derive(Debug, Default)]
pub struct Everywhere {
    hubs: Mutex<Vec<Weak<Status>>>,
    demand: Arc<Demand>,
    /// By the index of the backend: of its ports.
    of_backends: Mutex<BTreeMap<usize, Arc<Demand>>>,
}

/// See the module.
#[derive(Default)]
pub struct Registry {
    entries: Mutex<Vec<Entry>>,
    demand: Arc<Demand>,
    everywhere: Arc<Everywhere>,
    of_backend: Arc<Demand>,
}

/// What is behind the letter that says how the mailbox is selected.
pub(crate) fn mailbox_name(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned()
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("hubs", &self.entries.lock().len()).finish_non_exhaustive()
    }
}

/// A checkout waits for a connection as long as this lives.
#[derive(Debug)]
pub struct Waiting(Arc<Demand>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A hub that is about to give up its connection.
#[derive(Debug)]
pub(super) struct Yielding(Arc<Demand>);

impl Drop for Yielding {
    fn drop(&mut self) {
        self.0.yielding.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Status {
    pub(super) fn new(account: &Arc<Account>, key: &Bytes, is_shared: bool) -> Arc<Self> {
        let status = Arc::new(Self {
            id: NEXT_HUB.fetch_add(1, Ordering::Relaxed),
            account: Arc::downgrade(account),
            key: key.clone(),
            since: Instant::now(),
            is_shared,
            connection: AtomicU64::new(0),
            resting_since: Mutex::default(),
            wanted: Notify::new(),
            members: AtomicUsize::new(0),
        });
        account.every_hub().add(&status);
        status
    }

    /// This is its connection from now on; `None`: it has none.
    pub(super) fn set_connection(&self, connection: Option<u64>) {
        self.connection.store(connection.unwrap_or_default(), Ordering::Relaxed);
    }

    /// The number of its connection; `None`: it is parked.
    pub(crate) fn connection(&self) -> Option<u64> {
        Some(self.connection.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }

    /// The mailbox's name, as it was selected.
    pub(crate) fn mailbox(&self) -> String {
        mailbox_name(&self.key)
    }

    fn view(&self) -> Option<HubView> {
        Some(HubView {
            id: self.id,
            account: self.account.upgrade()?,
            mailbox: self.mailbox(),
            read_only: self.key.first() == Some(&b'r'),
            connection: self.connection(),
            sessions: self.members.load(Ordering::Relaxed),
            age: self.since.elapsed(),
        })
    }

    /// Asks the one of `hubs` that has rested longest for its connection.
    fn ask<'a>(hubs: impl Iterator<Item = &'a Self>) {
        let resting = hubs.filter_map(|hub| Some((*hub.resting_since.lock().as_ref()?, hub)));
        if let Some((_, hub)) = resting.min_by_key(|(since, _)| *since) {
            *hub.resting_since.lock() = None;
            hub.wanted.notify_one();
        }
    }
}

impl Everywhere {
    pub(super) fn add(&self, status: &Arc<Status>) {
        let mut hubs = self.hubs.lock();
        if hubs.len() == hubs.capacity() {
            hubs.retain(|hub| hub.strong_count() > 0);
        }
        hubs.push(Arc::downgrade(status));
    }

    /// All hubs, in the order in which they were opened; also of accounts that nobody logs in to any more.
    pub(crate) fn views(&self) -> Vec<HubView> {
        let hubs: Vec<_> = self.hubs.lock().iter().filter_map(Weak::upgrade).collect();
        // One that has ended is known until the next joins.
        hubs.iter().filter_map(|hub| hub.view()).filter(|hub| hub.sessions > 0).collect()
    }

    /// A checkout finds that there may be no more connections in use, of any account.
    pub fn wait(&self) -> Waiting {
        let waiting = self.demand.wait();
        let hubs: Vec<_> = self.hubs.lock().iter().filter_map(Weak::upgrade).collect();
        Status::ask(hubs.iter().filter(|hub| hub.is_shared).map(|hub| &**hub));
        waiting
    }

    /// There may be no more connections to the backend of this index: what others give up is of no use.
    pub fn wait_for_port(&self, backend: usize) -> Waiting {
        let waiting = self.of_backend(backend).wait();
        let hubs: Vec<_> = self.hubs.lock().iter().filter_map(Weak::upgrade).collect();
        let is_there = |hub: &Status| hub.account.upgrade().is_some_and(|account| account.key().backend == backend);
        Status::ask(hubs.iter().filter(|hub| hub.is_shared && is_there(hub)).map(|hub| &**hub));
        waiting
    }

    fn of_backend(&self, backend: usize) -> Arc<Demand> {
        Arc::clone(self.of_backends.lock().entry(backend).or_default())
    }
}

impl Registry {
    /// Of one account on the backend of this index.
    #[must_use]
    pub fn new(everywhere: Arc<Everywhere>, backend: usize) -> Self {
        Self { of_backend: everywhere.of_backend(backend), everywhere, ..Self::default() }
    }

    /// Hands the session to a hub of its mailbox and its kind ([`EnableSet::kind`]). Where there is none, gives it
    /// back, and the entrance of the hub that is to be opened for it: whoever comes from now on joins that.
    pub(super) fn join(
        &self,
        account: &Arc<Account>,
        key: &Bytes,
        kind: EnableSet,
        mut join: Join,
    ) -> Option<(Join, Entrance)> {
        let mut entries = self.entries.lock();
        entries.retain(|entry| !entry.joins.is_closed());
        // Where the mailbox has more than one, the others work on something long: the newest has the most patience.
        let suits = |entry: &&Entry| entry.key == *key && entry.kind == kind && !entry.renamed;
        for entry in entries.iter().rev().filter(suits) {
            match entry.joins.try_send(join) {
                Ok(()) => return None,
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => join = back,
            }
        }
        Some((join, Self::entrance(&mut entries, account, key, kind)))
    }

    /// Of a further hub of a mailbox.
    pub(super) fn add(&self, account: &Arc<Account>, key: &Bytes, kind: EnableSet) -> Entrance {
        Self::entrance(&mut self.entries.lock(), account, key, kind)
    }

    fn entrance(entries: &mut Vec<Entry>, account: &Arc<Account>, key: &Bytes, kind: EnableSet) -> Entrance {
        let (entrance, joins) = Entrance::new(account, key, true);
        let status = Arc::clone(&entrance.status);
        entries.push(Entry { key: key.clone(), kind, joins, status, renamed: false });
        entrance
    }

    /// These names mean other mailboxes now, or may. Who is in a hub stays there, and who selects such a name gets what
    /// has it: STATUS does not tell, on a connection that has the old one selected (Dovecot).
    pub(crate) fn renamed(&self, names: &[Bytes]) {
        if !names.is_empty() {
            let mut entries = self.entries.lock();
            entries.iter_mut().for_each(|entry| entry.renamed |= names.iter().any(|name| entry.is_within(name)));
        }
    }

    /// Nobody joins this hub any more. False: somebody has, just now.
    pub(super) fn remove(&self, joins: &mut mpsc::Receiver<Join>) -> bool {
        // Those who join hold the lock.
        let _entries = self.entries.lock();
        let last = joins.is_empty();
        if last {
            joins.close();
        }
        last
    }

    /// A checkout finds no connection of the account free: the hub that has rested longest is asked for its own.
    pub fn wait(&self) -> Waiting {
        let waiting = self.demand.wait();
        let entries = self.entries.lock();
        Status::ask(entries.iter().filter(|entry| !entry.joins.is_closed()).map(|entry| &*entry.status));
        waiting
    }

    /// Something has changed that all hubs have to see: [`crate::pool::Account::retire`].
    pub(crate) fn look_up(&self) {
        self.entries.lock().iter().for_each(|entry| entry.status.wanted.notify_one());
    }

    /// Whether a hub would give up its connection if somebody waited for one.
    pub(super) fn has_resting(&self, but: &Arc<Status>) -> bool {
        let entries = self.entries.lock();
        entries.iter().any(|entry| !Arc::ptr_eq(&entry.status, but) && entry.status.resting_since.lock().is_some())
    }

    /// More checkouts wait than hubs are about to give up their connections, of this account or anywhere: the caller
    /// should.
    pub(super) fn claim(&self) -> Option<Yielding> {
        self.demand.claim().or_else(|| self.of_backend.claim()).or_else(|| self.everywhere.demand.claim())
    }

    /// Hubs, and members of all of them.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let entries = self.entries.lock();
        let live = entries.iter().filter(|entry| !entry.joins.is_closed());
        live.fold((0, 0), |(hubs, members), entry| (hubs + 1, members + entry.status.members.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_gives_nothing_up_for_the_ports_of_another_backend() {
        let everywhere = Arc::<Everywhere>::default();
        let [there, elsewhere] = [7, 8].map(|backend| Registry::new(Arc::clone(&everywhere), backend));
        let waiting = everywhere.wait_for_port(7);
        assert!(elsewhere.claim().is_none());
        let yielding = there.claim();
        assert!(yielding.is_some() && there.claim().is_none(), "one for each who waits");
        drop((yielding, waiting));
        assert!(there.claim().is_none());
        let _waiting = everywhere.wait();
        assert!(elsewhere.claim().is_some());
    }
}
