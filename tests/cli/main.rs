//! The command line in front of what lies: files that are none, servers that are none, readers that stop reading.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

mod connect;
mod files;
mod output;
mod place;
mod reload;
