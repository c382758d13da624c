//! Several sessions, one mailbox, one connection: what each is told, and when, by the RFCs. The backend follows a
//! script, so every octet that goes to it is checked as well.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "for other tests")]
#[path = "../support/mod.rs"]
mod support;

mod condstore;
mod connections;
mod enabled;
mod idle;
mod lies;
mod literals;
mod losses;
mod news;
mod numbers;
mod parking;
mod qresync;
mod quirks;
mod refusals;
mod selecting;
mod stage;

use imapool::config::PoolMode;
use support::{Client, Conn, Harness, Scripted};

/// A proxy that multiplexes, with at most so many connections for an account.
async fn multiplexing(backend: &Scripted, connections: usize) -> Harness {
    Harness::start(backend.address, |config| {
        config.pool.mode = PoolMode::Multiplex;
        config.pool.max_per_account = connections;
    })
    .await
}

/// The first SELECT.
const SELECTED: &str = "C: SELECT INBOX
    S: * FLAGS (\\Seen \\Deleted)
    S: * 3 EXISTS
    S: * 0 RECENT
    S: * OK [UIDVALIDITY 7] valid
    S: * OK [UIDNEXT 14] next
    S: TAG OK [READ-WRITE] selected";

/// What is asked for when a second session joins.
const JOINED: &str = "C: UID SEARCH 1:3
    S: * SEARCH 11 12 13
    S: TAG OK searched
    C: STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
    S: * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
    S: TAG OK status
    C: UID SEARCH UNSEEN
    S: * SEARCH
    S: TAG OK searched
    C: NOOP
    S: TAG OK noop";

/// Two sessions in INBOX.
async fn pair(harness: &Harness) -> (Client, Client) {
    let mut one = harness.login("u8").await;
    one.play("C: a SELECT INBOX\nS~ a OK [READ-WRITE]…").await;
    let mut two = harness.login("u8").await;
    two.play("C: a SELECT INBOX\nS~ a OK [READ-WRITE]…").await;
    (one, two)
}
