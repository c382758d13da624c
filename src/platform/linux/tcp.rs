//! TCP, and what the kernel tells of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};

use super::{sock_diag, steer};
use crate::platform::Delivery;

/// A flag of send(2): more will follow, of which the FIN is enough.
pub(crate) const HOLD_BACK: i32 = libc::MSG_MORE;
/// Whether an accepted socket has the options of the listening one: two system calls less for each session.
pub(crate) const HANDED_DOWN: bool = true;
/// What the system says where descriptors run out.
pub(crate) const NO_DESCRIPTORS: [i32; 2] = [Errno::EMFILE as i32, Errno::ENFILE as i32];
/// What it says where connect(2) finds no port.
#[cfg(test)]
pub(crate) const NO_PORTS: [i32; 2] = [Errno::EADDRNOTAVAIL as i32, Errno::EADDRINUSE as i32];
/// What to do where listening is not allowed.
pub(crate) const PERMISSION: &str = "a port below 1024 needs CAP_NET_BIND_SERVICE, a Unix socket a writable directory";
/// What to do where descriptors run out.
pub(crate) const DESCRIPTORS: &str = "raise LimitNOFILE (ulimit -n)";

/// Holds back what is written from now on, or sends it.
pub(crate) fn cork(socket: SockRef<'_>, hold_back: bool) {
    // A failure means that the connection is gone.
    let _ = socket.set_tcp_cork(hold_back);
}

/// How far what was written has come; `None` where the connection is gone.
pub(crate) fn delivery(tcp: &TcpStream) -> Option<Delivery> {
    sock_diag::delivery(tcp.local_addr().ok()?, tcp.peer_addr().ok()?).ok()
}

/// Ends the connection when the peer acknowledges nothing for so long.
pub(crate) fn give_up_after(socket: SockRef<'_>, patience: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(patience))
}

/// Prepares a socket for binding to an address alone: the port is chosen by connect(2), where one local port serves
/// many remote addresses. A bind that chose it would take it for all of them.
pub(crate) fn leave_port_open(socket: SockRef<'_>) -> io::Result<()> {
    Ok(setsockopt(&*socket, sockopt::IpBindAddressNoPort, &true)?)
}

/// Prepares a socket for listening: past connections in TIME_WAIT must not keep a new process from it.
pub(crate) fn before_bind(socket: &Socket, _: SocketAddr, reuse_port: bool) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)
}

/// Has connections that begin from now on go to the successor's socket.
pub(crate) fn hand_over(listener: &TcpListener) -> bool {
    steer::to_successor(listener).is_ok()
}

/// Whether a process or the host has no descriptors left.
pub(crate) fn no_descriptors(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| NO_DESCRIPTORS.contains(&code))
}

/// Whether bind(2) to an address of this host found no port.
pub(crate) fn no_port_to_bind(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// Whether connect(2) found no port.
pub(crate) fn no_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}
