//! What only Linux has.

pub(crate) mod ports;
mod process;
mod sock_diag;
pub(crate) mod tcp;

pub(crate) use self::process::facts;
use super::Has;

/// What may be configured here.
pub(crate) const HAS: Has = Has { unix_sockets: true, reuse_port: true, source_port_range: true };
