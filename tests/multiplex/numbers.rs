//! Numbers of messages, both ways: what a session may not hear of yet does not change its numbers.

use crate::stage::{play, two, two_on};

/// Message 1 is expunged by session 1; session 2 does not know it yet, and goes on counting as before.
const GONE: &str = "1> x EXPUNGE
    U= EXPUNGE | * 1 EXPUNGE
    1< * 1 EXPUNGE | x OK EXPUNGE done";

async fn after_expunge(script: &str) {
    two(&format!("{GONE}\n{script}")).await;
}

/// RFC 3501 section 7.4.1, RFC 9051 section 7.5.1: no EXPUNGE during FETCH; NOOP tells it.
#[tokio::test]
async fn fetch_keeps_its_numbers() {
    after_expunge(
        "2> b FETCH 3 (UID)
         U= FETCH 2 (UID) | * 2 FETCH (UID 13)
         2< * 3 FETCH (UID 13) | b OK FETCH done
         2U c NOOP | * 1 EXPUNGE",
    )
    .await;
}

/// The same section: no EXPUNGE during STORE. Section 6.4.6: the changed message is told to who stores, in its
/// numbers, and to the others in theirs.
#[tokio::test]
async fn store_keeps_its_numbers() {
    after_expunge(
        "2> b STORE 2:3 +FLAGS (\\Seen)
         U= STORE 1:2 +FLAGS (\\Seen) | * 1 FETCH (FLAGS (\\Seen)) | * 2 FETCH (FLAGS (\\Seen))
         2< * 2 FETCH (FLAGS (\\Seen)) | * 3 FETCH (FLAGS (\\Seen)) | b OK STORE done
         1U b NOOP | * 1 FETCH (FLAGS (\\Seen)) | * 2 FETCH (FLAGS (\\Seen))",
    )
    .await;
}

/// RFC 2180 section 4.4.2: EXPUNGE comes during COPY, whose numbers mean what they did when it was given.
#[tokio::test]
async fn copy_is_a_safe_point() {
    after_expunge(
        "2> b COPY 3 Trash
         U= COPY 2 Trash | TAG OK [COPYUID 9 13 1] copied
         2< * 1 EXPUNGE | b OK [COPYUID 9 13 1] copied",
    )
    .await;
}

/// RFC 9051 section 6.4.7: COPY copies all messages or none, and so, RFC 2180 section 4.4.1, none where some are
/// gone. RFC 5530 section 3: EXPUNGEISSUED.
#[tokio::test]
async fn copy_of_what_is_gone_copies_nothing() {
    after_expunge(
        "2= b COPY 1:2 Trash | * 1 EXPUNGE | b NO [EXPUNGEISSUED]…
         2U c UID COPY 11:12 Trash",
    )
    .await;
}

/// RFC 6851 section 3.3: MOVE expunges what it moves; the others hear of it as of any EXPUNGE.
#[tokio::test]
async fn move_expunges() {
    after_expunge(
        "2> b MOVE 3 Trash
         U= MOVE 2 Trash | * OK [COPYUID 9 13 1] moved | * 2 EXPUNGE
         2< * 1 EXPUNGE | * OK [COPYUID 9 13 1] moved | * 2 EXPUNGE | b OK MOVE done
         1U b NOOP | * 2 EXPUNGE",
    )
    .await;
}

/// RFC 9051 section 6.4.4: sets among the search keys, nested and negated, and `*`, are message numbers, too; those
/// after UID are not. Section 7.5.1: no EXPUNGE during SEARCH, and who was told of none finds what is gone: it has
/// another UID than 12.
#[tokio::test]
async fn search_keys_are_numbers() {
    after_expunge(
        "2> b SEARCH OR (2:3 NOT 3) (NOT (UID 12 2:*))
         U= SEARCH OR (1:2 NOT 2) (NOT (UID 12 1:2)) | * SEARCH 1 2
         2< * SEARCH 1 2 3 | b OK SEARCH done",
    )
    .await;
}

/// RFC 9051 sections 5.5 and 7.5.1: until it is told of an EXPUNGE, a session counts the message: a SEARCH for ALL, for
/// numbers or for UIDs finds it. The server is asked all the same, for what is new. What it refuses is refused.
#[tokio::test]
async fn search_counts_what_the_session_counts() {
    after_expunge(
        "2> b SEARCH ALL
         U= SEARCH ALL | * SEARCH 1 2 | * 3 EXISTS
         2< * SEARCH 1 2 3 | * 4 EXISTS | b OK SEARCH done
         2> c SEARCH 1:2
         U= FETCH 3:* (UID) | * 3 FETCH (UID 14)
         U= SEARCH 1 | * SEARCH 1
         2< * SEARCH 1 2 | c OK SEARCH done
         2> d SEARCH RETURN (COUNT ALL) UID 11:12 NOT 2
         U= SEARCH RETURN (COUNT ALL) UID 11:12 NOT 1 | * ESEARCH (TAG \"TAG\") COUNT 0
         2< * ESEARCH (TAG \"d\") COUNT 1 ALL 1 | d OK SEARCH done
         2> e SEARCH ALL
         U= SEARCH ALL | TAG NO [SERVERBUG] not now
         2< e NO [SERVERBUG] not now
         2U f NOOP | * 1 EXPUNGE",
    )
    .await;
}

/// RFC 9051 section 7.5.1: of a message that is gone and counted, its last flags and its UID are known, and that is
/// enough for many a search, also with OR, NOT and parentheses. What only the server can know does not find it. The
/// server's result is joined with it, whatever form was asked for (RFC 4731, RFC 9394).
#[tokio::test]
async fn what_is_known_of_what_is_gone_is_searched() {
    let marked = "1> w STORE 1 +FLAGS (\\Deleted)
                  U= STORE 1 +FLAGS (\\Deleted) | * 1 FETCH (FLAGS (\\Deleted))
                  1< * 1 FETCH (FLAGS (\\Deleted)) | w OK STORE done
                  2U w NOOP | * 1 FETCH (FLAGS (\\Deleted))";
    two(&format!(
        "{marked}
         {GONE}
         2> b SEARCH CHARSET UTF-8 DELETED UNSEEN
         U= SEARCH CHARSET UTF-8 DELETED UNSEEN | * SEARCH 2
         2< * SEARCH 1 3 | b OK SEARCH done
         2> c SEARCH OR (SUBJECT \"1 (\" ANSWERED) (DELETED 1)
         U= SEARCH OR (SUBJECT \"1 (\" ANSWERED) (DELETED NOT ALL) | * SEARCH
         2< * SEARCH 1 | c OK SEARCH done
         2> d SEARCH RETURN (MIN COUNT PARTIAL 1:1) NOT SEEN
         U= SEARCH RETURN (ALL) NOT SEEN | * ESEARCH (TAG \"TAG\") ALL 1:2
         2< * ESEARCH (TAG \"d\") MIN 1 COUNT 3 PARTIAL (1:1 1) | d OK SEARCH done
         2> e SEARCH SUBJECT hello
         U= SEARCH SUBJECT hello | * SEARCH 2
         2< * SEARCH 3 | e OK SEARCH done
         2> f UID SEARCH 1:2
         U= UID SEARCH 1 | * SEARCH 12
         2< * SEARCH 11 12 | f OK UID SEARCH done
         2> g UID SEARCH RETURN (MAX COUNT) 1 DELETED
         U= UID SEARCH RETURN (ALL) NOT ALL DELETED | * ESEARCH (TAG \"TAG\") UID
         2< * ESEARCH (TAG \"g\") UID MAX 11 COUNT 1 | g OK UID SEARCH done
         2U h NOOP | * 1 EXPUNGE"
    ))
    .await;
}

/// RFC 4731 section 3.1: MIN, MAX and ALL are message numbers, COUNT is not; with UID, none is.
#[tokio::test]
async fn esearch_items_are_numbers() {
    after_expunge(
        "2> b SEARCH RETURN (MIN MAX COUNT ALL) NOT 1
         U= SEARCH RETURN (MIN MAX COUNT ALL) NOT NOT ALL | * ESEARCH (tag \"TAG\") MIN 1 MAX 2 COUNT 2 ALL 1:2
         2< * ESEARCH (TAG \"b\") MIN 2 MAX 3 COUNT 2 ALL 2:3 | b OK SEARCH done
         2> c UID SEARCH RETURN (ALL) ALL
         U= UID SEARCH RETURN (ALL) ALL | * ESEARCH (tag \"TAG\") UID ALL 12:13
         2< * 1 EXPUNGE | * ESEARCH (tag \"c\") UID ALL 12:13 | c OK UID SEARCH done",
    )
    .await;
}

/// RFC 5256 section 3: SORT and THREAD answer with message numbers, and no EXPUNGE comes meanwhile; during UID SORT
/// it may.
#[tokio::test]
async fn sort_and_thread_are_numbers() {
    after_expunge(
        "2> b SORT (REVERSE DATE) UTF-8 2:3
         U= SORT (REVERSE DATE) UTF-8 1:2 | * SORT 2 1
         2< * SORT 3 2 | b OK SORT done
         2> c THREAD REFERENCES UTF-8 ALL
         U= THREAD REFERENCES UTF-8 ALL | * THREAD (1 (2))
         2< * THREAD (2 (3)) | c OK THREAD done
         2> d UID SORT (DATE) UTF-8 ALL
         U= UID SORT (DATE) UTF-8 ALL | * SORT 13 12
         2< * 1 EXPUNGE | * SORT 13 12 | d OK UID SORT done",
    )
    .await;
}

/// RFC 9051 section 9 (`seq-range`): ranges mean the same either way round, and `*` is the last message that the client
/// knows. Section 5.2: EXISTS comes with the next command.
#[tokio::test]
async fn the_star_is_the_last_message_the_client_knows() {
    after_expunge(
        "1> b NOOP
         U= NOOP | * 3 EXISTS
         1< * 3 EXISTS | b OK NOOP done
         U= UID SEARCH 3:3 | * SEARCH 14
         2> b FETCH *:3 (UID)
         U= FETCH 2:3 (UID) | * 2 FETCH (UID 13) | * 3 FETCH (UID 14)
         2< * 4 EXISTS | * 3 FETCH (UID 13) | * 4 FETCH (UID 14) | b OK FETCH done",
    )
    .await;
}

/// RFC 2180 section 4.1 (4.1.1, 4.1.3) and RFC 9051 sections 5.5 and 7.5.1: who has not been told that a message is
/// gone may ask for it. What is left is served; of what is gone there is said what is known, and nothing is wrong.
/// (By RFC 2180 section 4.1.2 it would be NO, which a client alone on its connection does not hear.)
#[tokio::test]
async fn what_is_gone_is_answered_as_far_as_it_is_known() {
    two(&format!(
        "1> w STORE 1 +FLAGS (\\Deleted)
         U= STORE 1 +FLAGS (\\Deleted) | * 1 FETCH (FLAGS (\\Deleted))
         1< * 1 FETCH (FLAGS (\\Deleted)) | w OK STORE done
         2U w NOOP | * 1 FETCH (FLAGS (\\Deleted))
         {GONE}
         2> b FETCH 1:2 (UID)
         U= FETCH 1 (UID) | * 1 FETCH (UID 12)
         2< * 2 FETCH (UID 12) | * 1 FETCH (UID 11) | b OK FETCH done
         2> c FETCH 1:* (FLAGS UID)
         U= FETCH 1:2 (FLAGS UID) | * 1 FETCH (FLAGS () UID 12) | * 2 FETCH (FLAGS () UID 13)
         2< * 2 FETCH (FLAGS () UID 12) | * 3 FETCH (FLAGS () UID 13) | * 1 FETCH (FLAGS (\\Deleted) UID 11)
         2< c OK FETCH done
         2= d FETCH 1 FLAGS | * 1 FETCH (FLAGS (\\Deleted)) | d OK…
         2= e FETCH 1 (UID BODY.PEEK[]) | e OK…
         2> f FETCH 1:2 (RFC822.SIZE)
         U= FETCH 1 (RFC822.SIZE) | * 1 FETCH (RFC822.SIZE 7)
         2< * 2 FETCH (RFC822.SIZE 7) | f OK FETCH done
         2U g NOOP | * 1 EXPUNGE"
    ))
    .await;
}

/// The same of flags that were never told: nobody knows them, and so nothing is said. What the backend refuses is
/// refused.
#[tokio::test]
async fn what_is_gone_is_left_out_where_it_is_not_known() {
    after_expunge(
        "2= b FETCH 1 (UID FLAGS) | b OK…
         2> c FETCH 1:2 (UID)
         U= FETCH 1 (UID) | TAG NO [SERVERBUG] not now
         2< c NO [SERVERBUG] not now",
    )
    .await;
}

/// RFC 9051 section 7.5.1: EXPUNGE may come during commands by UID, whose FETCH replies then have the new numbers.
#[tokio::test]
async fn commands_by_uid_are_safe_points() {
    after_expunge(
        "2> b UID FETCH 13 (FLAGS)
         U= UID FETCH 13 (FLAGS) | * 2 FETCH (UID 13 FLAGS ())
         2< * 1 EXPUNGE | * 2 FETCH (UID 13 FLAGS ()) | b OK UID FETCH done",
    )
    .await;
}

/// RFC 9051 section 7.5.1: during FETCH by number a session does not hear that another program expunged something; it
/// does with the next command that lets it, and its numbers are the old ones until then.
#[tokio::test]
async fn expunge_by_another_program_waits_as_well() {
    two("1> b UID FETCH 12 (UID)
         U= UID FETCH 12 (UID) | * 1 EXPUNGE | * 1 FETCH (UID 12)
         1< * 1 EXPUNGE | * 1 FETCH (UID 12) | b OK UID FETCH done
         2> b FETCH 2 (UID)
         U= FETCH 1 (UID) | * 1 FETCH (UID 12)
         2< * 2 FETCH (UID 12) | b OK FETCH done
         2U c CHECK | * 1 EXPUNGE")
    .await;
}

/// RFC 9051 sections 2.3.1.2 and 7.4.1: nothing is said of a number above what EXISTS said, which comes before it;
/// also where the backend has said so to nobody (Cyrus, of what MOVE moves within a mailbox).
#[tokio::test]
async fn a_message_is_announced_before_anything_is_said_of_it() {
    two("1> b MOVE 3 INBOX
         U= MOVE 3 INBOX | * OK [COPYUID 7 13 14] moved | * 3 EXPUNGE
         1< * OK [COPYUID 7 13 14] moved | * 3 EXPUNGE | b OK MOVE done
         1> c FETCH 1:* (UID)
         U= FETCH 1:* (UID) | * 1 FETCH (UID 11) | * 2 FETCH (UID 12) | * 3 FETCH (UID 14)
         1< * 1 FETCH (UID 11) | * 2 FETCH (UID 12) | * 3 EXISTS | * 3 FETCH (UID 14) | c OK FETCH done
         2U b NOOP | * 3 EXPUNGE | * 3 EXISTS")
    .await;
}

/// The same of a message that goes before anything was said of it (Cyrus 3.10, when another session expunges it).
#[tokio::test]
async fn a_message_is_announced_before_it_is_expunged() {
    two("1> b NOOP
         U= NOOP | * 1 EXPUNGE | * 4 EXPUNGE | * 1 FETCH (FLAGS (\\Seen))
         1< * 1 EXPUNGE | * 4 EXISTS | * 4 EXPUNGE | * 1 FETCH (FLAGS (\\Seen)) | b OK NOOP done
         2U b NOOP | * 1 EXPUNGE | * 3 EXISTS | * 1 FETCH (FLAGS (\\Seen))")
    .await;
}

/// RFC 2180 section 4.2 and RFC 9051 section 7.5.1: of what a STORE names, that which is there is changed. Of what is
/// gone nothing is said, and nothing is wrong, silent (section 4.2.1) or not: that it is gone, the client hears with
/// the next command that lets it. (It was NO [EXPUNGEISSUED], by section 4.2.3.)
#[tokio::test]
async fn store_changes_what_is_there() {
    after_expunge(
        "2> b STORE 1:2 +FLAGS.SILENT (\\Seen)
         U= STORE 1 +FLAGS (\\Seen) | * 1 FETCH (FLAGS (\\Seen))
         2< b OK STORE done
         2= c STORE 1 +FLAGS.SILENT (\\Seen) | c OK…
         2> d STORE 1:2 -FLAGS (\\Deleted)
         U= STORE 1 -FLAGS (\\Deleted) | * 1 FETCH (FLAGS (\\Seen))
         2< * 2 FETCH (FLAGS (\\Seen)) | d OK STORE done
         1U b NOOP | * 1 FETCH (FLAGS (\\Seen))",
    )
    .await;
}

/// RFC 9051 section 9 (`seq-range`): either way round, also in commands that change something. RFC 2180 section 4.3:
/// what is gone is not found, and so by the negation of its number all the others are.
#[tokio::test]
async fn ranges_mean_the_same_either_way_round() {
    after_expunge(
        "2> b STORE *:2 +FLAGS (\\Flagged)
         U= STORE 1:2 +FLAGS (\\Flagged) | * 1 FETCH (FLAGS (\\Flagged)) | * 2 FETCH (FLAGS (\\Flagged))
         2< * 2 FETCH (FLAGS (\\Flagged)) | * 3 FETCH (FLAGS (\\Flagged)) | b OK STORE done
         2> c SEARCH NOT (1 SEEN) OR 3:2 UID 13:11
         U= SEARCH NOT (NOT ALL SEEN) OR 1:2 UID 13:11 | * SEARCH 1 2
         2< * SEARCH 2 3 | c OK SEARCH done
         2> d COPY 3:2 Trash
         U= COPY 1:2 Trash
         2< * 1 EXPUNGE | d OK COPY done",
    )
    .await;
}

/// RFC 9394 section 3.1: in PARTIAL, the range counts what was found; what was found are message numbers.
#[tokio::test]
async fn partial_results_are_numbers() {
    after_expunge(
        "2> b SEARCH RETURN (PARTIAL 1:2 COUNT) 2:3
         U= SEARCH RETURN (PARTIAL 1:2 COUNT) 1:2 | * ESEARCH (tag \"TAG\") PARTIAL (1:2 1:2) COUNT 2
         2< * ESEARCH (TAG \"b\") PARTIAL (1:2 2:3) COUNT 2 | b OK SEARCH done",
    )
    .await;
}

/// RFC 5182 section 2.1: a saved result is the connection's, so its owner gets one of its own.
#[tokio::test]
async fn saved_results_are_not_shared() {
    two_on(
        2,
        "2> b SEARCH RETURN (SAVE) ALL
         V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         V= SEARCH RETURN (SAVE) ALL
         2< b OK SEARCH done
         2> c FETCH $ (UID)
         V= FETCH $ (UID) | * 1 FETCH (UID 11)
         2< * 1 FETCH (UID 11) | c OK FETCH done
         1U b NOOP",
    )
    .await;
}

/// RFC 9051 section 4.3: what is in a literal is no reply, and has no numbers.
#[tokio::test]
async fn literals_pass_as_they_are() {
    after_expunge(
        "2> b FETCH 2 (BODY.PEEK[] FLAGS)
         U> FETCH 1 (BODY.PEEK[] FLAGS)
         U< * 1 FETCH (BODY[] {35}\\r\\n* 2 EXPUNGE\\r\\n* 3 FETCH (FLAGS ())\\r\\n FLAGS ())
         U< TAG OK fetched
         2< * 2 FETCH (BODY[] {35}
         2< * 2 EXPUNGE | * 3 FETCH (FLAGS ())
         2<  FLAGS ())
         2< b OK fetched",
    )
    .await;
}

/// RFC 9051 section 6.4.9: among the keys of UID SEARCH there may be message numbers, which mean what they did before
/// any EXPUNGE that comes meanwhile (section 5.5). RFC 7162 section 3.2.10.2 has it that none comes.
#[tokio::test]
async fn uid_search_has_numbers_as_well() {
    after_expunge(
        "2> b UID SEARCH 2:* UID 11:13
         U= UID SEARCH 1:2 UID 11:13 | * SEARCH 12 13
         2< * SEARCH 12 13 | b OK UID SEARCH done
         2> c UID SEARCH NOT SEEN
         U= UID SEARCH NOT SEEN | * SEARCH 12 13
         2< * 1 EXPUNGE | * SEARCH 12 13 | c OK UID SEARCH done",
    )
    .await;
}

/// RFC 9051 sections 5.5 and 7.5.1: commands by number may follow one another at once, since nobody is told of an
/// EXPUNGE within the reply to FETCH, STORE or SEARCH. That holds for those, too, that need a connection of their
/// own.
#[tokio::test]
async fn what_is_pinned_moves_no_number_of_the_next_command() {
    for command in ["SEARCH RETURN (SAVE) 2:3"] {
        play(
            2,
            "CONDSTORE",
            &format!(
                "ONE
                 TWO
                 1> b EXPUNGE
                 U= EXPUNGE | * 2 EXPUNGE
                 1< * 2 EXPUNGE | b OK EXPUNGE done
                 2> b {command}\\r\\nc FETCH 3 (FLAGS)
                 V= SELECT \"INBOX\" | 2 messages, UIDVALIDITY 7, UIDNEXT 14
                 V= UID SEARCH 1:2 | * SEARCH 11 13
                 2< b NO [EXPUNGEISSUED]…
                 V= FETCH 2 (FLAGS) | * 2 FETCH (FLAGS (x))
                 2< * 3 FETCH (FLAGS (x)) | c OK FETCH done
                 2V d NOOP | * 2 EXPUNGE"
            ),
        )
        .await;
    }
}
