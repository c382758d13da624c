//! What the system says about ports; `None` where it does not.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use socket2::{Domain, SockRef, Socket, Type};

use crate::platform::ports::{self, keep_to};

/// Local ports that are taken by connections to one remote address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    /// By connections that are over, in TIME_WAIT.
    pub time_wait: usize,
    /// By connections in any other state.
    pub in_use: usize,
}

impl Ports {
    /// All of them.
    pub fn held(self) -> usize {
        self.time_wait + self.in_use
    }
}

/// The ports of this host which connections to this address hold.
pub fn towards(address: SocketAddr) -> Option<Ports> {
    let held = ports::held(&HashSet::from([address]))?;
    Some(Ports { time_wait: held.time_wait, in_use: held.in_use })
}

/// The ports the system may choose from for outgoing connections.
pub fn ephemeral() -> Option<RangeInclusive<u16>> {
    ports::ephemeral_range()
}

/// Few local ports for sockets to connect from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Few {
    /// Which.
    pub ports: RangeInclusive<u16>,
    /// Whether each socket has to be kept to them; else the host has no others.
    pub kept: bool,
}

/// The first `number` of this host's ports, for sockets to be kept to; fewer where the host has fewer. Where sockets
/// cannot be kept to them: all of the host's, if these are hardly more.
///
/// # Errors
/// Where the system cannot keep a socket to a range of ports (`IP_LOCAL_PORT_RANGE` came with Linux 6.3), and has many.
pub fn few(number: u16) -> io::Result<Few> {
    // The kernel ignores, without a word, what lies outside of its own range.
    let host = ephemeral().ok_or(io::ErrorKind::Unsupported)?;
    let ports = *host.start()..=host.start().saturating_add(number - 1).min(*host.end());
    let kept = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| keep_to(SockRef::from(&socket), &ports));
    match kept {
        Ok(()) => Ok(Few { ports, kept: true }),
        Err(_) if host.len() <= 2 * usize::from(number) => Ok(Few { ports: host, kept: false }),
        Err(error) => Err(error),
    }
}
