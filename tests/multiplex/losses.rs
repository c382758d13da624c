//! What becomes of commands whose connection is lost, and of what happens in the mailbox meanwhile.

use crate::stage::{two, two_offering};

/// The mailbox is as it was.
const SAME: &str = "V> SELECT \"INBOX\"
    V< * 3 EXISTS
    V< * OK [UIDVALIDITY 7] valid
    V< * OK [UIDNEXT 14] next
    V< TAG OK [READ-WRITE] selected";

/// RFC 9051 section 6.4.5: what only reads can be run again, so nobody hears of the loss.
#[tokio::test]
async fn what_only_reads_is_run_again() {
    two(&format!(
        "1> b FETCH 1 (UID)
         U> FETCH 1 (UID)
         U!
         {SAME}
         V> FETCH 1 (UID)
         V< * 1 FETCH (UID 11)
         V< TAG OK fetched
         1< * 1 FETCH (UID 11)
         1< b OK fetched"
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
         V> SELECT \"INBOX\"
         V< * 2 EXISTS
         V< * OK [UIDVALIDITY 7] valid
         V< * OK [UIDNEXT 14] next
         V< TAG OK [READ-WRITE] selected
         V> UID SEARCH 1:2
         V< * SEARCH 11 13
         V< TAG OK searched
         V> NOOP
         V< TAG OK noop
         1< * 2 EXPUNGE
         1< c OK noop
         2> b FETCH 3 (UID)
         V> FETCH 2 (UID)
         V< * 2 FETCH (UID 13)
         V< TAG OK fetched
         2< * 3 FETCH (UID 13)
         2< b OK fetched")
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
             V> FETCH 1 (UID)
             V< * 1 FETCH (UID 11)
             V< TAG OK fetched
             1< * 1 FETCH (UID 11)
             1< c OK fetched"
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
         V> NOOP
         V< TAG OK noop
         1< c OK noop"
    ))
    .await;
}

/// RFC 9051 section 7.5.2: flags that were changed while there was no connection are told to those who know them
/// otherwise.
#[tokio::test]
async fn flags_that_were_missed_are_told() {
    two_offering(
        "",
        &format!(
            "1> b FETCH 1:2 (FLAGS)
             U> FETCH 1:2 (FLAGS)
             U< * 1 FETCH (FLAGS ())
             U< * 2 FETCH (FLAGS (\\Seen))
             U< TAG OK fetched
             1~ b OK fetched
             U!
             2> b NOOP
             {SAME}
             V> FETCH 1:2 (FLAGS)
             V< * 1 FETCH (FLAGS (\\Flagged))
             V< * 2 FETCH (FLAGS (\\Seen))
             V< TAG OK fetched
             V> NOOP
             V< TAG OK noop
             2< * 1 FETCH (FLAGS (\\Flagged))
             2< b OK noop
             1> c NOOP
             V> NOOP
             V< TAG OK noop
             1< * 1 FETCH (FLAGS (\\Flagged))
             1< c OK noop"
        ),
    )
    .await;
}

/// RFC 5530 section 3: SERVERBUG, and the like, say nothing of the mailbox. Who asks for something hears it, nobody
/// has to leave, and the next command tries again.
#[tokio::test]
async fn a_mailbox_that_cannot_be_selected_just_now_is_not_left() {
    two(&format!(
        "U!
         2> b NOOP
         V> SELECT \"INBOX\"
         V< TAG NO [SERVERBUG] internal error
         2< b NO [SERVERBUG] internal error
         2> c NOOP
         {SAME}
         V> NOOP
         V< TAG OK noop
         2< c OK noop
         1> b NOOP
         V> NOOP
         V< TAG OK noop
         1< b OK noop"
    ))
    .await;
}

/// RFC 9051 section 7.1.5: a mailbox that is not there any more cannot be told of but by BYE.
#[tokio::test]
async fn a_mailbox_that_cannot_be_selected_any_more_ends_the_session() {
    two("U!
         2> b NOOP
         V> SELECT \"INBOX\"
         V< TAG NO [NONEXISTENT] no such mailbox
         1< * BYE…
         2< b NO [UNAVAILABLE]…
         2< * BYE…
         1. \n2. ")
    .await;
}

/// RFC 9051 section 2.3.1.1: UIDs only ever grow. Where one comes before those that are known, the mailbox is another
/// one.
#[tokio::test]
async fn a_message_before_those_that_are_known_ends_the_session() {
    two("U!
         2> b NOOP
         V> SELECT \"INBOX\"
         V< * 3 EXISTS
         V< * OK [UIDVALIDITY 7] valid
         V< * OK [UIDNEXT 15] next
         V< TAG OK [READ-WRITE] selected
         V> UID SEARCH 1:3
         V< * SEARCH 5 12 13
         V< TAG OK searched
         1< * BYE…
         2< b NO [UNAVAILABLE]…
         2< * BYE…
         1. \n2. ")
    .await;
}
