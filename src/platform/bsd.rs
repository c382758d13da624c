//! Systems that are Unix, and not Linux: macOS, FreeBSD. They run imapool, and tell little of themselves.

use super::Has;

/// What may be configured here.
pub(crate) const HAS: Has = Has { unix_sockets: true, reuse_port: true, source_port_range: false };

pub(crate) mod ports {
    //! Local ports.

    use std::collections::HashSet;
    use std::io;
    use std::net::SocketAddr;
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use socket2::SockRef;

    use crate::platform::Held;

    pub(crate) use crate::platform::system::descriptor_limit;

    /// What to do where there are too few.
    pub(crate) const WIDEN: &str = "widen net.inet.ip.portrange.first";
    /// What else to raise, where connections run short.
    pub(crate) const OR_DESCRIPTORS: &str = " or the limit of open files (ulimit -n)";

    /// How a program can be kept to few ports, to show what comes of it.
    pub(crate) const FEW: &str = "it takes a system on which a\n\
        program can keep its own sockets to few ports, such as Linux 6.3";

    /// What is different on the loopback interface, where a port is in TIME_WAIT.
    pub(crate) const LENT_AGAIN: &str = "";

    /// How long a port is held by a connection that is over: 15 s twice on macOS, 30 s twice on FreeBSD.
    pub(crate) fn time_wait() -> Duration {
        Duration::from_secs(30)
    }

    /// No option does that.
    pub(crate) fn keep_to(_: SockRef<'_>, _: &RangeInclusive<u16>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
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

pub(crate) mod process {
    //! Numbers of this process.

    use crate::platform::Facts;

    /// Not known.
    pub(crate) fn facts() -> Facts {
        Facts::default()
    }
}

pub(crate) mod tcp {
    //! TCP, and what the kernel tells of it.

    use std::io;
    use std::net::SocketAddr;
    use std::time::Duration;

    use nix::errno::Errno;
    use socket2::{SockRef, Socket};
    use tokio::net::{TcpListener, TcpStream};

    use crate::platform::Delivery;

    /// No flag of send(2) says that more will follow.
    pub(crate) const HOLD_BACK: i32 = 0;
    /// An accepted socket has its own options.
    pub(crate) const HANDED_DOWN: bool = false;
    /// What the system says where descriptors run out.
    pub(crate) const NO_DESCRIPTORS: [i32; 2] = [Errno::EMFILE as i32, Errno::ENFILE as i32];
    /// What it says where connect(2) finds no port.
    #[cfg(test)]
    pub(crate) const NO_PORTS: [i32; 2] = [Errno::EADDRNOTAVAIL as i32, Errno::EADDRINUSE as i32];
    /// What to do where listening is not allowed.
    pub(crate) const PERMISSION: &str = "a port below 1024 needs root, a Unix socket a writable directory";
    /// What to do where descriptors run out.
    pub(crate) const DESCRIPTORS: &str = "raise the limit of open files (ulimit -n)";

    /// Nothing is held back.
    pub(crate) fn cork(_: SockRef<'_>, _: bool) {}

    /// Not known.
    pub(crate) fn delivery(_: &TcpStream) -> Option<Delivery> {
        None
    }

    /// The system's own patience has to do.
    pub(crate) fn give_up_after(_: SockRef<'_>, _: Duration) -> io::Result<()> {
        Ok(())
    }

    /// A bind chooses the port.
    pub(crate) fn leave_port_open(_: SockRef<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Prepares a socket for listening: past connections in TIME_WAIT must not keep a new process from it.
    pub(crate) fn before_bind(socket: &Socket, _: SocketAddr, reuse_port: bool) -> io::Result<()> {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)
    }

    /// Which of two sockets gets a connection, the kernel says.
    pub(crate) fn hand_over(_: &TcpListener) -> bool {
        false
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
}
