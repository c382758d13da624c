//! Who waits for a connection where there may be no more, and who shares one and gives it up for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Those who wait, and those who are about to give up theirs.
#[derive(Debug, Default)]
struct Demand {
    waiting: AtomicUsize,
    yielding: AtomicUsize,
}

impl Demand {
    /// One more waits; of these sharers, the one that has rested longest is asked for its connection.
    fn wait(self: &Arc<Self>, sharers: impl FnOnce() -> Vec<Arc<Sharer>>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(Arc::clone(self));
        Sharer::ask(&sharers());
        waiting
    }

    /// More wait than are about to give up theirs: the caller should.
    fn claim(self: &Arc<Self>) -> Option<Yielding> {
        let waiting = self.waiting.load(Ordering::Acquire);
        let claim = |yielding| (yielding < waiting).then_some(yielding + 1);
        self.yielding.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).ok()?;
        Some(Yielding(Arc::clone(self)))
    }
}

/// Somebody waits for a connection as long as this lives.
#[derive(Debug)]
pub struct Waiting(Arc<Demand>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Somebody is about to give up a connection.
#[derive(Debug)]
pub(crate) struct Yielding(Arc<Demand>);

impl Drop for Yielding {
    fn drop(&mut self) {
        self.0.yielding.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place where many share one connection, which can do without it for a time.
#[derive(Debug)]
pub(crate) struct Sharer {
    /// The index of the backend, which its account may change.
    backend: Arc<AtomicUsize>,
    /// It is asked for its connection when others wait.
    can_yield: bool,
    /// Since when nobody has asked for anything; `None`: it works, or has no connection.
    resting_since: Mutex<Option<Instant>>,
    /// Its connection is wanted, or is not to be used any more.
    wanted: Notify,
}

impl Sharer {
    pub(crate) fn rests(&self, since: Option<Instant>) {
        *self.resting_since.lock() = since;
    }

    /// Until its connection is wanted, or is not to be used any more.
    pub(crate) fn wanted(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// Asks the one that has rested longest for its connection.
    fn ask(sharers: &[Arc<Self>]) {
        let able = sharers.iter().filter(|sharer| sharer.can_yield);
        let resting = able.filter_map(|sharer| Some((*sharer.resting_since.lock().as_ref()?, sharer)));
        if let Some((_, sharer)) = resting.min_by_key(|(since, _)| *since) {
            sharer.rests(None);
            sharer.wanted.notify_one();
        }
    }
}

#[derive(Debug, Default)]
struct List(Mutex<Vec<Weak<Sharer>>>);

impl List {
    fn add(&self, sharer: &Arc<Sharer>) {
        let mut all = self.0.lock();
        if all.len() == all.capacity() {
            all.retain(|sharer| sharer.strong_count() > 0);
        }
        all.push(Arc::downgrade(sharer));
    }

    fn all(&self) -> Vec<Arc<Sharer>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// The sharers of all accounts: who has to give up a connection when there may be no more of them anywhere, or to one
/// backend.
#[derive(Debug, Default)]
pub struct Everywhere {
    sharers: List,
    demand: Arc<Demand>,
    /// By the index of the backend: of its ports.
    of_backends: Mutex<BTreeMap<usize, Arc<Demand>>>,
}

impl Everywhere {
    /// There may be no more connections in use, of any account.
    pub fn wait(&self) -> Waiting {
        self.demand.wait(|| self.sharers.all())
    }

    /// There may be no more connections to the backend of this index: what others give up is of no use.
    pub fn wait_for_port(&self, backend: usize) -> Waiting {
        let of_backend = |sharer: &Arc<Sharer>| sharer.backend.load(Ordering::Acquire) == backend;
        self.of_backend(backend).wait(|| self.sharers.all().into_iter().filter(of_backend).collect())
    }

    fn of_backend(&self, backend: usize) -> Arc<Demand> {
        Arc::clone(self.of_backends.lock().entry(backend).or_default())
    }
}

/// The sharers of one account.
#[derive(Debug)]
pub struct Sharers {
    /// The index of its backend.
    backend: Arc<AtomicUsize>,
    sharers: List,
    demand: Arc<Demand>,
    of_backend: Mutex<Arc<Demand>>,
    everywhere: Arc<Everywhere>,
}

impl Sharers {
    /// Of an account on the backend of this index.
    #[must_use]
    pub fn new(everywhere: &Arc<Everywhere>, backend: usize) -> Self {
        let (sharers, demand) = Default::default();
        Self {
            backend: Arc::new(AtomicUsize::new(backend)),
            sharers,
            demand,
            of_backend: Mutex::new(everywhere.of_backend(backend)),
            everywhere: Arc::clone(everywhere),
        }
    }

    /// The account is on the backend of this index from now on.
    pub(crate) fn move_to(&self, backend: usize) {
        self.backend.store(backend, Ordering::Release);
        *self.of_backend.lock() = self.everywhere.of_backend(backend);
    }

    /// One more. `can_yield`: it is asked for its connection when others wait.
    pub(crate) fn add(&self, can_yield: bool) -> Arc<Sharer> {
        let (resting_since, wanted) = Default::default();
        let sharer = Arc::new(Sharer { backend: Arc::clone(&self.backend), can_yield, resting_since, wanted });
        self.sharers.add(&sharer);
        self.everywhere.sharers.add(&sharer);
        sharer
    }

    /// No connection of the account is free: the one that has rested longest is asked for its own.
    pub fn wait(&self) -> Waiting {
        self.demand.wait(|| self.sharers.all())
    }

    /// There may be no more connections in use, of any account.
    pub fn wait_anywhere(&self) -> Waiting {
        self.everywhere.wait()
    }

    /// Something has changed that all of them have to see.
    pub(crate) fn look_up(&self) {
        self.sharers.all().iter().for_each(|sharer| sharer.wanted.notify_one());
    }

    /// Whether another would give up its connection if somebody waited for one.
    pub(crate) fn has_resting(&self, but: &Arc<Sharer>) -> bool {
        let all = self.sharers.all();
        let mut others = all.iter().filter(|other| other.can_yield && !Arc::ptr_eq(other, but));
        others.any(|other| other.resting_since.lock().is_some())
    }

    /// More wait than are about to give up their connections, of this account or anywhere: the caller should.
    pub(crate) fn claim(&self) -> Option<Yielding> {
        self.demand
            .claim()
            .or_else(|| self.of_backend.lock().clone().claim())
            .or_else(|| self.everywhere.demand.claim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_given_up_for_the_ports_of_another_backend() {
        let everywhere = Arc::<Everywhere>::default();
        let [there, elsewhere] = [7, 8].map(|backend| Sharers::new(&everywhere, backend));
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
