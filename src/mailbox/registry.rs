//! An account's hubs: which there are, and who can be joined.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::enabled::EnableSet;
use super::line::Join;
use crate::pool::Account;
use crate::ports::Sharer;

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
    /// The number of its connection; 0: it is parked.
    connection: AtomicU64,
    /// The number of the session whose command runs there; 0: none does.
    owner: AtomicU64,
    /// Others may join: it is among those that are asked for their connection.
    pub(super) sharer: Arc<Sharer>,
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

/// See the module.
#[derive(Default)]
pub struct Registry {
    /// Those that can be joined.
    entries: Mutex<Vec<Entry>>,
    /// All.
    hubs: Mutex<Vec<Weak<Status>>>,
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

impl Status {
    pub(super) fn new(account: &Arc<Account>, key: &Bytes, is_shared: bool) -> Arc<Self> {
        let status = Arc::new(Self {
            id: NEXT_HUB.fetch_add(1, Ordering::Relaxed),
            account: Arc::downgrade(account),
            key: key.clone(),
            since: Instant::now(),
            connection: AtomicU64::new(0),
            owner: AtomicU64::new(0),
            sharer: account.sharers().add(is_shared),
            members: AtomicUsize::new(0),
        });
        let registry = Registry::of(account);
        let mut hubs = registry.hubs.lock();
        if hubs.len() == hubs.capacity() {
            hubs.retain(|hub| hub.strong_count() > 0);
        }
        hubs.push(Arc::downgrade(&status));
        drop(hubs);
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

    /// The command of the session of this number runs on its connection; `None`: nobody's does.
    pub(super) fn set_owner(&self, session: Option<u64>) {
        self.owner.store(session.unwrap_or_default(), Ordering::Relaxed);
    }

    /// Whether the command of this session runs on its connection.
    pub(crate) fn works_for(&self, session: u64) -> bool {
        self.connection().is_some() && self.owner.load(Ordering::Relaxed) == session
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
}

impl Registry {
    /// Of this account.
    pub(crate) fn of(account: &Account) -> Arc<Self> {
        account.attachment()
    }

    /// All hubs of these accounts, in the order in which they were opened.
    pub(crate) fn views(accounts: &[Arc<Account>]) -> Vec<HubView> {
        let registries = accounts.iter().map(|account| Self::of(account));
        let all: Vec<_> =
            registries.flat_map(|own| own.hubs.lock().iter().filter_map(Weak::upgrade).collect::<Vec<_>>()).collect();
        // One that has ended is known until the next opens.
        let mut views: Vec<_> = all.iter().filter_map(|hub| hub.view()).filter(|hub| hub.sessions > 0).collect();
        views.sort_by_key(|hub| hub.id);
        views
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

    /// Hubs, and members of all of them.
    pub fn count(&self) -> (usize, usize) {
        let entries = self.entries.lock();
        let live = entries.iter().filter(|entry| !entry.joins.is_closed());
        live.fold((0, 0), |(hubs, members), entry| (hubs + 1, members + entry.status.members.load(Ordering::Relaxed)))
    }
}
