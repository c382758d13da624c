//! One IDLE upstream for all who idle.

use std::time::Duration;

use crate::stage::{ONE, Stage, TWO};

/// RFC 2177 section 3: a server may log out who has not begun IDLE anew for 29 minutes. Clients that idle for longer
/// hear nothing of it.
#[tokio::test]
async fn idle_is_renewed_in_time() {
    let mut stage = Stage::set(1, "").await;
    stage.play(ONE).await;
    stage.play(TWO).await;
    stage
        .play(
            "1> b IDLE
             1< + idling
             2> b IDLE
             2< + idling
             U> IDLE
             U< + idling
             U< * 1 FETCH (FLAGS (\\Seen))
             1< * 1 FETCH (FLAGS (\\Seen))
             2< * 1 FETCH (FLAGS (\\Seen))",
        )
        .await;
    pass(Duration::from_secs(28 * 60)).await;
    stage
        .play(
            "U- DONE
             U< * 1 EXPUNGE
             U< TAG OK idled
             1< * 1 EXPUNGE
             2< * 1 EXPUNGE
             U> IDLE
             U< + idling
             U< * 1 FETCH (FLAGS (\\Flagged))
             1< * 1 FETCH (FLAGS (\\Flagged))
             2< * 1 FETCH (FLAGS (\\Flagged))
             1> DONE
             1< b OK…
             2> DONE
             2< b OK…
             U- DONE
             U< TAG OK idled",
        )
        .await;
    stage.end().await;
}

/// Lets so much time pass at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
