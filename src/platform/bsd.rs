//! Systems that are Unix, and not Linux: macOS, FreeBSD. They run imapool, and tell little of themselves.

use super::Has;
pub(crate) use super::elsewhere::facts;

/// What may be configured here.
pub(crate) const HAS: Has = Has { unix_sockets: true, reuse_port: true, source_port_range: false };

pub(crate) mod ports {
    //! Local ports.

    use std::collections::HashSet;
    use std::net::SocketAddr;
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use crate::platform::Held;
    pub(crate) use crate::platform::elsewhere::{LENT_AGAIN, keep_to};

    /// What to do where there are too few.
    pub(crate) const WIDEN: &str = "widen net.inet.ip.portrange.first";
    /// What else to raise, where connections run short.
    pub(crate) const OR_DESCRIPTORS: &str = " or the limit of open files (ulimit -n)";

    /// How a program can be kept to few ports, to show what comes of it.
    pub(crate) const FEW: &str = "it takes a system on which a\n\
        program can keep its own sockets to few ports, such as Linux 6.3";

    /// How long a port is held by a connection that is over: 15 s twice on macOS, 30 s twice on FreeBSD.
    pub(crate) fn time_wait() -> Duration {
        Duration::from_secs(30)
    }

    /// Not known.
    pub(crate) fn held(_: &HashSet<SocketAddr>) -> Option<Held> {
        None
    }

    /// Not known.
    pub(crate) fn ephemeral_range() -> Option<RangeInclusive<u16>> {
        None
    }

    /// Those of macOS, 49152-65535; FreeBSD has more.
    pub(crate) fn ephemeral_ports(_: Option<&RangeInclusive<u16>>) -> usize {
        16_384
    }
}

pub(crate) mod tcp {
    //! TCP, and what the kernel tells of it.

    pub(crate) use crate::platform::elsewhere::{
        HANDED_DOWN, HOLD_BACK, cork, delivery, give_up_after, hand_over, leave_port_open,
    };
    pub(crate) use crate::platform::unix::tcp::{NO_DESCRIPTORS, NO_PORTS, before_bind};

    /// What to do where listening is not allowed.
    pub(crate) const PERMISSION: &str = "a port below 1024 needs root, a Unix socket a writable directory";
    /// What to do where descriptors run out.
    pub(crate) const DESCRIPTORS: &str = "raise the limit of open files (ulimit -n)";
}
