//! The places in an account's deadpool, and the connections in them while they rest.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics as ObjectMetrics, Object, RecycleResult};
use parking_lot::Mutex;

use super::Account;
use crate::upstream::backend::OpenError;
use crate::upstream::connection::{Connection, Shared};
use crate::upstream::login::Refusal;

/// A seat in an account's deadpool, and the connection in it while it rests.
#[derive(Debug, Default)]
pub(super) struct Seat(pub(super) Mutex<Option<Connection>>);

/// Makes empty seats: whoever takes one opens a connection, with a credential of its own.
#[derive(Debug)]
pub(super) struct Manager;

/// What went wrong with filling a seat.
#[derive(Debug)]
pub(super) enum FillError {
    Open(OpenError),
    Refused(Refusal),
    /// What a session has switched on cannot be switched on.
    Unfit,
}

impl managed::Manager for Manager {
    type Type = Seat;
    type Error = Infallible;

    async fn create(&self) -> Result<Seat, Infallible> {
        Ok(Seat::default())
    }

    /// A connection that ended while it rested stays in its seat: whoever takes that knows what its place is for.
    async fn recycle(&self, seat: &mut Seat, _: &ObjectMetrics) -> RecycleResult<Infallible> {
        let _ = seat.0.get_mut().as_mut().map(Connection::attach);
        Ok(())
    }
}

impl Account {
    /// A seat, without waiting for one.
    pub(super) async fn seat_at_once(&self) -> Option<Object<Manager>> {
        let at_once = managed::Timeouts { wait: Some(Duration::ZERO), ..managed::Timeouts::default() };
        self.seats.timeout_get(&at_once).await.ok()
    }

    /// The connections that rest in seats. Under the lock of these nothing is read, written or thought about: whatever
    /// went wrong with that would go wrong for all of the account.
    pub(super) fn at_rest(&self) -> Vec<Arc<Shared>> {
        let mut all = Vec::new();
        self.seats.retain(|seat, _| {
            all.extend(seat.0.lock().as_ref().map(|resting| Arc::clone(resting.shared())));
            true
        });
        all.retain(|it: &Arc<Shared>| it.resting_since().is_some());
        all
    }

    /// Has a connection and the one of this number, if that is in a seat, change places.
    pub(super) fn change_places(&self, mine: &mut Connection, other: u64) {
        self.seats.retain(|seat, _| {
            if let Some(resting) = seat.0.lock().as_mut().filter(|resting| resting.shared().id == other) {
                std::mem::swap(mine, resting);
            }
            true
        });
    }
}

/// Puts a connection to rest in its seat. If that cannot be, it is given back, to be ended, and its seat is gone.
pub(super) fn put_back(account: &Account, object: Object<Manager>, mut connection: Connection) -> Option<Connection> {
    if !account.is_current(&connection) || !connection.release() {
        let _ = Object::take(object);
        return Some(connection);
    }
    let generation = connection.shared().generation;
    *object.0.lock() = Some(connection);
    drop(object);
    account.look_after(generation);
    None
}
