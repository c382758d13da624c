//! Who is told what.

use super::{JOINED, Scripted, multiplexing, pair, three_messages};
use crate::support::{Conn, until};

/// RFC 9051 section 6.3.2: a SELECT is answered with the mailbox as it is, though nothing is selected anew.
#[tokio::test]
async fn who_joins_sees_the_mailbox_as_it_is() {
    let backend = three_messages(
        "C: UID SEARCH ALL
         S: * SEARCH 11 12 13
         S: TAG OK searched
         C: STATUS \"INBOX\" (UIDNEXT)
         S: * STATUS INBOX (UIDNEXT 15)
         S: TAG OK status
         C: NOOP
         S: * 1 EXPUNGE
         S: * 3 EXISTS
         S: TAG OK noop
         C: NOOP
         S: TAG OK noop",
    )
    .await;
    let harness = multiplexing(&backend, 1).await;
    let mut one = harness.login("u8").await;
    one.play("C: a SELECT INBOX\nS~ a OK [READ-WRITE]…").await;
    let mut two = harness.login("u8").await;
    two.play(
        "C: a SELECT inbox
         S: * FLAGS (\\Seen \\Deleted)
         S: * OK [UIDVALIDITY 7] valid
         S: * 3 EXISTS
         S: * 0 RECENT
         S: * OK [UIDNEXT 15] Predicted next UID
         S: a OK [READ-WRITE] selected",
    )
    .await;
    one.play("C: b NOOP\nS: * 1 EXPUNGE\nS: * 3 EXISTS\nS: b OK noop").await;
    assert_eq!(backend.logins(), 1);
    drop((one, two));
    harness.finish().await;
}

/// RFC 9051 section 7.5.1: no EXPUNGE during FETCH by number; numbers mean what they meant. RFC 5530 section 3:
/// EXPUNGEISSUED when a message is gone that another session expunged.
#[tokio::test]
async fn numbers_are_kept_until_a_client_may_hear_of_expunge() {
    let script = [
        JOINED,
        "C: EXPUNGE
         S: * 1 EXPUNGE
         S: TAG OK expunged
         C: FETCH 2 (UID)
         S: * 2 FETCH (UID 13)
         S: TAG OK fetched
         C: SEARCH 2
         S: * SEARCH 2
         S: TAG OK searched
         C: NOOP
         S: TAG OK noop",
    ]
    .join("\n");
    let backend = three_messages(script.leak()).await;
    let harness = multiplexing(&backend, 1).await;
    let (mut one, mut two) = pair(&harness).await;
    one.play("C: b EXPUNGE\nS: * 1 EXPUNGE\nS: b OK expunged").await;
    two.play(
        "C: b FETCH 3 (UID)
         S: * 3 FETCH (UID 13)
         S: b OK fetched
         C: c FETCH 1 (UID)
         S: c NO [EXPUNGEISSUED]…
         C: d SEARCH 3
         S: * SEARCH 3
         S: d OK searched
         C: e NOOP
         S: * 1 EXPUNGE
         S: e OK noop",
    )
    .await;
    drop((one, two));
    harness.finish().await;
}

/// RFC 9051 section 6.4.6: `.SILENT` is silent for the one who asks, and the others are told.
#[tokio::test]
async fn a_silent_store_is_told_to_the_others() {
    let script = [
        JOINED,
        "C: STORE 2 +FLAGS (\\Seen)
         S: * 2 FETCH (FLAGS (\\Seen))
         S: TAG OK stored
         C: NOOP
         S: TAG OK noop",
    ]
    .join("\n");
    let backend = three_messages(script.leak()).await;
    let harness = multiplexing(&backend, 1).await;
    let (mut one, mut two) = pair(&harness).await;
    one.play("C: b STORE 2 +FLAGS.SILENT (\\Seen)\nS: b OK stored").await;
    two.play("C: b NOOP\nS: * 2 FETCH (FLAGS (\\Seen))\nS: b OK noop").await;
    drop((one, two));
    harness.finish().await;
}

/// RFC 2177: one IDLE serves all; a command of one interrupts it, and its news reach the others at once.
#[tokio::test]
async fn one_idle_for_all() {
    let script = [
        JOINED,
        "C: IDLE
         S: + idling
         S: * 4 EXISTS
         C> DONE
         S: TAG OK idled
         C: STORE 1 +FLAGS (\\Deleted)
         S: * 1 FETCH (FLAGS (\\Deleted))
         S: TAG OK stored",
    ]
    .join("\n");
    let backend = three_messages(script.leak()).await;
    let harness = multiplexing(&backend, 1).await;
    let (mut one, mut two) = pair(&harness).await;
    one.play("C: b IDLE\nS: + idling\nS: * 4 EXISTS").await;
    two.play("C: b STORE 1 +FLAGS (\\Deleted)\nS: * 4 EXISTS\nS: * 1 FETCH (FLAGS (\\Deleted))\nS: b OK stored").await;
    one.play("S: * 1 FETCH (FLAGS (\\Deleted))\nC: DONE\nS: b OK Idle completed.").await;
    drop((one, two));
    harness.finish().await;
}

/// RFC 9051 section 6.4.1: CLOSE says nothing of what it expunges, and the others are told.
#[tokio::test]
async fn close_is_silent_for_the_one_who_closes() {
    let script = [
        JOINED,
        "C: EXPUNGE
         S: * 2 EXPUNGE
         S: TAG OK expunged
         C: NOOP
         S: TAG OK noop",
    ]
    .join("\n");
    let backend = three_messages(script.leak()).await;
    let harness = multiplexing(&backend, 1).await;
    let (mut one, mut two) = pair(&harness).await;
    one.play("C: b CLOSE\nS: b OK…\nC: c FETCH 1 FLAGS\nS: c BAD…").await;
    two.play("C: b NOOP\nS: * 2 EXPUNGE\nS: b OK noop").await;
    drop((one, two));
    harness.finish().await;
}

/// RFC 9051 section 6.4.5: reading sets \Seen, of which the others hear; asking for flags is no news.
#[tokio::test]
async fn reading_is_news_and_looking_is_not() {
    let script = [
        JOINED,
        "C: FETCH 1 (BODY[])
         S: * 1 FETCH (BODY[] {20}
         S: * 2 EXPUNGE {5}\\r\\n)
         S:  FLAGS (\\Seen))
         S: TAG OK fetched
         C: FETCH 2 (FLAGS)
         S: * 2 FETCH (FLAGS (\\Deleted))
         S: TAG OK fetched
         C: NOOP
         S: TAG OK noop",
    ]
    .join("\n");
    let backend = three_messages(script.leak()).await;
    let harness = multiplexing(&backend, 1).await;
    let (mut one, mut two) = pair(&harness).await;
    one.play("C: b FETCH 1 (BODY[])\nS~ b OK fetched\nC: c FETCH 2 (FLAGS)\nS: * 2 FETCH (FLAGS (\\Deleted))\nS: c OK fetched")
        .await;
    two.play("C: b NOOP\nS: * 1 FETCH (FLAGS (\\Seen))\nS: b OK noop").await;
    drop((one, two));
    harness.finish().await;
}

/// Without a mailbox a session holds no connection between its commands.
#[tokio::test]
async fn a_session_without_a_mailbox_holds_nothing() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = multiplexing(&backend, 1).await;
    let mut one = harness.login("u8").await;
    let mut two = harness.login("u8").await;
    for tag in 0..3 {
        one.play(&format!("C: a{tag} LIST \"\" *\nS: a{tag} OK done")).await;
        two.play(&format!("C: a{tag} STATUS x (MESSAGES)\nS: a{tag} OK done")).await;
    }
    harness.at_rest(1).await;
    assert_eq!(backend.logins(), 1);
    drop((one, two));
    harness.finish().await;
}

/// A client that vanishes leaves the others undisturbed, and the last one the mailbox selected.
#[tokio::test]
async fn leaving_disturbs_nobody() {
    let script = [JOINED, "C: NOOP\nS: TAG OK noop"].join("\n");
    let backend = three_messages(script.leak()).await;
    let harness = multiplexing(&backend, 1).await;
    let (one, mut two) = pair(&harness).await;
    one.reset();
    two.play("C: b NOOP\nS: b OK noop\nC: c UNSELECT\nS: c OK…").await;
    harness.at_rest(1).await;
    until("nothing unselected", || !backend.received().contains("UNSELECT")).await;
    drop(two);
    harness.finish().await;
}
