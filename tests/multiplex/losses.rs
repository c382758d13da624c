//! What becomes of commands whose connection is lost, and of what happens in the mailbox meanwhile.

use crate::stage::{both_end, two};

/// The mailbox is as it was.
const SAME: &str = "V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14";

/// RFC 9051 section 6.4.5: what only reads can be run again, so nobody hears of the loss.
#[tokio::test]
async fn what_only_reads_is_run_again() {
    two(&format!(
        "1> b FETCH 1 (UID)
         U> FETCH 1 (UID)
         U!
         {SAME}
         V= FETCH 1 (UID) | * 1 FETCH (UID 11)
         1< * 1 FETCH (UID 11) | b OK FETCH done"
    ))
    .await;
}

/// RFC 9051 section 6.4.8: what moves must not move twice. RFC 5530 section 3: UNAVAILABLE; the mailbox stays
/// selected, and what has become of it is told.
#[tokio::test]
async fn what_changes_something_is_not_run_again() {
    two("1> b MOVE 2 Trash
         U> MOVE 2 Trash
         U!
         1< b NO [UNAVAILABLE]…
         1> c NOOP
         V= SELECT \"INBOX\" | 2 messages, UIDVALIDITY 7, UIDNEXT 14
         V= UID SEARCH 1:2 | * SEARCH 11 13
         V= NOOP
         1< * 2 EXPUNGE | c OK NOOP done
         2> b FETCH 3 (UID)
         V= FETCH 2 (UID) | * 2 FETCH (UID 13)
         2< * 3 FETCH (UID 13) | b OK FETCH done")
    .await;
}

/// RFC 9051 section 6.4.1: what is not answered OK has not closed the mailbox, whoever else is in it.
#[tokio::test]
async fn a_close_that_is_lost_leaves_the_mailbox_selected() {
    for (others, close) in [("", "EXPUNGE"), ("2> z LOGOUT\n2~ z OK…\n2.\n", "CLOSE")] {
        two(&format!(
            "{others}1> b CLOSE
             U> {close}
             U!
             1< b NO [UNAVAILABLE]…
             1> c FETCH 1 (UID)
             {SAME}
             V= FETCH 1 (UID) | * 1 FETCH (UID 11)
             1< * 1 FETCH (UID 11) | c OK FETCH done"
        ))
        .await;
    }
}

/// RFC 9051 section 2.2.1: a reply that has begun cannot be begun anew; what has come of it is whole, and the mailbox
/// stays selected.
#[tokio::test]
async fn a_reply_that_has_begun_is_not_begun_anew() {
    two(&format!(
        "1> b FETCH 1:2 (UID)
         U> FETCH 1:2 (UID)
         U< * 1 FETCH (UID 11)
         1< * 1 FETCH (UID 11)
         U!
         1< b NO [UNAVAILABLE]…
         1> c NOOP
         {SAME}
         V= NOOP
         1< c OK NOOP done"
    ))
    .await;
}

/// RFC 9051 section 7.5.2: flags that were changed while there was no connection are told to those who know them
/// otherwise.
#[tokio::test]
async fn flags_that_were_missed_are_told() {
    two(&format!(
        "1> b FETCH 1:2 (FLAGS)
         U= FETCH 1:2 (FLAGS) | * 1 FETCH (FLAGS ()) | * 2 FETCH (FLAGS (\\Seen))
         1~ b OK FETCH done
         U!
         2> b NOOP
         {SAME}
         V= FETCH 1:2 (FLAGS) | * 1 FETCH (FLAGS (\\Flagged)) | * 2 FETCH (FLAGS (\\Seen))
         V= NOOP
         2< * 1 FETCH (FLAGS (\\Flagged)) | b OK NOOP done
         1V c NOOP | * 1 FETCH (FLAGS (\\Flagged))"
    ))
    .await;
}

/// RFC 5530 section 3: SERVERBUG, and the like, say nothing of the mailbox. Who asks for something hears it, nobody
/// has to leave, and the next command tries again.
#[tokio::test]
async fn a_mailbox_that_cannot_be_selected_just_now_is_not_left() {
    two(&format!(
        "U!
         2> b NOOP
         V= SELECT \"INBOX\" | TAG NO [SERVERBUG] internal error
         2< b NO [SERVERBUG] internal error
         2> c NOOP
         {SAME}
         V= NOOP
         2< c OK NOOP done
         1V b NOOP"
    ))
    .await;
}

/// RFC 9051 section 7.1.5: a mailbox that is not there any more cannot be told of but by BYE.
#[tokio::test]
async fn a_mailbox_that_cannot_be_selected_any_more_ends_the_session() {
    both_end("V= SELECT \"INBOX\" | TAG NO [NONEXISTENT] no such mailbox").await;
}

/// RFC 9051 section 2.3.1.1: UIDs only ever grow. Where one comes before those that are known, the mailbox is another
/// one.
#[tokio::test]
async fn a_message_before_those_that_are_known_ends_the_session() {
    both_end(
        "V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 15
         V= UID SEARCH 1:3 | * SEARCH 5 12 13",
    )
    .await;
}
