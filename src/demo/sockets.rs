//! What the kernel says about ports: Linux only, `None` elsewhere.

#[cfg(target_os = "linux")]
use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use socket2::{Domain, Socket, Type};

use crate::ports::keep_to_ports;

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
#[cfg(target_os = "linux")]
pub fn towards(address: SocketAddr) -> Option<Ports> {
    let held = crate::sock_diag::held(&HashSet::from([address])).ok()?;
    Some(Ports { time_wait: held.time_wait, in_use: held.in_use })
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub fn towards(_: SocketAddr) -> Option<Ports> {
    None
}

/// The ports the kernel may choose from for outgoing connections.
pub fn ephemeral() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = text.split_ascii_whitespace().map(|n| n.parse::<u16>().ok());
    Some(ends.next()??..=ends.next()??)
}

/// The first `number` of this host's ports, for sockets to be kept to; fewer where the host has fewer.
///
/// # Errors
/// Where the system cannot keep a socket to a range of ports: `IP_LOCAL_PORT_RANGE` came with Linux 6.3.
pub fn few(number: u16) -> io::Result<RangeInclusive<u16>> {
    // The kernel ignores, without a word, what lies outside of its own range.
    let host = ephemeral().ok_or(io::ErrorKind::Unsupported)?;
    let few = *host.start()..=host.start().saturating_add(number - 1).min(*host.end());
    keep_to_ports(&Socket::new(Domain::IPV4, Type::STREAM, None)?, &few)?;
    Ok(few)
}
