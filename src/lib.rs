//! imapool: an IMAP reverse proxy which keeps a small pool of authenticated upstream connections for each account
//! and lets any number of short client sessions share them.
//!
//! ARCHITECTURE.md has the map of these modules.

pub mod config;
pub mod demo;
