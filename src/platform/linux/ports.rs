//! Local ports.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::sock_diag;
use crate::platform::Held;

/// What to do where there are too few.
pub(crate) const WIDEN: &str = "widen net.ipv4.ip_local_port_range";
/// What else to raise, where connections run short.
pub(crate) const OR_DESCRIPTORS: &str = " or LimitNOFILE";

/// How a program can be kept to few ports, to show what comes of it.
pub(crate) const FEW: &str = "it takes Linux 6.3 or later, where a\n\
    program can keep its own sockets to few ports";

/// `include/uapi/linux/in.h`
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// The first port in the low half, the last one in the high half (ip(7)).
#[derive(Debug, Clone, Copy)]
struct LocalPortRange;

nix::setsockopt_impl!(LocalPortRange, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, u32, sockopt::SetStruct<u32>);

/// Has connect(2) choose the socket's port from this range.
pub(crate) fn keep_to(socket: SockRef<'_>, range: &RangeInclusive<u16>) -> io::Result<()> {
    let both = u32::from(*range.end()) << 16 | u32::from(*range.start());
    Ok(setsockopt(&*socket, LocalPortRange, &both)?)
}

/// What is different on the loopback interface, where a port is in TIME_WAIT.
pub(crate) const LENT_AGAIN: &str = ". Here, on the loopback interface, Linux lends such a\n\
    port again after a second; across a network not";

/// How long a port is held by a connection that is over.
pub(crate) fn time_wait() -> Duration {
    Duration::from_secs(60)
}

/// Ports held towards these addresses. `None`: the system does not tell.
pub(crate) fn held(towards: &HashSet<SocketAddr>) -> Option<Held> {
    sock_diag::held(towards).ok()
}

fn setting(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
}

/// The ports that connect(2) chooses from.
pub(crate) fn ephemeral_range() -> Option<RangeInclusive<u16>> {
    parse_range(&setting("ip_local_port_range"))
}

/// The size of `range`, or of all ephemeral ports, less what is reserved in it.
pub(crate) fn ephemeral_ports(range: Option<&RangeInclusive<u16>>) -> usize {
    let range = range.cloned().or_else(ephemeral_range);
    range.map_or(16_384, |range| ports_in(&range, &setting("ip_local_reserved_ports")))
}

/// `32768 60999`
fn parse_range(range: &str) -> Option<RangeInclusive<u16>> {
    let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    Some(bounds.next()?..=bounds.next()?)
}

/// Less `8080,40000-40099`.
fn ports_in(range: &RangeInclusive<u16>, reserved: &str) -> usize {
    let (low, high) = (*range.start(), *range.end());
    let reserved = reserved.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<u16>().ok()?.max(low), to.parse::<u16>().ok()?.min(high));
        (from <= to).then(|| usize::from(to - from) + 1)
    });
    range.len().saturating_sub(reserved.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_count_where_they_lie_in_the_range() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_range(""), None);
        assert_eq!(ports_in(&(32_768..=60_999), "\n"), 28_232);
        assert_eq!(ports_in(&(40_000..=40_099), "8080,39990-40009,40050,50000-50010"), 89);
        assert_eq!(ports_in(&(40_000..=40_000), ""), 1);
    }
}
