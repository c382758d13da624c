//! What only Linux has.

pub(crate) mod ports;
pub(crate) mod process;
mod sock_diag;
mod steer;
pub(crate) mod tcp;

use super::Has;

/// What may be configured here.
pub(crate) const HAS: Has = Has { unix_sockets: true, reuse_port: true, source_port_range: true };
