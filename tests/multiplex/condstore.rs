//! Sessions that have switched CONDSTORE on (RFC 7162) share with all others, who are told no mod-sequences.

use crate::stage::{Stage, play, two_offering};

/// The first session selects a mailbox of three messages (UIDs 11 to 13).
const FIRST: &str = "1> a SELECT INBOX (CONDSTORE)
    U= SELECT \"INBOX\" (CONDSTORE) | 3 messages, UIDVALIDITY 7, HIGHESTMODSEQ 100
    1< * 3 EXISTS | * OK [UIDVALIDITY 7] told | * OK [HIGHESTMODSEQ 100] told
    1< a OK [READ-WRITE] selected";

/// The second one has said so before: its SELECT needs no parameter.
const SECOND: &str = "2> a SELECT INBOX (CONDSTORE)
    U= UID SEARCH 1:3 | * SEARCH 11 12 13
    U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 123456789012
    2< * OK [UIDVALIDITY 7]… | * 3 EXISTS | * OK [HIGHESTMODSEQ 123456789012]… | * OK [UIDNEXT 14]…
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
         U= STORE 2 +FLAGS (\\Seen) | * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
         1< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101)) | b OK STORE done
         2U b NOOP | * 2 FETCH (FLAGS (\\Seen) UID 12 MODSEQ (101))")
    .await;
}

/// RFC 7162 section 3.1.4.2, example 14: who stores silently is told the mod-sequence all the same, and the others
/// are told all.
#[tokio::test]
async fn a_silent_store_tells_the_mod_sequence() {
    two("1> b UID STORE 12 +FLAGS.SILENT (\\Seen)
         U= UID STORE 12 +FLAGS (\\Seen) | * 2 FETCH (UID 12 FLAGS (\\Seen) MODSEQ (101))
         1< * 2 FETCH (UID 12 MODSEQ (101)) | b OK UID STORE done
         2U b NOOP | * 2 FETCH (FLAGS (\\Seen) UID 12 MODSEQ (101))")
    .await;
}

/// RFC 7162 section 3.1.3: UNCHANGEDSINCE; those of `[MODIFIED …]` are message numbers. Section 3.1.6: the last number
/// of a SEARCH by mod-sequence is none.
#[tokio::test]
async fn modified_messages_are_numbers() {
    two("1> b EXPUNGE
         U= EXPUNGE | * 1 EXPUNGE | TAG OK [HIGHESTMODSEQ 102] expunged
         1< * 1 EXPUNGE | b OK [HIGHESTMODSEQ 102] expunged
         2> b STORE 2:3 (UNCHANGEDSINCE 100) +FLAGS.SILENT (\\Seen)
         U> STORE 1:2 (UNCHANGEDSINCE 100) +FLAGS (\\Seen)
         U< * 1 FETCH (FLAGS (\\Seen) MODSEQ (103)) | TAG OK [MODIFIED 2] conditional
         2< * 2 FETCH (FLAGS (\\Seen) MODSEQ (103)) | b OK [MODIFIED 3] conditional
         2> c SEARCH MODSEQ 100
         U= SEARCH MODSEQ 100 | * SEARCH 1 2 (MODSEQ 103)
         2< * SEARCH 2 3 (MODSEQ 103) | c OK SEARCH done")
    .await;
}

/// RFC 7162 section 3.1.4.2: flags that only one asked for, without their mod-sequence, and that the others know
/// otherwise: they are told with it.
#[tokio::test]
async fn what_was_told_without_it_is_asked_for() {
    two("1> b FETCH 2 (FLAGS MODSEQ)
         U= FETCH 2 (FLAGS MODSEQ) | * 2 FETCH (FLAGS () MODSEQ (90))
         1< * 2 FETCH (FLAGS () MODSEQ (90)) | b OK FETCH done
         2> b FETCH 2 (FLAGS)
         U= FETCH 2 (FLAGS) | * 2 FETCH (FLAGS (\\Answered))
         U= FETCH 2:2 (FLAGS MODSEQ) | * 2 FETCH (FLAGS (\\Answered) MODSEQ (104))
         2< * 2 FETCH (FLAGS (\\Answered)) | b OK FETCH done
         1U c NOOP | * 2 FETCH (FLAGS (\\Answered) UID 12 MODSEQ (104))")
    .await;
}

/// What the hub of a mailbox of three messages asks when the first session with CONDSTORE comes: it selects the mailbox
/// anew, with the parameter.
const RAISED: &str = "U= UID SEARCH 1:3 | * SEARCH 11 12 13
    U> SELECT \"INBOX\" (CONDSTORE)
    U< * FLAGS (\\Seen \\Deleted) | * 3 EXISTS | * 0 RECENT | * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told
    U< * OK [HIGHESTMODSEQ 100] told | TAG OK [READ-WRITE] selected
    U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 100";

/// RFC 5161 section 1, RFC 7162 section 3.1: nobody is told mod-sequences who has not switched them on, though another
/// has on the same connection: not in FETCH, wherever the item stands, nor in status replies, nor when joining.
#[tokio::test]
async fn others_never_see_mod_sequences() {
    play(
        1,
        "CONDSTORE",
        &format!(
            "ONE
             2> b SELECT INBOX (CONDSTORE)
             {RAISED}
             2< * FLAGS (\\Seen \\Deleted) | * OK [UIDVALIDITY 7] told | * 3 EXISTS | * 0 RECENT
             2< * OK [HIGHESTMODSEQ 100]… | * OK [UIDNEXT 14]… | b OK [READ-WRITE] selected
             2> c STORE 2 +FLAGS (\\Seen)
             U= STORE 2 +FLAGS (\\Seen) | * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
             2< * 2 FETCH (FLAGS (\\Seen) MODSEQ (101)) | c OK STORE done
             1> b NOOP
             U> NOOP
             U< * OK [HIGHESTMODSEQ 101] told | * 1 FETCH (MODSEQ (102) UID 11 FLAGS (\\Seen))
             U< TAG OK [HIGHESTMODSEQ 102] noop
             1< * 2 FETCH (FLAGS (\\Seen) UID 12) | * 1 FETCH (UID 11 FLAGS (\\Seen)) | b OK noop
             1> c STORE 3 +FLAGS.SILENT (\\Seen)
             U= STORE 3 +FLAGS (\\Seen) | * 3 FETCH (FLAGS (\\Seen) MODSEQ (103))
             1< c OK STORE done
             1> d FETCH 1 (BODY[])
             U> FETCH 1 (BODY[])
             U< * 1 FETCH (BODY[] {{20}}
             U< x MODSEQ (1) FLAGS
             U<  FLAGS (\\Answered) MODSEQ (104))
             U< * 2 FETCH (MODSEQ (105)) | TAG OK fetched
             1< * 1 FETCH (BODY[] {{20}}
             1< x MODSEQ (1) FLAGS
             1<  FLAGS (\\Answered))
             1< d OK fetched
             3> a SELECT INBOX
             U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 105
             3< * FLAGS (\\Seen \\Deleted) | * OK [UIDVALIDITY 7] told | * 3 EXISTS | * 0 RECENT
             3< * OK [UIDNEXT 14]… | a OK [READ-WRITE] selected
             2> d NOOP
             U= NOOP
             2< * 1 FETCH (FLAGS (\\Answered) UID 11 MODSEQ (104))
             2< * 3 FETCH (FLAGS (\\Seen) UID 13 MODSEQ (103)) | d OK NOOP done"
        ),
    )
    .await;
}

/// RFC 7162 section 3.1: what the server does not understand has switched on nothing; what it refuses has.
#[tokio::test]
async fn a_command_that_is_not_understood_switches_on_nothing() {
    for (status, told) in [("BAD", ""), ("NO", " MODSEQ (102)")] {
        two_offering(
            "CONDSTORE",
            &format!(
                "2> b FETCH 1 (MODSEQ)
                 U= FETCH 1 (MODSEQ) | * OK [HIGHESTMODSEQ 100] told | * 1 FETCH (MODSEQ (5))
                 2< * OK [HIGHESTMODSEQ 100] told | * 1 FETCH (MODSEQ (5)) | b OK FETCH done
                 1> b FETCH 1 (MODSEQ NONSENSE)
                 U= FETCH 1 (MODSEQ NONSENSE) | TAG {status} nonsense
                 1~ b {status} nonsense
                 1> c STORE 1 FLAGS (y)
                 U= STORE 1 FLAGS (y) | * 1 FETCH (UID 11 FLAGS (y) MODSEQ (102))
                 1< * 1 FETCH (UID 11 FLAGS (y){told}) | c OK STORE done"
            ),
        )
        .await;
    }
}

/// RFC 7162 section 3.1: FETCH (MODSEQ) switches CONDSTORE on in the middle of a mailbox, for the session that says so:
/// it hears HIGHESTMODSEQ then, and mod-sequences from then on. It stays with the others, who hear none, and who says
/// so later on the same connection hears HIGHESTMODSEQ, too.
#[tokio::test]
async fn in_the_middle_of_a_mailbox() {
    two_offering(
        "CONDSTORE",
        "2> b FETCH 1 (MODSEQ)
         U= FETCH 1 (MODSEQ) | * OK [HIGHESTMODSEQ 100] told | * 1 FETCH (MODSEQ (5))
         2< * OK [HIGHESTMODSEQ 100] told | * 1 FETCH (MODSEQ (5)) | b OK FETCH done
         1> b STORE 1 FLAGS (x)
         U= STORE 1 FLAGS (x) | * 1 FETCH (FLAGS (x) MODSEQ (101))
         1< * 1 FETCH (FLAGS (x)) | b OK STORE done
         2U c NOOP | * 1 FETCH (FLAGS (x) UID 11 MODSEQ (101))
         1> c SEARCH MODSEQ 5
         U= SEARCH MODSEQ 5 | * SEARCH 1 (MODSEQ 101)
         1< * OK [HIGHESTMODSEQ 100]… | * SEARCH 1 (MODSEQ 101) | c OK SEARCH done
         2> d STORE 2 FLAGS (y)
         U= STORE 2 FLAGS (y) | * 2 FETCH (FLAGS (y) MODSEQ (102))
         2~ d OK STORE done
         1U d NOOP | * 2 FETCH (FLAGS (y) UID 12 MODSEQ (102))
         1= e SELECT Other | * OK [CLOSED]…
         U= UNSELECT
         U= SELECT \"Other\" (CONDSTORE) | TAG NO none
         1< e NO none",
    )
    .await;
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
        two_offering(
            "CONDSTORE",
            &format!(
                "1> b EXPUNGE
                 U= EXPUNGE | * 2 EXPUNGE
                 1~ b OK EXPUNGE done
                 2> b {command}
                 U= {sent} | * {reply} | TAG OK done
                 {told}2< * {heard}
                 2< b OK done
                 1> c NOOP
                 U= NOOP | * 1 FETCH (FLAGS (y) MODSEQ (10))
                 1~ c OK NOOP done
                 2> c NOOP
                 U= NOOP
                 2~ c OK NOOP done"
            ),
        )
        .await;
    }
}

/// RFC 7162 section 3.1.8: where a backend refuses the parameter, who has not asked for it goes on without, and the
/// next who asks hears the refusal.
#[tokio::test]
async fn the_parameter_is_refused() {
    play(
        2,
        "CONDSTORE",
        "ONE
         2> b SELECT INBOX (CONDSTORE)
         U= UID SEARCH 1:3 | * SEARCH 11 12 13
         U= SELECT \"INBOX\" (CONDSTORE) | TAG BAD what is that
         U= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         U? UIDNEXT 14, UIDVALIDITY 7
         2~ b OK [READ-WRITE] selected
         1U b NOOP
         3> a SELECT INBOX (CONDSTORE)
         V= SELECT INBOX (CONDSTORE) | TAG BAD what is that
         3< a BAD what is that",
    )
    .await;
}

/// RFC 7162 section 3.1: a command that is known to nobody may tell whatever is on. So it has a connection on which
/// nothing is but what its session has switched on.
#[tokio::test]
async fn what_pins_has_a_connection_without_mod_sequences() {
    play(
        1,
        "CONDSTORE",
        "1> a STATUS INBOX (HIGHESTMODSEQ)
         U= STATUS INBOX (HIGHESTMODSEQ) | * STATUS INBOX (HIGHESTMODSEQ 100)
         1~ a OK STATUS done
         2> a SELECT INBOX
         U= SELECT INBOX | 3 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 100
         2~ a OK [READ-WRITE] selected
         2> b XYZZY
         U= LOGOUT | * BYE bye
         U!
         V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         V= XYZZY | * 2 FETCH (FLAGS (x))
         2< * 2 FETCH (FLAGS (x)) | b OK XYZZY done",
    )
    .await;
}

/// RFC 7162 section 3.1: mod-sequences only ever grow. Where they do not, nobody who goes by them can be told what has
/// changed.
#[tokio::test]
async fn mod_sequences_that_go_back_end_the_mailbox() {
    play(
        1,
        "CONDSTORE",
        &format!(
            "{FIRST}
             {SECOND}
             1> b FETCH 1 (UID)
             U> FETCH 1 (UID)
             U!
             V= SELECT \"INBOX\" (CONDSTORE) | 3 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 99
             1< b NO [UNAVAILABLE]… | * BYE…
             1.
             2< * BYE…
             2."
        ),
    )
    .await;
}

/// RFC 5161 section 3.1: ENABLE is for the time before a mailbox is selected. What a backend makes of it afterwards
/// is the backend's affair: the session has a connection of its own for it, and the others do not notice.
#[tokio::test]
async fn enable_in_a_mailbox_pins() {
    play(
        2,
        "CONDSTORE",
        "ONE
         TWO
         2> b ENABLE CONDSTORE
         V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         V= ENABLE CONDSTORE | TAG BAD too late
         2< b BAD too late
         2> c FETCH 1 (UID)
         V= FETCH 1 (UID) | * 1 FETCH (UID 11)
         2< * 1 FETCH (UID 11) | c OK FETCH done
         1U b NOOP",
    )
    .await;
}

/// RFC 7162 section 3.1.2.2: a mailbox without mod-sequences says so to everybody, and none are asked for.
#[tokio::test]
async fn a_mailbox_without_mod_sequences() {
    play(
        1,
        "CONDSTORE",
        "1> a SELECT INBOX (CONDSTORE)
         U> SELECT \"INBOX\" (CONDSTORE)
         U< * 0 EXISTS | * OK [UIDVALIDITY 7] told | * OK [NOMODSEQ] none | TAG OK [READ-WRITE] selected
         1~ a OK [READ-WRITE] selected
         2> a SELECT INBOX (CONDSTORE)
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U= NOOP
         2< * OK [UIDVALIDITY 7]… | * OK [NOMODSEQ]… | * 0 EXISTS | * OK [UIDNEXT 14]…
         2< a OK [READ-WRITE] selected",
    )
    .await;
}

/// RFC 7162 section 3.1.2.1: what is news before the one who joins has joined is in the highest mod-sequence that it
/// is told.
#[tokio::test]
async fn the_highest_mod_sequence_includes_what_came_last() {
    play(
        1,
        "CONDSTORE",
        &format!(
            "{FIRST}
             2> a SELECT INBOX (CONDSTORE)
             U= UID SEARCH 1:3 | * SEARCH 11 12 13
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
             U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 100) | TAG OK status
             U= UID SEARCH UNSEEN | * SEARCH
             U= NOOP | * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
             2< * OK [UIDVALIDITY 7]… | * 3 EXISTS | * OK [HIGHESTMODSEQ 101]… | * OK [UIDNEXT 14]…
             2< a OK [READ-WRITE] selected"
        ),
    )
    .await;
}

/// RFC 7162 section 3.1.3: where some are gone, the reply to a conditional STORE says which of the others were not
/// changed. Of what is gone nothing is said (RFC 9051 section 7.5.1), nor of its mod-sequence. (It was NO, by example
/// 11, which a client alone on its connection does not hear.)
#[tokio::test]
async fn modified_messages_beside_those_that_are_gone() {
    two("1> b EXPUNGE
         U= EXPUNGE | * 1 EXPUNGE
         1~ b OK EXPUNGE done
         2> b STORE 1:3 (UNCHANGEDSINCE 100) +FLAGS (\\Seen)
         U> STORE 1:2 (UNCHANGEDSINCE 100) +FLAGS (\\Seen)
         U< * 1 FETCH (FLAGS (\\Seen) MODSEQ (103)) | TAG OK [MODIFIED 2] conditional
         2< * 2 FETCH (FLAGS (\\Seen) MODSEQ (103)) | b OK [MODIFIED 3] conditional")
    .await;
}

/// RFC 7162 section 3.2.11: who selects another mailbox hears where the news of the one before end, also from a
/// server that has only CONDSTORE.
#[tokio::test]
async fn the_mailbox_before_is_closed() {
    two("2= b SELECT Other | * OK [CLOSED]…
         U= UNSELECT
         U= SELECT \"Other\" (CONDSTORE) | 0 messages
         2< * 0 EXISTS | b OK [READ-WRITE] selected
         2= c UNSELECT | c OK…")
    .await;
}
