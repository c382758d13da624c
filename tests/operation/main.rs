//! What an operator does with a running proxy: another configuration, new certificates, the API, an upgrade; and what
//! it tells of itself meanwhile.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

mod api;
mod authority;
mod browser;
mod certificates;
mod closing;
mod commands;
mod counted;
mod effects;
mod forward;
mod frozen;
mod hostile;
mod http;
mod load;
mod moved;
mod night;
mod obeyed;
mod page;
mod process;
mod reload;
mod seeing;
mod storm;
mod strangers;
mod terms;
mod told;
mod upgrade;
