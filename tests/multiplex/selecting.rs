//! Selecting a mailbox that others have selected, and leaving it.

use crate::stage::{Stage, play, two};

/// RFC 9051 section 6.3.2: a SELECT is answered with the mailbox as it is, though nothing is selected anew. RFC 3501
/// section 6.3.1: UNSEEN is the first message without \Seen. Section 2.3.1.1: UIDNEXT is above the UIDs of all
/// messages, also of those that have come since it was asked for.
#[tokio::test]
async fn who_joins_sees_the_mailbox_as_it_is() {
    play(
        1,
        "",
        "ONE
         2> a SELECT inbox
         U> UID SEARCH 1:3
         U< * SEARCH 11 12 13
         U< TAG OK searched
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
         U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U< TAG OK status
         U> UID SEARCH UNSEEN
         U< * SEARCH 13
         U< TAG OK searched
         U> NOOP
         U< * 1 EXPUNGE
         U< * 3 EXISTS
         U< TAG OK noop
         U> FETCH 3:* (UID)
         U< * 3 FETCH (UID 14)
         U< TAG OK fetched
         2< * FLAGS (\\Seen \\Deleted)
         2< * OK [UIDVALIDITY 7]…
         2< * 3 EXISTS
         2< * 0 RECENT
         2< * OK [UNSEEN 2]…
         2< * OK [UIDNEXT 15]…
         2< a OK [READ-WRITE] selected
         1> b CHECK
         U> CHECK
         U< TAG OK checked
         1< * 1 EXPUNGE
         1< * 3 EXISTS
         1< b OK checked",
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
         U> UID SEARCH RETURN (ALL) 1:3
         U< * ESEARCH (tag \"TAG\") UID ALL 11:13
         U< TAG OK searched
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
         U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U< TAG OK status
         U> UID SEARCH RETURN (MIN) UNSEEN
         U< * ESEARCH (tag \"TAG\") UID MIN 12
         U< TAG OK searched
         U> NOOP
         U< * 1 EXPUNGE
         U< TAG OK noop
         2< * FLAGS (\\Seen \\Deleted)
         2< * OK [UIDVALIDITY 7]…
         2< * 2 EXISTS
         2< * 0 RECENT
         2< * OK [UNSEEN 1]…
         2< * OK [UIDNEXT 14]…
         2< a OK [READ-WRITE] selected",
    )
    .await;
}

/// RFC 9051 section 6.4.1: CLOSE says nothing of what it expunges, and the others are told.
#[tokio::test]
async fn close_is_silent_for_the_one_who_closes() {
    two("1> b CLOSE
         U> EXPUNGE
         U< * 2 EXPUNGE
         U< TAG OK expunged
         1< b OK…
         1> c FETCH 1 FLAGS
         1< c BAD…
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * 2 EXPUNGE
         2< b OK noop")
    .await;
}

/// RFC 9051 section 6.4.2: UNSELECT expunges nothing; the mailbox stays selected for the others.
#[tokio::test]
async fn unselect_only_leaves() {
    two("1> b UNSELECT
         1< b OK…
         1> c CHECK
         1< c BAD…
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< b OK noop")
    .await;
}

/// RFC 9051 section 6.3.3: EXAMINE selects for reading only: beside SELECT, on a connection of its own. Section
/// 6.4.1: CLOSE then expunges nothing.
#[tokio::test]
async fn examine_is_beside_select() {
    play(
        2,
        "",
        "ONE
         2> a EXAMINE INBOX
         V> EXAMINE INBOX
         V< * 3 EXISTS
         V< TAG OK [READ-ONLY] examined
         2< * 3 EXISTS
         2< a OK [READ-ONLY] examined
         2> b STORE 1 FLAGS ()
         V> STORE 1 FLAGS ()
         V< TAG NO [READ-ONLY] no
         2< b NO [READ-ONLY] no
         2> c CLOSE
         2< c OK…
         1> b NOOP
         U> NOOP
         U< TAG OK noop
         1< b OK noop",
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
         U< * 3 EXISTS
         U< * OK [UIDVALIDITY 7] valid
         U< * OK [UIDNEXT 14] next
         U< TAG OK [READ-ONLY] examined
         1~ a OK [READ-ONLY] examined
         2> a EXAMINE INBOX
         U> UID SEARCH 1:3
         U< * SEARCH 11 12 13
         U< TAG OK searched
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
         U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U< TAG OK status
         U> UID SEARCH UNSEEN
         U< * SEARCH
         U< TAG OK searched
         U> NOOP
         U< TAG OK noop
         2~ a OK [READ-ONLY] examined
         1> b CLOSE
         1< b OK…
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< b OK noop",
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
             U> UID SEARCH 1:3
             U< * SEARCH 11 12 13
             U< TAG OK searched
             1. ",
        )
        .await;
    stage.harness.at_rest(1).await;
    stage
        .play(
            "2> a SELECT INBOX
         U> SELECT INBOX
         U< * 5 EXISTS
         U< TAG OK [READ-WRITE] selected
         2< * 5 EXISTS
         2< a OK [READ-WRITE] selected",
        )
        .await;
    stage.end().await;
}

/// RFC 2180 section 3.3: a mailbox that was deleted under its sessions: who asks hears what the server says, and when
/// that ends the connection, BYE (RFC 9051 section 7.1.5), since the mailbox cannot be selected again.
#[tokio::test]
async fn a_mailbox_is_deleted() {
    two("1> b DELETE INBOX
         U> DELETE INBOX
         U< TAG OK deleted
         1< b OK deleted
         2> b FETCH 1 (UID)
         U> FETCH 1 (UID)
         U< * BYE Mailbox is gone
         U!
         V> SELECT \"INBOX\"
         V< TAG NO [NONEXISTENT] no such mailbox
         1< * BYE The mailbox can no longer…
         2< b NO [UNAVAILABLE]…
         2< * BYE The mailbox can no longer…
         1. \n2. ")
    .await;
}

/// RFC 2180 section 3.4: a mailbox that was renamed stays selected. Who selects that name means another one, with
/// another UIDVALIDITY (RFC 9051 section 2.3.1.1), and gets it on a connection of its own.
#[tokio::test]
async fn a_mailbox_is_renamed() {
    play(
        2,
        "",
        "ONE
         2> a SELECT INBOX
         U> UID SEARCH 1:3
         U< * SEARCH 11 12 13
         U< TAG OK searched
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
         U< * STATUS INBOX (UIDNEXT 1 UIDVALIDITY 8)
         U< TAG OK status
         V> SELECT INBOX
         V< * 0 EXISTS
         V< * OK [UIDVALIDITY 8] valid
         V< TAG OK [READ-WRITE] selected
         2< * 0 EXISTS
         2< * OK [UIDVALIDITY 8] valid
         2< a OK [READ-WRITE] selected
         U> UID SEARCH UNSEEN
         U< * SEARCH 11
         U< TAG OK searched
         U> NOOP
         U< TAG OK noop
         1> b FETCH 3 (UID)
         U> FETCH 3 (UID)
         U< * 3 FETCH (UID 13)
         U< TAG OK fetched
         1< * 3 FETCH (UID 13)
         1< b OK fetched",
    )
    .await;
}

/// RFC 9051 section 2.3.1.1: with another UIDVALIDITY, nothing that a client knows of the mailbox holds any more. It
/// is told the only way there is, by the end of the session.
#[tokio::test]
async fn uidvalidity_changes() {
    two("U!
         2> b NOOP
         V> SELECT \"INBOX\"
         V< * 3 EXISTS
         V< * OK [UIDVALIDITY 8] valid
         V< TAG OK [READ-WRITE] selected
         1< * BYE…
         2< b NO [UNAVAILABLE]…
         2< * BYE…
         1. \n2. ")
    .await;
}

/// RFC 9051 sections 7.5.1 and 6.3.13: what happened while there was no connection is told when it may be: here, in
/// NOOP and in IDLE.
#[tokio::test]
async fn what_was_missed_is_told() {
    two("U!
         2> b NOOP
         V> SELECT \"INBOX\"
         V< * 3 EXISTS
         V< * OK [UIDVALIDITY 7] valid
         V< * OK [UIDNEXT 15] next
         V< TAG OK [READ-WRITE] selected
         V> UID SEARCH 1:3
         V< * SEARCH 11 13 14
         V< TAG OK searched
         V> NOOP
         V< TAG OK noop
         2< * 2 EXPUNGE
         2< * 3 EXISTS
         2< b OK noop
         1> b IDLE
         1< + idling
         1< * 2 EXPUNGE
         1< * 3 EXISTS
         1> DONE
         1< b OK…")
    .await;
}

/// RFC 9051 section 3.4: a client that vanishes leaves the others undisturbed; section 6.4.1: nothing is expunged.
#[tokio::test]
async fn vanishing_disturbs_nobody() {
    two("1. 
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< b OK noop
         2> c UNSELECT
         2< c OK…")
    .await;
}

/// RFC 9051 section 6.3.2: SELECT leaves the mailbox before, whatever comes of it, and expunges nothing (section
/// 6.4.1).
#[tokio::test]
async fn select_leaves_the_mailbox_before() {
    play(
        2,
        "",
        "ONE
         TWO
         2> b SELECT Nowhere
         V> SELECT Nowhere
         V< TAG NO [NONEXISTENT] no such mailbox
         2< b NO [NONEXISTENT] no such mailbox
         2> c FETCH 1 (UID)
         2< c BAD…
         1> b NOOP
         U> NOOP
         U< TAG OK noop
         1< b OK noop",
    )
    .await;
}

/// RFC 9051 section 6.4.1: nobody else is to be told what CLOSE expunges when the last one closes.
#[tokio::test]
async fn the_last_one_closes_the_mailbox() {
    two("1> b UNSELECT
         1< b OK…
         2> b CLOSE
         U> CLOSE
         U< TAG OK closed
         2< b OK closed
         2> c CHECK
         2< c BAD…")
    .await;
}

/// RFC 2180 section 3.2: a server may let those go on who have a deleted mailbox selected; for others it is not there.
#[tokio::test]
async fn a_deleted_mailbox_is_there_for_its_sessions_only() {
    play(
        2,
        "",
        "ONE
         2> a SELECT INBOX
         U> UID SEARCH 1:3
         U< * SEARCH 11 12 13
         U< TAG OK searched
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
         U< TAG NO [NONEXISTENT] no such mailbox
         V> SELECT INBOX
         V< TAG NO [NONEXISTENT] no such mailbox
         2< a NO [NONEXISTENT] no such mailbox
         U> UID SEARCH UNSEEN
         U< * SEARCH 11
         U< TAG OK searched
         U> NOOP
         U< TAG OK noop
         1> c FETCH 3 (UID)
         U> FETCH 3 (UID)
         U< * 3 FETCH (UID 13)
         U< TAG OK fetched
         1< * 3 FETCH (UID 13)
         1< c OK fetched",
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
        let mut stage = Stage::set(2, "").await;
        stage
            .play(&format!(
                "1> a SELECT {select}
                 U> SELECT {select}
                 U< * 1 EXISTS
                 U< * OK [UIDVALIDITY 7] valid
                 U< * OK [UIDNEXT 2] next
                 U< TAG OK [READ-WRITE] selected
                 1~ a OK [READ-WRITE] selected
                 2> a {command}
                 V> {command}
                 V< TAG OK done
                 2< a OK done
                 2> b SELECT {select}
                 V> SELECT {select}
                 V< * 0 EXISTS
                 V< * OK [UIDVALIDITY 8] valid
                 V< * OK [UIDNEXT 1] next
                 V< TAG OK [READ-WRITE] selected
                 2~ * OK [UIDVALIDITY 8] valid
                 2~ b OK [READ-WRITE] selected
                 1> b FETCH 1 (UID)
                 U> FETCH 1 (UID)
                 U< * 1 FETCH (UID 1)
                 U< TAG OK fetched
                 1< * 1 FETCH (UID 1)
                 1< b OK fetched"
            ))
            .await;
        stage.end().await;
    }
}
