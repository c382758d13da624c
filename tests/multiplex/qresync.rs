//! Sessions that have switched QRESYNC on (RFC 7162 section 3.2) share with all others, who hear no VANISHED.

use std::time::Duration;

use crate::stage::{ONE, Stage, pass, play};

/// The first session selects a mailbox of three messages (UIDs 11 to 13).
const FIRST: &str = "1> a ENABLE QRESYNC
    U= ENABLE QRESYNC | * ENABLED QRESYNC
    1< * ENABLED QRESYNC | a OK ENABLE done
    1> b SELECT INBOX
    U= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 100
    1~ b OK [READ-WRITE] selected";

/// A second one, which has asked for it in other words, joins it: that the backend switches it on is known.
const SECOND: &str = "2= a ENABLE CONDSTORE | * ENABLED CONDSTORE | a OK…
    2= b ENABLE QRESYNC | * ENABLED QRESYNC | b OK…
    2> c SELECT INBOX
    U= FETCH 1:* (UID) | * 1 FETCH (UID 11) | * 2 FETCH (UID 12) | * 3 FETCH (UID 13)
    U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 100
    2~ c OK [READ-WRITE] selected";

async fn two(script: &str) {
    let mut stage = Stage::set(2, "CONDSTORE QRESYNC").await;
    stage.play(FIRST).await;
    stage.play(SECOND).await;
    stage.play(script).await;
    stage.end().await;
}

/// Client 2 has switched on nothing.
async fn plain(script: &str) {
    let mut stage = Stage::set(1, "CONDSTORE QRESYNC").await;
    stage.play(PLAIN).await;
    stage.play(script).await;
    stage.end().await;
}

/// RFC 7162 section 3.2.10.2: VANISHED takes the place of EXPUNGE, by UID; where EXPUNGE may not come, neither may
/// it. The numbers of the one who has not heard of it yet stay what they were.
#[tokio::test]
async fn vanished_in_the_place_of_expunge() {
    two("1> d UID EXPUNGE 12
         U= UID EXPUNGE 12 | * VANISHED 12 | TAG OK [HIGHESTMODSEQ 101] expunged
         1< * VANISHED 12 | d OK [HIGHESTMODSEQ 101] expunged
         2> d FETCH 3 (UID)
         U= FETCH 2 (UID) | * 2 FETCH (UID 13)
         2< * 3 FETCH (UID 13) | * OK [HIGHESTMODSEQ 100]… | d OK FETCH done
         2U e NOOP | * VANISHED 12")
    .await;
}

/// RFC 7162 section 3.2.10.2: a backend that withholds a VANISHED says up to where all is told. It holds for those,
/// too, who did not give that command, as long as the VANISHED is withheld.
#[tokio::test]
async fn what_the_backend_withholds_is_withheld_from_all() {
    two("1> d FETCH 1 (FLAGS)
         U= FETCH 1 (FLAGS) | * 1 FETCH (FLAGS (\\Seen) MODSEQ (105)) | * OK [HIGHESTMODSEQ 101] delayed
         1< * 1 FETCH (FLAGS (\\Seen) MODSEQ (105)) | * OK [HIGHESTMODSEQ 101] delayed | d OK FETCH done
         2> d FETCH 3 (UID)
         U= FETCH 3 (UID) | * 3 FETCH (UID 13)
         2< * 1 FETCH (FLAGS (\\Seen) UID 11 MODSEQ (105)) | * 3 FETCH (UID 13) | * OK [HIGHESTMODSEQ 101]…
         2< d OK FETCH done
         2> e NOOP
         U= NOOP | * VANISHED 12
         2< * VANISHED 12 | e OK NOOP done
         1U e NOOP | * VANISHED 12")
    .await;
}

/// RFC 7162 section 3.2.10.2: nor may it come during a UID SEARCH by message number.
#[tokio::test]
async fn uid_search_by_number_keeps_numbers() {
    two("1> d UID EXPUNGE 12
         U= UID EXPUNGE 12 | * VANISHED 12
         1~ d OK UID EXPUNGE done
         2> d UID SEARCH 3
         U= UID SEARCH 2 | * SEARCH 13
         2< * SEARCH 13 | * OK [HIGHESTMODSEQ 100]… | d OK UID SEARCH done
         2U e CHECK | * VANISHED 12")
    .await;
}

/// RFC 7162 section 3.2.4: flags are told with UID and mod-sequence, whoever has changed them.
#[tokio::test]
async fn flags_come_with_the_uid() {
    two("1> d STORE 2 +FLAGS.SILENT (\\Seen)
         U= STORE 2 +FLAGS (\\Seen) | * 2 FETCH (FLAGS (\\Seen) MODSEQ (101))
         1< * 2 FETCH (UID 12 MODSEQ (101)) | d OK STORE done
         2U d NOOP | * 2 FETCH (FLAGS (\\Seen) UID 12 MODSEQ (101))")
    .await;
}

/// RFC 7162 section 3.2.5.1: who selects a mailbox that it knows is told what has vanished and changed since, before
/// the tagged reply; nobody else is. With another UIDVALIDITY the parameter means nothing (section 3.2.5). Section
/// 3.2.11: CLOSED.
#[tokio::test]
async fn who_joins_catches_up() {
    two("2= d SELECT INBOX (QRESYNC (7 90 1:13 (1,2 3,4))) | * OK [CLOSED]…
         U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 102
         U> UID FETCH 1:13 (FLAGS) (CHANGEDSINCE 90 VANISHED)
         U< * VANISHED (EARLIER) 1:10 | * 3 FETCH (UID 13 FLAGS (\\Seen) MODSEQ (95)) | TAG OK fetched
         2< * OK [UIDVALIDITY 7]… | * 3 EXISTS | * OK [HIGHESTMODSEQ 102]… | * OK [UIDNEXT 14]…
         2< * VANISHED (EARLIER) 1:10 | * 3 FETCH (UID 13 FLAGS (\\Seen) MODSEQ (95))
         2< d OK [READ-WRITE] selected
         1U d NOOP
         2= e SELECT INBOX (QRESYNC (8 90)) | * OK [CLOSED]…
         U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 102
         2~ e OK [READ-WRITE] selected")
    .await;
}

/// RFC 7162 sections 3.2.6 and 3.2.10.1: VANISHED (EARLIER) is for the one who asks.
#[tokio::test]
async fn earlier_is_for_the_one_who_asks() {
    two("1> d UID FETCH 1:20 (FLAGS) (CHANGEDSINCE 90 VANISHED)
         U= UID FETCH 1:20 (FLAGS) (CHANGEDSINCE 90 VANISHED) | * VANISHED (EARLIER) 1:10
         1< * VANISHED (EARLIER) 1:10 | d OK UID FETCH done
         2> d NOOP
         U= NOOP | * VANISHED (EARLIER) 1:10
         2< d OK NOOP done")
    .await;
}

/// RFC 7162 section 3.2.8: HIGHESTMODSEQ would have the one who closes overlook what it was not told of.
#[tokio::test]
async fn close_does_not_tell_the_highest_mod_sequence() {
    two("1> d CLOSE
         U= EXPUNGE | * VANISHED 12 | TAG OK [HIGHESTMODSEQ 101] expunged
         1< d OK Close completed.
         2U d NOOP | * VANISHED 12")
    .await;
}

/// RFC 7162 section 3.2.10.2: the backend says by their UIDs which messages are gone, and the hub has to know which
/// numbers that are: where it does not, it asks before anything else.
#[tokio::test]
async fn vanished_before_the_uids_are_known() {
    play(
        2,
        "CONDSTORE QRESYNC",
        &format!(
            "{FIRST}
             1> c NOOP
             U= FETCH 1:* (UID) | * 1 FETCH (UID 11) | * 3 FETCH (UID 13) | TAG NO [EXPUNGEISSUED] gone
             U= NOOP | * VANISHED 12
             U= UID SEARCH 1:2 | * SEARCH 11 13
             U= FETCH 1:* (FLAGS) (CHANGEDSINCE 100)
             U= NOOP
             1< * VANISHED 12 | c OK NOOP done"
        ),
    )
    .await;
}

/// RFC 5161 section 3.1: nobody is told what only another has enabled. Who joins with QRESYNC makes the hub go on by a
/// connection that has it (here the same one, with what is missing switched on); the other hears EXPUNGE, flags without
/// mod-sequence, and no HIGHESTMODSEQ.
#[tokio::test]
async fn others_hear_expunge() {
    play(
        1,
        "CONDSTORE QRESYNC",
        "1> e ENABLE QRESYNC
         U= ENABLE QRESYNC | * ENABLED QRESYNC
         1~ e OK ENABLE done
         2> a SELECT INBOX
         U= SELECT INBOX | 3 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 100
         2~ a OK [READ-WRITE] selected
         1> b SELECT INBOX
         U= FETCH 1:* (UID) | * 1 FETCH (UID 11) | * 2 FETCH (UID 12) | * 3 FETCH (UID 13)
         U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 100
         1~ b OK [READ-WRITE] selected
         1> c UID EXPUNGE 12
         U> UID EXPUNGE 12
         U< * VANISHED 12 | * 2 FETCH (UID 13 FLAGS (\\Seen) MODSEQ (102))
         U< TAG OK [HIGHESTMODSEQ 102] expunged
         1< * VANISHED 12 | * 2 FETCH (UID 13 FLAGS (\\Seen) MODSEQ (102))
         1< c OK [HIGHESTMODSEQ 102] expunged
         2> b NOOP
         U= NOOP | * OK [HIGHESTMODSEQ 103] told | * 1 FETCH (MODSEQ (103) FLAGS (\\Deleted) UID 11)
         2< * 2 EXPUNGE | * 2 FETCH (FLAGS (\\Seen) UID 13) | * 1 FETCH (FLAGS (\\Deleted) UID 11)
         2< b OK NOOP done
         2> c UID EXPUNGE 11
         U= UID EXPUNGE 11 | * VANISHED 11 | TAG OK [HIGHESTMODSEQ 104] expunged
         2< * 1 EXPUNGE | c OK expunged
         2= d UID FETCH 1:* (FLAGS) (CHANGEDSINCE 5 VANISHED) | d BAD…",
    )
    .await;
}

/// A session without QRESYNC, on a connection that has it on, where another has left it.
const PLAIN: &str = "1> e ENABLE QRESYNC
    U= ENABLE QRESYNC | * ENABLED QRESYNC
    1~ e OK ENABLE done
    2> a SELECT INBOX
    U= SELECT INBOX | 3 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 100
    2~ a OK [READ-WRITE] selected";

/// RFC 7162 section 3.2.10: VANISHED tells UIDs. For a session that hears EXPUNGE no UIDs are asked for before
/// something has vanished; which numbers these had is found then, and told before the tagged reply.
#[tokio::test]
async fn numbers_of_what_vanished_are_found_afterwards() {
    plain(
        "2> b FETCH 1:3 (FLAGS)
         U= FETCH 1:3 (FLAGS) | * 1 FETCH (FLAGS ()) | * 2 FETCH (FLAGS (\\Deleted)) | * 3 FETCH (FLAGS ())
         2~ b OK FETCH done
         2> c EXPUNGE
         U= EXPUNGE | * VANISHED 12 | TAG OK [HIGHESTMODSEQ 101] expunged
         U= UID SEARCH 1:2 | * SEARCH 11 13
         U= FETCH 1:* (FLAGS) (CHANGEDSINCE 100) | * 2 FETCH (UID 13 FLAGS (\\Seen) MODSEQ (102))
         2< * 2 EXPUNGE | * 2 FETCH (FLAGS (\\Seen) UID 13) | c OK expunged",
    )
    .await;
}

/// The same, where the backend says so before it answers: a message's UID tells which number the client knows it by.
#[tokio::test]
async fn a_uid_tells_the_number_before_something_vanished() {
    plain(
        "2> b UID FETCH 11:13 (FLAGS BODY.PEEK[])
         U> UID FETCH 11:13 (FLAGS BODY.PEEK[])
         U< * VANISHED 12 | * 1 FETCH (UID 11 FLAGS () BODY[] {3} | abc)
         U< * 2 FETCH (FLAGS () UID 13 MODSEQ (99) BODY[] {3} | def) | * 3 EXISTS
         U< * 3 FETCH (UID 14 FLAGS () MODSEQ (103)) | TAG OK fetched
         2< * 1 FETCH (UID 11 FLAGS () BODY[] {3}
         2< abc) | * 3 FETCH (FLAGS () UID 13 BODY[] {3}
         2< def)
         U= UID SEARCH 1:3 | * SEARCH 11 13 14
         U= FETCH 1:* (FLAGS) (CHANGEDSINCE 100) | * 3 FETCH (UID 14 FLAGS () MODSEQ (103))
         2< * 2 EXPUNGE | * 3 EXISTS | * 3 FETCH (FLAGS () UID 14) | b OK fetched",
    )
    .await;
}

/// RFC 9051 section 6.4.3: EXPUNGE is answered after what it has removed was told, also where the connection is lost
/// before that is known, or says nothing any more: the next one tells.
#[tokio::test]
async fn what_vanished_is_told_before_the_reply_if_the_connection_is_lost() {
    for lost in [true, false] {
        let mut stage = Stage::set(1, "CONDSTORE QRESYNC").await;
        stage.play(PLAIN).await;
        stage
            .play(
                "2> b UID STORE 12 +FLAGS (\\Deleted)
                 U= UID STORE 12 +FLAGS (\\Deleted) | * 2 FETCH (UID 12 FLAGS (\\Deleted) MODSEQ (101))
                 2~ b OK UID STORE done
                 2> c EXPUNGE
                 U= EXPUNGE | * VANISHED 12
                 U> UID SEARCH 1:2",
            )
            .await;
        match lost {
            true => stage.play("U!").await,
            false => pass(Duration::from_secs(11)).await,
        }
        stage
            .play(
                "V= SELECT \"INBOX\" | 2 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 102
                 V= UID SEARCH 1:2 | * SEARCH 11 13
                 2< * 2 EXPUNGE | c OK…",
            )
            .await;
        stage.end().await;
    }
}

/// The command was answered: whoever gave it hears that, whatever becomes of the connection meanwhile.
#[tokio::test]
async fn the_reply_is_told_if_the_connection_is_lost_before() {
    plain(
        "2> b UID STORE 11 +FLAGS (x)
         U= UID STORE 11 +FLAGS (x) | * 1 FETCH (UID 11 FLAGS (x) MODSEQ (101)) | * VANISHED 12
         U> UID SEARCH 1:2
         U!
         2< * 1 FETCH (UID 11 FLAGS (x)) | b OK UID STORE done
         2> c NOOP
         V= SELECT \"INBOX\" | 2 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 101
         V= UID SEARCH 1:2 | * SEARCH 11 13
         V= FETCH 1:1 (FLAGS) | * 1 FETCH (FLAGS (x))
         V= NOOP
         2< * 2 EXPUNGE | c OK NOOP done",
    )
    .await;
}

/// RFC 9051 section 7.3.4: a STATUS reply names its mailbox. What it says of another is not about this one.
#[tokio::test]
async fn what_is_said_of_another_mailbox_is_not_told_of_this_one() {
    two("2= d SELECT INBOX | * OK [CLOSED]…
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
         U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 102)
         U< * STATUS Other (UIDNEXT 900 UIDVALIDITY 7 HIGHESTMODSEQ 9999) | TAG OK status
         U= UID SEARCH UNSEEN | * SEARCH
         U= NOOP
         2< * OK [UIDVALIDITY 7]… | * 3 EXISTS | * OK [HIGHESTMODSEQ 102]… | * OK [UIDNEXT 14]…
         2< d OK [READ-WRITE] selected")
    .await;
}

/// RFC 9051 section 6.3.2: SELECT tells how many messages there are. Where it does not, nobody is told that all have
/// gone: it is asked on another connection.
#[tokio::test]
async fn a_select_without_exists_is_not_believed() {
    plain(
        "2> b NOOP
         U> NOOP
         U!
         V= SELECT \"INBOX\" | * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told | TAG OK [READ-WRITE] selected
         W= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         W= NOOP
         2< b OK NOOP done",
    )
    .await;
}

/// Who has not asked for mod-sequences is told none, not even one that is larger than any can be (RFC 7162 section 7).
#[tokio::test]
async fn no_mod_sequence_is_told_however_large_it_is() {
    plain(
        "2> b NOOP
         U> NOOP
         U< * OK [HIGHESTMODSEQ 18446744073709551615] told | TAG OK [HIGHESTMODSEQ 18446744073709551615] noop
         2< b OK noop",
    )
    .await;
}

/// What has gone between two connections, nobody has said: where the UIDs had not been known, those that go on the next
/// one do not tell which they were. (The third would have been taken for the first.)
#[tokio::test]
async fn what_has_gone_unheard_is_not_guessed() {
    plain(
        "2> b NOOP
         U= NOOP | * 4 EXISTS | * 3 FETCH (UID 13 FLAGS (x)) | * VANISHED 12
         U> UID SEARCH 1:3
         U!
         2< * 4 EXISTS | * 3 FETCH (UID 13 FLAGS (x)) | b OK NOOP done
         2> c NOOP
         V= SELECT \"INBOX\" | 4 messages, UIDVALIDITY 7, UIDNEXT 18, HIGHESTMODSEQ 105
         V= UID SEARCH 1:4 | * VANISHED 17
         V= NOOP
         V= UID SEARCH 1:3 | * SEARCH 13 15 16
         2< c NO [UNAVAILABLE] Connection… | * BYE…
         2.",
    )
    .await;
}

/// RFC 5161 section 3.1: a hub whose members have not enabled QRESYNC goes on by a connection that has it, when one
/// joins who has; where the backend refuses that, who asks for it hears so, and the others notice nothing.
#[tokio::test]
async fn who_needs_more_makes_a_hub_change_connections() {
    for granted in [true, false] {
        let mut stage = Stage::set(2, "CONDSTORE QRESYNC").await;
        stage.play(&FIRST.replace("INBOX", "Other")).await;
        stage.play(&ONE.replace("1>", "2>").replace("1~", "2~").replace("U<", "V<").replace("U>", "V>")).await;
        stage
            .play(
                "3= e ENABLE QRESYNC | * ENABLED QRESYNC | e OK…
                 3> a SELECT INBOX
                 V= UID SEARCH 1:3 | * SEARCH 11 12 13
                 V= UNSELECT
                 V> ENABLE CONDSTORE QRESYNC",
            )
            .await;
        let again = "V> SELECT \"INBOX\"
                     V< * 3 EXISTS | * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told | * OK [HIGHESTMODSEQ 100] told
                     V< TAG OK [READ-WRITE] selected\n";
        let raised = format!(
            "V< * ENABLED CONDSTORE QRESYNC | TAG OK enabled
             {again}
             V? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 100
             3~ a OK [READ-WRITE] selected
             2> b EXPUNGE
             V= EXPUNGE | * VANISHED 12 | TAG OK [HIGHESTMODSEQ 101] expunged
             2< * 2 EXPUNGE | b OK expunged
             3V b NOOP | * VANISHED 12"
        );
        let refused = format!(
            "2> b NOOP
             V< TAG NO not now
             3< a NO [UNAVAILABLE]…
             {again}
             V= NOOP
             2< b OK NOOP done"
        );
        stage.play(if granted { &raised } else { &refused }).await;
        stage.end().await;
    }
}

/// RFC 7162 section 3.2.5: without ENABLE the parameter is an error, and the backend says so.
#[tokio::test]
async fn the_parameter_needs_enable() {
    play(
        2,
        "CONDSTORE QRESYNC",
        "ONE
         2> a SELECT INBOX (QRESYNC (7 90))
         V= SELECT INBOX (QRESYNC (7 90)) | TAG BAD enable it first
         2< a BAD enable it first",
    )
    .await;
}

/// RFC 7162 section 3.2.5.2: `*` may not be said there. Some servers take it for the last message that is there, and
/// leave out what has vanished behind that; so they are told what it means.
#[tokio::test]
async fn who_joins_and_names_no_last_uid_catches_up() {
    two("2= d SELECT INBOX (QRESYNC (7 90 1:*)) | * OK [CLOSED]…
         U? UIDNEXT 14, UIDVALIDITY 7, HIGHESTMODSEQ 102
         U= UID FETCH 1:13 (FLAGS) (CHANGEDSINCE 90 VANISHED)
         2~ d OK [READ-WRITE] selected")
    .await;
}

/// RFC 7162 section 3.2.5: what has come while it joins is told, too.
#[tokio::test]
async fn who_joins_catches_up_with_what_has_just_come() {
    two("2= d SELECT INBOX (QRESYNC (7 90)) | * OK [CLOSED]…
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
         U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 102) | TAG OK status
         U= UID SEARCH UNSEEN | * 4 EXISTS | * SEARCH
         U= NOOP
         U= FETCH 4:* (UID) | * 4 FETCH (UID 17)
         U= UID FETCH 1:17 (FLAGS) (CHANGEDSINCE 90 VANISHED) | * 4 FETCH (UID 17 FLAGS () MODSEQ (103))
         2< * OK [UIDVALIDITY 7]… | * 4 EXISTS | * OK [HIGHESTMODSEQ 102]… | * OK [UIDNEXT 18]…
         2< * 4 FETCH (UID 17 FLAGS () MODSEQ (103)) | d OK [READ-WRITE] selected
         1U d NOOP | * 4 EXISTS | * 4 FETCH (FLAGS () UID 17 MODSEQ (103))")
    .await;
}

/// Cyrus tells within FETCH, which no VANISHED may interrupt, the mod-sequences of messages that are gone. Who joins by
/// them would never hear that these are (RFC 7162 section 3.2.5): up to where all was told, STATUS has said.
#[tokio::test]
async fn who_joins_is_told_no_mod_sequence_before_what_vanished() {
    two("2= d SELECT INBOX | * OK [CLOSED]…
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)
         U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 102) | TAG OK status
         U= UID SEARCH UNSEEN | * 2 FETCH (FLAGS (\\Deleted) UID 12 MODSEQ (103)) | * SEARCH
         U= NOOP | * 4 EXISTS
         U= FETCH 4:* (UID) | * 1 FETCH (FLAGS (\\Deleted) UID 11 MODSEQ (104)) | * 4 FETCH (UID 17)
         2< * OK [UIDVALIDITY 7]… | * 4 EXISTS | * OK [HIGHESTMODSEQ 102]… | * OK [UIDNEXT 18]…
         2< d OK [READ-WRITE] selected
         1> d NOOP
         U= NOOP | * VANISHED 11:12
         1~ d OK NOOP done
         2U e NOOP | * VANISHED 11:12")
    .await;
}

/// RFC 7162 sections 3.2 and 6: a client takes the highest mod-sequence that it sees for the one up to which it knows
/// everything, unless it is told another one. As long as a VANISHED is withheld from it, it is told one before that.
#[tokio::test]
async fn the_highest_mod_sequence_waits_for_vanished() {
    two("1> d UID EXPUNGE 12
         U= UID EXPUNGE 12 | * VANISHED 12 | TAG OK [HIGHESTMODSEQ 101] expunged
         1~ d OK [HIGHESTMODSEQ 101] expunged
         2> d STORE 3 +FLAGS (\\Seen)
         U> STORE 2 +FLAGS (\\Seen)
         U< * OK [HIGHESTMODSEQ 102] told | * 2 FETCH (UID 13 FLAGS (\\Seen) MODSEQ (102))
         U< TAG OK [HIGHESTMODSEQ 102] stored
         2< * 3 FETCH (UID 13 FLAGS (\\Seen) MODSEQ (102)) | * OK [HIGHESTMODSEQ 100]… | d OK Completed.
         2> e NOOP
         U= NOOP | TAG OK [HIGHESTMODSEQ 102] noop
         2< * VANISHED 12 | e OK [HIGHESTMODSEQ 102] noop
         1> e UID EXPUNGE 11
         U= UID EXPUNGE 11 | * VANISHED 11 | TAG OK [HIGHESTMODSEQ 103] expunged
         1~ e OK [HIGHESTMODSEQ 103] expunged
         2= f STORE 1 +FLAGS (\\Seen) | * OK [HIGHESTMODSEQ 102]… | f OK…")
    .await;
}

/// RFC 7162 section 3.2.10.2: of a mailbox without mod-sequences, EXPUNGE tells what is gone; section 3.2.5.1: there
/// the parameter means nothing.
#[tokio::test]
async fn without_mod_sequences_nothing_vanishes() {
    let mut stage = Stage::set(2, "CONDSTORE QRESYNC").await;
    stage.play(&FIRST.replace("HIGHESTMODSEQ 100", "NOMODSEQ")).await;
    let second = SECOND.replace(", HIGHESTMODSEQ 100", "");
    stage.play(&second.replace("2> c SELECT INBOX", "2> c SELECT INBOX (QRESYNC (7 90))")).await;
    stage
        .play(
            "1> d EXPUNGE
             U= EXPUNGE | * 2 EXPUNGE
             1< * 2 EXPUNGE | d OK EXPUNGE done
             2U d NOOP | * 2 EXPUNGE",
        )
        .await;
    stage.end().await;
}

/// RFC 6851 section 4.4: what is moved vanishes as well, and the mod-sequence of that is told.
#[tokio::test]
async fn what_is_moved_vanishes() {
    two("1> d UID MOVE 11:12 Trash
         U> UID MOVE 11:12 Trash
         U< * OK [COPYUID 9 11:12 1:2] moved | * VANISHED 11:12 | TAG OK [HIGHESTMODSEQ 101] done
         1< * OK [COPYUID 9 11:12 1:2] moved | * VANISHED 11:12 | d OK [HIGHESTMODSEQ 101] done
         2= d IDLE | + idling | * VANISHED 11:12
         2= DONE | d OK…")
    .await;
}

/// RFC 7162 section 6: a client with QRESYNC knows flags from another time. So what has changed since is news, though
/// nobody was told those flags here: when one session's FETCH reveals it, and when a connection was lost.
#[tokio::test]
async fn flags_known_from_another_time() {
    two("1> d FETCH 1:3 (FLAGS MODSEQ)
         U> FETCH 1:3 (FLAGS MODSEQ)
         U< * 1 FETCH (FLAGS (\\Seen) MODSEQ (100)) | * 2 FETCH (FLAGS () MODSEQ (90))
         U< * 3 FETCH (FLAGS (\\Flagged) MODSEQ (101)) | TAG OK fetched
         1~ d OK fetched
         2U d NOOP | * 3 FETCH (FLAGS (\\Flagged) UID 13 MODSEQ (101))
         U!
         1> e NOOP
         V= ENABLE CONDSTORE QRESYNC | * ENABLED CONDSTORE QRESYNC
         V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14, HIGHESTMODSEQ 103
         V> FETCH 1:* (FLAGS) (CHANGEDSINCE 100)
         V< * 2 FETCH (UID 12 FLAGS (\\Deleted) MODSEQ (102))
         V< * 3 FETCH (UID 13 FLAGS (\\Flagged) MODSEQ (101)) | TAG OK fetched
         V= NOOP
         1< * 2 FETCH (FLAGS (\\Deleted) UID 12 MODSEQ (102)) | e OK NOOP done
         2V e NOOP | * 2 FETCH (FLAGS (\\Deleted) UID 12 MODSEQ (102))")
    .await;
}

/// What comes and vanishes at once while the messages are listed after a loss: which numbers these have is found out,
/// as at any other time.
#[tokio::test]
async fn what_vanishes_while_messages_are_listed_is_found_out() {
    two("U!
         1> d NOOP
         V= ENABLE CONDSTORE QRESYNC | * ENABLED CONDSTORE QRESYNC
         V= SELECT \"INBOX\" | 4 messages, UIDVALIDITY 7, UIDNEXT 15, HIGHESTMODSEQ 101
         V= UID SEARCH 1:4 | * SEARCH 11 12 13 14 | * 6 EXISTS | * VANISHED 15
         V= UID SEARCH 1:5 | * SEARCH 11 12 13 14 16
         V= FETCH 1:* (FLAGS) (CHANGEDSINCE 100)
         V= NOOP
         1< * 5 EXISTS | d OK NOOP done
         2V d NOOP | * 5 EXISTS")
    .await;
}

/// RFC 9051 section 7.4.1: where what a backend tells of a mailbox never fits the number of messages that it told
/// first, SELECT counts anew.
#[tokio::test]
async fn what_never_fits_is_selected_anew() {
    let select = |exists: u32| {
        format!(
            "V> SELECT \"INBOX\"
             V< * {exists} EXISTS | * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told
             V< * OK [HIGHESTMODSEQ 101] told | TAG OK [READ-WRITE] selected\n"
        )
    };
    let search = "V= UID SEARCH 1:5 | * SEARCH 11 13
                  V= NOOP | TAG OK noop\n";
    let one_by_one = "V= FETCH 1:* (UID) | * 1 FETCH (UID 11) | * 2 FETCH (UID 13)
                      V= NOOP | TAG OK noop\n";
    let (wrong, right) = (select(5), select(2));
    two(&format!(
        "U!
         1> d NOOP
         V= ENABLE CONDSTORE QRESYNC | * ENABLED CONDSTORE QRESYNC
         {wrong}{search}{search}{one_by_one}{one_by_one}{right}
         V= FETCH 1:* (UID) | * 1 FETCH (UID 11) | * 2 FETCH (UID 13)
         V= FETCH 1:* (FLAGS) (CHANGEDSINCE 100)
         V= NOOP
         1< * VANISHED 12 | d OK NOOP done
         2V d NOOP | * VANISHED 12"
    ))
    .await;
}
