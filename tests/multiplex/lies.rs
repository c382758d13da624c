//! Numbers that cannot be: what a backend says against what it said before. The connection is given up at once,
//! nothing that came after it counts, and the mailbox is compared on another: so clients end up with the truth.

use crate::stage::{play, two, two_on};

/// The mailbox is as it was.
const SAME: &str = "V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14";

/// During a NOOP the backend says this, in one piece, and goes on as if nothing had happened. The client hears
/// nothing of it.
async fn after(lie: &str) {
    println!("{lie}");
    // The second connection is there before the first is closed.
    let script = format!(
        "ONE
         TWO
         2> b NOOP
         U> NOOP
         U< {lie}\\r\\n* 1 EXPUNGE\\r\\n* 9 EXISTS\\r\\nTAG OK noop
         {SAME}
         V= NOOP
         2< b OK NOOP done
         1V b NOOP"
    );
    play(2, "", &script).await;
}

/// RFC 9051 section 7.5.2: FETCH is of a message that is there.
#[tokio::test]
async fn a_fetch_of_message_four_billion() {
    after("* 4294967295 FETCH (FLAGS (\\Seen))").await;
}

/// RFC 9051 section 9 (`nz-number`): no message has the number 0, or one of more than 32 bits.
#[tokio::test]
async fn numbers_of_no_message() {
    for number in ["0", "4294967296", "18446744073709551616", "9999999999999999999999999999999999999999"] {
        after(&format!("* {number} FETCH (FLAGS (\\Seen) UID 11)")).await;
        after(&format!("* {number} EXPUNGE")).await;
    }
    after("* 1004 EXPUNGE").await;
    after("* 4294967296 EXISTS").await;
    after("* 18446744073709551616 RECENT").await;
}

/// RFC 9051 section 5.2: fewer messages only by EXPUNGE.
#[tokio::test]
async fn no_messages_and_then_one_expunged() {
    after("* 0 EXISTS").await;
    after("* 2 EXISTS").await;
}

/// The same section. Where it is true that nothing is left, all are told so, message by message.
#[tokio::test]
async fn a_mailbox_that_was_emptied() {
    two_on(
        2,
        "1= b IDLE | + idling
         U= IDLE | + idling
         U< * 0 EXISTS
         V= SELECT \"INBOX\" | 0 messages, UIDVALIDITY 7, UIDNEXT 14
         V= UID SEARCH ALL | * SEARCH
         1< * 3 EXPUNGE | * 2 EXPUNGE | * 1 EXPUNGE
         V= IDLE | + idling
         2> b NOOP
         V- DONE | TAG OK idled
         V= NOOP
         2< * 3 EXPUNGE | * 2 EXPUNGE | * 1 EXPUNGE | b OK NOOP done
         1= DONE | b OK…",
    )
    .await;
}

/// A list of UIDs that has more of them than there are messages does not count. It is asked for again.
#[tokio::test]
async fn a_search_that_finds_four_billion() {
    play(
        1,
        "ESEARCH",
        "ONE
         2> a SELECT INBOX
         U= UID SEARCH RETURN (ALL) 1:3 | * ESEARCH (TAG \"TAG\") UID ALL 1:4294967295
         U= NOOP
         U= UID SEARCH RETURN (ALL) 1:3 | * ESEARCH (TAG \"TAG\") UID ALL 11:13
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U= UID SEARCH RETURN (MIN) UNSEEN | * ESEARCH (TAG \"TAG\") UID
         U= NOOP
         2~ a OK [READ-WRITE] selected",
    )
    .await;
}

/// RFC 7162 section 3.2.10: a VANISHED that is cut, and runs into the next line, names no message.
#[tokio::test]
async fn a_vanished_that_is_cut_is_not_believed() {
    two("1> b NOOP
         U> NOOP
         U< * VANISHED 1* BYE going
         V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         V= NOOP
         1< b OK NOOP done")
    .await;
}

/// A mailbox may have four billion messages, and lose them all. It costs no more than to say so; whoever would have
/// to be told message by message has to leave.
#[tokio::test]
async fn four_billion_messages_that_vanish() {
    two("2> b NOOP
         U= NOOP | * 4294967295 EXISTS
         2< * 4294967295 EXISTS | b OK NOOP done
         2> c NOOP
         U= NOOP | * VANISHED 1:4294967295
         U= UID SEARCH ALL | * SEARCH
         2< c OK NOOP done | * BYE…
         2.
         1U b NOOP | * 3 EXPUNGE | * 2 EXPUNGE | * 1 EXPUNGE")
    .await;
}
