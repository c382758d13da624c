//! Who waits for room, and what can be closed for them.

use std::fmt;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Since when a connection rests, and its number, which tells it from others of the same moment.
pub(crate) type Since = (Instant, u64);

/// A connection that can be closed to make room.
pub(crate) trait Evict: fmt::Debug + Send + Sync {
    /// Ends it, if it still rests; its permit has been told that it leaves by then ([`super::Permit::leave`]). False:
    /// it does not.
    fn evict(&self) -> bool;
}

/// Those who wait for permits, as far as nothing is on its way to them.
#[derive(Debug, Default)]
pub(super) struct Need(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Those who wait.
    waiting: usize,
    /// Permits that have come back for them: they have theirs, and are about to find out.
    granted: usize,
    /// Connections that are about to be closed for them, and those that are looked for.
    leaving: usize,
}

/// Somebody waits for a permit.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    need: &'a Need,
    served: bool,
}

/// A connection is looked for that can be closed.
#[derive(Debug)]
pub(super) struct Claim<'a>(&'a Need);

impl Need {
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.0.lock().waiting += 1;
        Waiting { need: self, served: false }
    }

    /// More wait than connections are about to be closed: one should be.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        let mut counts = self.0.lock();
        let lacks = counts.waiting - counts.granted > counts.leaving;
        counts.leaving += usize::from(lacks);
        lacks.then(|| Claim(self))
    }

    /// A connection is about to be closed.
    pub(super) fn leaves(&self) {
        self.0.lock().leaving += 1;
    }

    /// One is closed, which was about to be (`leaving`), and its permit goes to who waits (`given`).
    pub(super) fn left(&self, leaving: bool, given: bool) {
        let mut counts = self.0.lock();
        counts.leaving -= usize::from(leaving);
        counts.grant(usize::from(given));
    }

    /// Somebody has a permit who did not wait. True: it may be one that had come back for who waits, who then has none.
    pub(super) fn overtaken(&self) -> bool {
        let mut counts = self.0.lock();
        counts.granted = counts.granted.saturating_sub(1);
        counts.waiting > 0
    }

    /// Somebody has waited for long. If no connection is about to be closed, what had come back went elsewhere.
    pub(super) fn doubt(&self) {
        let mut counts = self.0.lock();
        if counts.leaving == 0 {
            counts.granted = 0;
        }
    }

    /// So many more permits are given out.
    pub(super) fn granted(&self, permits: usize) {
        self.0.lock().grant(permits);
    }
}

impl Counts {
    fn grant(&mut self, permits: usize) {
        self.granted = self.granted.saturating_add(permits).min(self.waiting);
    }
}

impl Waiting<'_> {
    /// It has its permit.
    pub(super) fn served(mut self) {
        self.served = true;
    }
}

impl Drop for Waiting<'_> {
    /// If it goes without the permit that has come for it, the next one has that.
    fn drop(&mut self) {
        let mut counts = self.need.0.lock();
        counts.waiting -= 1;
        counts.granted = counts.granted.saturating_sub(usize::from(self.served)).min(counts.waiting);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.0.lock().leaving -= 1;
    }
}
