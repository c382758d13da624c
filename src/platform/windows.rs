//! What Windows has.

pub(crate) mod files;
pub(crate) mod local;
pub mod manager;
pub mod paths;
pub(crate) mod ports;
pub(crate) mod process;
pub mod service;
pub mod signals;
pub(crate) mod tcp;
pub mod told;

use super::Has;

/// What may be configured here.
pub(crate) const HAS: Has = Has { unix_sockets: false, reuse_port: false, source_port_range: false };

/// There is no such limit.
pub fn raise_descriptor_limit() {}

/// What this host is called.
pub(crate) fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok().map(|name| name.to_lowercase())
}
