//! Several backends: which of them a session goes to, and how an account gets from one to another.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

mod accounts;
mod asked;
mod by_hand;
mod groups;
mod kept;
mod moved;
mod names;
mod rules;
mod town;
