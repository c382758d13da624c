//! The protocol of imapool: what is said on either side, read and written by state machines that know neither sockets
//! nor a clock nor randomness. They take input by `handle_*` and give output by `poll_*`; time is an argument. So every
//! rule in them is tested octet by octet, without a network.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests are not part of it"))]

pub mod imap;
pub mod mailbox;
pub mod names;
pub mod proxy_protocol;
pub mod routing;
pub mod secret;
pub mod session;
pub mod shown;
pub mod throttle;
pub mod upstream;
