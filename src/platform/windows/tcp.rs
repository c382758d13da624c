//! TCP, and what the system tells of it.

use std::io;

use socket2::Socket;

pub(crate) use crate::platform::elsewhere::{
    HANDED_DOWN, HOLD_BACK, cork, delivery, give_up_after, hand_over, leave_port_open,
};

/// What the system says where handles or sockets run out: ERROR_TOO_MANY_OPEN_FILES, WSAEMFILE.
pub(crate) const NO_DESCRIPTORS: [i32; 2] = [4, 10_024];
/// What it says where connect finds no port: WSAEADDRINUSE, WSAEADDRNOTAVAIL, WSAENOBUFS.
pub(crate) const NO_PORTS: [i32; 3] = [10_048, 10_049, 10_055];
/// What to do where listening is not allowed.
pub(crate) const PERMISSION: &str = "another program has the port for itself, or Windows has reserved it (netsh int ipv4 \
    show excludedportrange tcp): choose another";
/// What to do where sockets run out.
pub(crate) const DESCRIPTORS: &str = "close other programs";

/// Prepares a socket for listening: nobody else may listen on its port, on whatever address. Connections in TIME_WAIT
/// keep nobody from it here.
pub(crate) fn before_bind(socket: &Socket, _: bool) -> io::Result<()> {
    imapool_exclusive::set(socket)
}
