//! imapool as it is deployed: three hosts, each a network namespace of its own with few ephemeral ports, and a real
//! `imapool run` on the middle one.
//!
//! They need root (`CAP_SYS_ADMIN` and `CAP_NET_ADMIN`), or
//! `unshare --map-root-user --net cargo test --test namespaces`; without either they are skipped with a word on
//! standard error, and fail if `IMAPOOL_REQUIRE_REAL=1`. `IMAPOOL_NETNS_SESSIONS` sets how many sessions each kind of
//! load has, `IMAPOOL_NETNS_OUTAGE` how many seconds each outage lasts.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

mod budget;
mod economy;
mod front_end;
mod host;
mod outage;
mod proxy;
