//! What one session leaves on a connection never reaches the next.

use std::time::Duration;

use imapool::config::PoolMode;
use imapool::demo::server::{Capabilities, Options, Server};

use crate::support::{Conn, Gate, Harness, Scripted};

/// up-imapproxy: the client closes with a reply in flight, and the next session of that user reads it.
#[tokio::test]
async fn a_reply_in_flight_is_not_the_next_sessions() {
    let (gone, gate) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            conn.play("C: SELECT INBOX\nS: * 1 EXISTS\nS: TAG OK [READ-WRITE] selected\nC: FETCH 1 BODY[]").await;
            gate.passed().await;
            conn.play(
                "S: * 1 FETCH (BODY[] {6}
                 S: SECRET)
                 S: * 2 EXISTS
                 S: TAG OK fetched
                 C: UNSELECT
                 S: * OK [CLOSED] left
                 S: TAG OK unselected
                 C: LIST \"\" *
                 S: * LIST () \"/\" mine
                 S: TAG OK listed",
            )
            .await;
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut first = harness.login("u8").await;
    first.play("C: a SELECT INBOX\nS: * 1 EXISTS\nS: a OK [READ-WRITE] selected\nC: b FETCH 1 BODY[]").await;
    crate::support::until("FETCH at the backend", || backend.received().contains("FETCH")).await;
    first.reset();
    harness.sessions(0).await;
    let mut second = harness.login("u8").await;
    gone.open();
    harness.at_rest(1).await;
    second
        .play(
            "C: c LIST \"\" *
             S: * LIST () \"/\" mine
             S: c OK listed
             C: d LOGOUT
             S: * BYE…
             S: d OK…
             S.",
        )
        .await;
    assert_eq!(backend.logins(), 1, "read to its end and used again");
    harness.finish().await;
}

/// up-imapproxy: commands in one go with LOGOUT; the replies to them reach the next session.
#[tokio::test]
async fn what_was_pipelined_before_logout_is_not_the_next_sessions() {
    let (gone, gate) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            conn.play("C: LIST \"\" one").await;
            gate.passed().await;
            conn.play("S: * LIST () \"/\" one\nS: TAG OK one").await;
            conn.play("C: LIST \"\" two\nS: * LIST () \"/\" two\nS: TAG OK two").await;
            conn.play("C: LIST \"\" mine\nS: * LIST () \"/\" mine\nS: TAG OK mine").await;
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut first = harness.login("u8").await;
    first.send("a LIST \"\" one\r\nb LIST \"\" two\r\nc LOGOUT\r\n").await;
    crate::support::until("LIST at the backend", || backend.received().contains("one")).await;
    // Nothing is answered out of turn, LOGOUT least of all, and what waits has not been sent.
    assert!(!backend.received().contains("two"), "{}", backend.received());
    gone.open();
    first
        .play("S: * LIST () \"/\" one\nS: a OK one\nS: * LIST () \"/\" two\nS: b OK two\nS: * BYE…\nS: c OK…\nS.")
        .await;
    let mut second = harness.login("u8").await;
    second.play("C: d LIST \"\" mine\nS: * LIST () \"/\" mine\nS: d OK mine").await;
    drop(second);
    assert_eq!(backend.logins(), 1);
    harness.finish().await;
}

/// up-imapproxy: ENABLE and the selected mailbox are still there for the next session.
#[tokio::test]
async fn enable_and_the_selected_mailbox_are_not_the_next_sessions() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number == 1 {
            conn.play(
                "C: ENABLE CONDSTORE
                 S: * ENABLED CONDSTORE
                 S: TAG OK [X] enabled
                 C: SELECT INBOX
                 S: * 7 EXISTS
                 S: TAG OK [READ-WRITE] first
                 C: UNSELECT
                 S: TAG OK left
                 C: LIST \"\" x
                 S: TAG OK x",
            )
            .await;
        } else {
            conn.play("C: SELECT INBOX\nS: * 7 EXISTS\nS: TAG OK x").await;
            conn.play("C: UNSELECT\nS: TAG OK left\nC: LIST \"\" z\nS: TAG OK z").await;
        }
        conn.obey().await;
    })
    .await;
    let harness = Harness::by_session(backend.address, |_| {}).await;
    let mut first = harness.login("u8").await;
    first.play("C: a ENABLE CONDSTORE\nS: * ENABLED CONDSTORE\nS: a OK [X] enabled").await;
    first.play("C: b SELECT INBOX\nS: * 7 EXISTS\nS: b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
    harness.at_rest(1).await;
    // Enables the same: gets that connection, and hears what was said there; the mailbox it does not see.
    let mut second = harness.login("u8").await;
    second
        .play("C: a ENABLE CONDSTORE\nS: * ENABLED CONDSTORE\nS: a OK [X] enabled\nC: b LIST \"\" x\nS: b OK x")
        .await;
    second.play("C: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
    assert_eq!((backend.logins(), backend.received().matches("ENABLE").count()), (1, 1));
    harness.at_rest(1).await;
    // Has enabled nothing: a mailbox is selected on another connection.
    let mut third = harness.login("u8").await;
    third.play("C: a LIST \"\" y\nS: a OK done\nC: b SELECT INBOX\nS: * 7 EXISTS\nS: b OK x").await;
    third.play("C: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
    assert_eq!(backend.logins(), 2);
    // That one was left with a mailbox selected, which nobody else sees.
    let mut fourth = harness.login("u8").await;
    fourth.play("C: a LIST \"\" z\nS: a OK z").await;
    assert_eq!((backend.logins(), backend.received().matches("ENABLE").count()), (2, 1));
    drop(fourth);
    harness.at_rest(2).await;
    // The account had room for both: the one with the enabled state is still there for who wants it.
    let mut fifth = harness.login("u8").await;
    fifth.play("C: a ENABLE CONDSTORE\nS: * ENABLED CONDSTORE\nS: a OK [X] enabled").await;
    assert_eq!((backend.logins(), backend.received().matches("ENABLE").count()), (2, 1));
    assert_eq!(harness.metric("imapool_upstream_retired_total", "reason=\"sticky\""), 0);
    drop(fifth);
    harness.finish().await;
}

/// Clients that say something before ENABLE (as imapflow does): without a mailbox, the connection that carries the
/// state already serves for that, too, instead of a further one being put into that state for each session; and what
/// the backend is known to switch on is not asked for again.
#[tokio::test]
async fn enable_after_another_command_takes_the_connection_that_has_it() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    for _ in 0..4 {
        let mut client = harness.login("u8").await;
        client
            .play("C: a NAMESPACE\nS: a OK done\nC: b ENABLE CONDSTORE\nS: * ENABLED CONDSTORE\nS: b OK…\nC: c SELECT INBOX\nS: c OK…")
            .await;
        client.play("C: d LOGOUT\nS: * BYE…\nS: d OK…\nS.").await;
        harness.at_rest(1).await;
        assert_eq!(backend.logins(), 1);
        assert_eq!(backend.received().matches("ENABLE").count(), 1);
    }
    assert_eq!(harness.metric("imapool_upstream_retired_total", "reason=\"sticky\""), 0);
    harness.finish().await;
}

/// A session that enables something else than what any connection at rest carries gets a fresh one, or one at rest is
/// replaced: the enabled state never mixes, where connections are not shared.
#[tokio::test]
async fn other_sticky_state_retires_the_connection_when_there_is_no_room_for_another() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = Harness::by_session(backend.address, |config| config.pool.max_per_account = 1).await;
    for (enable, logins) in [("CONDSTORE", 1), ("CONDSTORE", 1), ("UTF8=ACCEPT", 2), ("CONDSTORE", 3)] {
        let mut client = harness.login("u8").await;
        client.play(&format!("C: a ENABLE {enable}\nS~ a OK done\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.")).await;
        harness.at_rest(1).await;
        assert_eq!(backend.logins(), logins, "{enable}");
    }
    // CONDSTORE by way of a command is the same state (RFC 7162 section 3.1).
    let mut client = harness.login("u8").await;
    client.play("C: a STATUS INBOX (HIGHESTMODSEQ)\nS: a OK done\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
    harness.visit("u8").await;
    assert!(harness.metric("imapool_upstream_retired_total", "reason=\"sticky\"") >= 2);
    harness.finish().await;
}

/// Where they are, CONDSTORE serves also those who have not asked for it, and what changes names does not.
#[tokio::test]
async fn condstore_is_the_same_kind_of_connection() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = Harness::start(backend.address, |config| {
        // Also where all others run without sharing.
        config.pool.mode = PoolMode::Multiplex;
        config.pool.max_per_account = 1;
    })
    .await;
    let select = "\nC: b SELECT INBOX\nS: b OK…";
    for (enable, logins) in [("CONDSTORE", 1), ("", 1), ("CONDSTORE", 1), ("UTF8=ACCEPT", 2), ("CONDSTORE", 3), ("", 3)]
    {
        let mut client = harness.login("u8").await;
        if !enable.is_empty() {
            client.play(&format!("C: a ENABLE {enable}\nS~ a OK…")).await;
        }
        client.play(&format!("{select}\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.")).await;
        harness.at_rest(1).await;
        assert_eq!(backend.logins(), logins, "{enable}");
    }
    assert_eq!(harness.metric("imapool_upstream_retired_total", "reason=\"sticky\""), 2);
    harness.finish().await;
}

/// A server without UNSELECT: an EXAMINE that fails leaves the mailbox without expunging, as CLOSE would.
#[tokio::test]
async fn without_unselect_a_failing_examine_leaves_the_mailbox() {
    let capabilities = Capabilities::default().without("UNSELECT");
    let server = Server::start(Options { capabilities, ..Options::default() }).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let mut first = harness.login("u8").await;
    first
        .play(
            "C: a SELECT INBOX\nS~ a OK…\nC: b STORE 1 +FLAGS.SILENT (\\Deleted)\nS: b OK…\nC: c LOGOUT\nS~ c OK…\nS.",
        )
        .await;
    let mut second = harness.login("u8").await;
    second.play("C: a FETCH 1 FLAGS\nS: a BAD…\nC: b STATUS INBOX (MESSAGES)\nS: * STATUS \"INBOX\" (MESSAGES 10)\nS: b OK…").await;
    assert_eq!(server.counters().logins, 1, "the same connection");
    drop(second);
    harness.finish().await;
}

/// The same where the fallback does not work: the connection is given up.
#[tokio::test]
async fn a_mailbox_that_cannot_be_left_costs_the_connection() {
    let backend = Scripted::offering("IMAP4rev1", |mut conn: Conn| async move {
        if conn.number == 1 {
            conn.play("C: SELECT INBOX\nS: TAG OK x\nC: EXAMINE…\nS: TAG OK strange").await;
        }
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |config| config.pool.linger = Duration::ZERO).await;
    let mut first = harness.login("u8").await;
    first.play("C: a SELECT INBOX\nS: a OK x\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
    crate::support::until("retired", || harness.metric("imapool_upstream_retired_total", "") == 1).await;
    harness.visit("u8").await;
    assert_eq!(backend.logins(), 2);
    harness.finish().await;
}

/// IMAP4rev2 has UNSELECT built in (RFC 9051 section 6.4.2), and its servers need not list it.
#[tokio::test]
async fn imap4rev2_unselects_without_offering_unselect() {
    let backend = Scripted::offering("IMAP4rev1 IMAP4rev2", |mut conn: Conn| async move {
        conn.play("C: SELECT INBOX\nS: TAG OK x\nC: UNSELECT\nS: TAG OK left").await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut first = harness.login("u8").await;
    first.play("C: a SELECT INBOX\nS: a OK x\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
    harness.visit("u8").await;
    assert_eq!(backend.logins(), 1, "the connection is as good as before");
    harness.finish().await;
}

/// Of several connections at rest, the one that has the wanted mailbox selected already.
#[tokio::test]
async fn the_connection_with_the_mailbox_selected_is_preferred() {
    let server = Server::start(Options { marker: true, ..Options::default() }).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let mut clients = Vec::new();
    let mut by_mailbox = Vec::new();
    for mailbox in ["INBOX", "Sent", "Drafts"] {
        let mut client = harness.login("u8").await;
        let reply = client.command(&format!("a SELECT {mailbox}")).await;
        by_mailbox.push((mailbox, connection_of(&reply)));
        clients.push(client);
    }
    drop(clients);
    harness.at_rest(3).await;
    for (mailbox, connection) in by_mailbox {
        let mut client = harness.login("u8").await;
        let reply = client.command(&format!("a SELECT {mailbox}")).await;
        assert_eq!(connection_of(&reply), connection, "{mailbox}: {reply:?}");
        client.play("C: b LOGOUT\nS~ b OK…\nS.").await;
        harness.at_rest(3).await;
    }
    harness.finish().await;
}

/// The `conn=<n>` marker of the in-memory server.
fn connection_of(reply: &[String]) -> String {
    let text = reply.join("\n");
    let start = text.find("conn=").unwrap_or_else(|| panic!("no marker in {text}"));
    text[start..].split(|c: char| c.is_whitespace()).next().unwrap().to_owned()
}

/// Commands whose effect cannot be undone nor named: nobody else gets the connection.
#[tokio::test]
async fn an_unknown_command_costs_the_connection() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    for (command, logins) in [("XYZZY", 1), ("NOTIFY NONE", 2), ("LANGUAGE de", 3), ("COMPARATOR x", 4)] {
        let mut client = harness.login("u8").await;
        client.play(&format!("C: a {command}\nS: a OK done\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.")).await;
        harness.at_rest(0).await;
        assert_eq!(backend.logins(), logins, "{command}");
    }
    harness.finish().await;
}
