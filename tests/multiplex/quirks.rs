//! What real servers say against the letter of the RFC.

use crate::stage::{ONE, TWO, play, two_offering};

/// RFC 9051 sections 2.3.1.2 and 7.4.1: numbers go up to what EXISTS said, so a message is announced before it can be
/// found. Cyrus
/// 3.6 finds one that comes while it searches, and announces it afterwards.
#[tokio::test]
async fn a_message_that_was_not_announced_is_not_found() {
    two_offering(
        "SORT THREAD=REFERENCES",
        "2> b SORT (DATE) UTF-8 ALL
         U> SORT (DATE) UTF-8 ALL
         U< * SORT 2 4 1 3
         U< * 4 EXISTS
         U< TAG OK sorted
         2< * SORT 2 1 3
         2< * 4 EXISTS
         2< b OK sorted",
    )
    .await;
}

/// RFC 9051 section 4.3: what a client has quoted, 8-bit octets included, is quoted by the hub, too. Not all servers
/// that take it so know what to make of it as a literal.
#[tokio::test]
async fn a_name_is_written_as_its_client_wrote_it() {
    let quoted = format!("{ONE}\n{TWO}").replace("\"INBOX\"", "INBOX").replace("INBOX", "\"Entw\u{fc}rfe\"");
    play(1, "", &quoted).await;
}
