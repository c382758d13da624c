//! What makes a login a login, whom a failed one concerns, and what of a backend's words reaches the client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imapool::config::{Identify, PoolMode};
use imapool::demo::server::{Options, Server};

use crate::malformed_backends::Ill;
use crate::support::{Client, Conn, Harness, Scripted, until};

const MODES: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];
const NOT_CONNECTED: &str = "BAD User is authenticated but not connected.";

/// Reads commands before login; gives the first that is none of CAPABILITY, ID and NOOP. `None`: the end.
async fn first_login(conn: &mut Conn, offered: &str) -> Option<String> {
    conn.send("* OK ready\r\n").await;
    next_login(conn, offered).await
}

async fn next_login(conn: &mut Conn, offered: &str) -> Option<String> {
    loop {
        let command = conn.command().await?;
        match command.split(' ').next().unwrap() {
            "CAPABILITY" => conn.play(&format!("S: * CAPABILITY {offered}\nS: TAG OK told")).await,
            "ID" | "NOOP" => conn.play("S: TAG OK well").await,
            _ => return Some(command),
        }
    }
}

/// Takes a login.
const IN: &str = "S: TAG OK [CAPABILITY IMAP4rev1] in";

/// A server that plays to each login what `judge` says, and begins a session where that takes it.
async fn judging(judge: impl Fn(&str) -> &'static str + Send + Sync + 'static) -> Scripted {
    let judge = Arc::new(judge);
    Scripted::raw(move |mut conn: Conn| {
        let judge = Arc::clone(&judge);
        async move {
            conn.send("* OK ready\r\n").await;
            while let Some(login) = next_login(&mut conn, "IMAP4rev1").await {
                let answer = judge(&login);
                conn.play(answer).await;
                if answer.contains("TAG OK") {
                    return conn.serve().await;
                }
            }
        }
    })
    .await
}

/// Says OK to whatever credential it is shown, and serves only who has the right one, the password or token `right`,
/// but for these commands, which tell of nobody's mail.
async fn believer(harmless: &'static [&'static str]) -> Scripted {
    Scripted::raw(move |mut conn: Conn| async move {
        const OFFERED: &str = "IMAP4rev1 SASL-IR NAMESPACE UNSELECT IDLE AUTH=XOAUTH2 AUTH=OAUTHBEARER AUTH=PLAIN";
        let Some(login) = first_login(&mut conn, OFFERED).await else { return };
        let shown = login.rsplit(' ').next().unwrap();
        let decoded = STANDARD.decode(shown).unwrap_or_default();
        let right = shown == "\"right\"" || String::from_utf8_lossy(&decoded).contains("right");
        conn.play(&format!("S: TAG OK [CAPABILITY {OFFERED}] welcome")).await;
        while let Some(command) = conn.command().await {
            let verb = command.split(' ').next().unwrap();
            if !right && !harmless.contains(&verb) {
                conn.play(&format!("S: TAG {NOT_CONNECTED}")).await;
                continue;
            }
            match verb {
                "SELECT" => conn.play("S: * 1 EXISTS\nS: * OK [UIDVALIDITY 1] x\nS: * OK [UIDNEXT 2] x").await,
                "FETCH" => conn.play("S: * 1 FETCH (UID 1 ENVELOPE secret)").await,
                "STATUS" => conn.play("S: * STATUS INBOX (UIDNEXT 2 UIDVALIDITY 1)").await,
                "UID" => conn.play("S: * SEARCH 1").await,
                _ => {}
            }
            conn.play("S: TAG OK done").await;
            if command == "LOGOUT" {
                return;
            }
        }
    })
    .await
}

fn xoauth2(user: &str, token: &str) -> String {
    STANDARD.encode(format!("user={user}\x01auth=Bearer {token}\x01\x01"))
}

/// Exchange and its cloud: OK to any credential, and only the next command is refused.
#[tokio::test]
async fn an_ok_alone_lets_nobody_in() {
    const HARMLESS: [&[&str]; 3] = [&[], &["NAMESPACE"], &["NAMESPACE", "LIST", "ID", "NOOP", "CAPABILITY"]];
    for (mode, harmless) in MODES.into_iter().flat_map(|mode| HARMLESS.map(|harmless| (mode, harmless))) {
        let backend = believer(harmless).await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        for (right, wrong) in [
            ("LOGIN u8 right".to_owned(), "LOGIN u8 wrong".to_owned()),
            (
                format!("AUTHENTICATE XOAUTH2 {}", xoauth2("u8", "right")),
                format!("AUTHENTICATE XOAUTH2 {}", xoauth2("u8", "wrong")),
            ),
        ] {
            let mut owner = harness.client().await;
            owner.play(&format!("C: a {right}\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…")).await;
            for _ in 0..4 {
                let mut intruder = harness.client().await;
                let said = intruder.command(&format!("a {wrong}")).await.concat();
                assert!(said.starts_with("a NO [UNAVAILABLE]"), "{mode:?}: {said}");
                assert!(said.contains("User is authenticated but not connected."), "{mode:?}: {said}");
                intruder.play("C: b SELECT INBOX\nS: b BAD…\nC: c LOGOUT\nS~ c OK…\nS.").await;
            }
            // The right one is still known, its connection still there.
            owner.play("C: c FETCH 1 (ENVELOPE)\nS: * 1 FETCH…\nS: c OK…").await;
            let before = backend.received().matches("right").count();
            let mut again = harness.client().await;
            again.play(&format!("C: a {right}\nS: a OK…\nC: b NOOP\nS: b OK…\nC: c LOGOUT\nS~ c OK…\nS.")).await;
            assert_eq!(backend.received().matches("right").count(), before);
            owner.play("C: d LOGOUT\nS~ d OK…\nS.").await;
        }
        assert_eq!(harness.metric("imapool_logins_total", "result=\"refused\""), 0, "{mode:?}");
        assert_eq!(harness.metric("imapool_logins_total", "result=\"unavailable\""), 8, "{mode:?}");
        // Nor does one that finds nobody else there get in.
        let mut first = harness.client().await;
        first.play("C: a LOGIN nobody wrong\nS: a NO [UNAVAILABLE]…").await;
        drop(first);
        harness.finish().await;
    }
}

/// A server that cannot tell of the INBOX, or lists NAMESPACE and does not know it, lets in all the same whoever may
/// come in: another command shows that.
#[tokio::test]
async fn a_command_that_a_server_does_not_know_shuts_nobody_out() {
    for (mode, unknown) in MODES.into_iter().flat_map(|mode| ["NAMESPACE", "STATUS"].map(|unknown| (mode, unknown))) {
        let backend = Scripted::raw(move |mut conn: Conn| async move {
            if first_login(&mut conn, "IMAP4rev1 NAMESPACE").await.is_none() {
                return;
            }
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1 NAMESPACE] in").await;
            while let Some(command) = conn.command().await.filter(|command| command != "LOGOUT") {
                let known = !command.starts_with(unknown);
                conn.play(if known { "S: TAG OK done" } else { "S: TAG BAD command syntax error" }).await;
            }
        })
        .await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        let mut client = harness.login("u8").await;
        client.play("C: a LIST \"\" x\nS: a OK…").await;
        drop(client);
        harness.finish().await;
    }
}

/// The same of the further connections of an account.
#[tokio::test]
async fn a_connection_without_a_session_joins_no_pool() {
    for mode in MODES {
        let backend = Scripted::raw(|mut conn: Conn| async move {
            if first_login(&mut conn, "IMAP4rev1").await.is_none() {
                return;
            }
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
            if conn.number == 2 {
                assert!(conn.prove().await);
                conn.obey().await;
            } else if conn.command().await.is_some() {
                conn.play(&format!("S: TAG {NOT_CONNECTED}")).await;
                conn.gone().await;
            }
        })
        .await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        // The look whether the backend is there takes the first; the login takes that one.
        let mut none = harness.client().await;
        none.play("C: a LOGIN u8 pw-u8\nS: a NO [UNAVAILABLE]…").await;
        let mut one = harness.login("u8").await;
        one.play("C: a SELECT A\nS~ a OK…").await;
        let mut two = harness.login("u8").await;
        two.play("C: a SELECT B\nS: a NO [UNAVAILABLE]…\nC: b NOOP\nS: b OK…").await;
        one.play("C: b CHECK\nS: b OK…").await;
        assert_eq!(harness.connections("idle"), 0, "{mode:?}");
        drop((none, one, two));
        harness.finish().await;
    }
}

/// The same words later end the connection, and not the account.
#[tokio::test]
async fn a_connection_whose_session_is_gone_is_not_used_again() {
    for mode in MODES {
        let backend = Scripted::start(|mut conn: Conn| async move {
            if conn.number == 1 {
                conn.play(&format!("C: CREATE x\nS: TAG {NOT_CONNECTED}")).await;
                conn.gone().await;
            } else {
                conn.obey().await;
            }
        })
        .await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        let mut client = harness.login("u8").await;
        client.play(&format!("C: a CREATE x\nS: a {NOT_CONNECTED}\nC: b CREATE y\nS: b OK done")).await;
        assert_eq!(backend.logins(), 2);
        assert_eq!(harness.metric("imapool_logins_total", "result=\"verified\""), 1);
        drop(client);
        harness.finish().await;
    }
    // In a mailbox that is shared: its members go on with another.
    let backend = Scripted::start(|mut conn: Conn| async move {
        conn.play(
            "C: SELECT …\nS: * 0 EXISTS\nS: * OK [UIDVALIDITY 1] x\nS: * OK [UIDNEXT 1] x\nS: TAG OK [READ-WRITE] x",
        )
        .await;
        if conn.number == 1 {
            conn.play(&format!("C: CREATE x\nS: TAG {NOT_CONNECTED}")).await;
            conn.gone().await;
        } else {
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| {
        config.pool.max_per_account = 1;
        config.pool.mode = PoolMode::Multiplex;
    })
    .await;
    let mut client = harness.login("u8").await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    client.play(&format!("C: b CREATE x\nS: b {NOT_CONNECTED}\nC: c CHECK\nS: c OK…")).await;
    drop(client);
    harness.finish().await;
}

/// Where in a login a backend falls ill, for one user.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// In place of the answer to LOGIN.
    Login,
    /// In place of the answer to the message of AUTHENTICATE.
    Message,
    /// In place of the answer to CAPABILITY after the OK.
    Capability,
    /// In place of the answer to ID.
    Id,
    /// In place of the answer to the first command of the session.
    Proof,
}

async fn ill_for_one(conn: &mut Conn, step: Step, ill: Ill) {
    let offered = if step == Step::Message { "IMAP4rev1 ID LOGINDISABLED AUTH=PLAIN" } else { "IMAP4rev1 ID" };
    conn.send("* OK ready\r\n").await;
    let Some(login) = next_login(conn, offered).await else { return };
    let is_ill = if step == Step::Message {
        conn.play("S: + ").await;
        let Some(message) = conn.line().await else { return };
        String::from_utf8_lossy(&STANDARD.decode(message).unwrap()).contains("ill")
    } else {
        login.contains("\"ill\"")
    };
    if is_ill && matches!(step, Step::Login | Step::Message) {
        return ill.act(conn).await;
    }
    conn.play("S: TAG OK in").await;
    while let Some(command) = conn.command().await {
        let here = match command.split(' ').next().unwrap() {
            "CAPABILITY" => Step::Capability,
            "ID" => Step::Id,
            "STATUS" | "LIST" => Step::Proof,
            _ => return conn.play("S: * BYE bye\nS: TAG OK bye").await,
        };
        if is_ill && here == step {
            ill.act(conn).await;
            // Who is refused one command is refused the next one, too.
            if matches!(ill, Ill::Says(text) if text.starts_with("TAG ")) {
                continue;
            }
            return;
        }
        if here == Step::Capability {
            conn.play(&format!("S: * CAPABILITY {offered}")).await;
        }
        conn.play("S: TAG OK done").await;
    }
}

/// Refusals of every sort at every step: nobody is let in, the backend is not blamed, others log in, and a credential
/// is shown once for each time that a client shows it.
#[tokio::test]
async fn what_happens_to_one_login_is_that_accounts_affair() {
    let ills = [
        Ill::Says("TAG NO no\r\n"),
        Ill::Says("TAG NO [AUTHENTICATIONFAILED] no\r\n"),
        Ill::Says("TAG NO [UNAVAILABLE] later\r\n"),
        Ill::Says("TAG NO Server Unavailable. 15\r\n"),
        Ill::Says("TAG BAD Request is throttled. Suggested Backoff Time: 57131 milliseconds\r\n"),
        Ill::Says("TAG BAD User is authenticated but not connected.\r\n"),
        Ill::Says("* BYE IMAP is disabled for you\r\n"),
        Ill::Says("* BYE Authentication failed\r\nTAG NO gone\r\n"),
        Ill::Says("i99 OK another's\r\n"),
        Ill::Says("TAG\r\n"),
        Ill::Says("TAG BYE what\r\n"),
        Ill::Says("\r\n\r\n"),
        Ill::Says("* LIST () NIL {4294967295}\r\n"),
        Ill::Says("* LIST () NIL {5}\r\nab"),
        Ill::Endless,
        Ill::Silent,
        Ill::Closes,
    ];
    for step in [Step::Login, Step::Message, Step::Capability, Step::Id, Step::Proof] {
        for ill in ills {
            // What is said to ID does not matter, as long as it is an answer.
            let is_answer = matches!(ill, Ill::Says(text) if text.starts_with("TAG NO") || text.starts_with("TAG BAD"));
            if step == Step::Id && is_answer {
                continue;
            }
            one_login_fails(step, ill).await;
        }
    }
}

async fn one_login_fails(step: Step, ill: Ill) {
    let what = format!("{step:?}: {ill:?}");
    let backend = Scripted::raw(move |mut conn: Conn| async move { ill_for_one(&mut conn, step, ill).await }).await;
    let harness = Harness::start(backend.address, |config| {
        config.backends[0].login_timeout = Duration::from_millis(150);
        config.pool.checkout_timeout = Duration::from_secs(5);
    })
    .await;
    let logins = if matches!(ill, Ill::Silent) { 4 } else { 8 };
    let mut clients = Vec::new();
    for at in 0..logins {
        let mut client = harness.client().await;
        client.send(format!("a LOGIN ill pw{at}\r\n")).await;
        clients.push(client);
    }
    let mut right = harness.client().await;
    assert!(right.command("a LOGIN right pw").await.concat().starts_with("a OK"), "{what}");
    for client in &mut clients {
        let said = client.line().await;
        let refusal = matches!(step, Step::Login | Step::Message)
            && matches!(ill, Ill::Says(text) if text.starts_with("TAG NO no") || text.contains("[AUTH") || text.contains("gone"));
        let wanted = if refusal { "a NO " } else { "a NO [UNAVAILABLE]" };
        assert!(said.starts_with(wanted), "{what}: {said}");
    }
    for at in 0..4 {
        let mut other = harness.client().await;
        let said = other.command(&format!("a LOGIN other{at} pw")).await.concat();
        assert!(said.starts_with("a OK"), "{what}: {said}");
    }
    assert_eq!(harness.metric("imapool_upstream_dials_total", "result=\"breaker\""), 0, "{what}");
    let received = backend.received();
    for at in 0..logins {
        let message = STANDARD.encode(format!("\0ill\0pw{at}"));
        let times = received.matches(&format!("\"pw{at}\"")).count() + received.matches(&message).count();
        assert_eq!(times, 1, "{what}: {received}");
    }
    drop((clients, right));
    harness.finish().await;
}

/// Wrong passwords that are answered by hanging up.
#[tokio::test]
async fn a_goodbye_may_be_a_refusal() {
    for (bye, wanted) in [
        ("* BYE Authentication failed", "a NO [AUTHENTICATIONFAILED]"),
        ("* BYE [AUTHENTICATIONFAILED] no", "a NO [AUTHENTICATIONFAILED]"),
        ("* BYE Too many connections", "a NO [LIMIT]"),
        ("* BYE IMAP is switched off for this account", "a NO [UNAVAILABLE] The mail server hung up"),
        ("* OK [ALERT] no IMAP for you", "* OK [ALERT] no IMAP for you"),
    ] {
        let backend = Scripted::raw(move |mut conn: Conn| async move {
            if first_login(&mut conn, "IMAP4rev1").await.is_some() {
                conn.send(format!("{bye}\r\n")).await;
            }
        })
        .await;
        let harness = Harness::start(backend.address, |_| {}).await;
        let mut client = harness.client().await;
        let said = client.command("a LOGIN u8 pw-u8").await;
        assert!(said[0].starts_with(wanted), "{bye}: {said:?}");
        assert_eq!(backend.received().matches("LOGIN").count(), 1);
        drop(client);
        harness.finish().await;
    }
}

/// One that was kept and has been closed meanwhile is replaced, as long as the password was not shown on it.
#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_login() {
    let seen = Arc::new(AtomicUsize::new(0));
    let closed = Arc::clone(&seen);
    let backend = Scripted::raw(move |mut conn: Conn| {
        let closed = Arc::clone(&closed);
        async move {
            if conn.number == 1 {
                // The look whether the backend is there; it is kept for the first login.
                conn.play("S: * OK ready\nC: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: TAG OK told").await;
                closed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if first_login(&mut conn, "IMAP4rev1").await.is_some() {
                conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
                assert!(conn.prove().await);
                conn.obey().await;
            }
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    until("closed", || seen.load(Ordering::Relaxed) == 1 && backend.open() == 0).await;
    harness.visit("u8").await;
    harness.finish().await;
}

/// A login that imapool knows is revoked by what says so, not by a server that is in trouble for a moment.
#[tokio::test]
async fn a_plain_no_revokes_nothing_at_once() {
    for (reply, known_after) in [
        ("S: TAG NO Server Unavailable. 15", true),
        ("S: TAG NO [ALERT] Account exceeded command or bandwidth limits. (Failure)", true),
        ("S: TAG BAD Request is throttled. Suggested Backoff Time: 57131 milliseconds", true),
        ("S: TAG NO LOGIN failed.", true),
        ("S: TAG BAD what", true),
        ("S: TAG NO [AUTHENTICATIONFAILED] no", false),
        ("S: TAG NO [AUTHORIZATIONFAILED] no", false),
        ("S: TAG NO [EXPIRED] no", false),
    ] {
        let troubled = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&troubled);
        let backend = judging(move |_| if now.load(Ordering::SeqCst) { reply } else { IN }).await;
        // A second connection is needed for each session; the first knows nothing of it.
        let harness = Harness::by_session(backend.address, |_| {}).await;
        let mut first = harness.login("u8").await;
        first.play("C: a LIST \"\" x\nS: a OK…").await;
        troubled.store(true, Ordering::SeqCst);
        let mut second = harness.login("u8").await;
        let said = second.command("a LIST \"\" x").await.concat();
        assert_eq!(said.starts_with("a NO [UNAVAILABLE]"), known_after, "{reply}: {said}");
        let mut third = harness.client().await;
        let said = third.command("a LOGIN u8 pw-u8").await.concat();
        assert_eq!(said.starts_with("a OK"), known_after, "{reply}: {said}");
        first.play("C: b LIST \"\" x\nS: b OK…").await;
        drop((first, second, third));
        harness.finish().await;
    }
}

/// What the user is to see reaches him who logs in, and all whose login it was, and nobody else.
#[tokio::test]
async fn alerts_reach_those_who_log_in() {
    let backend = judging(|login| match login.contains("web") {
        true => {
            "S: * NO [WEBALERT https://example.org/login?x=1] Web login required.
             S: TAG NO [ALERT] Please log in via your web browser (Failure)"
        }
        false => {
            "S: * OK [ALERT] Your mailbox is \x07almost full
             S: TAG OK [ALERT] and down tonight
             C: CAPABILITY
             S: * CAPABILITY IMAP4rev1
             S: TAG OK told"
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut client = harness.client().await;
        client.send("a LOGIN u8 pw-u8\r\n").await;
        clients.push(client);
    }
    let mut alerted = 0;
    for client in &mut clients {
        let said = client.until(|line| line.starts_with("a ")).await;
        assert!(said.last().unwrap().starts_with("a OK [CAPABILITY"), "{said:?}");
        if said.len() > 1 {
            assert_eq!(said[..2], ["* OK [ALERT] Your mailbox is almost full", "* OK [ALERT] and down tonight"]);
            alerted += 1;
        }
    }
    assert!(alerted >= 1);
    let mut known = harness.client().await;
    known.play("C: a LOGIN u8 pw-u8\nS: a OK…").await;
    let mut refused = harness.client().await;
    let said = refused.command("a LOGIN web pw").await;
    assert_eq!(
        said,
        [
            "* NO [WEBALERT https://example.org/login?x=1] Web login required.",
            "a NO [ALERT] Please log in via your web browser (Failure)"
        ]
    );
    drop((clients, known, refused));
    harness.finish().await;
}

/// NetEase (163, 126): who has not said by ID who he is selects nothing.
#[tokio::test]
async fn a_server_that_wants_to_know_who_asks_is_told() {
    for (identify, told) in [(Identify::Auto, true), (Identify::Always, true), (Identify::Never, false)] {
        for mode in MODES {
            let backend = Scripted::raw(|mut conn: Conn| async move {
                const OFFERED: &str = "IMAP4rev1 XLIST SPECIAL-USE ID LITERAL+ STARTTLS APPENDLIMIT=71680000 UIDPLUS";
                if first_login(&mut conn, OFFERED).await.is_none() {
                    return;
                }
                conn.play("S: TAG OK LOGIN completed").await;
                let mut known = false;
                while let Some(command) = conn.command().await {
                    match command.split(' ').next().unwrap() {
                        "CAPABILITY" => conn.play(&format!("S: * CAPABILITY {OFFERED}")).await,
                        "ID" => known = command.starts_with("ID (\"name\" \"imapool\" \"version\" \""),
                        "SELECT" | "EXAMINE" if !known => {
                            conn.play("S: TAG NO SELECT Unsafe Login. Please contact kefu@188.com for help").await;
                            continue;
                        }
                        _ => {}
                    }
                    conn.play("S: TAG OK completed").await;
                    if command == "LOGOUT" {
                        return;
                    }
                }
            })
            .await;
            let harness = Harness::start(backend.address, |config| {
                config.backends[0].id = identify;
                config.pool.mode = mode;
            })
            .await;
            let mut client = harness.login("u8").await;
            let said = client.command("a SELECT INBOX").await.pop().unwrap();
            assert_eq!(said.starts_with("a OK"), told, "{identify:?} {mode:?}: {said}");
            drop(client);
            harness.finish().await;
        }
    }
}

/// A server that has AUTH=LOGIN and nothing else.
#[tokio::test]
async fn a_password_reaches_a_server_that_knows_only_the_login_mechanism() {
    let backend = Scripted::raw(|mut conn: Conn| async move {
        const OFFERED: &str = "IMAP4rev1 LOGINDISABLED AUTH=LOGIN SASL-IR";
        conn.send("* OK ready\r\n").await;
        while let Some(login) = next_login(&mut conn, OFFERED).await {
            assert_eq!(login, "AUTHENTICATE LOGIN");
            conn.play("S: + VXNlcm5hbWU6").await;
            let Some(user) = conn.line().await else { return };
            conn.play("S: + UGFzc3dvcmQ6").await;
            let Some(password) = conn.line().await else { return };
            if (user, password) == (STANDARD.encode("u8"), STANDARD.encode("pw-u8")) {
                conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
                return conn.serve().await;
            }
            conn.play("S: TAG NO [AUTHENTICATIONFAILED] no").await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    until("reached", || backend.received().contains("CAPABILITY")).await;
    let plain = STANDARD.encode("\0u8\0pw-u8");
    for login in ["LOGIN u8 pw-u8", &format!("AUTHENTICATE PLAIN {plain}")] {
        let mut client = harness.client().await;
        client.play(&format!("C: a {login}\nS: a OK…\nC: b LIST \"\" x\nS: b OK…\nC: c LOGOUT\nS~ c OK…\nS.")).await;
    }
    let mut wrong = harness.client().await;
    wrong.play("C: a LOGIN u8 wrong\nS: a NO [AUTHENTICATIONFAILED]…").await;
    drop(wrong);
    harness.finish().await;
}

/// 8-bit octets in a quoted string stay in one; what is sent as a literal goes as one, and both are the same
/// credential.
#[tokio::test]
async fn a_quoted_password_stays_quoted() {
    let backend = judging(|login| match login {
        literal if literal.ends_with('}') => "S: TAG BAD no literals here",
        "LOGIN \"u8\" \"pä\"" => IN,
        _ => "S: TAG NO [AUTHENTICATIONFAILED] no",
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.client().await;
    client.play("C: a LOGIN u8 \"pä\"\nS: a OK…").await;
    let mut same = harness.client().await;
    same.play("C: a LOGIN u8 {3+}\\r\\npä\nS: a OK…").await;
    assert_eq!(backend.received().matches("LOGIN").count(), 1, "one credential, however it is written");
    drop((client, same));
    harness.finish().await;
    // Where it comes as a literal first.
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.client().await;
    client.play("C: a LOGIN u8 {3+}\\r\\npä\nS: a OK…").await;
    drop(client);
    harness.finish().await;
}

/// Those, too, that are held back before the server is asked, as all are after a second wrong one.
#[tokio::test]
async fn each_login_counts_once() {
    let server = Server::start(Options::default()).await.unwrap();
    for mode in MODES {
        let harness = Harness::start(server.address(), |config| {
            config.pool.mode = mode;
            config.auth.failure_delay = Duration::from_millis(1);
        })
        .await;
        for _ in 0..5 {
            let mut guesser = harness.client().await;
            guesser.play("C: a LOGIN u8 wrong\nS: a NO…").await;
        }
        harness.visit("u8").await;
        assert_eq!(harness.metric("imapool_logins_total", "result=\"refused\""), 5, "{mode:?}");
        assert_eq!(harness.metric("imapool_logins_total", ""), 6, "{mode:?}");
        harness.finish().await;
    }
}
