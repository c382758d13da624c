//! What one session does, told to the others.

use crate::stage::{one_on, two, two_on};

/// RFC 9051 section 6.4.6: `.SILENT` is silent for the one who asks. Section 5.2: the others are told.
#[tokio::test]
async fn a_silent_store_is_told_to_the_others() {
    two("1> b STORE 2 +FLAGS.SILENT (\\Seen)
         U= STORE 2 +FLAGS (\\Seen) | * 2 FETCH (FLAGS (\\Seen))
         1< b OK STORE done
         2U b NOOP | * 2 FETCH (FLAGS (\\Seen))")
    .await;
}

/// RFC 9051 section 6.4.6: of a silent STORE one hears after all when the flags are not what it was to make of them:
/// another program has set some.
#[tokio::test]
async fn a_silent_store_hides_nothing_else() {
    two("1> b FETCH 2 (FLAGS)
         U= FETCH 2 (FLAGS) | * 2 FETCH (FLAGS ())
         1< * 2 FETCH (FLAGS ()) | b OK FETCH done
         1> c STORE 2 +FLAGS.SILENT (\\Seen)
         U= STORE 2 +FLAGS (\\Seen) | * 2 FETCH (FLAGS (\\Seen \\Flagged))
         1< * 2 FETCH (FLAGS (\\Seen \\Flagged)) | c OK STORE done")
    .await;
}

/// RFC 9051 section 6.4.5: reading sets \Seen, of which the others hear. Section 7.5.2: what only one asked for is no
/// news, unless it differs from what the others know (the flags shadow).
#[tokio::test]
async fn reading_is_news_and_looking_is_not() {
    two("1> b FETCH 1 (BODY[])
         U= FETCH 1 (BODY[]) | * 1 FETCH (BODY[] {20}\\r\\n* 2 EXPUNGE {5}\\r\\n123 FLAGS (\\Seen))
         1~ b OK FETCH done
         1> c FETCH 2 (FLAGS)
         U= FETCH 2 (FLAGS) | * 2 FETCH (FLAGS (\\Deleted))
         1< * 2 FETCH (FLAGS (\\Deleted)) | c OK FETCH done
         2U b NOOP | * 1 FETCH (FLAGS (\\Seen))
         2> c FETCH 2 (FLAGS)
         U= FETCH 2 (FLAGS) | * 2 FETCH (FLAGS (\\Answered))
         2< * 2 FETCH (FLAGS (\\Answered)) | c OK FETCH done
         1U d NOOP | * 2 FETCH (FLAGS (\\Answered))")
    .await;
}

/// RFC 2177 section 3, RFC 9051 section 6.3.13: one IDLE serves all; a command of one interrupts it, and its news
/// reach the others at once.
#[tokio::test]
async fn one_idle_for_all() {
    two("1= b IDLE | + idling
         U= IDLE | + idling
         U< * 4 EXISTS
         1< * 4 EXISTS
         2> b STORE 1 +FLAGS (\\Deleted)
         U- DONE | TAG OK idled
         U= STORE 1 +FLAGS (\\Deleted) | * 1 FETCH (FLAGS (\\Deleted))
         2< * 4 EXISTS | * 1 FETCH (FLAGS (\\Deleted)) | b OK STORE done
         1< * 1 FETCH (FLAGS (\\Deleted))
         1= DONE | b OK…")
    .await;
}

/// RFC 9051 section 6.4.9 (UID EXPUNGE; RFC 4315 section 2.1), section 6.3.13: EXPUNGE is told at once to who asks
/// and to who idles.
#[tokio::test]
async fn expunge_reaches_who_idles() {
    two("2= b IDLE | + idling
         U= IDLE | + idling
         1> b UID EXPUNGE 12
         U- DONE | TAG OK idled
         U= UID EXPUNGE 12 | * 2 EXPUNGE
         1< * 2 EXPUNGE | b OK UID EXPUNGE done
         2< * 2 EXPUNGE
         2= DONE | b OK…")
    .await;
}

/// RFC 9051 section 7.3.5: FLAGS tells of keywords; of those that come into use, all are told.
#[tokio::test]
async fn new_keywords_are_told_to_all() {
    two("1> b STORE 1 +FLAGS ($Junk)
         U= STORE 1 +FLAGS ($Junk) | * FLAGS (\\Seen \\Deleted $Junk) | * 1 FETCH (FLAGS ($Junk))
         1< * FLAGS (\\Seen \\Deleted $Junk) | * 1 FETCH (FLAGS ($Junk)) | b OK STORE done
         2U b NOOP | * FLAGS (\\Seen \\Deleted $Junk) | * 1 FETCH (FLAGS ($Junk))")
    .await;
}

/// RFC 2177 section 3: the IDLE that a command has interrupted goes on after it, and is ended upstream with the last
/// one who idles.
#[tokio::test]
async fn idle_goes_on_after_a_command() {
    two("1= b IDLE | + idling
         U= IDLE | + idling
         2> b NOOP
         U- DONE | TAG OK idled
         U= NOOP
         2< b OK NOOP done
         U= IDLE | + idling
         U< * 2 FETCH (FLAGS (\\Seen))
         1< * 2 FETCH (FLAGS (\\Seen))
         1= DONE | b OK…
         U- DONE | TAG OK idled")
    .await;
}

/// RFC 9051 section 6.4.6: `.SILENT`, by UID.
#[tokio::test]
async fn a_silent_store_by_uid_is_told_to_the_others() {
    two("1> b UID STORE 12 FLAGS.SILENT (\\Answered)
         U= UID STORE 12 FLAGS (\\Answered) | * 2 FETCH (UID 12 FLAGS (\\Answered))
         1< b OK UID STORE done
         2U b NOOP | * 2 FETCH (…")
    .await;
}

/// RFC 9051 sections 6.4.7 and 6.4.8: TRYCREATE says what the client may do about it.
#[tokio::test]
async fn codes_of_tagged_replies_pass() {
    two("1> b COPY 1 Nowhere
         U= COPY 1 Nowhere | TAG NO [TRYCREATE] no such mailbox
         1< b NO [TRYCREATE] no such mailbox
         2> b UID MOVE 12 Nowhere
         U= UID MOVE 12 Nowhere | TAG NO [TRYCREATE] no such mailbox
         2< b NO [TRYCREATE] no such mailbox")
    .await;
}

/// RFC 3501 section 7.3.2: RECENT goes with EXISTS.
#[tokio::test]
async fn recent_messages_are_told_to_all() {
    two("1> b NOOP
         U= NOOP | * 4 EXISTS | * 1 RECENT
         1< * 4 EXISTS | * 1 RECENT | b OK NOOP done
         2= b IDLE | + idling | * 4 EXISTS | * 1 RECENT
         2= DONE | b OK…")
    .await;
}

/// RFC 9051 section 7.5.1: no EXPUNGE while no command is in progress; section 5.2: what came and went meanwhile is
/// no news.
#[tokio::test]
async fn what_came_and_went_is_no_news() {
    two("1> b NOOP
         U= NOOP | * 5 EXISTS | * 1 EXPUNGE | * 4 EXPUNGE | * 2 FETCH (FLAGS (\\Seen)) | * 2 FETCH (FLAGS (\\Deleted))
         1~ b OK NOOP done
         2U b NOOP | * 1 EXPUNGE | * 3 EXISTS | * 2 FETCH (FLAGS (\\Deleted))")
    .await;
}

/// RFC 9051 section 7.1: what the server says with ALERT, users have to see: all of them, once. Said during the IDLE
/// that is all members', those in IDLE hear it at once, and the others with their next command.
#[tokio::test]
async fn an_alert_reaches_all() {
    two("1= b IDLE | + idling
         U= IDLE | + idling
         U< * OK [ALERT] Going down at noon
         1< * OK [ALERT] Going down at noon
         2> b NOOP
         U- DONE | TAG OK idled
         U= NOOP
         2< * OK [ALERT] Going down at noon | b OK NOOP done
         1= DONE | b OK…
         2U c NOOP")
    .await;
}

/// The same of one that comes with the reply to a member's command, whatever the command, and of one in the tagged
/// reply to what imapool asks: once each, also to those who leave.
#[tokio::test]
async fn an_alert_during_a_command_reaches_all() {
    two("1> b FETCH 1 (UID)
         U= FETCH 1 (UID) | * NO [alert] Nearly full | * 1 FETCH (UID 11)
         1< * NO [alert] Nearly full | * 1 FETCH (UID 11) | b OK FETCH done
         1U c NOOP
         1= d IDLE | + idling
         U= IDLE | + idling | TAG OK [ALERT] No more idling
         1< * OK [ALERT] No more idling
         2= b UNSELECT | * NO [alert] Nearly full | * OK [ALERT] No more idling | b OK…
         1= DONE | d OK…")
    .await;
}

/// The same of one in the BYE by which the server ends the connection, which is no end for sessions that share it.
#[tokio::test]
async fn an_alert_in_a_goodbye_reaches_all() {
    two("1= b IDLE | + idling
         U= IDLE | + idling
         U< * BYE [ALERT] Going down now
         U!
         V> SELECT \"INBOX\"
         1< * OK [ALERT] Going down now
         2= b UNSELECT | * OK [ALERT] Going down now | b OK…
         1= DONE | b OK…")
    .await;
}

/// One in the tagged reply to a member's command is that member's, as it is. Any other, all members hear at once, so
/// that nobody misses it who leaves just then, by SELECT of another mailbox, say, of which the hub hears nothing.
#[tokio::test]
async fn an_alert_is_heard_before_the_mailbox_is_left() {
    two_on(
        2,
        "1> b STORE 1 +FLAGS (\\Seen)
         U= STORE 1 +FLAGS (\\Seen) | * NO [ALERT] Disk full | TAG NO [ALERT] Not stored
         1< * NO [ALERT] Disk full | b NO [ALERT] Not stored
         2< * NO [ALERT] Disk full
         2> b SELECT Other
         V= SELECT Other | 0 messages
         2< * 0 EXISTS | b OK [READ-WRITE] selected
         1U c CLOSE",
    )
    .await;
}

/// RFC 3501 section 2.3.2: a message is recent for one session, the first that is told. That one is told so again;
/// all others see its flags without.
#[tokio::test]
async fn a_message_is_recent_for_one_session() {
    two("1> b FETCH 3 (FLAGS)
         U= FETCH 3 (FLAGS) | * 3 FETCH (FLAGS (\\Recent))
         1< * 3 FETCH (FLAGS (\\Recent)) | b OK FETCH done
         2> b FETCH 2:3 (UID FLAGS)
         U= FETCH 2:3 (UID FLAGS) | * 2 FETCH (UID 12 FLAGS (\\Recent \\Seen)) | * 3 FETCH (UID 13 FLAGS (\\Recent))
         2< * 2 FETCH (UID 12 FLAGS (\\Recent \\Seen)) | * 3 FETCH (UID 13 FLAGS ()) | b OK FETCH done
         1> c UID FETCH 12:13 (FLAGS BODY.PEEK[])
         U> UID FETCH 12:13 (FLAGS BODY.PEEK[])
         U< * 2 FETCH (UID 12 FLAGS (\\Seen \\Recent) BODY[] {2}\\r\\nab)
         U< * 3 FETCH (UID 13 FLAGS (\\Recent) BODY[] {2}\\r\\nab)
         U< TAG OK fetched
         1< * 2 FETCH (UID 12 FLAGS (\\Seen) BODY[] {2}
         1< ab) | * 3 FETCH (UID 13 FLAGS (\\Recent) BODY[] {2}
         1< ab) | c OK fetched")
    .await;
}

/// The same where the first was told before the UIDs were known; by the number that the message has by now.
#[tokio::test]
async fn a_message_that_was_recent_without_its_uid_is_recent_no_more() {
    one_on(
        1,
        "1> b FETCH 2:3 (FLAGS)
         U= FETCH 2:3 (FLAGS) | * 2 FETCH (FLAGS ()) | * 3 FETCH (FLAGS (\\Recent))
         1< * 2 FETCH (FLAGS ()) | * 3 FETCH (FLAGS (\\Recent)) | b OK FETCH done
         1> c NOOP
         U= NOOP | * 1 EXPUNGE
         1< * 1 EXPUNGE | c OK NOOP done
         2> a SELECT INBOX
         U= FETCH 1:* (UID) | * 1 FETCH (UID 12) | * 2 FETCH (UID 13)
         U? UIDNEXT 14, UIDVALIDITY 7
         2~ a OK [READ-WRITE] selected
         2> b SEARCH RECENT
         U= SEARCH (RECENT NOT UID 13) | * SEARCH
         2< * SEARCH | b OK SEARCH done
         2> c FETCH 1:2 (FLAGS)
         U= FETCH 1:2 (FLAGS) | * 1 FETCH (FLAGS (\\Recent)) | * 2 FETCH (FLAGS (\\Recent))
         2< * 1 FETCH (FLAGS (\\Recent)) | * 2 FETCH (FLAGS ()) | c OK FETCH done
         1> d FETCH 1:2 (FLAGS)
         U= FETCH 1:2 (FLAGS) | * 1 FETCH (FLAGS (\\Recent)) | * 2 FETCH (FLAGS (\\Recent))
         1< * 1 FETCH (FLAGS ()) | * 2 FETCH (FLAGS (\\Recent)) | d OK FETCH done",
    )
    .await;
}

/// RFC 3501 sections 2.3.2 and 6.4.4: nor does SEARCH find a message that is recent for another session, by RECENT or
/// NEW; by OLD it does.
#[tokio::test]
async fn what_is_recent_for_another_is_not_found() {
    two("1> b FETCH 3 (FLAGS)
         U= FETCH 3 (FLAGS) | * 3 FETCH (FLAGS (\\Recent))
         1< * 3 FETCH (FLAGS (\\Recent)) | b OK FETCH done
         2> b SEARCH OR NEW (OLD 2)
         U= SEARCH OR (NEW NOT UID 13) ((OR OLD UID 13) 2) | * SEARCH 2
         2< * SEARCH 2 | b OK SEARCH done
         2> c SEARCH RETURN (COUNT) RECENT
         U= SEARCH RETURN (COUNT) (RECENT NOT UID 13) | * ESEARCH (tag \"TAG\") COUNT 0
         2< * ESEARCH (tag \"c\") COUNT 0 | c OK SEARCH done
         1> c SEARCH RECENT
         U= SEARCH RECENT | * SEARCH 3
         1< * SEARCH 3 | c OK SEARCH done")
    .await;
}

/// RFC 3501 section 7.3.2: RECENT counts messages that the session counts, so it comes behind EXISTS, and never says
/// more; what has gone counts no more.
#[tokio::test]
async fn recent_is_never_more_than_there_are() {
    two("1> b NOOP
         U= NOOP | * 4 RECENT | * 4 EXISTS
         1< * 3 RECENT | * 4 EXISTS | * 4 RECENT | b OK NOOP done
         1> c NOOP
         U= NOOP | * 1 EXPUNGE
         1< * 1 EXPUNGE | * 3 RECENT | c OK NOOP done
         2> b FETCH 2 (UID)
         U= FETCH 1 (UID) | * 1 FETCH (UID 12)
         2< * 4 EXISTS | * 3 RECENT | * 2 FETCH (UID 12) | b OK FETCH done")
    .await;
}
