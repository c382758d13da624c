//! Sessions that have switched CONDSTORE on (RFC 7162) share with all others, who are told no mod-sequences.

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

/// What the hub of a mailbox of three messages asks when the first session with CONDSTORE comes: it selects the mailbox
/// anew, with the parameter.
const RAISED: &str = "U> UID SEARCH 1:3
    U< * SEARCH 11 12 13
    U< TAG OK searched
    U> SELECT \"INBOX\" (CONDSTORE)
    U< * FLAGS (\\Seen \\Deleted)
    U< * 3 EXISTS
    U< * 0 RECENT
    U< * OK [UIDVALIDITY 7] valid
    U< * OK [UIDNEXT 14] next
    U< * OK [HIGHESTMODSEQ 100] highest
    U< TAG OK [READ-WRITE] selected
    U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
    U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 100)
    U< TAG OK status
    U> UID SEARCH UNSEEN
    U< * SEARCH
    U< TAG OK searched
    U> NOOP
    U< TAG OK noop";

/// RFC 5161 section 1, RFC 7162 section 3.1: nobody is told mod-sequences who has not switched them on, though another
/// has on the same connection: not in FETCH, wherever the item stands, nor in status replies, nor when joining.
#[tokio::test]
async fn others_never_see_mod_sequences() {
    let mut stage = Stage::set(1, "CONDSTORE").await;
    stage
        .play(&format!(
            "ONE
             2> b SELECT INBOX (CONDSTORE)
             {RAISED}
             2< * FLAGS (\\Seen \\Deleted)
             2< * OK [UIDVALIDITY 7] valid
             2< * 3 EXISTS
             2< * 0 RECENT
             2< * OK [HIGHESTMODSEQ 100]…
             2< * OK [UIDNEXT 14]…
             2< b OK [READ-WRITE] selected
             2> c STORE 2 +FLAGS (\\Seen)
             U> STORE 2 +FLAGS (\\Seen)
             U< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
             U< TAG OK stored
             2< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
             2< c OK stored
             1> b NOOP
             U> NOOP
             U< * OK [HIGHESTMODSEQ 101] highest
             U< * 1 FETCH (MODSEQ (102) UID 11 FLAGS (\\Seen))
             U< TAG OK [HIGHESTMODSEQ 102] noop
             1< * 2 FETCH (FLAGS (\\Seen) UID 12)
             1< * 1 FETCH (UID 11 FLAGS (\\Seen))
             1< b OK noop
             1> c STORE 3 +FLAGS.SILENT (\\Seen)
             U> STORE 3 +FLAGS (\\Seen)
             U< * 3 FETCH (FLAGS (\\Seen) MODSEQ (103))
             U< TAG OK stored
             1< c OK stored
             1> d FETCH 1 (BODY[])
             U> FETCH 1 (BODY[])
             U< * 1 FETCH (BODY[] {{20}}
             U< x MODSEQ (1) FLAGS
             U<  FLAGS (\\Answered) MODSEQ (104))
             U< * 2 FETCH (MODSEQ (105))
             U< TAG OK fetched
             1< * 1 FETCH (BODY[] {{20}}
             1< x MODSEQ (1) FLAGS
             1<  FLAGS (\\Answered))
             1< d OK fetched
             3> a SELECT INBOX
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
             U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 105)
             U< TAG OK status
             U> UID SEARCH UNSEEN
             U< * SEARCH
             U< TAG OK searched
             U> NOOP
             U< TAG OK noop
             3< * FLAGS (\\Seen \\Deleted)
             3< * OK [UIDVALIDITY 7] valid
             3< * 3 EXISTS
             3< * 0 RECENT
             3< * OK [UIDNEXT 14]…
             3< a OK [READ-WRITE] selected
             2> d NOOP
             U> NOOP
             U< TAG OK noop
             2< * 1 FETCH (FLAGS (\\Answered) UID 11 MODSEQ (104))
             2< * 3 FETCH (FLAGS (\\Seen) UID 13 MODSEQ (103))
             2< d OK noop"
        ))
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1: what the server does not understand has switched on nothing; what it refuses has.
#[tokio::test]
async fn a_command_that_is_not_understood_switches_on_nothing() {
    for (status, told) in [("BAD", ""), ("NO", " MODSEQ (102)")] {
        let mut stage = Stage::set(1, "CONDSTORE").await;
        stage
            .play(&format!(
                "ONE
                 TWO
                 2> b FETCH 1 (MODSEQ)
                 U> FETCH 1 (MODSEQ)
                 U< * OK [HIGHESTMODSEQ 100] highest
                 U< * 1 FETCH (MODSEQ (5))
                 U< TAG OK fetched
                 2< * OK [HIGHESTMODSEQ 100] highest
                 2< * 1 FETCH (MODSEQ (5))
                 2< b OK fetched
                 1> b FETCH 1 (MODSEQ NONSENSE)
                 U> FETCH 1 (MODSEQ NONSENSE)
                 U< TAG {status} nonsense
                 1~ b {status} nonsense
                 1> c STORE 1 FLAGS (y)
                 U> STORE 1 FLAGS (y)
                 U< * 1 FETCH (UID 11 FLAGS (y) MODSEQ (102))
                 U< TAG OK stored
                 1< * 1 FETCH (UID 11 FLAGS (y){told})
                 1< c OK stored"
            ))
            .await;
        stage.end().await;
    }
}

/// RFC 7162 section 3.1: FETCH (MODSEQ) switches CONDSTORE on in the middle of a mailbox, for the session that says so:
/// it hears HIGHESTMODSEQ then, and mod-sequences from then on. It stays with the others, who hear none, and who says
/// so later on the same connection hears HIGHESTMODSEQ, too.
#[tokio::test]
async fn in_the_middle_of_a_mailbox() {
    let mut stage = Stage::set(1, "CONDSTORE").await;
    stage
        .play(
            "ONE
             TWO
             2> b FETCH 1 (MODSEQ)
             U> FETCH 1 (MODSEQ)
             U< * OK [HIGHESTMODSEQ 100] highest
             U< * 1 FETCH (MODSEQ (5))
             U< TAG OK fetched
             2< * OK [HIGHESTMODSEQ 100] highest
             2< * 1 FETCH (MODSEQ (5))
             2< b OK fetched
             1> b STORE 1 FLAGS (x)
             U> STORE 1 FLAGS (x)
             U< * 1 FETCH (FLAGS (x) MODSEQ (101))
             U< TAG OK stored
             1< * 1 FETCH (FLAGS (x))
             1< b OK stored
             2> c NOOP
             U> NOOP
             U< TAG OK noop
             2< * 1 FETCH (FLAGS (x) UID 11 MODSEQ (101))
             2< c OK noop
             1> c SEARCH MODSEQ 5
             U> SEARCH MODSEQ 5
             U< * SEARCH 1 (MODSEQ 101)
             U< TAG OK searched
             1< * OK [HIGHESTMODSEQ 100]…
             1< * SEARCH 1 (MODSEQ 101)
             1< c OK searched
             2> d STORE 2 FLAGS (y)
             U> STORE 2 FLAGS (y)
             U< * 2 FETCH (FLAGS (y) MODSEQ (102))
             U< TAG OK stored
             2~ d OK stored
             1> d NOOP
             U> NOOP
             U< TAG OK noop
             1< * 2 FETCH (FLAGS (y) UID 12 MODSEQ (102))
             1< d OK noop
             1> e SELECT Other
             1< * OK [CLOSED]…
             U> UNSELECT
             U< TAG OK unselected
             U> SELECT \"Other\" (CONDSTORE)
             U< TAG NO none
             1< e NO none",
        )
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1: each of these asks for mod-sequences, and is answered with them, on the connection that the
/// others share; with numbers that lag as without. (They had a connection of their own each, visit after visit.)
#[tokio::test]
async fn what_asks_for_mod_sequences_is_shared() {
    for (command, sent, reply, heard) in [
        ("FETCH 3 (UID MODSEQ)", "FETCH 2 (UID MODSEQ)", "2 FETCH (UID 13 MODSEQ (9))", "3 FETCH (UID 13 MODSEQ (9))"),
        (
            "FETCH 3 (FLAGS) (CHANGEDSINCE 1)",
            "FETCH 2 (FLAGS) (CHANGEDSINCE 1)",
            "2 FETCH (FLAGS () MODSEQ (9))",
            "3 FETCH (FLAGS () MODSEQ (9))",
        ),
        (
            "STORE 3 (UNCHANGEDSINCE 7) +FLAGS (x)",
            "STORE 2 (UNCHANGEDSINCE 7) +FLAGS (x)",
            "2 FETCH (MODSEQ (9) FLAGS (x))",
            "3 FETCH (MODSEQ (9) FLAGS (x))",
        ),
        ("SEARCH MODSEQ 1", "SEARCH MODSEQ 1", "SEARCH 2 (MODSEQ 9)", "SEARCH 3 (MODSEQ 9)"),
        (
            "STATUS Other (HIGHESTMODSEQ)",
            "STATUS Other (HIGHESTMODSEQ)",
            "STATUS Other (HIGHESTMODSEQ 9)",
            "STATUS Other (HIGHESTMODSEQ 9)",
        ),
    ] {
        let told = if command.starts_with("STATUS") { "2< * 2 EXPUNGE\n" } else { "" };
        let mut stage = Stage::set(1, "CONDSTORE").await;
        stage
            .play(&format!(
                "ONE
                 TWO
                 1> b EXPUNGE
                 U> EXPUNGE
                 U< * 2 EXPUNGE
                 U< TAG OK expunged
                 1~ b OK expunged
                 2> b {command}
                 U> {sent}
                 U< * {reply}
                 U< TAG OK done
                 {told}2< * {heard}
                 2< b OK done
                 1> c NOOP
                 U> NOOP
                 U< * 1 FETCH (FLAGS (y) MODSEQ (10))
                 U< TAG OK noop
                 1~ c OK noop
                 2> c NOOP
                 U> NOOP
                 U< TAG OK noop
                 2~ c OK noop"
            ))
            .await;
        stage.end().await;
    }
}

/// RFC 7162 section 3.1.8: where a backend refuses the parameter, who has not asked for it goes on without, and the
/// next who asks hears the refusal.
#[tokio::test]
async fn the_parameter_is_refused() {
    let mut stage = Stage::set(2, "CONDSTORE").await;
    stage
        .play(
            "ONE
             2> b SELECT INBOX (CONDSTORE)
             U> UID SEARCH 1:3
             U< * SEARCH 11 12 13
             U< TAG OK searched
             U> SELECT \"INBOX\" (CONDSTORE)
             U< TAG BAD what is that
             U> SELECT \"INBOX\"
             U< * 3 EXISTS
             U< * OK [UIDVALIDITY 7] valid
             U< * OK [UIDNEXT 14] next
             U< TAG OK [READ-WRITE] selected
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
             U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
             U< TAG OK status
             U> UID SEARCH UNSEEN
             U< * SEARCH
             U< TAG OK searched
             U> NOOP
             U< TAG OK noop
             2~ b OK [READ-WRITE] selected
             1> b NOOP
             U> NOOP
             U< TAG OK noop
             1< b OK noop
             3> a SELECT INBOX (CONDSTORE)
             V> SELECT INBOX (CONDSTORE)
             V< TAG BAD what is that
             3< a BAD what is that",
        )
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1: a command that is known to nobody may tell whatever is on. So it has a connection on which
/// nothing is but what its session has switched on.
#[tokio::test]
async fn what_pins_has_a_connection_without_mod_sequences() {
    let mut stage = Stage::set(1, "CONDSTORE").await;
    stage
        .play(
            "1> a STATUS INBOX (HIGHESTMODSEQ)
             U> STATUS INBOX (HIGHESTMODSEQ)
             U< * STATUS INBOX (HIGHESTMODSEQ 100)
             U< TAG OK status
             1~ a OK status
             2> a SELECT INBOX
             U> SELECT INBOX
             U< * 3 EXISTS
             U< * OK [UIDVALIDITY 7] valid
             U< * OK [UIDNEXT 14] next
             U< * OK [HIGHESTMODSEQ 100] highest
             U< TAG OK [READ-WRITE] selected
             2~ a OK [READ-WRITE] selected
             2> b XYZZY
             U> LOGOUT
             U< * BYE bye
             U< TAG OK bye
             U!
             V> SELECT \"INBOX\"
             V< * 3 EXISTS
             V< * OK [UIDVALIDITY 7] valid
             V< * OK [UIDNEXT 14] next
             V< TAG OK [READ-WRITE] selected
             V> XYZZY
             V< * 2 FETCH (FLAGS (x))
             V< TAG OK xyzzy
             2< * 2 FETCH (FLAGS (x))
             2< b OK xyzzy",
        )
        .await;
    stage.end().await;
}

/// RFC 7162 section 3.1: mod-sequences only ever grow. Where they do not, nobody who goes by them can be told what has
/// changed.
#[tokio::test]
async fn mod_sequences_that_go_back_end_the_mailbox() {
    let mut stage = Stage::set(1, "CONDSTORE").await;
    stage.play(FIRST).await;
    stage.play(SECOND).await;
    stage
        .play(
            "1> b FETCH 1 (UID)
             U> FETCH 1 (UID)
             U!
             V> SELECT \"INBOX\" (CONDSTORE)
             V< * 3 EXISTS
             V< * OK [UIDVALIDITY 7] valid
             V< * OK [UIDNEXT 14] next
             V< * OK [HIGHESTMODSEQ 99] highest
             V< TAG OK [READ-WRITE] selected
             1< b NO [UNAVAILABLE]…
             1< * BYE…
             1.
             2< * BYE…
             2.",
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
