//! What clients and backends may do to a running proxy, one module for each class of behaviour. Every fault that
//! proxies and pools of the field are known for is a test here.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cancellation;
mod capabilities;
mod credentials;
mod cut_anywhere;
mod drain;
mod gate;
mod lax_clients;
mod limits;
mod literals;
mod logins;
mod malformed_backends;
mod malformed_clients;
mod malformed_replies;
mod outage;
mod own_jobs;
mod pool_limits;
mod reuse;
mod starttls;
mod strangers;
mod whose;
mod whose_random;
mod whose_storm;
