//! Connections over real loopback sockets: listeners, PROXY headers, TLS, dialing, and how connections end.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(unix)]

mod closing;
mod dialing;
mod listening;
mod proxy_header;
mod sni;
mod support;
mod tls;
