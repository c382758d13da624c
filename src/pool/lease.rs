//! An upstream connection while a session, or the sessions that share it, have it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use deadpool::managed::Object;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::Account;
use super::checkout::{CheckoutError, Want, fitness};
use super::seat::{Manager, put_back};
use crate::metrics::RetireReason;
use crate::session::machine::Remnant;
use crate::upstream::connection::{Connection, Shared};

/// An upstream connection in use by one session. Dropping it puts the connection to rest in its account's pool, if
/// nothing is left on it, and ends it otherwise.
#[derive(Debug)]
pub struct Lease {
    account: Arc<Account>,
    connection: Option<Connection>,
    object: Option<Object<Manager>>,
    /// Its turn of the account and its place among all. Nobody else gets them before the socket is closed.
    places: [Option<OwnedSemaphorePermit>; 2],
    /// A connection that ends and is to be replaced.
    leaving: Option<Arc<Shared>>,
}

impl Lease {
    /// Without a connection, [`Lease::fill`] it before anything else.
    pub(super) fn new(
        account: &Arc<Account>,
        object: Object<Manager>,
        connection: Option<Connection>,
        places: [Option<OwnedSemaphorePermit>; 2],
    ) -> Self {
        Self { account: Arc::clone(account), connection, object: Some(object), places, leaving: None }
    }

    /// Goes on with the connection of the other, in its seat. The one at hand comes to rest in its own, or keeps the
    /// other's places until it is closed.
    pub(super) fn change_seats(&mut self, mut other: Self) {
        std::mem::swap(&mut self.object, &mut other.object);
        std::mem::swap(&mut self.connection, &mut other.connection);
    }

    /// Ends its connection, and waits until the socket is closed; then [`Lease::fill`] it.
    pub(super) async fn end_and_wait(&mut self, reason: RetireReason) {
        let Some(connection) = self.connection.take() else { return };
        self.leaving = Some(Arc::clone(connection.shared()));
        let closed = connection.shared().when_closed();
        connection.retire(reason);
        closed.await;
        self.leaving = None;
    }

    pub(super) fn fill(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// Nobody who comes gets this connection any more, and those who share it are to leave it between two commands.
    pub fn is_outdated(&self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let is_to_leave = connection.shared().generation < self.account.to_leave.load(Ordering::Acquire);
        is_to_leave || !self.is_current() && self.account.is_crowded()
    }

    fn is_current(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| self.account.is_current(connection))
    }

    /// Ends the connection, for this reason.
    pub fn retire(mut self, reason: RetireReason) {
        self.end(reason);
    }

    fn end(&mut self, reason: RetireReason) {
        if let Some(connection) = self.connection.take() {
            self.give_up_places(connection.shared());
            connection.retire(reason);
        }
    }

    /// Nobody gets them before the socket of this one is closed.
    fn give_up_places(&mut self, leaving: &Arc<Shared>) {
        self.account.note_leaving(leaving);
        leaving.keep_to_the_end(std::mem::take(&mut self.places));
    }

    /// The same lease, but of a connection at rest that fits better, if there is one; the one at hand comes to rest
    /// in its seat. If neither fits at all, another one is checked out.
    ///
    /// # Errors
    /// See [`CheckoutError`]: when no other can be had, but is needed, or does not answer.
    pub async fn exchanged(mut self, want: &Want) -> Result<Self, CheckoutError> {
        if !self.is_current() {
            drop(self);
            return want.checkout().await;
        }
        let account = Arc::clone(&self.account);
        let before = self.shared().id;
        if !account.exchange(&mut self, want) || fitness(&self.shared().facts(), want) == 0 {
            drop(self);
            return want.checkout().await;
        }
        if self.shared().id == before || !account.doubts(&self) {
            return Ok(self);
        }
        if let Ok(true) = timeout(account.config.load().checkout_timeout, self.check()).await {
            return Ok(self);
        }
        self.retire(RetireReason::FailedCheck);
        want.checkout().await
    }

    /// Reads what is still to come for a session that has gone (after ending its IDLE, if that is what it did),
    /// within the budget for that, and puts the connection to rest.
    pub async fn drain(mut self, remnant: Remnant) {
        let config = self.account.config.load();
        let (octets, time) = (config.drain_bytes, config.drain_timeout);
        drop(config);
        if !self.deref_mut().drain(remnant, octets, time).await {
            self.end(RetireReason::DrainBudget);
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("taken only on drop")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("taken only on drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        if !self.is_current() {
            let reason = *self.account.outdated.lock();
            self.end(reason);
        } else if self.account.is_crowded() {
            self.end(RetireReason::Reload);
        } else if self.connection.as_ref().and_then(Connection::expires_at).is_some_and(|at| at <= Instant::now()) {
            self.end(RetireReason::Lifetime);
        }
        match self.connection.take() {
            Some(connection) => {
                if let Some(unfit) = put_back(&self.account, object, connection) {
                    self.give_up_places(unfit.shared());
                }
            }
            // The seat goes with its connection.
            None => drop(Object::take(object)),
        }
        if let Some(leaving) = self.leaving.take() {
            self.give_up_places(&leaving);
        }
    }
}
