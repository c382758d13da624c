//! What of TCP is the same on every Unix.

use std::io;

use nix::errno::Errno;
use socket2::Socket;

/// What the system says where descriptors run out.
pub(crate) const NO_DESCRIPTORS: [i32; 2] = [Errno::EMFILE as i32, Errno::ENFILE as i32];
/// What it says where connect(2) finds no port.
pub(crate) const NO_PORTS: [i32; 2] = [Errno::EADDRNOTAVAIL as i32, Errno::EADDRINUSE as i32];

/// Prepares a socket for listening: past connections in TIME_WAIT must not keep a new process from it.
pub(crate) fn before_bind(socket: &Socket, reuse_port: bool) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)
}
