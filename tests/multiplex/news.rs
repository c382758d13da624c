//! What one session does, told to the others.

use crate::stage::{play, two};

/// RFC 9051 section 6.4.6: `.SILENT` is silent for the one who asks. Section 5.2: the others are told.
#[tokio::test]
async fn a_silent_store_is_told_to_the_others() {
    two("1> b STORE 2 +FLAGS.SILENT (\\Seen)
         U> STORE 2 +FLAGS (\\Seen)
         U< * 2 FETCH (FLAGS (\\Seen))
         U< TAG OK stored
         1< b OK stored
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * 2 FETCH (FLAGS (\\Seen))
         2< b OK noop")
    .await;
}

/// RFC 9051 section 6.4.6: of a silent STORE one hears after all when the flags are not what it was to make of them:
/// another program has set some.
#[tokio::test]
async fn a_silent_store_hides_nothing_else() {
    two("1> b FETCH 2 (FLAGS)
         U> FETCH 2 (FLAGS)
         U< * 2 FETCH (FLAGS ())
         U< TAG OK fetched
         1< * 2 FETCH (FLAGS ())
         1< b OK fetched
         1> c STORE 2 +FLAGS.SILENT (\\Seen)
         U> STORE 2 +FLAGS (\\Seen)
         U< * 2 FETCH (FLAGS (\\Seen \\Flagged))
         U< TAG OK stored
         1< * 2 FETCH (FLAGS (\\Seen \\Flagged))
         1< c OK stored")
    .await;
}

/// RFC 9051 section 6.4.5: reading sets \Seen, of which the others hear. Section 7.5.2: what only one asked for is no
/// news, unless it differs from what the others know (the flags shadow).
#[tokio::test]
async fn reading_is_news_and_looking_is_not() {
    two("1> b FETCH 1 (BODY[])
         U> FETCH 1 (BODY[])
         U< * 1 FETCH (BODY[] {20}\\r\\n* 2 EXPUNGE {5}\\r\\n123 FLAGS (\\Seen))
         U< TAG OK fetched
         1~ b OK fetched
         1> c FETCH 2 (FLAGS)
         U> FETCH 2 (FLAGS)
         U< * 2 FETCH (FLAGS (\\Deleted))
         U< TAG OK fetched
         1< * 2 FETCH (FLAGS (\\Deleted))
         1< c OK fetched
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * 1 FETCH (FLAGS (\\Seen))
         2< b OK noop
         2> c FETCH 2 (FLAGS)
         U> FETCH 2 (FLAGS)
         U< * 2 FETCH (FLAGS (\\Answered))
         U< TAG OK fetched
         2< * 2 FETCH (FLAGS (\\Answered))
         2< c OK fetched
         1> d NOOP
         U> NOOP
         U< TAG OK noop
         1< * 2 FETCH (FLAGS (\\Answered))
         1< d OK noop")
    .await;
}

/// RFC 2177 section 3, RFC 9051 section 6.3.13: one IDLE serves all; a command of one interrupts it, and its news
/// reach the others at once.
#[tokio::test]
async fn one_idle_for_all() {
    two("1> b IDLE
         1< + idling
         U> IDLE
         U< + idling
         U< * 4 EXISTS
         1< * 4 EXISTS
         2> b STORE 1 +FLAGS (\\Deleted)
         U- DONE
         U< TAG OK idled
         U> STORE 1 +FLAGS (\\Deleted)
         U< * 1 FETCH (FLAGS (\\Deleted))
         U< TAG OK stored
         2< * 4 EXISTS
         2< * 1 FETCH (FLAGS (\\Deleted))
         2< b OK stored
         1< * 1 FETCH (FLAGS (\\Deleted))
         1> DONE
         1< b OK…")
    .await;
}

/// RFC 9051 section 6.4.9 (UID EXPUNGE; RFC 4315 section 2.1), section 6.3.13: EXPUNGE is told at once to who asks
/// and to who idles.
#[tokio::test]
async fn expunge_reaches_who_idles() {
    two("2> b IDLE
         2< + idling
         U> IDLE
         U< + idling
         1> b UID EXPUNGE 12
         U- DONE
         U< TAG OK idled
         U> UID EXPUNGE 12
         U< * 2 EXPUNGE
         U< TAG OK expunged
         1< * 2 EXPUNGE
         1< b OK expunged
         2< * 2 EXPUNGE
         2> DONE
         2< b OK…")
    .await;
}

/// RFC 9051 section 7.3.5: FLAGS tells of keywords; of those that come into use, all are told.
#[tokio::test]
async fn new_keywords_are_told_to_all() {
    two("1> b STORE 1 +FLAGS ($Junk)
         U> STORE 1 +FLAGS ($Junk)
         U< * FLAGS (\\Seen \\Deleted $Junk)
         U< * 1 FETCH (FLAGS ($Junk))
         U< TAG OK stored
         1< * FLAGS (\\Seen \\Deleted $Junk)
         1< * 1 FETCH (FLAGS ($Junk))
         1< b OK stored
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * FLAGS (\\Seen \\Deleted $Junk)
         2< * 1 FETCH (FLAGS ($Junk))
         2< b OK noop")
    .await;
}

/// RFC 2177 section 3: the IDLE that a command has interrupted goes on after it, and is ended upstream with the last
/// one who idles.
#[tokio::test]
async fn idle_goes_on_after_a_command() {
    two("1> b IDLE
         1< + idling
         U> IDLE
         U< + idling
         2> b NOOP
         U- DONE
         U< TAG OK idled
         U> NOOP
         U< TAG OK noop
         2< b OK noop
         U> IDLE
         U< + idling
         U< * 2 FETCH (FLAGS (\\Seen))
         1< * 2 FETCH (FLAGS (\\Seen))
         1> DONE
         1< b OK…
         U- DONE
         U< TAG OK idled")
    .await;
}

/// RFC 9051 section 6.4.6: `.SILENT`, by UID.
#[tokio::test]
async fn a_silent_store_by_uid_is_told_to_the_others() {
    two("1> b UID STORE 12 FLAGS.SILENT (\\Answered)
         U> UID STORE 12 FLAGS (\\Answered)
         U< * 2 FETCH (UID 12 FLAGS (\\Answered))
         U< TAG OK stored
         1< b OK stored
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * 2 FETCH (…
         2< b OK noop")
    .await;
}

/// RFC 9051 sections 6.4.7 and 6.4.8: TRYCREATE says what the client may do about it.
#[tokio::test]
async fn codes_of_tagged_replies_pass() {
    two("1> b COPY 1 Nowhere
         U> COPY 1 Nowhere
         U< TAG NO [TRYCREATE] no such mailbox
         1< b NO [TRYCREATE] no such mailbox
         2> b UID MOVE 12 Nowhere
         U> UID MOVE 12 Nowhere
         U< TAG NO [TRYCREATE] no such mailbox
         2< b NO [TRYCREATE] no such mailbox")
    .await;
}

/// RFC 3501 section 7.3.2: RECENT goes with EXISTS.
#[tokio::test]
async fn recent_messages_are_told_to_all() {
    two("1> b NOOP
         U> NOOP
         U< * 4 EXISTS
         U< * 1 RECENT
         U< TAG OK noop
         1< * 4 EXISTS
         1< * 1 RECENT
         1< b OK noop
         2> b IDLE
         2< + idling
         2< * 4 EXISTS
         2< * 1 RECENT
         2> DONE
         2< b OK…")
    .await;
}

/// RFC 9051 section 7.5.1: no EXPUNGE while no command is in progress; section 5.2: what came and went meanwhile is
/// no news.
#[tokio::test]
async fn what_came_and_went_is_no_news() {
    two("1> b NOOP
         U> NOOP
         U< * 5 EXISTS
         U< * 1 EXPUNGE
         U< * 4 EXPUNGE
         U< * 2 FETCH (FLAGS (\\Seen))
         U< * 2 FETCH (FLAGS (\\Deleted))
         U< TAG OK noop
         1~ b OK noop
         2> b NOOP
         U> NOOP
         U< TAG OK noop
         2< * 1 EXPUNGE
         2< * 3 EXISTS
         2< * 2 FETCH (FLAGS (\\Deleted))
         2< b OK noop")
    .await;
}

/// RFC 9051 section 7.1: what the server says with ALERT, users have to see: all of them, once. Said during the IDLE
/// that is all members', those in IDLE hear it at once, and the others with their next command.
#[tokio::test]
async fn an_alert_reaches_all() {
    play(
        1,
        "",
        "ONE
         TWO
         1> b IDLE
         1< + idling
         U> IDLE
         U< + idling
         U< * OK [ALERT] Going down at noon
         1< * OK [ALERT] Going down at noon
         2> b NOOP
         U- DONE
         U< TAG OK idled
         U> NOOP
         U< TAG OK noop
         2< * OK [ALERT] Going down at noon
         2< b OK noop
         1> DONE
         1< b OK…
         2> c NOOP
         U> NOOP
         U< TAG OK noop
         2< c OK noop",
    )
    .await;
}

/// The same of one that comes with the reply to a member's command, whatever the command, and of one in the tagged
/// reply to what imapool asks: once each, also to those who leave.
#[tokio::test]
async fn an_alert_during_a_command_reaches_all() {
    play(
        1,
        "",
        "ONE
         TWO
         1> b FETCH 1 (UID)
         U> FETCH 1 (UID)
         U< * NO [alert] Nearly full
         U< * 1 FETCH (UID 11)
         U< TAG OK fetched
         1< * NO [alert] Nearly full
         1< * 1 FETCH (UID 11)
         1< b OK fetched
         1> c NOOP
         U> NOOP
         U< TAG OK noop
         1< c OK noop
         1> d IDLE
         1< + idling
         U> IDLE
         U< + idling
         U< TAG OK [ALERT] No more idling
         1< * OK [ALERT] No more idling
         2> b UNSELECT
         2< * NO [alert] Nearly full
         2< * OK [ALERT] No more idling
         2< b OK…
         1> DONE
         1< d OK…",
    )
    .await;
}

/// The same of one in the BYE by which the server ends the connection, which is no end for sessions that share it.
#[tokio::test]
async fn an_alert_in_a_goodbye_reaches_all() {
    play(
        1,
        "",
        "ONE
         TWO
         1> b IDLE
         1< + idling
         U> IDLE
         U< + idling
         U< * BYE [ALERT] Going down now
         U!
         V> SELECT \"INBOX\"
         1< * OK [ALERT] Going down now
         2> b UNSELECT
         2< * OK [ALERT] Going down now
         2< b OK…
         1> DONE
         1< b OK…",
    )
    .await;
}

/// One in the tagged reply to a member's command is that member's, as it is. Any other, all members hear at once, so
/// that nobody misses it who leaves just then, by SELECT of another mailbox, say, of which the hub hears nothing.
#[tokio::test]
async fn an_alert_is_heard_before_the_mailbox_is_left() {
    play(
        2,
        "",
        "ONE
         TWO
         1> b STORE 1 +FLAGS (\\Seen)
         U> STORE 1 +FLAGS (\\Seen)
         U< * NO [ALERT] Disk full
         U< TAG NO [ALERT] Not stored
         1< * NO [ALERT] Disk full
         1< b NO [ALERT] Not stored
         2< * NO [ALERT] Disk full
         2> b SELECT Other
         V> SELECT Other
         V< * 0 EXISTS
         V< TAG OK [READ-WRITE] selected
         2< * 0 EXISTS
         2< b OK [READ-WRITE] selected
         1> c CLOSE
         U> CLOSE
         U< TAG OK closed
         1< c OK closed",
    )
    .await;
}

/// RFC 3501 section 2.3.2: a message is recent for one session, the first that is told. That one is told so again;
/// all others see its flags without.
#[tokio::test]
async fn a_message_is_recent_for_one_session() {
    two("1> b FETCH 3 (FLAGS)
         U> FETCH 3 (FLAGS)
         U< * 3 FETCH (FLAGS (\\Recent))
         U< TAG OK fetched
         1< * 3 FETCH (FLAGS (\\Recent))
         1< b OK fetched
         2> b FETCH 2:3 (UID FLAGS)
         U> FETCH 2:3 (UID FLAGS)
         U< * 2 FETCH (UID 12 FLAGS (\\Recent \\Seen))
         U< * 3 FETCH (UID 13 FLAGS (\\Recent))
         U< TAG OK fetched
         2< * 2 FETCH (UID 12 FLAGS (\\Recent \\Seen))
         2< * 3 FETCH (UID 13 FLAGS ())
         2< b OK fetched
         1> c UID FETCH 12:13 (FLAGS BODY.PEEK[])
         U> UID FETCH 12:13 (FLAGS BODY.PEEK[])
         U< * 2 FETCH (UID 12 FLAGS (\\Seen \\Recent) BODY[] {2}\\r\\nab)
         U< * 3 FETCH (UID 13 FLAGS (\\Recent) BODY[] {2}\\r\\nab)
         U< TAG OK fetched
         1< * 2 FETCH (UID 12 FLAGS (\\Seen) BODY[] {2}
         1< ab)
         1< * 3 FETCH (UID 13 FLAGS (\\Recent) BODY[] {2}
         1< ab)
         1< c OK fetched")
    .await;
}

/// The same where the first was told before the UIDs were known; by the number that the message has by now.
#[tokio::test]
async fn a_message_that_was_recent_without_its_uid_is_recent_no_more() {
    play(
        1,
        "",
        "ONE
         1> b FETCH 2:3 (FLAGS)
         U> FETCH 2:3 (FLAGS)
         U< * 2 FETCH (FLAGS ())
         U< * 3 FETCH (FLAGS (\\Recent))
         U< TAG OK fetched
         1< * 2 FETCH (FLAGS ())
         1< * 3 FETCH (FLAGS (\\Recent))
         1< b OK fetched
         1> c NOOP
         U> NOOP
         U< * 1 EXPUNGE
         U< TAG OK noop
         1< * 1 EXPUNGE
         1< c OK noop
         2> a SELECT INBOX
         U> FETCH 1:* (UID)
         U< * 1 FETCH (UID 12)
         U< * 2 FETCH (UID 13)
         U< TAG OK fetched
         U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
         U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U< TAG OK status
         U> UID SEARCH UNSEEN
         U< * SEARCH
         U< TAG OK searched
         U> NOOP
         U< TAG OK noop
         2~ a OK [READ-WRITE] selected
         2> b SEARCH RECENT
         U> SEARCH (RECENT NOT UID 13)
         U< * SEARCH
         U< TAG OK searched
         2< * SEARCH
         2< b OK searched
         2> c FETCH 1:2 (FLAGS)
         U> FETCH 1:2 (FLAGS)
         U< * 1 FETCH (FLAGS (\\Recent))
         U< * 2 FETCH (FLAGS (\\Recent))
         U< TAG OK fetched
         2< * 1 FETCH (FLAGS (\\Recent))
         2< * 2 FETCH (FLAGS ())
         2< c OK fetched
         1> d FETCH 1:2 (FLAGS)
         U> FETCH 1:2 (FLAGS)
         U< * 1 FETCH (FLAGS (\\Recent))
         U< * 2 FETCH (FLAGS (\\Recent))
         U< TAG OK fetched
         1< * 1 FETCH (FLAGS ())
         1< * 2 FETCH (FLAGS (\\Recent))
         1< d OK fetched",
    )
    .await;
}

/// RFC 3501 sections 2.3.2 and 6.4.4: nor does SEARCH find a message that is recent for another session, by RECENT or
/// NEW; by OLD it does.
#[tokio::test]
async fn what_is_recent_for_another_is_not_found() {
    two("1> b FETCH 3 (FLAGS)
         U> FETCH 3 (FLAGS)
         U< * 3 FETCH (FLAGS (\\Recent))
         U< TAG OK fetched
         1< * 3 FETCH (FLAGS (\\Recent))
         1< b OK fetched
         2> b SEARCH OR NEW (OLD 2)
         U> SEARCH OR (NEW NOT UID 13) ((OR OLD UID 13) 2)
         U< * SEARCH 2
         U< TAG OK searched
         2< * SEARCH 2
         2< b OK searched
         2> c SEARCH RETURN (COUNT) RECENT
         U> SEARCH RETURN (COUNT) (RECENT NOT UID 13)
         U< * ESEARCH (tag \"TAG\") COUNT 0
         U< TAG OK searched
         2< * ESEARCH (tag \"c\") COUNT 0
         2< c OK searched
         1> c SEARCH RECENT
         U> SEARCH RECENT
         U< * SEARCH 3
         U< TAG OK searched
         1< * SEARCH 3
         1< c OK searched")
    .await;
}

/// RFC 3501 section 7.3.2: RECENT counts messages that the session counts, so it comes behind EXISTS, and never says
/// more; what has gone counts no more.
#[tokio::test]
async fn recent_is_never_more_than_there_are() {
    two("1> b NOOP
         U> NOOP
         U< * 4 RECENT
         U< * 4 EXISTS
         U< TAG OK noop
         1< * 3 RECENT
         1< * 4 EXISTS
         1< * 4 RECENT
         1< b OK noop
         1> c NOOP
         U> NOOP
         U< * 1 EXPUNGE
         U< TAG OK noop
         1< * 1 EXPUNGE
         1< * 3 RECENT
         1< c OK noop
         2> b FETCH 2 (UID)
         U> FETCH 1 (UID)
         U< * 1 FETCH (UID 12)
         U< TAG OK fetched
         2< * 4 EXISTS
         2< * 3 RECENT
         2< * 2 FETCH (UID 12)
         2< b OK fetched")
    .await;
}
