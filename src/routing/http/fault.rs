//! What goes wrong with a lookup, in words for operators.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// A lookup that came to no answer. No secret is in it.
#[derive(Debug, Clone, Error)]
#[error("lookup at {service}: {fault}")]
pub struct LookupError {
    /// The service's URL, less its query.
    pub service: Arc<str>,
    /// What went wrong.
    pub fault: Fault,
}

/// What went wrong.
#[derive(Debug, Clone, Error)]
pub enum Fault {
    /// The service's name has no address, or the resolver does not answer.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        reason: Arc<io::Error>,
    },
    /// Nobody listens there, or there is no way there.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The address that was tried last.
        address: SocketAddr,
        /// What the system says.
        reason: Arc<io::Error>,
    },
    /// All of it together took too long: waiting for a connection, connecting, asking.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The connection ended in the middle.
    #[error("the connection ended before the answer")]
    Cut,
    /// Another status than success.
    #[error("answered {0}")]
    Status(u16),
    /// No HTTP, or too much of it.
    #[error("answered what is no HTTP response, or one with more than 64 KiB or 100 fields in its head")]
    NoHttp,
    /// A field of the answer that is missing, there twice, or nothing that it may be.
    #[error("its answer cannot be used: {field} {wrong}")]
    Garbage {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        wrong: String,
    },
    /// Too many questions wait for an answer.
    #[error("too many questions wait for an answer already")]
    Busy,
    /// The lookup itself failed.
    #[error("the lookup was given up")]
    Abandoned,
}

impl Fault {
    /// Whether the service as a whole is not there: then the next question will not fare better. Statuses are those by
    /// which a gateway or the service itself says so.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Timeout(_) | Self::Cut => true,
            Self::Status(status) => (502..=504).contains(status),
            Self::NoHttp | Self::Garbage { .. } | Self::Busy | Self::Abandoned => false,
        }
    }
}
