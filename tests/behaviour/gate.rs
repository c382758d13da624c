//! What a loop costs: whatever a client or a backend does again and again, connections are opened within the gate's
//! bounds, and others notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imapool::config::PoolMode;
use proptest::prelude::*;

use crate::support::{Client, Conn, Harness, Scripted, soon, until};

const MODES: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];
/// What a server may do in place of an answer.
#[derive(Debug, Clone, Copy)]
enum Mischief {
    None,
    No,
    Bad,
    Bye,
    Close,
    Garbage,
    ForeignTag,
    Silence,
}

const LOGOUT: &str = "C: o LOGOUT\nS: * BYE…\nS: o OK…\nS.";
const CAPABILITIES: &str =
    "IMAP4rev1 LITERAL+ SASL-IR ENABLE IDLE UNSELECT UIDPLUS MOVE NAMESPACE CONDSTORE QRESYNC AUTH=PLAIN";
const WITHOUT_ENABLE: &str = "IMAP4rev1 LITERAL+ SASL-IR IDLE UNSELECT UIDPLUS MOVE NAMESPACE CONDSTORE AUTH=PLAIN";
/// Connections that an account may open at once: see `Line` in src/upstream/gate.rs, for the default of four places.
const BURST: usize = 12;

/// A server with one mailbox of three messages, which knows CONDSTORE. `dies`: before it answers this.
async fn serve(mut conn: Conn, enable: bool, dies: impl Fn(&str) -> bool) {
    while let Some(mut command) = conn.command().await {
        if dies(&command) {
            return;
        }
        if let Some((_, size)) = command.strip_suffix("}").and_then(|rest| rest.rsplit_once('{')) {
            if !size.ends_with('+') {
                conn.send("+ go\r\n").await;
            }
            let _octets = conn.octets(size.trim_end_matches('+').parse().unwrap()).await;
            conn.line().await;
        }
        command = command.trim_start_matches("UID ").to_owned();
        let verb = command.split(' ').next().unwrap();
        let tag = conn.tag.clone();
        let untagged = match verb {
            "LOGOUT" => return conn.send(format!("* BYE bye\r\n{tag} OK bye\r\n")).await,
            "SELECT" | "EXAMINE" if !command.contains("INBOX") => {
                conn.send(format!("{tag} NO no such mailbox\r\n")).await;
                continue;
            }
            "SELECT" | "EXAMINE" => {
                "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] valid\r\n* OK [UIDNEXT 14] next\r\n* OK [HIGHESTMODSEQ 100] highest\r\n"
            }
            "STATUS" => "* STATUS INBOX (MESSAGES 3 UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 100)\r\n",
            "SEARCH" => "* SEARCH 11 12 13\r\n",
            "NAMESPACE" => "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n",
            "ENABLE" if !enable => {
                conn.send(format!("{tag} BAD unknown command\r\n")).await;
                continue;
            }
            "ENABLE" => &*format!("* ENABLED {}\r\n", command.trim_start_matches("ENABLE ")),
            "IDLE" => {
                conn.send("+ idling\r\n").await;
                conn.line().await;
                ""
            }
            _ => "",
        };
        conn.send(format!("{untagged}{tag} OK done\r\n")).await;
    }
}

async fn backend(dies: impl Fn(&str) -> bool + Clone + Send + Sync + 'static) -> Scripted {
    Scripted::offering(CAPABILITIES, move |conn| serve(conn, true, dies.clone())).await
}

async fn harness(backend: &Scripted, mode: PoolMode) -> Harness {
    Harness::start(backend.address, |config| config.pool.mode = mode).await
}

/// Visits, one after the other, each of which says this, and how many connections they cost. `offered`: by the server.
async fn logins_of(mode: PoolMode, offered: &'static str, visits: usize, script: &str) -> usize {
    let backend = Scripted::offering(offered, move |conn| serve(conn, offered.contains(" ENABLE "), |_| false)).await;
    let harness = harness(&backend, mode).await;
    for _ in 0..visits {
        let mut client = harness.login("u8").await;
        client.play(&format!("{script}\n{LOGOUT}")).await;
    }
    let logins = backend.logins();
    harness.finish().await;
    logins
}

/// RFC 7162 section 3.1: each of these switches CONDSTORE on, which cannot be switched off. With sessions between
/// them that do not.
#[tokio::test]
async fn who_switches_condstore_on_costs_no_more_connections_than_it_may_have() {
    for (mode, offered) in MODES.into_iter().flat_map(|mode| [(mode, CAPABILITIES), (mode, WITHOUT_ENABLE)]) {
        for loops in [
            "C: a STATUS INBOX (HIGHESTMODSEQ)\nS~ a OK…\nC: b SELECT INBOX (CONDSTORE)\nS~ b OK…\nC: c APPEND INBOX {1+}\nC: x\nS~ c OK…",
            "C: a LIST \"\" *\nS~ a OK…\nC: b STATUS INBOX (HIGHESTMODSEQ)\nS~ b OK…\nC: c LIST \"\" *\nS~ c OK…",
            "C: a SELECT INBOX (CONDSTORE)\nS~ a OK…\nC: b SELECT INBOX\nS~ b OK…\nC: c APPEND INBOX {1+}\nC: x\nS~ c OK…",
            "C: a LIST \"\" *\nS~ a OK…\nC: b ENABLE QRESYNC\nS~ b …\nC: c SELECT INBOX\nS~ c OK…\nC: d APPEND INBOX {1+}\nC: x\nS~ d OK…",
        ] {
            let logins = logins_of(mode, offered, 30, loops).await;
            assert!(logins <= 4, "{logins} logins in 30 visits with {}, {offered}:\n{loops}", mode.as_str());
        }
    }
}

/// What cannot be avoided is slowed: two kinds of sessions that take turns on the only connection there may be. Each
/// is served, or hears why not, and goes on.
#[tokio::test]
async fn what_cannot_be_shared_is_opened_at_the_gates_pace() {
    for mode in MODES {
        let backend = backend(|_| false).await;
        let harness = Harness::start(backend.address, |config| {
            config.pool.mode = mode;
            config.pool.max_per_account = 1;
            config.pool.checkout_timeout = Duration::from_millis(300);
        })
        .await;
        let start = Instant::now();
        for _ in 0..20 {
            for enable in ["ENABLE UTF8=ACCEPT", "NOOP"] {
                let mut client = harness.login("u8").await;
                client.play(&format!("C: a {enable}\nS~ a …")).await;
                client.send("b LIST \"\" *\r\n").await;
                let reply = client.line().await;
                assert!(reply.starts_with("b OK") || reply.starts_with("b NO [UNAVAILABLE] "), "{reply}");
                client.play(LOGOUT).await;
            }
        }
        // Of one connection: twice that and four, one for the login, and then forty a second.
        let allowed = 7 + usize::try_from(start.elapsed().as_millis() / 25).unwrap();
        assert!(backend.logins() <= allowed, "{} logins, {allowed} allowed", backend.logins());
        // Sessions on a busy machine may be slower than that by themselves.
        assert!(allowed >= 40 || harness.metric("imapool_dials_delayed_total", "reason=\"account\"") > 0);
        harness.finish().await;
    }
}

/// A server that dies whenever IDLE begins, and clients at rest.
#[tokio::test]
async fn a_backend_that_dies_of_idle_is_not_dialed_in_a_loop() {
    let backend = backend(|command| command == "IDLE").await;
    let harness = Harness::start(backend.address, |config| config.pool.mode = PoolMode::Multiplex).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = harness.login("u8").await;
        client.play("C: a SELECT INBOX\nS~ a OK…\nC: b IDLE\nS: + …").await;
        clients.push(client);
    }
    // After the second time it is not asked to idle any more, and the mailbox works on.
    until("it has died twice", || backend.received().matches(" IDLE\r\n").count() >= 2).await;
    let mut other = harness.login("u8").await;
    for n in 0..10 {
        other.play(&format!("C: a{n} SELECT INBOX\nS~ a{n} OK…\nC: b{n} NOOP\nS~ b{n} OK…")).await;
    }
    assert!(backend.logins() <= BURST, "{} logins", backend.logins());
    clients.push(other);
    // Others notice nothing.
    harness.visit("u9").await;
    drop(clients);
    harness.finish().await;
}

/// A login that is accepted is no proof, whatever comes after it: not once the account is known.
#[tokio::test]
async fn a_login_alone_proves_nothing() {
    for mode in MODES {
        let broken = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&broken);
        let backend = backend(move |command| command.starts_with("LIST") && theirs.load(Ordering::Relaxed)).await;
        let harness = Harness::start(backend.address, |config| {
            config.pool.mode = mode;
            config.pool.checkout_timeout = Duration::from_millis(200);
        })
        .await;
        harness.visit("u8").await;
        broken.store(true, Ordering::Relaxed);
        let mut client = harness.login("u8").await;
        let mut told = String::new();
        for at in 0..100 {
            client.send(format!("a{at} LIST \"\" INBOX\r\n")).await;
            told = client.line().await;
            assert!(told.starts_with(&format!("a{at} NO [UNAVAILABLE] ")), "{told}");
        }
        assert!(told.contains("in a moment"), "{told}");
        assert!(backend.logins() <= BURST + 1, "{} logins", backend.logins());
        assert_eq!(harness.metric("imapool_accounts_backing_off", "backend=\"mail\""), 1);
        // The session goes on when the server does: the next connection is used, and that is the end of it.
        broken.store(false, Ordering::Relaxed);
        recovered(&mut client).await;
        assert_eq!(harness.metric("imapool_accounts_backing_off", ""), 0);
        client.play(LOGOUT).await;
        harness.finish().await;
    }
}

/// Asks until it is answered. For how long the account backs off, only the answers tell.
async fn recovered(client: &mut Client) {
    for at in 0..200 {
        client.send(format!("r{at} LIST \"\" INBOX\r\n")).await;
        if client.line().await.starts_with(&format!("r{at} OK")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never answered");
}

/// Wrong passwords for an account use up nothing that its right users need.
#[tokio::test]
async fn wrong_passwords_take_nothing_from_the_right_user() {
    let backend = Scripted::raw(|mut conn: Conn| async move {
        conn.send("* OK [CAPABILITY IMAP4rev1] ready\r\n").await;
        while let Some(command) = conn.command().await {
            let tag = conn.tag.clone();
            if command.starts_with("LOGIN") && command.contains("wrong") {
                conn.send(format!("{tag} NO [AUTHENTICATIONFAILED] no\r\n")).await;
                continue;
            }
            if command.starts_with("LOGIN") {
                conn.send(format!("{tag} OK [CAPABILITY {CAPABILITIES}] in\r\n")).await;
                return serve(conn, true, |_| false).await;
            }
            conn.send(format!("* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n")).await;
        }
    })
    .await;
    let harness = Harness::by_session(backend.address, |_| {}).await;
    harness.visit("u8").await;
    for at in 0..30 {
        let mut client = harness.client().await;
        client.play(&format!("C: l LOGIN u8 wrong{at}\nS: l NO…")).await;
    }
    let mut right = Vec::new();
    for _ in 0..4 {
        let mut client = harness.login("u8").await;
        client.play("C: a LIST \"\" INBOX\nS: a OK…").await;
        right.push(client);
    }
    assert_eq!(harness.metric("imapool_dials_delayed_total", ""), 0);
    drop(right);
    harness.finish().await;
}

fn mischief() -> impl Strategy<Value = Mischief> {
    use Mischief::{Bad, Bye, Close, ForeignTag, Garbage, No, None, Silence};
    prop_oneof![
        6 => Just(None), 1 => Just(No), 1 => Just(Bad), 2 => Just(Bye), 3 => Just(Close), 1 => Just(Garbage),
        1 => Just(ForeignTag), 1 => Just(Silence),
    ]
}

/// Logs in whoever comes, and plays tricks on all but `u9`: one after the other, at each command.
async fn tricky(mut conn: Conn, tricks: Arc<(Vec<Mischief>, AtomicUsize)>, logins: Arc<AtomicUsize>) {
    conn.send("* OK [CAPABILITY IMAP4rev1] ready\r\n").await;
    let user = loop {
        let Some(command) = conn.command().await else { return };
        if command.starts_with("LOGIN") {
            break command;
        }
        conn.send(format!("* CAPABILITY IMAP4rev1\r\n{} OK done\r\n", conn.tag)).await;
    };
    let honest = user.contains("u9");
    logins.fetch_add(usize::from(!honest), Ordering::Relaxed);
    conn.send(format!("{} OK [CAPABILITY {CAPABILITIES}] in\r\n", conn.tag)).await;
    if honest {
        return serve(conn, true, |_| false).await;
    }
    while let Some(command) = conn.command().await {
        let (tricks, next) = &*tricks;
        let trick = tricks[next.fetch_add(1, Ordering::Relaxed) % tricks.len()];
        let tag = conn.tag.clone();
        let reply = match trick {
            Mischief::None if command.starts_with("SELECT") => {
                format!(
                    "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] valid\r\n* OK [UIDNEXT 14] next\r\n{tag} OK [READ-WRITE] selected\r\n"
                )
            }
            Mischief::None if command == "IDLE" => {
                conn.send("+ idling\r\n").await;
                if conn.line().await.is_none() {
                    return;
                }
                format!("{tag} OK idled\r\n")
            }
            Mischief::None => format!("{tag} OK done\r\n"),
            Mischief::No => format!("{tag} NO not now\r\n"),
            Mischief::Bad => format!("{tag} BAD what\r\n"),
            Mischief::Bye => return conn.send("* BYE tired\r\n").await,
            Mischief::Close => return,
            Mischief::Garbage => "!!! ???\r\n".to_owned(),
            Mischief::ForeignTag => "zzz OK yours?\r\n".to_owned(),
            Mischief::Silence => continue,
        };
        conn.send(reply).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// A backend that refuses, ends, lies or hangs for one account at any step, and clients that ask for anything:
    /// its connections stay within the gate's bounds, and another account's commands go on.
    #[test]
    fn dials_stay_within_bounds_whatever_happens(
        tricks in prop::collection::vec(mischief(), 1..12),
        asks in prop::collection::vec(0..5usize, 10..40),
        session in any::<bool>(),
    ) {
        const ASKS: [&str; 5] = ["LIST \"\" *", "SELECT INBOX", "STATUS INBOX (HIGHESTMODSEQ)", "IDLE\r\nDONE", "SELECT INBOX (CONDSTORE)"];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let logins = Arc::<AtomicUsize>::default();
            let (tricks, counted) = (Arc::new((tricks, AtomicUsize::new(0))), Arc::clone(&logins));
            let backend = Scripted::raw(move |conn| tricky(conn, Arc::clone(&tricks), Arc::clone(&counted))).await;
            let harness = Harness::start(backend.address, |config| {
                config.pool.mode = MODES[usize::from(session)];
                config.pool.checkout_timeout = Duration::from_millis(100);
                config.backends[0].reply_timeout = Duration::from_millis(100);
                config.backends[0].login_timeout = Duration::from_millis(500);
            })
            .await;
            let start = Instant::now();
            let mut other = harness.login("u9").await;
            let (mut client, mut attempts): (Option<Client>, usize) = (None, 0);
            for (at, ask) in asks.into_iter().enumerate() {
                let mut ours = match client.take() {
                    Some(client) => client,
                    None => {
                        let mut client = harness.client().await;
                        client.send("l LOGIN u8 pw-u8\r\n").await;
                        attempts += 1;
                        match client.try_line().await {
                            Some(reply) if reply.starts_with("l OK") => client,
                            _ => continue,
                        }
                    }
                };
                ours.try_send(format!("a{at} {}\r\n", ASKS[ask])).await;
                let end = format!("a{at} ");
                let answered = soon("an answer", async {
                    while let Some(line) = ours.try_line().await {
                        if line.starts_with(&end) {
                            return true;
                        }
                    }
                    false
                })
                .await;
                client = answered.then_some(ours);
                other.play("C: o LIST \"\" *\nS: o OK…").await;
            }
            // A login of the client's own may be judged anew each time.
            let allowed = BURST + 4 + attempts + usize::try_from(start.elapsed().as_millis() / 25).unwrap();
            assert!(logins.load(Ordering::Relaxed) <= allowed, "{logins:?} logins, {allowed} allowed");
            drop((client, other));
            harness.finish().await;
        });
    }
}
