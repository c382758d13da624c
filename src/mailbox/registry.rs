//! An account's hubs: which there are, and who can be joined.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
    /// The mailbox ([`crate::imap::command::Command::selected_mailbox`]).
    key: Bytes,
    since: Instant,
    /// The number of its connection; 0: it is parked.
    pub(super) connection: AtomicU64,
    /// The number of the session whose command runs there; 0: none does.
    pub(super) owner: AtomicU64,
    /// Others may join: it is among those that are asked for their connection.
    pub(super) sharer: Arc<Sharer>,
    pub(super) members: AtomicUsize,
}

/// Those who join a hub, and what others may know of it.
pub(super) type Entrance = (mpsc::Receiver<Join>, Arc<Status>);

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

/// A hub of an account.
#[derive(Debug)]
struct Entry {
    kind: EnableSet,
    /// Closed with its task.
    joins: mpsc::Sender<Join>,
    status: Arc<Status>,
    /// Whoever selects its mailbox may join it: it is not for its members alone, and its name means no other by now.
    is_open: bool,
}

impl Entry {
    /// Whether it is of the mailbox of this name, or of one below it.
    fn is_within(&self, name: &[u8]) -> bool {
        let rest = self.status.key.get(1..).and_then(|own| own.strip_prefix(name));
        // Which octet divides a name is the server's affair; the name may be spelled in UTF-8 here and not there.
        let spelled = |name: &[u8]| name.contains(&b'&') || !name.is_ascii();
        spelled(name) || rest.is_some_and(|rest| rest.first().is_none_or(|octet| !octet.is_ascii_alphanumeric()))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Vec<Entry>>);

/// What is behind the letter that says how the mailbox is selected.
pub(crate) fn mailbox_name(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned()
}

impl Status {
    /// The number of its connection; `None`: it is parked.
    pub(crate) fn connection(&self) -> Option<u64> {
        Some(self.connection.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }

    /// Whether the command of this session runs on its connection.
    pub(crate) fn works_for(&self, session: u64) -> bool {
        self.connection().is_some() && self.owner.load(Ordering::Relaxed) == session
    }

    /// The mailbox's name, as it was selected.
    pub(crate) fn mailbox(&self) -> String {
        mailbox_name(&self.key)
    }

    fn view(&self, account: &Arc<Account>) -> HubView {
        HubView {
            id: self.id,
            account: Arc::clone(account),
            mailbox: self.mailbox(),
            read_only: self.key.first() == Some(&b'r'),
            connection: self.connection(),
            sessions: self.members.load(Ordering::Relaxed),
            age: self.since.elapsed(),
        }
    }
}

impl Registry {
    /// Of this account.
    pub(crate) fn of(account: &Account) -> Arc<Self> {
        account.attachment()
    }

    /// All hubs of these accounts, in the order in which they were opened.
    pub(crate) fn views(accounts: &[Arc<Account>]) -> Vec<HubView> {
        let views = |account: &Arc<Account>| {
            let registry = Self::of(account);
            let entries = registry.0.lock();
            // One that has ended is known until somebody joins another.
            let live = entries.iter().filter(|entry| !entry.joins.is_closed());
            live.map(|entry| entry.status.view(account)).filter(|hub| hub.sessions > 0).collect::<Vec<_>>()
        };
        let mut views: Vec<_> = accounts.iter().flat_map(views).collect();
        views.sort_by_key(|hub| hub.id);
        views
    }

    /// Hands the session to a hub of its mailbox and its kind ([`EnableSet::kind`]). Where there is none, gives it
    /// back, and the entrance of the hub that is to be opened for it: whoever comes from now on joins that.
    pub(super) fn join(
        &self,
        account: &Account,
        key: &Bytes,
        kind: EnableSet,
        mut join: Join,
    ) -> Option<(Join, Entrance)> {
        let mut entries = self.0.lock();
        // Where the mailbox has more than one, the others work on something long: the newest has the most patience.
        let suits = |entry: &&Entry| entry.status.key == *key && entry.kind == kind && entry.is_open;
        for entry in entries.iter().rev().filter(suits) {
            match entry.joins.try_send(join) {
                Ok(()) => return None,
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => join = back,
            }
        }
        Some((join, enter(&mut entries, account, key, kind, true)))
    }

    /// Adds a further hub of a mailbox. `is_open`: others may join it.
    pub(super) fn add(&self, account: &Account, key: &Bytes, kind: EnableSet, is_open: bool) -> Entrance {
        enter(&mut self.0.lock(), account, key, kind, is_open)
    }

    /// These names mean other mailboxes now, or may. Who is in a hub stays there, and who selects such a name gets what
    /// has it: STATUS does not tell, on a connection that has the old one selected (Dovecot).
    pub(crate) fn renamed(&self, names: &[Bytes]) {
        let mut entries = self.0.lock();
        entries.iter_mut().for_each(|entry| entry.is_open &= !names.iter().any(|name| entry.is_within(name)));
    }

    /// Nobody joins this hub any more. False: somebody has, just now.
    pub(super) fn remove(&self, joins: &mut mpsc::Receiver<Join>) -> bool {
        // Those who join hold the lock.
        let _entries = self.0.lock();
        let last = joins.is_empty();
        if last {
            joins.close();
        }
        last
    }
}

fn enter(entries: &mut Vec<Entry>, account: &Account, key: &Bytes, kind: EnableSet, is_open: bool) -> Entrance {
    entries.retain(|entry| !entry.joins.is_closed());
    let (joins, entrance) = mpsc::channel(MAX_JOINING);
    let status = Arc::new(Status {
        id: NEXT_HUB.fetch_add(1, Ordering::Relaxed),
        key: key.clone(),
        since: Instant::now(),
        connection: AtomicU64::new(0),
        owner: AtomicU64::new(0),
        sharer: account.sharers.add(is_open),
        members: AtomicUsize::new(0),
    });
    entries.push(Entry { kind, joins, status: Arc::clone(&status), is_open });
    (entrance, status)
}
