//! The places in an account's deadpool, and the connections in them while they rest.

use std::convert::Infallible;
use std::time::Duration;

use deadpool::managed::{self, Metrics as ObjectMetrics, Object, RecycleResult};
use parking_lot::Mutex;

use super::Account;
use crate::upstream::backend::OpenError;
use crate::upstream::connection::Connection;
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
