//! The places in an account's deadpool, and the connections in them while they rest.

use std::fmt;
use std::sync::Weak;

use deadpool::managed::{self, Metrics as ObjectMetrics, Object, RecycleError, RecycleResult};
use parking_lot::Mutex;

use super::Account;
use crate::upstream::backend::OpenError;
use crate::upstream::connection::Connection;

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
    Refused,
    AccountGone,
}

impl managed::Manager for Manager {
    type Type = Seat;
    type Error = FillError;

    async fn create(&self) -> Result<Seat, FillError> {
        let account = self.account.upgrade().ok_or(FillError::AccountGone)?;
        if let Some(mut verified) = account.take_verified()
            && verified.attach()
        {
            return Ok(Seat(Mutex::new(Some(verified))));
        }
        Ok(Seat(Mutex::new(Some(account.dial().await?))))
    }

    async fn recycle(&self, seat: &mut Seat, _: &ObjectMetrics) -> RecycleResult<FillError> {
        if seat.0.get_mut().as_mut().is_some_and(Connection::attach) {
            return Ok(());
        }
        Err(RecycleError::Message("closed while at rest".into()))
    }
}

/// Puts a connection to rest in its seat. If that cannot be, it is given back, to be ended, and its seat is gone.
pub(super) fn put_back(object: Object<Manager>, mut connection: Connection) -> Option<Connection> {
    if connection.release() {
        *object.0.lock() = Some(connection);
        return None;
    }
    let _ = Object::take(object);
    Some(connection)
}
