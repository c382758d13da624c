//! Sessions that have switched CONDSTORE on (RFC 7162) share with one another, and with nobody else.

use crate::stage::{ONE, Stage, TWO};

/// The first session selects a mailbox of three messages (UIDs 11 to 13).
const FIRST: &str = "1> a SELECT INBOX (CONDSTORE)
    U> SELECT \"INBOX\" (CONDSTORE)
    U< * 3 EXISTS
    U< * OK [UIDVALIDITY 7] valid
    U< * OK [HIGHESTMODSEQ 100] highest
    U< TAG OK [READ-WRITE] selected
    1< * 3 EXISTS
    1< * OK [UIDVALIDITY 7] valid
    1< * OK [HIGHESTMODSEQ 100] highest
    1< a OK [READ-WRITE] selected";

/// The second one has said so before: its SELECT needs no parameter.
const SECOND: &str = "2> a SELECT INBOX (CONDSTORE)
    U> UID SEARCH 1:3
    U< * SEARCH 11 12 13
    U< TAG OK searched
    U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
    U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 123456789012)
    U< TAG OK status
    U> UID SEARCH UNSEEN
    U< * SEARCH
    U< TAG OK searched
    U> NOOP
    U< TAG OK noop
    2< * OK [UIDVALIDITY 7]…
    2< * 3 EXISTS
    2< * OK [HIGHESTMODSEQ 123456789012]…
    2< * OK [UIDNEXT 14]…
    2< a OK [READ-WRITE] selected";

async fn two(script: &str) {
    let mut stage = Stage::set(1, "CONDSTORE").await;
    stage.play(FIRST).await;
    stage.play(SECOND).await;
    stage.play(script).await;
    assert_eq!(stage.backend.logins(), 1);
    stage.end().await;
}

/// RFC 7162 section 3.1.2.1: who joins is told HIGHESTMODSEQ as it is. Sections 3.1.4.2 and 3.2.4: flags are told
/// with their mod-sequence and UID.
#[tokio::test]
async fn news_bear_their_mod_sequence() {
    two("1> b STORE 2 +FLAGS (\\Seen)
         U> STORE 2 +FLAGS (\\Seen)
         U< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
         U< TAG OK stored
         1< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
         1< b OK stored
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * 2 FETCH (FLAGS (\\Seen) UID 12 MODSEQ (101))
         2< b OK noop")
    .await;
}

/// RFC 7162 section 3.1.4.2, example 14: who stores silently is told the mod-sequence all the same, and the others
/// are told all.
#[tokio::test]
async fn a_silent_store_tells_the_mod_sequence() {
    two("1> b UID STORE 12 +FLAGS.SILENT (\\Seen)
         U> UID STORE 12 +FLAGS (\\Seen)
         U< * 2 FETCH (UID 12 FLAGS (\\Seen) MODSEQ (101))
         U< TAG OK stored
         1< * 2 FETCH (UID 12 MODSEQ (101))
         1< b OK stored
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * 2 FETCH (FLAGS (\\Seen) UID 12 MODSEQ (101))
         2< b OK noop")
    .await;
}

/// RFC 7162 section 3.1.3: UNCHANGEDSINCE; those of `[MODIFIED …]` are message numbers. Section 3.1.6: the last number
/// of a SEARCH by mod-sequence is none.
#[tokio::test]
async fn modified_messages_are_numbers() {
    two("1> b EXPUNGE
         U> EXPUNGE
         U< * 1 EXPUNGE
         U< TAG OK [HIGHESTMODSEQ 102] expunged
         1< * 1 EXPUNGE
         1< b OK [HIGHESTMODSEQ 102] expunged
         2> b STORE 2:3 (UNCHANGEDSINCE 100) +FLAGS.SILENT (\\Seen)
         U> STORE 1:2 (UNCHANGEDSINCE 100) +FLAGS (\\Seen)
         U< * 1 FETCH (FLAGS (\\Seen) MODSEQ (103))
         U< TAG OK [MODIFIED 2] conditional
         2< * 2 FETCH (FLAGS (\\Seen) MODSEQ (103))
         2< b OK [MODIFIED 3] conditional
         2> c SEARCH MODSEQ 100
         U> SEARCH MODSEQ 100
         U< * SEARCH 1 2 (MODSEQ 103)
         U< TAG OK searched
         2< * SEARCH 2 3 (MODSEQ 103)
         2< c OK searched")
    .await;
}

/// RFC 7162 section 3.1.4.2: flags that only one asked for, without their mod-sequence, and that the others know
/// otherwise: they are told with it.
#[tokio::test]
async fn what_was_told_without_it_is_asked_for() {
    two("1> b FETCH 2 (FLAGS MODSEQ)
         U> FETCH 2 (FLAGS MODSEQ)
         U< * 2 FETCH (FLAGS () MODSEQ (90))
         U< TAG OK fetched
         1< * 2 FETCH (FLAGS () MODSEQ (90))
         1< b OK fetched
         2> b FETCH 2 (FLAGS)
         U> FETCH 2 (FLAGS)
         U< * 2 FETCH (FLAGS (\\Answered))
         U< TAG OK fetched
         U> FETCH 2:2 (FLAGS MODSEQ)
         U< * 2 FETCH (FLAGS (\\Answered) MODSEQ (104))
         U< TAG OK fetched
         2< * 2 FETCH (FLAGS (\\Answered))
         2< b OK fetched
         1> c NOOP
         U> NOOP
         U< TAG OK noop
         1< * 2 FETCH (FLAGS (\\Answered) UID 12 MODSEQ (104))
         1< c OK noop")
    .await;
}

/// RFC 5161 section 1, RFC 7162 section 3.1: nobody is told mod-sequences who has not switched them on: such sessions
/// have a connection of their own. ENABLE before SELECT is as good as its parameter.
#[tokio::test]
async fn others_never_see_mod_sequences() {
    let mut stage = Stage::set(2, "CONDSTORE").await;
    stage.play(ONE).await;
    stage
        .play(
            "2> a ENABLE CONDSTORE
             V> ENABLE CONDSTORE
             V< * ENABLED CONDSTORE
             V< TAG OK enabled
             2< * ENABLED CONDSTORE
             2< a OK enabled
             2> b SELECT INBOX
             V> SELECT \"INBOX\" (CONDSTORE)
             V< * 3 EXISTS
             V< * OK [UIDVALIDITY 7] valid
             V< * OK [HIGHESTMODSEQ 100] highest
             V< TAG OK [READ-WRITE] selected
             2~ b OK [READ-WRITE] selected
             2> c STORE 2 +FLAGS (\\Seen)
             V> STORE 2 +FLAGS (\\Seen)
             V< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
             V< TAG OK stored
             2< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
             2< c OK stored
             1> b NOOP
             U> NOOP
             U< * 2 FETCH (FLAGS (\\Seen))
             U< TAG OK noop
             1< * 2 FETCH (FLAGS (\\Seen))
             1< b OK noop",
        )
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1: who switches CONDSTORE on in the middle of a mailbox, as here by FETCH (section 3.1.4.1),
/// has a connection of its own from then on.
#[tokio::test]
async fn in_the_middle_of_a_mailbox_it_pins() {
    let mut stage = Stage::set(2, "CONDSTORE").await;
    stage.play(ONE).await;
    stage.play(TWO).await;
    stage
        .play(
            "2> b FETCH 1 (MODSEQ)
             V> SELECT \"INBOX\"
             V< * 3 EXISTS
             V< * OK [UIDVALIDITY 7] valid
             V< * OK [UIDNEXT 14] next
             V< TAG OK [READ-WRITE] selected
             V> FETCH 1 (MODSEQ)
             V< * OK [HIGHESTMODSEQ 100] highest
             V< * 1 FETCH (MODSEQ (5))
             V< TAG OK fetched
             2< * OK [HIGHESTMODSEQ 100] highest
             2< * 1 FETCH (MODSEQ (5))
             2< b OK fetched
             2> c NOOP
             V> NOOP
             V< * 1 FETCH (FLAGS () MODSEQ (101))
             V< TAG OK noop
             2< * 1 FETCH (FLAGS () MODSEQ (101))
             2< c OK noop
             1> b STORE 1 FLAGS ()
             U> STORE 1 FLAGS ()
             U< * 1 FETCH (FLAGS ())
             U< TAG OK stored
             1< * 1 FETCH (FLAGS ())
             1< b OK stored",
        )
        .await;
    stage.end().await;
}

/// RFC 5161 section 3.1: ENABLE is for the time before a mailbox is selected. What a backend makes of it afterwards
/// is the backend's affair: the session has a connection of its own for it, and the others do not notice.
#[tokio::test]
async fn enable_in_a_mailbox_pins() {
    let mut stage = Stage::set(2, "CONDSTORE").await;
    stage.play(ONE).await;
    stage.play(TWO).await;
    stage
        .play(
            "2> b ENABLE CONDSTORE
             V> SELECT \"INBOX\"
             V< * 3 EXISTS
             V< * OK [UIDVALIDITY 7] valid
             V< * OK [UIDNEXT 14] next
             V< TAG OK [READ-WRITE] selected
             V> ENABLE CONDSTORE
             V< TAG BAD too late
             2< b BAD too late
             2> c FETCH 1 (UID)
             V> FETCH 1 (UID)
             V< * 1 FETCH (UID 11)
             V< TAG OK fetched
             2< * 1 FETCH (UID 11)
             2< c OK fetched
             1> b NOOP
             U> NOOP
             U< TAG OK noop
             1< b OK noop",
        )
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1.2.2: a mailbox without mod-sequences says so to everybody, and none are asked for.
#[tokio::test]
async fn a_mailbox_without_mod_sequences() {
    let mut stage = Stage::set(1, "CONDSTORE").await;
    stage
        .play(
            "1> a SELECT INBOX (CONDSTORE)
             U> SELECT \"INBOX\" (CONDSTORE)
             U< * 0 EXISTS
             U< * OK [UIDVALIDITY 7] valid
             U< * OK [NOMODSEQ] none
             U< TAG OK [READ-WRITE] selected
             1~ a OK [READ-WRITE] selected
             2> a SELECT INBOX (CONDSTORE)
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
             U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
             U< TAG OK status
             U> NOOP
             U< TAG OK noop
             2< * OK [UIDVALIDITY 7]…
             2< * OK [NOMODSEQ]…
             2< * 0 EXISTS
             2< * OK [UIDNEXT 14]…
             2< a OK [READ-WRITE] selected",
        )
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1.2.1: what is news before the one who joins has joined is in the highest mod-sequence that it
/// is told.
#[tokio::test]
async fn the_highest_mod_sequence_includes_what_came_last() {
    let mut stage = Stage::set(1, "CONDSTORE").await;
    stage.play(FIRST).await;
    stage
        .play(
            "2> a SELECT INBOX (CONDSTORE)
             U> UID SEARCH 1:3
             U< * SEARCH 11 12 13
             U< TAG OK searched
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
             U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 100)
             U< TAG OK status
             U> UID SEARCH UNSEEN
             U< * SEARCH
             U< TAG OK searched
             U> NOOP
             U< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
             U< TAG OK noop
             2< * OK [UIDVALIDITY 7]…
             2< * 3 EXISTS
             2< * OK [HIGHESTMODSEQ 101]…
             2< * OK [UIDNEXT 14]…
             2< a OK [READ-WRITE] selected",
        )
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1.3: where some are gone, the reply to a conditional STORE says which of the others were not
/// changed. Of what is gone nothing is said (RFC 9051 section 7.5.1), nor of its mod-sequence. (It was NO, by example
/// 11, which a client alone on its connection does not hear.)
#[tokio::test]
async fn modified_messages_beside_those_that_are_gone() {
    two("1> b EXPUNGE
         U> EXPUNGE
         U< * 1 EXPUNGE
         U< TAG OK expunged
         1~ b OK expunged
         2> b STORE 1:3 (UNCHANGEDSINCE 100) +FLAGS (\\Seen)
         U> STORE 1:2 (UNCHANGEDSINCE 100) +FLAGS (\\Seen)
         U< * 1 FETCH (FLAGS (\\Seen) MODSEQ (103))
         U< TAG OK [MODIFIED 2] conditional
         2< * 2 FETCH (FLAGS (\\Seen) MODSEQ (103))
         2< b OK [MODIFIED 3] conditional")
    .await;
}

/// RFC 7162 section 3.2.11: who selects another mailbox hears where the news of the one before end, also from a
/// server that has only CONDSTORE.
#[tokio::test]
async fn the_mailbox_before_is_closed() {
    two("2> b SELECT Other
         2< * OK [CLOSED]…
         U> UNSELECT
         U< TAG OK unselected
         U> SELECT \"Other\" (CONDSTORE)
         U< * 0 EXISTS
         U< TAG OK [READ-WRITE] selected
         2< * 0 EXISTS
         2< b OK [READ-WRITE] selected
         2> c UNSELECT
         2< c OK…")
    .await;
}
