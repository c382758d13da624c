//! Sessions that have switched on UTF8=ACCEPT (RFC 6855) or IMAP4rev2 (RFC 9051) share, too, each with its like.

use crate::stage::{ONE, Stage};

/// RFC 6855 section 3: names in UTF-8 mean something else to those who have not switched that on: these do not share.
#[tokio::test]
async fn names_in_utf_8_are_shared_by_those_who_accept_them() {
    let mut stage = Stage::set(3, "UTF8=ACCEPT").await;
    stage
        .play(
            "1> a ENABLE UTF8=ACCEPT
             U> ENABLE UTF8=ACCEPT
             U< * ENABLED UTF8=ACCEPT
             U< TAG OK enabled
             1< * ENABLED UTF8=ACCEPT
             1< a OK enabled
             1> b SELECT \"Entwürfe\"
             U> SELECT \"Entwürfe\"
             U< * 1 EXISTS
             U< * OK [UIDVALIDITY 7] valid
             U< * OK [UIDNEXT 12] next
             U< TAG OK [READ-WRITE] selected
             1~ b OK [READ-WRITE] selected
             2> a ENABLE UTF8=ACCEPT
             V> ENABLE UTF8=ACCEPT
             V< * ENABLED UTF8=ACCEPT
             V< TAG OK enabled
             2~ a OK enabled
             2> b SELECT Entwürfe
             U> UID SEARCH 1:1
             U< * SEARCH 11
             U< TAG OK searched
             U> STATUS \"Entwürfe\" (UIDNEXT UIDVALIDITY)
             U< * STATUS \"Entwürfe\" (UIDNEXT 12 UIDVALIDITY 7)
             U< TAG OK status
             U> UID SEARCH UNSEEN
             U< * SEARCH
             U< TAG OK searched
             U> NOOP
             U< TAG OK noop
             2~ b OK [READ-WRITE] selected
             3> a SELECT \"Entwürfe\"
             W> SELECT \"Entwürfe\"
             W< TAG NO no such mailbox
             3< a NO no such mailbox
             1> c STORE 1 +FLAGS (\\Seen)
             U> STORE 1 +FLAGS (\\Seen)
             U< * 1 FETCH (FLAGS (\\Seen))
             U< TAG OK stored
             1< * 1 FETCH (FLAGS (\\Seen))
             1< c OK stored
             2> c NOOP
             U> NOOP
             U< TAG OK noop
             2< * 1 FETCH (FLAGS (\\Seen))
             2< c OK noop",
        )
        .await;
    stage.end().await;
}

/// RFC 9051 sections 6.3.2 and 7.3.4: who joins is told the mailbox's attributes, but nothing of RECENT and UNSEEN,
/// and a SEARCH is answered by ESEARCH, in the numbers of the one who asks.
#[tokio::test]
async fn imap4rev2_is_shared() {
    let enable = |who: u8, connection: char| {
        format!(
            "{who}> a ENABLE IMAP4rev2
             {connection}> ENABLE IMAP4rev2
             {connection}< * ENABLED IMAP4rev2
             {connection}< TAG OK enabled
             {who}~ a OK enabled\n"
        )
    };
    let mut stage = Stage::set(2, "IMAP4rev2").await;
    stage.play(&enable(1, 'U')).await;
    stage
        .play(
            "1> b SELECT INBOX
             U> SELECT INBOX
             U< * 3 EXISTS
             U< * FLAGS (\\Seen \\Deleted)
             U< * LIST (\\Subscribed) \"/\" INBOX
             U< * OK [UIDVALIDITY 7] valid
             U< * OK [UIDNEXT 14] next
             U< TAG OK [READ-WRITE] selected
             1< * 3 EXISTS
             1< * FLAGS (\\Seen \\Deleted)
             1< * LIST (\\Subscribed) \"/\" INBOX
             1< * OK [UIDVALIDITY 7] valid
             1< * OK [UIDNEXT 14] next
             1< b OK [READ-WRITE] selected",
        )
        .await;
    stage.play(&enable(2, 'V')).await;
    stage
        .play(
            "2> b SELECT INBOX
             U> UID SEARCH RETURN (ALL) 1:3
             U< * ESEARCH (tag \"TAG\") UID ALL 11:13
             U< TAG OK searched
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
             U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
             U< TAG OK status
             U> NOOP
             U< TAG OK noop
             2< * FLAGS (\\Seen \\Deleted)
             2< * LIST (\\Subscribed) \"/\" INBOX
             2< * OK [UIDVALIDITY 7] valid
             2< * 3 EXISTS
             2< * OK [UIDNEXT 14]…
             2< b OK [READ-WRITE] selected
             1> c UID EXPUNGE 12
             U> UID EXPUNGE 12
             U< * 2 EXPUNGE
             U< TAG OK expunged
             1< * 2 EXPUNGE
             1< c OK expunged
             2> c SEARCH ALL
             U> SEARCH ALL
             U< * ESEARCH (tag \"TAG\") ALL 1:2
             U< TAG OK searched
             2< * ESEARCH (TAG \"c\") ALL 1:3
             2< c OK searched",
        )
        .await;
    stage.end().await;
}

/// RFC 5161 section 3.1: nobody is told what only another has switched on.
#[tokio::test]
async fn who_has_switched_on_nothing_does_not_share_with_them() {
    let mut stage = Stage::set(2, "IMAP4rev2").await;
    stage.play(ONE).await;
    stage
        .play(
            "2> a ENABLE IMAP4rev2
             V> ENABLE IMAP4rev2
             V< * ENABLED IMAP4rev2
             V< TAG OK enabled
             2~ a OK enabled
             2> b SELECT INBOX
             V> SELECT INBOX
             V< * 3 EXISTS
             V< * OK [UIDVALIDITY 7] valid
             V< * OK [UIDNEXT 14] next
             V< TAG OK [READ-WRITE] selected
             2~ b OK [READ-WRITE] selected",
        )
        .await;
    stage.end().await;
}
