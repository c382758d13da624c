//! What real servers say against the letter of the RFC.

use crate::stage::{play, two_offering};

/// RFC 9051 sections 2.3.1.2 and 7.4.1: numbers go up to what EXISTS said, so a message is announced before it can be
/// found. Cyrus
/// 3.6 finds one that comes while it searches, and announces it afterwards.
#[tokio::test]
async fn a_message_that_was_not_announced_is_not_found() {
    two_offering(
        "SORT THREAD=REFERENCES",
        "2> b SORT (DATE) UTF-8 ALL
         U= SORT (DATE) UTF-8 ALL | * SORT 2 4 1 3 | * 4 EXISTS
         2< * SORT 2 1 3 | * 4 EXISTS | b OK SORT done",
    )
    .await;
}

/// RFC 9051 section 4.3: what a client has quoted, 8-bit octets included, is quoted by the hub, too. Not all servers
/// that take it so know what to make of it as a literal.
#[tokio::test]
async fn a_name_is_written_as_its_client_wrote_it() {
    let name = "\"Entw\u{fc}rfe\"";
    let script = format!(
        "1> a SELECT {name}
         U= SELECT {name} | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         1~ a OK [READ-WRITE] selected
         2> a SELECT {name}
         U= UID SEARCH 1:3 | * SEARCH 11 12 13
         U= STATUS {name} (UIDNEXT UIDVALIDITY) | * STATUS {name} (UIDNEXT 14 UIDVALIDITY 7)
         U= UID SEARCH UNSEEN | * SEARCH
         U= NOOP
         2~ a OK [READ-WRITE] selected"
    );
    play(1, "", &script).await;
}
