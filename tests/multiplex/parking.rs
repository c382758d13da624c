//! Sessions of several mailboxes on one connection: what changes in a mailbox while another one has it.

use crate::stage::{ONE, Stage};

/// RFC 9051 section 6.3.2: a connection has one mailbox selected at a time. Sections 7.3.5, 7.4.1, 7.5.1 and 7.5.2:
/// what has come, keywords too, what is gone and what was changed meanwhile is told to those who come back to it.
#[tokio::test]
async fn what_changes_meanwhile_is_told() {
    let mut stage = Stage::set(1, "").await;
    stage.play(ONE).await;
    stage
        .play(
            "1> b FETCH 1:3 (UID FLAGS)
             U> FETCH 1:3 (UID FLAGS)
             U< * 1 FETCH (UID 11 FLAGS ())
             U< * 2 FETCH (UID 12 FLAGS ())
             U< * 3 FETCH (UID 13 FLAGS ())
             U< TAG OK fetched
             1~ b OK fetched
             2> a SELECT Sent
             U> UNSELECT
             U< TAG OK unselected
             U> SELECT Sent
             U< * 0 EXISTS
             U< * OK [UIDVALIDITY 9] valid
             U< * OK [UIDNEXT 1] next
             U< TAG OK [READ-WRITE] selected
             2~ a OK [READ-WRITE] selected
             1> c NOOP
             U> UNSELECT
             U< TAG OK unselected
             U> SELECT \"INBOX\"
             U< * FLAGS (\\Seen \\Deleted $New)
             U< * 3 EXISTS
             U< * OK [UIDVALIDITY 7] valid
             U< * OK [UIDNEXT 15] next
             U< TAG OK [READ-WRITE] selected
             U> UID SEARCH 1:3
             U< * SEARCH 11 13 14
             U< TAG OK searched
             U> FETCH 1:2 (FLAGS)
             U< * 1 FETCH (FLAGS ())
             U< * 2 FETCH (FLAGS (\\Seen))
             U< TAG OK fetched
             U> NOOP
             U< TAG OK noop
             1< * FLAGS (\\Seen \\Deleted $New)
             1< * 2 EXPUNGE
             1< * 3 EXISTS
             1< * 2 FETCH (FLAGS (\\Seen))
             1< c OK noop",
        )
        .await;
    stage.end().await;
}

/// RFC 9051 section 2.3.1.1: with the same UIDVALIDITY, UIDNEXT and number of messages, nothing has come or gone.
#[tokio::test]
async fn what_is_as_it_was_costs_a_select() {
    let mut stage = Stage::set(1, "").await;
    stage.play(ONE).await;
    stage
        .play(
            "2> a SELECT Sent
             U> UID SEARCH 1:3
             U< * SEARCH 11 12 13
             U< TAG OK searched
             U> UNSELECT
             U< TAG OK unselected
             U> SELECT Sent
             U< * 0 EXISTS
             U< * OK [UIDVALIDITY 9] valid
             U< * OK [UIDNEXT 1] next
             U< TAG OK [READ-WRITE] selected
             2~ a OK [READ-WRITE] selected
             1> b UID FETCH 12 (FLAGS)
             U> UNSELECT
             U< TAG OK unselected
             U> SELECT \"INBOX\"
             U< * 3 EXISTS
             U< * OK [UIDVALIDITY 7] valid
             U< * OK [UIDNEXT 14] next
             U< TAG OK [READ-WRITE] selected
             U> UID FETCH 12 (FLAGS)
             U< * 2 FETCH (UID 12 FLAGS ())
             U< TAG OK fetched
             1< * 2 FETCH (UID 12 FLAGS ())
             1< b OK fetched
             2> b NOOP
             U> UNSELECT
             U< TAG OK unselected
             U> SELECT \"Sent\"
             U< * 0 EXISTS
             U< * OK [UIDVALIDITY 9] valid
             U< * OK [UIDNEXT 1] next
             U< TAG OK [READ-WRITE] selected
             U> NOOP
             U< TAG OK noop
             2< b OK noop",
        )
        .await;
    stage.end().await;
}
