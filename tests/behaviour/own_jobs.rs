//! What imapool does of its own accord on a connection, or in the backend's place, and what it makes of a refusal.

use imapool::config::PoolMode;

use crate::support::{Conn, Harness, Scripted};

const MODES: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];

/// IDLE without a mailbox tells nothing (RFC 2177 section 1 knows of news of a mailbox only): imapool answers it
/// itself, and no connection is held by those who do so.
#[tokio::test]
async fn idle_without_a_mailbox_holds_no_connection() {
    for mode in MODES {
        let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
        let harness = Harness::start(backend.address, |config| {
            config.pool.mode = mode;
            config.pool.max_per_account = 1;
        })
        .await;
        let mut idlers = Vec::new();
        for _ in 0..6 {
            let mut client = harness.login("u8").await;
            client.play("C: a IDLE\nS: + idling").await;
            idlers.push(client);
        }
        harness.visit("u8").await;
        let mut other = idlers.pop().unwrap();
        other
            .play("C: NOOP\nS: a BAD…\nC: b IDLE\nS: + idling\nC: DONE\nS: b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…")
            .await;
        for client in &mut idlers {
            client.play("C: DONE\nS: a OK…\nC: b LIST \"\" INBOX\nS: b OK…").await;
            if mode == PoolMode::Session {
                client.play("C: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
            }
        }
        assert!(!backend.received().contains("IDLE"), "{mode:?}");
        assert_eq!(backend.logins(), 1, "{mode:?}");
        drop(idlers);
        harness.finish().await;
    }
}

/// Whoever idles so is told of the end as anybody else.
#[tokio::test]
async fn idle_without_a_mailbox_ends_with_the_proxy() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let mut harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: a IDLE\nS: + idling").await;
    let drain = tokio::spawn(harness.take().drain());
    client.play("S: * BYE [UNAVAILABLE]…\nS.").await;
    crate::support::soon("drain", drain).await.unwrap();
}

/// DavMail, go-imap #351: a failed EXAMINE leaves the earlier mailbox selected. A session that has selected nothing
/// reads nothing there, and its CLOSE expunges nothing.
#[tokio::test]
async fn nobody_is_in_a_mailbox_that_an_earlier_session_has_left_selected() {
    for mode in MODES {
        let backend = Scripted::offering("IMAP4rev1 UIDPLUS MOVE", stubborn).await;
        let harness = Harness::start(backend.address, |config| {
            config.pool.mode = mode;
            config.pool.max_per_account = 1;
        })
        .await;
        let mut first = harness.login("u8").await;
        first.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        let mut second = harness.login("u8").await;
        for verb in ["EXAMINE", "SELECT"] {
            second.play(&format!("C: a {verb} nowhere\nS: a NO…")).await;
            for command in [
                "FETCH 1 BODY[]",
                "UID FETCH 1:* FLAGS",
                "STORE 1 +FLAGS (\\Deleted)",
                "SEARCH ALL",
                "COPY 1 Sent",
                "MOVE 1 Sent",
                "EXPUNGE",
                "CHECK",
                "CLOSE",
                "UNSELECT",
            ] {
                second.play(&format!("C: b {command}\nS: b BAD…")).await;
            }
            // Whatever else runs on the connection does not run in that mailbox.
            second.play("C: c LIST \"\" INBOX\nS: c OK…").await;
        }
        drop(second);
        harness.sessions(0).await;
        let received = backend.received();
        for line in received.lines() {
            assert!(!line.contains("FETCH") && !line.contains("STORE") && !line.contains("EXPUNGE"), "{received}");
        }
        assert_eq!(backend.logins(), 1, "{mode:?}: {received}");
        harness.finish().await;
    }
}

/// A server as DavMail: only SELECT and CLOSE that succeed change what is selected. It sees to it that nothing but
/// that is done in a mailbox, and that it is not closed as long as it may be changed.
async fn stubborn(mut conn: Conn) {
    let mut selected: Option<bool> = None;
    while let Some(command) = conn.command().await {
        let verb = command.split(' ').next().unwrap().to_owned();
        let reply = match (&*verb, selected) {
            ("LOGOUT", _) => return conn.play("S: * BYE bye\nS: TAG OK bye").await,
            ("SELECT" | "EXAMINE", _) if command.contains("nowhere") => "NO no such folder",
            ("SELECT", _) => {
                selected = Some(true);
                "OK [READ-WRITE] selected"
            }
            ("EXAMINE", _) => {
                selected = Some(false);
                "OK [READ-ONLY] selected"
            }
            ("CLOSE", Some(false)) => {
                selected = None;
                "OK closed"
            }
            ("LIST", None) => "OK listed",
            other => panic!("{other:?}"),
        };
        conn.send(format!("{} {reply}\r\n", conn.tag)).await;
    }
}

/// hMailServer: no UNSELECT, and an EXAMINE of nothing is answered BAD. What a session leaves selected costs neither
/// a login nor the next one's first command.
#[tokio::test]
async fn without_unselect_a_mailbox_is_left_by_examine_and_close() {
    for mode in MODES {
        let backend = Scripted::offering("IMAP4rev1 IDLE", stubborn).await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        for _ in 0..12 {
            let mut client = harness.login("u8").await;
            client.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
            harness.at_rest(1).await;
            harness.visit("u8").await;
            harness.at_rest(1).await;
        }
        assert_eq!(backend.logins(), 1, "{mode:?}");
        harness.finish().await;
    }
}

/// Where a mailbox cannot be left, its connection goes to those who select it, or ends; nobody's command fails of
/// that, and once that is known, it is not tried.
#[tokio::test]
async fn where_no_mailbox_can_be_left_nobody_has_to_suffer() {
    for mode in MODES {
        for (offered, refusal) in [("UNSELECT", "NO"), ("UNSELECT", "BAD"), ("", "NO"), ("", "BAD")] {
            let capabilities: &'static str = format!("IMAP4rev1 {offered}").leak();
            let backend = Scripted::offering(capabilities, move |mut conn: Conn| async move {
                while let Some(command) = conn.command().await {
                    let reply = match command.split(' ').next().unwrap() {
                        "LOGOUT" => return conn.play("S: * BYE bye\nS: TAG OK bye").await,
                        "SELECT" => "OK [READ-WRITE] selected",
                        "UNSELECT" | "EXAMINE" | "CLOSE" => refusal,
                        _ => "OK done",
                    };
                    conn.send(format!("{} {reply} x\r\n", conn.tag)).await;
                }
            })
            .await;
            let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
            for _ in 0..6 {
                let mut client = harness.login("u8").await;
                client.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
                harness.sessions(0).await;
                let mut client = harness.login("u8").await;
                client.play("C: a CREATE new\nS: a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
                harness.sessions(0).await;
            }
            let (received, logins) = (backend.received(), backend.logins());
            assert_eq!(received.matches(" CREATE new").count(), 6, "{mode:?}: {received}");
            assert!(received.matches(" EXAMINE ").count() <= 2, "{mode:?}: {received}");
            assert!(logins <= 4, "{mode:?}: {logins}");
            harness.finish().await;
        }
    }
}

/// A command that waits for imapool's own UNSELECT was not sent, however the connection is lost: it is run elsewhere,
/// whatever it does.
#[tokio::test]
async fn what_waits_for_unselect_was_not_sent() {
    for mode in MODES {
        let backend = Scripted::start(|mut conn: Conn| async move {
            if conn.number == 1 {
                conn.play("C: SELECT INBOX\nS: TAG OK [READ-WRITE] selected\nC: UNSELECT").await;
                return;
            }
            conn.play("C: CREATE new\nS: TAG OK created").await;
            conn.obey().await;
        })
        .await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        let mut first = harness.login("u8").await;
        first.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        harness.at_rest(1).await;
        let mut second = harness.login("u8").await;
        second.play("C: a CREATE new\nS: a OK created").await;
        drop(second);
        harness.finish().await;
    }
}

/// NOTIFY (RFC 5465) tells of mailboxes without one being selected: IDLE is the backend's affair then.
#[tokio::test]
async fn idle_after_notify_is_the_backends() {
    for mode in MODES {
        let backend = Scripted::start(|mut conn: Conn| async move {
            conn.play(
                "C: NOTIFY SET (PERSONAL (MessageNew))
                 S: TAG OK set
                 C: IDLE
                 S: + idling
                 S: * STATUS Sent (UIDNEXT 9)
                 C> DONE
                 S: TAG OK idled",
            )
            .await;
            conn.obey().await;
        })
        .await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        let mut client = harness.login("u8").await;
        client
            .play(
                "C: a NOTIFY SET (PERSONAL (MessageNew))
                 S: a OK set
                 C: b IDLE
                 S: + idling
                 S: * STATUS Sent (UIDNEXT 9)
                 C: DONE
                 S: b OK idled",
            )
            .await;
        drop(client);
        harness.finish().await;
    }
}
