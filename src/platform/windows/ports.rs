//! Local ports.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use socket2::SockRef;

use crate::platform::Held;

/// What to do where there are too few.
pub(crate) const WIDEN: &str = "widen the dynamic ports (netsh int ipv4 set dynamicport tcp 10000 55536)";
/// What else to raise, where connections run short: nothing.
pub(crate) const OR_DESCRIPTORS: &str = "";

/// Sockets: as many as there is memory for.
pub(crate) fn descriptor_limit() -> usize {
    usize::MAX / 4
}

/// No option does that.
pub(crate) fn keep_to(_: SockRef<'_>, _: &RangeInclusive<u16>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not yet.
pub(crate) fn held(_: &HashSet<SocketAddr>) -> Option<Held> {
    None
}

pub(crate) fn ephemeral_range() -> Option<RangeInclusive<u16>> {
    None
}

/// Since Windows Vista: 49152-65535.
pub(crate) fn ephemeral_ports(_: Option<&RangeInclusive<u16>>) -> usize {
    16_384
}
