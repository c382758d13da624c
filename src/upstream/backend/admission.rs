//! Waiting at the [`gate`](crate::upstream::gate): for a further login of an account, and for each connection that is
//! opened.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use scopeguard::guard;
use tokio::time::{Instant, sleep_until};

use super::{Backend, OpenError};
use crate::metrics::{BackendMetrics, DelayReason, DialResult};
use crate::upstream::gate::{Later, Line, Pass, Reason, Whom};

impl From<Reason> for DelayReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Account => Self::Account,
            Reason::BackOff => Self::BackOff,
            Reason::Backend => Self::Backend,
        }
    }
}

/// An account's place in front of the gate, and its part in the numbers.
#[derive(Debug)]
pub struct Queue {
    line: Mutex<(Line, bool)>,
    metrics: Arc<BackendMetrics>,
}

impl Queue {
    /// Of an account with `places` for connections.
    #[must_use]
    pub fn new(places: usize, metrics: &Arc<BackendMetrics>) -> Arc<Self> {
        Arc::new(Self { line: Mutex::new((Line::new(places), false)), metrics: Arc::clone(metrics) })
    }

    /// The account has so many places from now on.
    pub fn resize(&self, places: usize) {
        self.with(|line| line.resize(places));
    }

    /// One of its connections was of use.
    pub fn proven(&self) {
        self.with(Line::proven);
    }

    /// A credential that had to be asked about anew was accepted: what was asked is answered, whatever becomes of the
    /// connection. An account all of whose places are in use has no room for it.
    pub fn answered(&self) {
        self.with(|line| line.unused(true));
    }

    /// See [`Line::backs_off`].
    pub fn backs_off(&self) -> bool {
        self.line.lock().1
    }

    fn with<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        let (line, counted) = &mut *self.line.lock();
        let result = change(line);
        if line.backs_off() != *counted {
            *counted = line.backs_off();
            self.metrics.backing_off.inc_by(if *counted { 1 } else { -1 });
        }
        result
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.line.get_mut().1 {
            self.metrics.backing_off.dec();
        }
    }
}

/// The right to log in once. Dropped before that, it counts as if it had not been given.
#[derive(Debug)]
#[must_use = "it is the right to log in"]
pub struct Entry {
    queue: Option<Arc<Queue>>,
    tried: bool,
}

impl Entry {
    /// To have a credential verified that is not proven: who may do so is decided by [`crate::upstream::turns`], so
    /// that wrong ones take nothing from their account.
    pub fn verification() -> Self {
        Self { queue: None, tried: false }
    }

    /// It was tried to open a connection, in vain so far.
    pub(super) fn tried(&mut self) {
        self.tried = true;
    }

    /// A credential is sent: now it counts, until the connection is of use.
    pub(super) fn used(mut self) {
        self.queue = None;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.with(|line| line.unused(self.tried));
        }
    }
}

impl Backend {
    /// Lets an account log in once more.
    ///
    /// # Errors
    /// [`OpenError::Gate`]: it would have to wait for longer than `pool.checkout_timeout`.
    pub async fn enter(&self, queue: &Arc<Queue>) -> Result<Entry, OpenError> {
        let ask = |waited, now| queue.with(|line| line.enter(waited, now));
        let waits = |one_more| queue.with(|line| line.waits(one_more));
        self.wait_for(ask, waits).await.map(|()| Entry { queue: Some(Arc::clone(queue)), tried: false })
    }

    /// A pass to open one connection with.
    pub(super) async fn pass(&self, whom: Whom) -> Result<Pass, OpenError> {
        let ask = |waited, now| self.gate.lock().enter(whom, waited, now);
        if whom != Whom::Login {
            return ask(false, Instant::now().into_std()).map_err(|later| OpenError::Gate(later.reason));
        }
        self.wait_for(ask, |one_more| self.gate.lock().waits(one_more)).await
    }

    async fn wait_for<T>(
        &self,
        mut ask: impl FnMut(bool, std::time::Instant) -> Result<T, Later>,
        waits: impl Fn(bool),
    ) -> Result<T, OpenError> {
        let deadline = Instant::now() + self.pool.load().checkout_timeout;
        let mut waiting = None;
        loop {
            let Later { at, reason } = match ask(waiting.is_some(), Instant::now().into_std()) {
                Ok(passed) => return Ok(passed),
                Err(later) => later,
            };
            if waiting.is_none() {
                self.metrics.delayed.get(reason.into()).inc();
            }
            let at = Instant::from_std(at);
            if at > deadline {
                self.metrics.dials.inc(DialResult::Gate);
                return Err(OpenError::Gate(reason));
            }
            waiting.get_or_insert_with(|| {
                waits(true);
                guard((), |()| waits(false))
            });
            // A timer may be a moment early.
            sleep_until(at + Duration::from_micros(1)).await;
        }
    }
}
