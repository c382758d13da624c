//! An account's hubs: who can be joined, and who has to give up its connection when others wait for one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::hub::Join;

/// What others may know of a hub without asking its task.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// Since when nobody has asked for anything; `None`: it works, or has no connection.
    pub(super) resting_since: Mutex<Option<Instant>>,
    /// Its connection is wanted.
    pub(super) wanted: Notify,
    pub(super) members: AtomicUsize,
}

struct Entry {
    key: Bytes,
    joins: mpsc::Sender<Join>,
    status: Arc<Status>,
}

/// See the module.
#[derive(Default)]
pub struct Registry {
    entries: Mutex<Vec<Entry>>,
    /// Checkouts that wait for a connection, and hubs about to give up theirs.
    waiting: AtomicUsize,
    yielding: AtomicUsize,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("hubs", &self.entries.lock().len()).finish_non_exhaustive()
    }
}

/// A checkout waits for a connection as long as this lives.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Registry);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A hub that is about to give up its connection.
#[derive(Debug)]
pub(super) struct Yielding(Arc<Registry>);

impl Drop for Yielding {
    fn drop(&mut self) {
        self.0.yielding.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Registry {
    /// Hands the session to a hub of its mailbox; gives it back when there is none.
    pub(super) fn join(&self, key: &Bytes, mut join: Join) -> Result<(), Join> {
        let mut entries = self.entries.lock();
        entries.retain(|entry| !entry.joins.is_closed());
        // Where the mailbox has more than one, the others work on something long: the newest has the most patience.
        for entry in entries.iter().rev().filter(|entry| entry.key == *key) {
            match entry.joins.try_send(join) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => join = back,
            }
        }
        Err(join)
    }

    pub(super) fn add(&self, key: Bytes, joins: mpsc::Sender<Join>, status: Arc<Status>) {
        self.entries.lock().push(Entry { key, joins, status });
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

    /// A checkout finds no connection free: the hub that has rested longest is asked for its own.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let entries = self.entries.lock();
        let resting = entries
            .iter()
            .filter(|entry| !entry.joins.is_closed())
            .filter_map(|entry| Some((entry.status.resting_since.lock().as_ref().copied()?, entry)));
        if let Some((_, entry)) = resting.min_by_key(|(since, _)| *since) {
            *entry.status.resting_since.lock() = None;
            entry.status.wanted.notify_one();
        }
        Waiting(self)
    }

    /// Whether a hub would give up its connection if somebody waited for one.
    pub(super) fn has_resting(&self, but: &Arc<Status>) -> bool {
        let entries = self.entries.lock();
        entries.iter().any(|entry| !Arc::ptr_eq(&entry.status, but) && entry.status.resting_since.lock().is_some())
    }

    /// More checkouts wait than hubs are about to give up their connections: the caller should.
    pub(super) fn claim(self: &Arc<Self>) -> Option<Yielding> {
        let waiting = self.waiting.load(Ordering::Acquire);
        let claim = |yielding| (yielding < waiting).then_some(yielding + 1);
        self.yielding.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).ok()?;
        Some(Yielding(Arc::clone(self)))
    }

    /// Hubs, and members of all of them.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let entries = self.entries.lock();
        let live = entries.iter().filter(|entry| !entry.joins.is_closed());
        live.fold((0, 0), |(hubs, members), entry| (hubs + 1, members + entry.status.members.load(Ordering::Relaxed)))
    }
}
