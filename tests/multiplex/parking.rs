//! Sessions of several mailboxes on one connection: what changes in a mailbox while another one has it.

use crate::stage::one_on;

/// RFC 9051 section 6.3.2: a connection has one mailbox selected at a time. Sections 7.3.5, 7.4.1, 7.5.1 and 7.5.2:
/// what has come, keywords too, what is gone and what was changed meanwhile is told to those who come back to it.
#[tokio::test]
async fn what_changes_meanwhile_is_told() {
    one_on(
        1,
        "1> b FETCH 1:3 (UID FLAGS)
         U> FETCH 1:3 (UID FLAGS)
         U< * 1 FETCH (UID 11 FLAGS ()) | * 2 FETCH (UID 12 FLAGS ()) | * 3 FETCH (UID 13 FLAGS ())
         U< TAG OK fetched
         1~ b OK fetched
         2> a SELECT Sent
         U= UNSELECT
         U= SELECT Sent | 0 messages, UIDVALIDITY 9, UIDNEXT 1
         2~ a OK [READ-WRITE] selected
         1> c NOOP
         U= UNSELECT
         U> SELECT \"INBOX\"
         U< * FLAGS (\\Seen \\Deleted $New) | * 3 EXISTS | * OK [UIDVALIDITY 7] told
         U< * OK [UIDNEXT 15] told | TAG OK [READ-WRITE] selected
         U= UID SEARCH 1:3 | * SEARCH 11 13 14
         U= FETCH 1:2 (FLAGS) | * 1 FETCH (FLAGS ()) | * 2 FETCH (FLAGS (\\Seen))
         U= NOOP
         1< * FLAGS (\\Seen \\Deleted $New) | * 2 EXPUNGE | * 3 EXISTS | * 2 FETCH (FLAGS (\\Seen))
         1< c OK NOOP done",
    )
    .await;
}

/// RFC 9051 section 2.3.1.1: with the same UIDVALIDITY, UIDNEXT and number of messages, nothing has come or gone.
#[tokio::test]
async fn what_is_as_it_was_costs_a_select() {
    one_on(
        1,
        "2> a SELECT Sent
         U= UID SEARCH 1:3 | * SEARCH 11 12 13
         U= UNSELECT
         U= SELECT Sent | 0 messages, UIDVALIDITY 9, UIDNEXT 1
         2~ a OK [READ-WRITE] selected
         1> b UID FETCH 12 (FLAGS)
         U= UNSELECT
         U= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         U= UID FETCH 12 (FLAGS) | * 2 FETCH (UID 12 FLAGS ())
         1< * 2 FETCH (UID 12 FLAGS ()) | b OK UID FETCH done
         2> b NOOP
         U= UNSELECT
         U= SELECT \"Sent\" | 0 messages, UIDVALIDITY 9, UIDNEXT 1
         U= NOOP
         2< b OK NOOP done",
    )
    .await;
}
