//! Selecting a mailbox that others have selected, and leaving it.

use crate::stage::{Stage, both_end, one_on, play, two, two_on};

/// RFC 9051 section 6.3.2: a SELECT is answered with the mailbox as it is, though nothing is selected anew. RFC 3501
/// section 6.3.1: UNSEEN is the first message without \Seen. Section 2.3.1.1: UIDNEXT is above the UIDs of all
/// messages, also of those that have come since it was asked for.
#[tokio::test]
async fn who_joins_sees_the_mailbox_as_it_is() {
    one_on(
        1,
        "2> a SELECT inbox
         U= UID SEARCH 1:3 | * SEARCH 11 12 13
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U= UID SEARCH UNSEEN | * SEARCH 13
         U= NOOP | * 1 EXPUNGE | * 3 EXISTS
         U= FETCH 3:* (UID) | * 3 FETCH (UID 14)
         2< * FLAGS (\\Seen \\Deleted) | * OK [UIDVALIDITY 7]… | * 3 EXISTS | * 0 RECENT | * OK [UNSEEN 2]…
         2< * OK [UIDNEXT 15]… | a OK [READ-WRITE] selected
         1U b CHECK | * 1 EXPUNGE | * 3 EXISTS",
    )
    .await;
}

/// RFC 3501 section 6.3.1, with ESEARCH (RFC 4731 section 3.1) where the backend has it.
#[tokio::test]
async fn who_joins_is_told_what_is_unseen() {
    play(
        1,
        "ESEARCH",
        "ONE
         2> a SELECT INBOX
         U= UID SEARCH RETURN (ALL) 1:3 | * ESEARCH (tag \"TAG\") UID ALL 11:13
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U= UID SEARCH RETURN (MIN) UNSEEN | * ESEARCH (tag \"TAG\") UID MIN 12
         U= NOOP | * 1 EXPUNGE
         2< * FLAGS (\\Seen \\Deleted) | * OK [UIDVALIDITY 7]… | * 2 EXISTS | * 0 RECENT | * OK [UNSEEN 1]…
         2< * OK [UIDNEXT 14]… | a OK [READ-WRITE] selected",
    )
    .await;
}

/// RFC 9051 section 6.4.1: CLOSE says nothing of what it expunges, and the others are told.
#[tokio::test]
async fn close_is_silent_for_the_one_who_closes() {
    two("1> b CLOSE
         U= EXPUNGE | * 2 EXPUNGE
         1< b OK…
         1= c FETCH 1 FLAGS | c BAD…
         2U b NOOP | * 2 EXPUNGE")
    .await;
}

/// RFC 9051 section 6.4.2: UNSELECT expunges nothing; the mailbox stays selected for the others.
#[tokio::test]
async fn unselect_only_leaves() {
    two("1= b UNSELECT | b OK…
         1= c CHECK | c BAD…
         2U b NOOP")
    .await;
}

/// RFC 9051 section 6.3.3: EXAMINE selects for reading only: beside SELECT, on a connection of its own. Section
/// 6.4.1: CLOSE then expunges nothing.
#[tokio::test]
async fn examine_is_beside_select() {
    one_on(
        2,
        "2> a EXAMINE INBOX
         V= EXAMINE INBOX | * 3 EXISTS | TAG OK [READ-ONLY] examined
         2< * 3 EXISTS | a OK [READ-ONLY] examined
         2> b STORE 1 FLAGS ()
         V= STORE 1 FLAGS () | TAG NO [READ-ONLY] no
         2< b NO [READ-ONLY] no
         2= c CLOSE | c OK…
         1U b NOOP",
    )
    .await;
}

/// RFC 9051 section 6.4.1: CLOSE of what was selected for reading only expunges nothing, and is no failure.
#[tokio::test]
async fn close_after_examine_only_leaves() {
    play(
        1,
        "",
        "1> a EXAMINE INBOX
         U> EXAMINE INBOX
         U< * 3 EXISTS | * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told | TAG OK [READ-ONLY] examined
         1~ a OK [READ-ONLY] examined
         2> a EXAMINE INBOX
         U= UID SEARCH 1:3 | * SEARCH 11 12 13
         U? UIDNEXT 14, UIDVALIDITY 7
         2~ a OK [READ-ONLY] examined
         1= b CLOSE | b OK…
         2U b NOOP",
    )
    .await;
}

/// RFC 9051 section 6.3.2: the last one who leaves leaves the mailbox selected for `pool.linger`; the next one's
/// SELECT is answered with the mailbox as it is then.
#[tokio::test]
async fn a_mailbox_lingers() {
    let mut stage = Stage::set(1, "").await;
    stage
        .play(
            "ONE
             U= UID SEARCH 1:3 | * SEARCH 11 12 13
             1. ",
        )
        .await;
    stage.harness.at_rest(1).await;
    stage
        .play(
            "2> a SELECT INBOX
             U= SELECT INBOX | 5 messages
             2< * 5 EXISTS | a OK [READ-WRITE] selected",
        )
        .await;
    stage.end().await;
}

/// RFC 2180 section 3.3: a mailbox that was deleted under its sessions: who asks hears what the server says, and when
/// that ends the connection, BYE (RFC 9051 section 7.1.5), since the mailbox cannot be selected again.
#[tokio::test]
async fn a_mailbox_is_deleted() {
    two("1U b DELETE INBOX
         2> b FETCH 1 (UID)
         U> FETCH 1 (UID)
         U< * BYE Mailbox is gone
         U!
         V= SELECT \"INBOX\" | TAG NO [NONEXISTENT] no such mailbox
         1< * BYE The mailbox can no longer…
         2< b NO [UNAVAILABLE]… | * BYE The mailbox can no longer…
         1.
         2.")
    .await;
}

/// RFC 2180 section 3.4: a mailbox that was renamed stays selected. Who selects that name means another one, with
/// another UIDVALIDITY (RFC 9051 section 2.3.1.1), and gets it on a connection of its own.
#[tokio::test]
async fn a_mailbox_is_renamed() {
    one_on(
        2,
        "2> a SELECT INBOX
         U= UID SEARCH 1:3 | * SEARCH 11 12 13
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 1 UIDVALIDITY 8)
         V= SELECT INBOX | 0 messages, UIDVALIDITY 8
         2< * 0 EXISTS | * OK [UIDVALIDITY 8] told | a OK [READ-WRITE] selected
         U= UID SEARCH UNSEEN | * SEARCH 11
         U= NOOP
         1> b FETCH 3 (UID)
         U= FETCH 3 (UID) | * 3 FETCH (UID 13)
         1< * 3 FETCH (UID 13) | b OK FETCH done",
    )
    .await;
}

/// RFC 9051 section 2.3.1.1: with another UIDVALIDITY, nothing that a client knows of the mailbox holds any more. It
/// is told the only way there is, by the end of the session.
#[tokio::test]
async fn uidvalidity_changes() {
    both_end("V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 8").await;
}

/// RFC 9051 sections 7.5.1 and 6.3.13: what happened while there was no connection is told when it may be: here, in
/// NOOP and in IDLE.
#[tokio::test]
async fn what_was_missed_is_told() {
    two("U!
         2> b NOOP
         V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 15
         V= UID SEARCH 1:3 | * SEARCH 11 13 14
         V= NOOP
         2< * 2 EXPUNGE | * 3 EXISTS | b OK NOOP done
         1= b IDLE | + idling | * 2 EXPUNGE | * 3 EXISTS
         1= DONE | b OK…")
    .await;
}

/// RFC 9051 section 3.4: a client that vanishes leaves the others undisturbed; section 6.4.1: nothing is expunged.
#[tokio::test]
async fn vanishing_disturbs_nobody() {
    two("1. 
         2U b NOOP
         2= c UNSELECT | c OK…")
    .await;
}

/// RFC 9051 section 6.3.2: SELECT leaves the mailbox before, whatever comes of it, and expunges nothing (section
/// 6.4.1).
#[tokio::test]
async fn select_leaves_the_mailbox_before() {
    two_on(
        2,
        "2> b SELECT Nowhere
         V= SELECT Nowhere | TAG NO [NONEXISTENT] no such mailbox
         2< b NO [NONEXISTENT] no such mailbox
         2= c FETCH 1 (UID) | c BAD…
         1U b NOOP",
    )
    .await;
}

/// RFC 9051 section 6.4.1: nobody else is to be told what CLOSE expunges when the last one closes.
#[tokio::test]
async fn the_last_one_closes_the_mailbox() {
    two("1= b UNSELECT | b OK…
         2U b CLOSE
         2= c CHECK | c BAD…")
    .await;
}

/// RFC 2180 section 3.2: a server may let those go on who have a deleted mailbox selected; for others it is not there.
#[tokio::test]
async fn a_deleted_mailbox_is_there_for_its_sessions_only() {
    one_on(
        2,
        "2> a SELECT INBOX
         U= UID SEARCH 1:3 | * SEARCH 11 12 13
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | TAG NO [NONEXISTENT] no such mailbox
         V= SELECT INBOX | TAG NO [NONEXISTENT] no such mailbox
         2< a NO [NONEXISTENT] no such mailbox
         U= UID SEARCH UNSEEN | * SEARCH 11
         U= NOOP
         1> c FETCH 3 (UID)
         U= FETCH 3 (UID) | * 3 FETCH (UID 13)
         1< * 3 FETCH (UID 13) | c OK FETCH done",
    )
    .await;
}

/// After a CREATE, DELETE or RENAME through imapool, whoever selects the name gets the mailbox that has it now,
/// whatever STATUS says on the connection that has the old one selected (Dovecot: the old one's). Who is in the old
/// one stays.
#[tokio::test]
async fn nobody_joins_by_a_name_that_was_given_away() {
    for (command, select) in [
        ("RENAME Box Kept", "Box"),
        ("RENAME \"Box\" Kept", "Box"),
        ("DELETE Box", "Box"),
        ("CREATE Box", "Box"),
        ("RENAME Old Box", "Box"),
        ("RENAME Box Kept", "Box/Sub"),
        ("RENAME INBOX Kept", "inbox"),
    ] {
        play(
            2,
            "",
            &format!(
                "1> a SELECT {select}
                 U= SELECT {select} | 1 messages, UIDVALIDITY 7, UIDNEXT 2
                 1~ a OK [READ-WRITE] selected
                 2> a {command}
                 V= {command} | TAG OK done
                 2< a OK done
                 2> b SELECT {select}
                 V= SELECT {select} | 0 messages, UIDVALIDITY 8, UIDNEXT 1
                 2~ * OK [UIDVALIDITY 8] told
                 2~ b OK [READ-WRITE] selected
                 1> b FETCH 1 (UID)
                 U= FETCH 1 (UID) | * 1 FETCH (UID 1)
                 1< * 1 FETCH (UID 1) | b OK FETCH done"
            ),
        )
        .await;
    }
}
