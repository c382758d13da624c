//! What only Linux has, as other systems do without it.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::{Delivery, Facts};

/// No flag of send(2) says that more will follow.
pub(crate) const HOLD_BACK: i32 = 0;
/// An accepted socket has its own options.
pub(crate) const HANDED_DOWN: bool = false;
/// What is different on the loopback interface, where a port is in TIME_WAIT: nothing.
pub(crate) const LENT_AGAIN: &str = "";

/// Nothing is held back.
pub(crate) fn cork(_: SockRef<'_>, _: bool) {}

/// Not known. On Windows it takes unsafe code (SIO_TCP_INFO).
pub(crate) fn delivery(_: &TcpStream) -> Option<Delivery> {
    None
}

/// The system's own patience has to do. On Windows, TCP_MAXRT takes unsafe code.
pub(crate) fn give_up_after(_: SockRef<'_>, _: Duration) -> io::Result<()> {
    Ok(())
}

/// A bind chooses the port.
pub(crate) fn leave_port_open(_: SockRef<'_>) -> io::Result<()> {
    Ok(())
}

/// Which of two sockets gets a connection, the kernel says, where two processes may share a port at all.
pub(crate) fn hand_over(_: &TcpListener) -> bool {
    false
}

/// No option does that.
pub(crate) fn keep_to(_: SockRef<'_>, _: &RangeInclusive<u16>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not known. On Windows, what counts them is not called without unsafe code.
pub(crate) fn facts() -> Facts {
    Facts::default()
}
