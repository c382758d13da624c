//! Several imapools: a session goes through to the one that has its account.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

mod ahead;
mod ends;
mod flow;
mod many;
mod moved;
mod owner;
mod ring;
mod through;
