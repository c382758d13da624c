//! imapool: an IMAP reverse proxy which keeps a small pool of authenticated upstream connections for each account
//! and lets any number of short client sessions share them.
//!
//! ARCHITECTURE.md has the map of these modules.

pub use imapool_proto::{imap, names, proxy_protocol, shown, throttle};

pub mod admin;
pub mod app;
pub mod auth;
mod certificate;
pub mod config;
pub mod demo;
mod files;
mod flights;
pub mod import;
pub mod listener;
pub mod log_format;
pub mod mailbox;
pub mod metrics;
pub mod net;
pub mod platform;
pub mod pool;
pub mod ports;
pub mod residence;
pub mod routing;
pub mod schema;
pub mod secret;
pub mod session;
pub mod stream;
pub mod terms;
pub mod tls;
pub mod upstream;
