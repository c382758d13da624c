//! TCP, and what the system tells of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};

use crate::platform::Delivery;

/// No flag of send says that more will follow.
pub(crate) const HOLD_BACK: i32 = 0;
/// An accepted socket has its own options.
pub(crate) const HANDED_DOWN: bool = false;
/// What the system says where handles or sockets run out: ERROR_TOO_MANY_OPEN_FILES, WSAEMFILE.
pub(crate) const NO_DESCRIPTORS: [i32; 2] = [4, 10_024];
/// What it says where connect finds no port: WSAEADDRINUSE, WSAEADDRNOTAVAIL, WSAENOBUFS.
pub(crate) const NO_PORTS: [i32; 3] = [10_048, 10_049, 10_055];
/// What to do where listening is not allowed.
pub(crate) const PERMISSION: &str = "another program has the port for itself, or Windows has reserved it (netsh int ipv4 \
    show excludedportrange tcp): choose another";
/// What to do where sockets run out.
pub(crate) const DESCRIPTORS: &str = "close other programs";

/// Nothing is held back.
pub(crate) fn cork(_: SockRef<'_>, _: bool) {}

/// Not known without unsafe code (SIO_TCP_INFO).
pub(crate) fn delivery(_: &TcpStream) -> Option<Delivery> {
    None
}

/// The system's own patience has to do: TCP_MAXRT takes unsafe code.
pub(crate) fn give_up_after(_: SockRef<'_>, _: Duration) -> io::Result<()> {
    Ok(())
}

/// A bind chooses the port.
pub(crate) fn leave_port_open(_: SockRef<'_>) -> io::Result<()> {
    Ok(())
}

/// Prepares a socket for listening: nobody else may listen on its port, on whatever address. Connections in TIME_WAIT
/// keep nobody from it here.
pub(crate) fn before_bind(socket: &Socket, _: SocketAddr, _: bool) -> io::Result<()> {
    imapool_exclusive::set(socket)
}

/// No two processes share a port.
pub(crate) fn hand_over(_: &TcpListener) -> bool {
    false
}

/// Whether handles or sockets have run out.
pub(crate) fn no_descriptors(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| NO_DESCRIPTORS.contains(&code))
}

/// Whether bind to an address of this host found no port: WSAEADDRINUSE, WSAENOBUFS.
pub(crate) fn no_port_to_bind(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse || error.raw_os_error() == Some(10_055)
}

/// Whether connect found no port.
pub(crate) fn no_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
        || error.raw_os_error().is_some_and(|code| NO_PORTS.contains(&code))
}
