//! The places in an account's deadpool, and the connections in them while they rest.

use std::fmt;
use std::sync::Weak;

use deadpool::managed::{self, Metrics as ObjectMetrics, Object, RecycleResult};
use parking_lot::Mutex;

use super::Account;
use crate::upstream::backend::OpenError;
use crate::upstream::connection::Connection;
use crate::upstream::login::Refusal;

/// A seat in an account's deadpool, and the connection in it while it rests.
#[derive(Debug, Default)]
pub(super) struct Seat(pub(super) Mutex<Option<Connection>>);

/// Fills seats.
pub(super) struct Manager {
    pub(super) account: Weak<Account>,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager")
    }
}

/// What went wrong with filling a seat.
#[derive(Debug)]
pub(super) enum FillError {
    Open(OpenError),
    Refused(Refusal),
    /// What a session has switched on cannot be switched on.
    Unfit,
    AccountGone,
}

impl managed::Manager for Manager {
    type Type = Seat;
    type Error = FillError;

    async fn create(&self) -> Result<Seat, FillError> {
        let account = self.account.upgrade().ok_or(FillError::AccountGone)?;
        let mut verified = account.take_verified();
        let _ = verified.as_mut().map(Connection::attach);
        // Empty: whoever takes the seat opens a connection, with a credential of its own.
        Ok(Seat(Mutex::new(verified)))
    }

    /// A connection that ended while it rested stays in its seat: whoever takes that knows what its place is for.
    async fn recycle(&self, seat: &mut Seat, _: &ObjectMetrics) -> RecycleResult<FillError> {
        let _ = seat.0.get_mut().as_mut().map(Connection::attach);
        Ok(())
    }
}

/// A seat that was taken out of the pool and whose connection is elsewhere. Dropped, it is gone.
pub(super) struct TakenSeat(Option<Object<Manager>>);

impl TakenSeat {
    pub(super) fn new(object: Object<Manager>) -> Self {
        Self(Some(object))
    }

    /// The connection that rested there.
    pub(super) fn connection(&self) -> Option<Connection> {
        self.0.as_ref().and_then(|object| object.0.lock().take())
    }

    pub(super) fn into_inner(mut self) -> Option<Object<Manager>> {
        self.0.take()
    }
}

impl Drop for TakenSeat {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
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
