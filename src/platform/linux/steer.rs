//! Which of the sockets of one address gets a connection (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).

use std::io;

use tokio::net::TcpListener;

nix::setsockopt_impl!(
    Steer,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_REUSEPORT_CBPF,
    libc::sock_fprog,
    nix::sys::socket::sockopt::SetStruct<libc::sock_fprog>
);

/// The option.
#[derive(Debug, Clone, Copy)]
struct Steer;

/// All that begin from now on go to the second that was bound: the first is the predecessor. Where there is none, the
/// kernel chooses as without.
pub(super) fn to_successor(listener: &TcpListener) -> io::Result<()> {
    // BPF_RET | BPF_K: the place of the socket.
    let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 1 }];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    Ok(nix::sys::socket::setsockopt(listener, Steer, &program)?)
}
