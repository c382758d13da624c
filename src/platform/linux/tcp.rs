//! TCP, and what the kernel tells of it.

use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::sock_diag;
use crate::platform::Delivery;
pub(crate) use crate::platform::unix::tcp::{NO_DESCRIPTORS, NO_PORTS, before_bind};

/// A flag of send(2): more will follow, of which the FIN is enough.
pub(crate) const HOLD_BACK: i32 = libc::MSG_MORE;
/// Whether an accepted socket has the options of the listening one: two system calls less for each session.
pub(crate) const HANDED_DOWN: bool = true;
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

/// Has connections that begin from now on go to the second socket that was bound: the first is the predecessor. Where
/// there is none, the kernel chooses as without.
pub(crate) fn hand_over(listener: &TcpListener) -> bool {
    // BPF_RET | BPF_K: the place of the socket.
    let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 1 }];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    setsockopt(listener, sockopt::AttachReusePortCbpf, &program).is_ok()
}
