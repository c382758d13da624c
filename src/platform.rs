//! What differs between operating systems. Only this module, `allocator.rs` and `crates/imapool-exclusive` ask which
//! one it is (`.ci/cfgs`); each system has the same modules, so that nobody else needs to.
//!
//! | module | is about |
//! | --- | --- |
//! | `files` | opening files that may be no files; which file it is; folders that are to last |
//! | `local` | sockets with a path, and those that the process was started with |
//! | `manager` | what the service manager is told |
//! | `paths` | where things are by default |
//! | `ports` | local ports: how many there are, and who holds them |
//! | `service` | imapool as a service of Windows |
//! | `signals` | what the system asks for |
//! | `tcp` | what of TCP is not the same everywhere |
//! | `told` | what came of a reload by a signal |

use std::io;

#[cfg(all(unix, not(target_os = "linux")))]
mod bsd;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(all(unix, not(target_os = "linux")))]
use self::bsd as kernel;
#[cfg(target_os = "linux")]
use self::linux as kernel;
#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::{windows as kernel, windows as system};

pub(crate) use self::kernel::{HAS, facts, ports, tcp};
pub use self::system::local::{Stream as LocalStream, connect};
pub(crate) use self::system::{descriptor_limit, files, host_name, local};
pub use self::system::{manager, paths, raise_descriptor_limit, service, shows_colours, signals, told};

/// What may be configured here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Has {
    /// Sockets with a path.
    pub(crate) unix_sockets: bool,
    /// `listener.reuse_port`
    pub(crate) reuse_port: bool,
    /// `backend.source_port_range`
    pub(crate) source_port_range: bool,
}

#[cfg(test)]
impl Has {
    pub(crate) const EVERYTHING: Self = Self { unix_sockets: true, reuse_port: true, source_port_range: true };
    pub(crate) const NOTHING: Self = Self { unix_sockets: false, reuse_port: false, source_port_range: false };
}

/// What the operating system asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To end; what asks, such as a signal's name.
    Shutdown(&'static str),
    /// To read the configuration again (SIGHUP).
    Reload,
    /// To let another process take over (SIGUSR1).
    HandOver,
}

/// How far what was written to a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Octets that the peer's kernel has not acknowledged.
    pub(crate) undelivered: usize,
    /// The peer's FIN has come.
    pub(crate) peer_closed: bool,
}

/// Connections of this host (of its network namespace, by whatever process) to certain addresses. Each holds a local
/// port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Held {
    /// Over, and in TIME_WAIT.
    pub(crate) time_wait: usize,
    /// In any other state.
    pub(crate) in_use: usize,
}

/// Whether a process or the host has no descriptors left.
pub(crate) fn no_descriptors(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| tcp::NO_DESCRIPTORS.contains(&code))
}

/// Whether connect(2) found no port.
pub(crate) fn no_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
        || error.raw_os_error().is_some_and(|code| tcp::NO_PORTS.contains(&code))
}

/// Whether bind(2) to an address found no port; where it finds no such address, this host has none.
pub(crate) fn no_port_to_bind(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::AddrNotAvailable && no_ports(error)
}

/// What of this process is known; `None` where the system does not say.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) start_seconds: Option<f64>,
}

#[cfg(test)]
impl Facts {
    /// How many there are.
    pub(crate) fn known(&self) -> usize {
        let counts = [self.open_fds, self.max_fds, self.resident_bytes, self.virtual_bytes];
        let times = [self.cpu_seconds, self.start_seconds];
        counts.iter().flatten().count() + times.iter().flatten().count()
    }
}
