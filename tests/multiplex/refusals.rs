//! What the backend refuses of what imapool asks of its own accord: it is not asked again and again, and nobody has
//! to wait for it.

use std::time::Duration;

use crate::stage::{ONE, Stage, TWO, pass, play};

/// Longer than news are waited for where the backend does not idle.
const POLL: Duration = Duration::from_secs(16);

/// Two members idle, and hear of news by NOOP.
async fn hears_by_noop(stage: &mut Stage, connection: char, flag: &str) {
    // Once the hub has seen this, it has seen what was said before.
    stage.play("1> DONE\n1~ b OK…\n1> b IDLE\n1< + idling").await;
    pass(POLL).await;
    let news = format!("* 1 FETCH (FLAGS ({flag}))");
    stage.play(&format!("{connection}= NOOP | {news}\n1< {news}\n2< {news}")).await;
}

/// The mailbox as it was, on a further connection.
fn again(connection: char) -> String {
    ONE.lines()
        .map(str::trim)
        .filter(|step| step.starts_with('U'))
        .map(|step| {
            step.replace("U> SELECT INBOX", "U> SELECT \"INBOX\"").replacen('U', &connection.to_string(), 1) + "\n"
        })
        .collect()
}

const IDLERS: &str = "1= b IDLE | + idling
     2= b IDLE | + idling";

/// hMailServer announces IDLE and answers NO; others end it by themselves. A refusal is one in whatever form.
#[tokio::test]
async fn idle_that_is_refused_is_not_asked_for_again() {
    for answer in [
        "U< TAG NO not here",
        "U< TAG BAD what",
        "U< TAG OK done",
        "U< + idling\nU< TAG OK done",
        "U< + idling\nU< TAG NO over",
        "U< TAG NO [CANNOT] {5}",
    ] {
        let mut stage = Stage::set(1, "").await;
        stage.play(&format!("{ONE}\n{TWO}\n{IDLERS}\nU> IDLE\n{answer}")).await;
        hears_by_noop(&mut stage, 'U', "k4").await;
        hears_by_noop(&mut stage, 'U', "k5").await;
        // A command in between does not make it be asked for, either.
        stage
            .play(
                "1= DONE | b OK…
                 1U c CHECK
                 1= b IDLE | + idling",
            )
            .await;
        hears_by_noop(&mut stage, 'U', "k6").await;
        assert_eq!(stage.backend.received().matches(" IDLE\r\n").count(), 1, "{answer}");
        stage.play("1> DONE\n1< b OK…\n2> DONE\n2< b OK…").await;
        stage.end().await;
    }
}

/// After a long time it is asked for once more, and when it works, all is forgotten.
#[tokio::test]
async fn idle_is_tried_again_after_a_long_time() {
    let mut stage = Stage::set(1, "").await;
    stage.play(&format!("{ONE}\n{TWO}\n{IDLERS}\nU> IDLE\nU< TAG NO not now")).await;
    hears_by_noop(&mut stage, 'U', "k4").await;
    pass(Duration::from_secs(11 * 60)).await;
    stage
        .play(
            "U> IDLE
             U< + idling | * 2 FETCH (FLAGS (k5))
             1< * 2 FETCH (FLAGS (k5))
             2< * 2 FETCH (FLAGS (k5))
             1= DONE | b OK…
             2= DONE | b OK…
             U- DONE | TAG OK idled
             1= c IDLE | + idling
             V< * OK the login was verified here once more
             U= IDLE | + idling
             1= DONE | c OK…
             U- DONE | TAG OK idled",
        )
        .await;
    stage.end().await;
}

/// A server that dies whenever IDLE begins: once it may be chance; then news are asked for by NOOP.
#[tokio::test]
async fn a_server_that_dies_of_idle_is_not_asked_to() {
    let mut stage = Stage::set(1, "").await;
    stage.play(&format!("{ONE}\n{TWO}\n{IDLERS}\nU> IDLE\nU!")).await;
    stage.play(&format!("{}\nV> IDLE\nV< + idling\nV!", again('V'))).await;
    stage.play(&again('W')).await;
    hears_by_noop(&mut stage, 'W', "k4").await;
    hears_by_noop(&mut stage, 'W', "k5").await;
    stage.play("1> DONE\n1< b OK…\n2> DONE\n2< b OK…").await;
    stage.end().await;
}

/// Who gives a command waits for a server that does not end IDLE, or does not begin it, as for a connection. After that
/// the mailbox goes on by another.
#[tokio::test]
async fn an_idle_that_is_not_answered_is_given_up() {
    for answer in ["U< + idling\n1> DONE\n1< b OK…\n1> c NOOP\nU- DONE", "1> DONE\n1< b OK…\n1> c NOOP"] {
        let mut stage = Stage::set(1, "").await;
        stage.play(&format!("{ONE}\n{TWO}\n{IDLERS}\nU> IDLE\n{answer}")).await;
        pass(POLL).await;
        stage.play("1< c NO [UNAVAILABLE]…").await;
        stage.play(&again('V')).await;
        stage
            .play(
                "1V d NOOP
                 1= b IDLE | + idling",
            )
            .await;
        hears_by_noop(&mut stage, 'V', "k4").await;
        stage.play("1> DONE\n1< b OK…\n2> DONE\n2< b OK…").await;
        stage.end().await;
    }
}

/// RFC 3501 section 6.3.10: STATUS of the mailbox that is selected may be refused. It is shared all the same: to
/// select it anew tells what has to be known.
#[tokio::test]
async fn without_status_a_mailbox_is_shared() {
    // Both were asked before the refusal came.
    const VOID: &str = "U= UID SEARCH UNSEEN | * SEARCH 12
        U= NOOP";
    for refusal in ["TAG NO STATUS of the selected mailbox", "TAG BAD not now", "TAG OK nothing"] {
        let mut stage = Stage::set(1, "").await;
        stage
            .play(&format!(
                "ONE
                 2> a SELECT INBOX
                 U= UID SEARCH 1:3 | * SEARCH 11 12 13
                 U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
                 U< {refusal}
                 {VOID}
                 U= LIST \"\" \"INBOX\" | * LIST () \"/\" INBOX
                 {}
                 U= UID SEARCH UNSEEN | * SEARCH 12
                 U= NOOP
                 2< * FLAGS (\\Seen \\Deleted) | * OK [UIDVALIDITY 7] told | * 3 EXISTS | * 0 RECENT
                 2< * OK [UNSEEN 2]… | * OK [UIDNEXT 14]… | a OK [READ-WRITE] selected",
                again('U')
            ))
            .await;
        // What has happened meanwhile is news for those who are there.
        stage
            .play(
                "3> a SELECT INBOX
                 U> SELECT \"INBOX\"
                 U< * FLAGS (\\Seen \\Deleted) | * 3 EXISTS | * 0 RECENT | * OK [UIDVALIDITY 7] told
                 U< * OK [UIDNEXT 15] told | TAG OK [READ-WRITE] selected
                 U= UID SEARCH 1:3 | * SEARCH 11 13 14
                 U= UID SEARCH UNSEEN | * SEARCH
                 U= NOOP
                 3~ * 3 EXISTS
                 3~ * OK [UIDNEXT 15]…
                 3< a OK [READ-WRITE] selected
                 1U b NOOP | * 2 EXPUNGE | * 3 EXISTS",
            )
            .await;
        assert_eq!(stage.backend.received().matches("STATUS \"").count(), 1, "{refusal}");
        stage.end().await;
    }
}

/// UIDs are asked for in whatever way the backend takes: by SEARCH, or by FETCH.
#[tokio::test]
async fn without_search_uids_are_fetched() {
    play(
        1,
        "ESEARCH",
        "ONE
         2> a SELECT INBOX
         U= UID SEARCH RETURN (ALL) 1:3 | TAG BAD what is RETURN
         U= NOOP
         U= UID SEARCH 1:3 | TAG NO no searching here
         U= NOOP
         U= FETCH 1:* (UID) | * 1 FETCH (UID 11) | * 2 FETCH (UID 12) | * 3 FETCH (UID 13)
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
         U= NOOP | * 4 EXISTS
         U= FETCH 4:* (UID) | * 4 FETCH (UID 14)
         2~ a OK [READ-WRITE] selected
         3> a SELECT INBOX
         U= STATUS \"INBOX\" (UIDNEXT UIDVALIDITY) | * STATUS INBOX (UIDNEXT 15 UIDVALIDITY 7)
         U= NOOP
         3~ a OK [READ-WRITE] selected",
    )
    .await;
}

/// RFC 5161 section 3.2: on is what ENABLED lists. Whoever did not get QRESYNC hears EXPUNGE (RFC 7162 section
/// 3.2.10), and no mod-sequences, whatever the backend says.
#[tokio::test]
async fn who_was_refused_qresync_hears_expunge() {
    play(
        1,
        "CONDSTORE QRESYNC",
        "1> e ENABLE QRESYNC
         U= ENABLE QRESYNC | TAG NO not for you
         1< e NO not for you
         ONE
         TWO
         1> b NOOP
         U= NOOP | * VANISHED 12 | * 1 FETCH (FLAGS (\\Seen) MODSEQ (99)) | * 2 FETCH (UID 13 MODSEQ (100))
         1< * 2 EXPUNGE | * 1 FETCH (FLAGS (\\Seen)) | * 2 FETCH (UID 13) | b OK NOOP done
         2U b NOOP | * 2 EXPUNGE | * 1 FETCH (FLAGS (\\Seen))",
    )
    .await;
}

/// The same where ENABLE is answered OK and lists nothing: the connection may carry it all the same. Who selects a
/// mailbox there is told nothing of that.
#[tokio::test]
async fn what_enabled_does_not_list_is_not_on() {
    for listed in ["", "U< * ENABLED\n", "U< * ENABLED X-OTHER\n"] {
        let mut stage = Stage::set(2, "CONDSTORE QRESYNC").await;
        let told = if listed.is_empty() { "" } else { "1< * ENABLED…\n" };
        // Of what was never asked for, nobody knows what it does.
        let which = if listed.contains("OTHER") { 'V' } else { 'U' };
        stage
            .play(&format!(
                "1> e ENABLE QRESYNC
                 U> ENABLE QRESYNC
                 {listed}U< TAG OK enabled
                 {told}1< e OK enabled
                 1> a SELECT INBOX
                 {which}= SELECT INBOX | 3 messages, UIDVALIDITY 7, UIDNEXT 14
                 1~ a OK [READ-WRITE] selected
                 1> b NOOP
                 {which}= NOOP | * 2 FETCH (FLAGS (x) MODSEQ (7)) | * 2 EXPUNGE
                 1< * 2 FETCH (FLAGS (x)) | * 2 EXPUNGE | b OK NOOP done"
            ))
            .await;
        stage.end().await;
    }
}

/// A server that says nothing more on a connection: who joins there waits for it as for a connection. It is left when
/// it has not said for a minute what any server answers at once, and the mailbox goes on by another.
#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let mut stage = Stage::set(1, "").await;
    stage
        .play(&format!(
            "{ONE}
             2> a SELECT INBOX
             U= UID SEARCH 1:3 | * SEARCH 11 12 13
             U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)"
        ))
        .await;
    pass(Duration::from_secs(59)).await;
    stage.play("2< a NO [UNAVAILABLE]…").await;
    pass(Duration::from_secs(2)).await;
    stage
        .play(
            "2> a SELECT INBOX
             V= SELECT \"INBOX\" | 3 messages, UIDVALIDITY 7, UIDNEXT 14
             V? UIDNEXT 14, UIDVALIDITY 7
             2~ a OK [READ-WRITE] selected",
        )
        .await;
    stage.end().await;
}
