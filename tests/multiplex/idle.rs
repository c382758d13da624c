//! One IDLE upstream for all who idle.

use std::time::Duration;

use crate::stage::{ONE, Stage, TWO, pass};
use crate::support::until;

/// RFC 2177 section 3: a server may log out who has not begun IDLE anew for 29 minutes. Clients that idle for longer
/// hear nothing of it.
#[tokio::test]
async fn idle_is_renewed_in_time() {
    let mut stage = Stage::set(1, "").await;
    stage.play(ONE).await;
    stage.play(TWO).await;
    stage
        .play(
            "1= b IDLE | + idling
             2= b IDLE | + idling
             U= IDLE | + idling
             U< * 1 FETCH (FLAGS (\\Seen))
             1< * 1 FETCH (FLAGS (\\Seen))
             2< * 1 FETCH (FLAGS (\\Seen))",
        )
        .await;
    pass(Duration::from_secs(28 * 60)).await;
    stage
        .play(
            "U- DONE | * 1 EXPUNGE | TAG OK idled
             1< * 1 EXPUNGE
             2< * 1 EXPUNGE
             U= IDLE | + idling
             U< * 1 FETCH (FLAGS (\\Flagged))
             1< * 1 FETCH (FLAGS (\\Flagged))
             2< * 1 FETCH (FLAGS (\\Flagged))
             1= DONE | b OK…
             2= DONE | b OK…
             U- DONE | TAG OK idled",
        )
        .await;
    stage.end().await;
}

/// Client 2 joins; what it is told is asked for in one flight with DONE.
const AHEAD: &str = "2> a SELECT INBOX
    U- DONE
    U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
    U> UID SEARCH UNSEEN
    U> NOOP";

/// RFC 9051 section 5.5: who joins a mailbox in which somebody idles costs one round trip: what it is told is asked
/// for in one flight with DONE.
#[tokio::test]
async fn who_joins_beside_idle_waits_for_one_answer() {
    let mut stage = idling().await;
    stage
        .play(&format!(
            "{AHEAD}
             U< TAG(IDLE) OK idled | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7) | TAG(STATUS) OK status
             U< * SEARCH 12 | TAG(UID) OK searched | TAG(NOOP) OK noop
             2< * FLAGS… | * OK [PERMANENTFLAGS… | * OK [UIDVALIDITY 7]… | * 3 EXISTS | * 0 RECENT
             2< * OK [UNSEEN 2]… | * OK [UIDNEXT 14]… | a OK [READ-WRITE] selected
             1= DONE | b OK…"
        ))
        .await;
    stage.end().await;
}

/// Who joins when the questions are on their way already is told how the mailbox is then, and not how it was.
#[tokio::test]
async fn who_comes_after_the_questions_is_asked_for_anew() {
    let mut stage = idling().await;
    stage
        .play(&format!(
            "{AHEAD}
             3> a SELECT INBOX"
        ))
        .await;
    let harness = &stage.harness;
    until("the third is there", || harness.metric("imapool_hub_sessions", "backend=\"mail\"") == 3).await;
    stage
        .play(
            "U< TAG(IDLE) OK idled | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7) | TAG(STATUS) OK status
             U< * SEARCH | TAG(UID) OK searched | TAG(NOOP) OK noop
             2~ a OK [READ-WRITE] selected
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
             U> UID SEARCH UNSEEN
             U> NOOP
             U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7) | TAG(STATUS) OK status | * SEARCH
             U< TAG(UID) OK searched | TAG(NOOP) OK noop
             3~ a OK [READ-WRITE] selected
             1= DONE | b OK…",
        )
        .await;
    stage.end().await;
}

/// What was asked ahead is answered before anything else is run: what has happened meanwhile changes the numbers of a
/// command that was given before.
#[tokio::test]
async fn what_was_asked_ahead_in_vain_is_waited_for() {
    let mut stage = idling().await;
    stage
        .play(&format!(
            "{AHEAD}
             1= DONE | b OK…
             1> c FETCH 3 (UID)
             U< * 4 EXISTS | TAG(IDLE) OK idled | * STATUS INBOX (UIDNEXT 15 UIDVALIDITY 7)
             U< TAG(STATUS) OK status | * SEARCH 12 14 | * 1 EXPUNGE | TAG(UID) OK searched | TAG(NOOP) OK noop
             U= UID SEARCH 3:3 | * SEARCH 14
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
             U< * STATUS INBOX (UIDNEXT 15 UIDVALIDITY 7) | TAG(STATUS) OK status
             U> UID SEARCH UNSEEN
             U< * SEARCH 12 14 | TAG(UID) OK searched
             U> NOOP
             U< TAG(NOOP) OK noop
             2~ a OK [READ-WRITE] selected
             U> FETCH 2 (UID)
             U< * 2 FETCH (UID 13) | TAG(FETCH) OK fetched
             1< * 4 EXISTS | * 3 FETCH (UID 13) | c OK fetched"
        ))
        .await;
    stage.end().await;
}

/// A server that forgets what comes with DONE is left after a while, and not asked like that again.
#[tokio::test]
async fn a_server_that_forgets_what_comes_with_done_is_not_asked_ahead_again() {
    let mut stage = idling().await;
    stage
        .play(
            "2> a SELECT INBOX
             U- DONE
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
             U< TAG(IDLE) OK idled",
        )
        .await;
    pass(Duration::from_secs(11)).await;
    stage
        .play(
            "2< a NO [UNAVAILABLE]…
             V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
             V= IDLE | + idling
             2> b SELECT INBOX
             V- DONE | TAG OK idled
             V= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | TAG NO not here
             V= LIST \"\" \"INBOX\" | * LIST () \"/\" INBOX
             V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
             V= UID SEARCH UNSEEN | * SEARCH 12
             V= NOOP
             2~ b OK…
             1= DONE | b OK…",
        )
        .await;
    stage.end().await;
}

/// The first client idles, and all UIDs are known.
async fn idling() -> Stage {
    let mut stage = Stage::set(1, "").await;
    stage
        .play(
            "1> a SELECT INBOX
             U> SELECT INBOX
             U< * FLAGS (\\Seen) | * 3 EXISTS | * 0 RECENT | * OK [PERMANENTFLAGS (\\Seen)] permanent
             U< * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told | TAG OK [READ-WRITE] selected
             1~ a OK [READ-WRITE] selected
             1= b IDLE | + idling
             U= UID SEARCH 1:3 | * SEARCH 11 12 13
             U= IDLE | + idling",
        )
        .await;
    stage
}
