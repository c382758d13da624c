//! Literals of commands: nobody waits in a mailbox for the octets of somebody else.

use crate::stage::{Stage, one_on, play, two, two_on};

/// RFC 9051 section 4.3: a command with literals is one when it is complete. Until then the others are served.
#[tokio::test]
async fn nobody_waits_for_a_literal() {
    two("2= b SEARCH TEXT {3} | + …
         1U b NOOP
         2> abc
         U> SEARCH TEXT {3}
         U< + go
         U- abc | * SEARCH 2 | TAG OK searched
         2< * SEARCH 2 | b OK searched")
    .await;
}

/// RFC 9051 section 6.3.12: APPEND needs no mailbox selected. So it runs on another connection, and however long it
/// takes, nobody waits for it.
#[tokio::test]
async fn nobody_waits_for_append() {
    two_on(
        2,
        "2> b APPEND Sent {10}
         V= APPEND Sent {10} | + go
         2< + …
         1U b NOOP
         2> 0123456789
         V- 0123456789
         1> c FETCH 1 (UID)
         U= FETCH 1 (UID) | * 1 FETCH (UID 11)
         1< * 1 FETCH (UID 11) | c OK FETCH done
         V< TAG OK [APPENDUID 9 1] appended
         2< b OK [APPENDUID 9 1] appended",
    )
    .await;
}

/// RFC 9051 section 6.3.12: who appends to the mailbox that is selected hears of EXISTS before the reply, and the
/// others hear of it as of any new message.
#[tokio::test]
async fn what_is_appended_to_the_selected_mailbox_is_there() {
    two_on(
        2,
        "1= b IDLE | + idling
         U= IDLE | + idling
         2> b APPEND INBOX {10+}\\r\\n0123456789
         V= APPEND INBOX {10} | + go
         V- 0123456789 | TAG OK [APPENDUID 7 14] appended
         U- DONE | TAG OK idled
         U= NOOP | * 4 EXISTS
         2< * 4 EXISTS | b OK [APPENDUID 7 14] appended
         1< * 4 EXISTS
         1= DONE | b OK…",
    )
    .await;
}

/// RFC 9051 section 9 (`tagged-ext-comp`), RFC 7377 section 2.1: ESEARCH may hold a literal, and a lax backend has them
/// anywhere. What announces one is never passed on without its octets, nor they without it.
#[tokio::test]
async fn literals_in_results_go_to_who_has_asked() {
    for line in
        ["ESEARCH (MAILBOX {3}@abc) ALL 1:2", "SEARCH 1 2 {3}@abc", "SORT {3}@a\r\nc 1 2", "FLAGS (\\Seen {3}@abc)"]
    {
        let (head, tail) = line.split_once('@').unwrap();
        let said = format!("{head}\\r\\n{}", tail.replace("\r\n", "\\r\\n"));
        let heard = format!("{head} | {}", tail.replace("\r\n", " | "));
        let script = format!(
            "ONE
             1> b SEARCH RETURN (ALL) SEEN
             U= SEARCH RETURN (ALL) SEEN | * {said}
             1< * {heard} | b OK SEARCH done"
        );
        play(2, "ESEARCH SORT", &script).await;
    }
}

/// RFC 9051 section 7.4: news of messages are of the mailbox that is selected. On a connection where none is, they are
/// nobody's: whoever heard them while it has one selected elsewhere would lose count of it.
#[tokio::test]
async fn where_no_mailbox_is_selected_there_is_no_news_of_messages() {
    one_on(
        2,
        "1> b APPEND Sent {3}
         V> APPEND Sent {3}
         V< + go
         1< + …
         1> abc
         V- abc | * 1 EXPUNGE | * 9 EXISTS | * 2 FETCH (FLAGS (\\Deleted)) | * VANISHED 11 | TAG OK appended
         1< b OK appended
         1> c FETCH 1 (UID)
         U= FETCH 1 (UID) | * 1 FETCH (UID 11)
         1< * 1 FETCH (UID 11) | c OK FETCH done",
    )
    .await;
}

/// RFC 9051 section 6.3.12: what was appended was appended, whatever becomes of the mailbox meanwhile: here its
/// connection is lost while it is asked for news of the message, and cannot be gone on with on the next.
#[tokio::test]
async fn an_append_that_went_well_is_ok_whatever_becomes_of_the_mailbox() {
    for (lost, ends) in [
        // It has another UIDVALIDITY, and the hub ends.
        ("V< * 3 EXISTS | * OK [UIDVALIDITY 8] told | * OK [UIDNEXT 14] told | TAG OK [READ-WRITE] selected", true),
        // It cannot be selected any more.
        ("V< TAG NO [NONEXISTENT] gone", true),
    ] {
        let mut stage = Stage::set(2, "LITERAL+").await;
        stage
            .play(&format!(
                "ONE
                 1> b APPEND INBOX {{10+}}\\r\\n0123456789
                 V= APPEND INBOX {{10}} | + go on
                 V- 0123456789 | TAG OK [APPENDUID 7 14] appended
                 U> NOOP
                 U!
                 V> SELECT \"INBOX\"
                 {lost}
                 1< b OK [APPENDUID 7 14] appended"
            ))
            .await;
        if ends {
            stage.play("1< * BYE…").await;
        }
    }
}

/// The same where the mailbox is lost while the message is on its way.
#[tokio::test]
async fn an_append_under_way_is_told_how_it_went() {
    let mut stage = Stage::set(2, "LITERAL+").await;
    stage
        .play(
            "ONE
             TWO
             1> b APPEND INBOX {10+}\\r\\n0123456789
             V= APPEND INBOX {10} | + go on
             V- 0123456789
             2> b NOOP
             U> NOOP
             U!
             W= SELECT \"INBOX\" | TAG NO [NONEXISTENT] gone
             2< b NO [UNAVAILABLE]… | * BYE…
             V< TAG OK [APPENDUID 7 14] appended
             1< b OK [APPENDUID 7 14] appended | * BYE…",
        )
        .await;
}

/// RFC 2177: IDLE ends by DONE. So it does behind an APPEND that was refused, given at once with it.
#[tokio::test]
async fn an_idle_behind_a_refused_append_goes_on() {
    // Refused before the message has come, when half of it has, and when all of it has.
    let early = "1> b APPEND INBOX {10+}\\r\\n0123456789\\r\\nc IDLE
                 V= APPEND INBOX {10} | TAG NO [OVERQUOTA] full";
    let begun = "1> b APPEND INBOX {10+}\\r\\n012
                 V= APPEND INBOX {10} | + go on
                 V- 012 | TAG NO [OVERQUOTA] full
                 1> 34567\\r\\nc IDLE";
    let late = "1> b APPEND INBOX {10+}\\r\\n0123456789\\r\\nc IDLE
                V= APPEND INBOX {10} | + go on
                V- 0123456789 | TAG NO [OVERQUOTA] full";
    for refused in [early, begun, late] {
        play(
            2,
            "LITERAL+",
            &format!(
                "ONE
                 {refused}
                 1< b NO [OVERQUOTA] full | + idling
                 U= UID SEARCH 1:3 | * SEARCH 11 12 13
                 U= IDLE | + idling
                 U< * 4 EXISTS
                 1< * 4 EXISTS
                 1= DONE | c OK…
                 U- DONE | TAG OK idled"
            ),
        )
        .await;
    }
}
