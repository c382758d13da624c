//! Sessions that have switched on UTF8=ACCEPT (RFC 6855) or IMAP4rev2 (RFC 9051) share, too, each with its like.

use crate::stage::{Stage, play};

/// RFC 6855 section 3: names in UTF-8 mean something else to those who have not switched that on: these do not share.
#[tokio::test]
async fn names_in_utf_8_are_shared_by_those_who_accept_them() {
    play(
        3,
        "UTF8=ACCEPT",
        "1> a ENABLE UTF8=ACCEPT
         U= ENABLE UTF8=ACCEPT | * ENABLED UTF8=ACCEPT
         1< * ENABLED UTF8=ACCEPT | a OK ENABLE done
         1> b SELECT \"Entwürfe\"
         U= SELECT \"Entwürfe\" | 1 messages, UIDVALIDITY 7, UIDNEXT 12
         1~ b OK [READ-WRITE] selected
         2> a ENABLE UTF8=ACCEPT
         V= ENABLE UTF8=ACCEPT | * ENABLED UTF8=ACCEPT
         2~ a OK ENABLE done
         2> b SELECT Entwürfe
         U= UID SEARCH 1:1 | * SEARCH 11
         U= STATUS \"Entwürfe\" (UIDNEXT UIDVALIDITY) | * STATUS \"Entwürfe\" (UIDNEXT 12 UIDVALIDITY 7)
         U= UID SEARCH UNSEEN | * SEARCH
         U= NOOP
         2~ b OK [READ-WRITE] selected
         3> a SELECT \"Entwürfe\"
         W= SELECT \"Entwürfe\" | TAG NO no such mailbox
         3< a NO no such mailbox
         1> c STORE 1 +FLAGS (\\Seen)
         U= STORE 1 +FLAGS (\\Seen) | * 1 FETCH (FLAGS (\\Seen))
         1< * 1 FETCH (FLAGS (\\Seen)) | c OK STORE done
         2U c NOOP | * 1 FETCH (FLAGS (\\Seen))",
    )
    .await;
}

/// RFC 9051 sections 6.3.2 and 7.3.4: who joins is told the mailbox's attributes, but nothing of RECENT and UNSEEN,
/// and a SEARCH is answered by ESEARCH, in the numbers of the one who asks.
#[tokio::test]
async fn imap4rev2_is_shared() {
    let enable = |who: u8, connection: char| {
        format!(
            "{who}> a ENABLE IMAP4rev2
             {connection}= ENABLE IMAP4rev2 | * ENABLED IMAP4rev2
             {who}~ a OK ENABLE done\n"
        )
    };
    let mut stage = Stage::set(2, "IMAP4rev2").await;
    stage.play(&enable(1, 'U')).await;
    stage
        .play(
            "1> b SELECT INBOX
             U> SELECT INBOX
             U< * 3 EXISTS | * FLAGS (\\Seen \\Deleted) | * LIST (\\Subscribed) \"/\" INBOX
             U< * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told | TAG OK [READ-WRITE] selected
             1< * 3 EXISTS | * FLAGS (\\Seen \\Deleted) | * LIST (\\Subscribed) \"/\" INBOX
             1< * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told | b OK [READ-WRITE] selected",
        )
        .await;
    stage.play(&enable(2, 'V')).await;
    stage
        .play(
            "2> b SELECT INBOX
             U= UID SEARCH RETURN (ALL) 1:3 | * ESEARCH (tag \"TAG\") UID ALL 11:13
             U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
             U= NOOP
             2< * FLAGS (\\Seen \\Deleted) | * LIST (\\Subscribed) \"/\" INBOX | * OK [UIDVALIDITY 7] told
             2< * 3 EXISTS | * OK [UIDNEXT 14]… | b OK [READ-WRITE] selected
             1> c UID EXPUNGE 12
             U= UID EXPUNGE 12 | * 2 EXPUNGE
             1< * 2 EXPUNGE | c OK UID EXPUNGE done
             2> c SEARCH ALL
             U= SEARCH ALL | * ESEARCH (tag \"TAG\") ALL 1:2
             2< * ESEARCH (TAG \"c\") ALL 1:3 | c OK SEARCH done",
        )
        .await;
    stage.end().await;
}

/// RFC 5161 section 3.1: nobody is told what only another has switched on.
#[tokio::test]
async fn who_has_switched_on_nothing_does_not_share_with_them() {
    play(
        2,
        "IMAP4rev2",
        "ONE
         2> a ENABLE IMAP4rev2
         V= ENABLE IMAP4rev2 | * ENABLED IMAP4rev2
         2~ a OK ENABLE done
         2> b SELECT INBOX
         V= SELECT INBOX | 3 messages, UIDVALIDITY 7, UIDNEXT 14
         2~ b OK [READ-WRITE] selected",
    )
    .await;
}
