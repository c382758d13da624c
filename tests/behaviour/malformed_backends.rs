//! Backends that do not speak IMAP, do so badly, fall silent or close: `NO [UNAVAILABLE]` or BYE for the client, a
//! log line for the operator, no panic, and the pool works on.

use std::time::Duration;

use crate::support::backend::CAPABILITIES;
use crate::support::{Client, Conn, Gate, Harness, Scripted, until};

const QUICK: Duration = Duration::from_millis(250);

/// What a sick backend does instead of the right thing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ill {
    Says(&'static str),
    Endless,
    Silent,
    Closes,
}

impl Ill {
    pub(crate) async fn act(self, conn: &mut Conn) {
        match self {
            Self::Says(text) => {
                let text = text.replace("TAG", &conn.tag);
                conn.send(text).await;
            }
            Self::Endless => conn.send(vec![b'x'; 3 << 20]).await,
            Self::Silent => {}
            Self::Closes => return,
        }
        // Stays until the proxy hangs up.
        while conn.line().await.is_some() {}
    }
}

/// Where in a login.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Greeting,
    Capability,
    Login,
}

/// Logs in at a backend that falls ill at this stage.
async fn before_login(ill: Ill, stage: Stage, log: &str) {
    eprintln!("{stage:?}: {ill:?}");
    let backend = Scripted::raw(move |mut conn: Conn| async move {
        let up_to_here = match stage {
            Stage::Greeting => true,
            Stage::Capability => {
                conn.send("* OK hi\r\n").await;
                conn.command().await.is_some()
            }
            Stage::Login => {
                conn.send(format!("* OK [CAPABILITY {CAPABILITIES}] hi\r\n")).await;
                conn.read_login(CAPABILITIES).await
            }
        };
        if up_to_here {
            ill.act(&mut conn).await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| {
        config.backends[0].login_timeout = QUICK;
        config.pool.checkout_timeout = Duration::from_secs(5);
    })
    .await;
    for _ in 0..2 {
        let mut client = harness.client().await;
        client.play("C: a LOGIN u8 pw-u8\nS: a NO [UNAVAILABLE]…\nC: b NOOP\nS: b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
    }
    harness.logged(&["WARN", "mail", log]).await;
    until("nothing open", || harness.connections("") == 0 && backend.open() == 0).await;
    harness.finish().await;
}

#[tokio::test]
async fn at_the_greeting() {
    for (ill, log) in [
        (Ill::Says("220 smtp.example.org ESMTP\r\n"), "does not speak IMAP"),
        (Ill::Says("* BYE no service\r\n"), "goodbye: no service"),
        (Ill::Says("* NO not now\r\n"), "unexpected"),
        (Ill::Says("* BAD you\r\n"), "unexpected"),
        (Ill::Says("+ go ahead\r\n"), "unexpected"),
        (Ill::Says("i0 OK welcome\r\n"), "unexpected"),
        (Ill::Says("* LIST () \"/\" x\r\n"), "unexpected"),
        (Ill::Says("\0\0\0\n"), "unexpected"),
        (Ill::Says("\r\n"), "unexpected"),
        (Ill::Endless, "line without end"),
        (Ill::Silent, "did not answer"),
        (Ill::Closes, "closed the connection"),
    ] {
        before_login(ill, Stage::Greeting, log).await;
    }
}

#[tokio::test]
async fn at_capability() {
    for (ill, log) in [
        (Ill::Says("i77 OK done\r\n"), "unexpected"),
        (Ill::Says("TAG OK done\r\n"), "unexpected"),
        (Ill::Says("TAG BAD what\r\n"), "unexpected"),
        (Ill::Says("* CAPABILITY IMAP4rev1\r\nTAG\r\n"), "unexpected"),
        (Ill::Says("+ \r\n"), "unexpected"),
        (Ill::Says("* BYE gone\r\n"), "goodbye"),
        (Ill::Endless, "line without end"),
        (Ill::Silent, "did not answer"),
        (Ill::Closes, "closed"),
    ] {
        before_login(ill, Stage::Capability, log).await;
    }
}

#[tokio::test]
async fn at_login() {
    for (ill, log) in [
        (Ill::Says("i77 OK done\r\n"), "unexpected"),
        (Ill::Says("TAG\r\n"), "unexpected"),
        (Ill::Says("+ more\r\n"), "unexpected"),
        (Ill::Says("* BYE gone\r\n"), "goodbye"),
        (Ill::Says("TAG NO [UNAVAILABLE] database down\r\n"), "database down"),
        (Ill::Endless, "line without end"),
        (Ill::Silent, "did not answer"),
        (Ill::Closes, "closed"),
    ] {
        before_login(ill, Stage::Login, log).await;
    }
}

/// One command on a backend that is ill at that very moment; the next connection is well.
async fn in_a_command(ill: Ill, expect: &str, log: &[&str]) {
    eprintln!("command: {ill:?}");
    let backend = Scripted::start(move |mut conn: Conn| async move {
        if conn.number == 1 {
            conn.play("C: CREATE x").await;
            ill.act(&mut conn).await;
        } else {
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| config.backends[0].reply_timeout = QUICK).await;
    let mut client = harness.login("u8").await;
    client.play(&format!("C: a CREATE x\n{expect}")).await;
    if !expect.ends_with("S.") {
        client.play("C: b LIST \"\" x\nS: b OK done").await;
    }
    if !log.is_empty() {
        harness.logged(log).await;
    }
    drop(client);
    harness.visit("u8").await;
    harness.at_rest(1).await;
    harness.finish().await;
}

#[tokio::test]
async fn in_the_reply_to_a_command() {
    let lost =
        "S: a NO [UNAVAILABLE] Connection to the mail server lost; whether the command was carried out is unknown.";
    for (ill, expect, log) in [
        (Ill::Says("i77 OK done\r\n"), lost, "broke the protocol"),
        (Ill::Says("TAG\r\n"), lost, "broke the protocol"),
        (Ill::Says("TAG MAYBE done\r\n"), lost, "broke the protocol"),
        (Ill::Says("TAG BYE done\r\n"), lost, "broke the protocol"),
        (Ill::Says("TAGx OK done\r\n"), lost, "broke the protocol"),
        (Ill::Says("+ what?\r\n"), lost, "broke the protocol"),
        (Ill::Says("* BYE gone\r\n"), lost, "goodbye"),
        (Ill::Says("* LIST () \"/\" {99999999999999999999}\r\n"), lost, "broke the protocol"),
        (Ill::Silent, lost, "CREATE"),
        (Ill::Closes, lost, "CREATE"),
    ] {
        in_a_command(ill, expect, &["INFO", log]).await;
    }
}

/// What is cut in the middle of a line or a literal cannot be made good by anything that is said after it.
#[tokio::test]
async fn a_reply_that_is_cut_ends_the_session() {
    for (said, heard) in [
        ("* LIST () \"/\" {10}\r\nabc", "* LIST () \"/\" {10}\r\nabc"),
        ("* LIST () \"/\" {9223372036854775807}\r\nabc", "* LIST () \"/\" {9223372036854775807}\r\nabc"),
        ("* LIST () \"/\" {0}\r\n", "* LIST () \"/\" {0}\r\n"),
        (
            "stray, and longer than the octets that a line is told by: they pass as they come, whatever it is",
            "stray, and longer than the octets that a line is told by: they pass as they come, whatever it is",
        ),
    ] {
        let backend = Scripted::start(move |mut conn: Conn| async move {
            if conn.number > 1 {
                return conn.obey().await;
            }
            conn.play("C: LIST \"\" *").await;
            conn.send(said).await;
        })
        .await;
        let harness = Harness::start(backend.address, |_| {}).await;
        let mut client = harness.login("u8").await;
        client.send("a LIST \"\" *\r\n").await;
        let rest = client.rest().await;
        assert!(heard.starts_with(&rest), "nothing is made up: {rest:?}");
        harness.sessions(0).await;
        assert_eq!(harness.metric("imapool_client_sessions_total", "close=\"upstream_lost\""), 1);
        harness.visit("u8").await;
        harness.finish().await;
    }
}

/// Odd, but seen in the wild: passed on as it is.
#[tokio::test]
async fn odd_replies_pass() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        let odd = [
            "TAG OK see ticket {5}",
            "TAG OK",
            "TAG  NO  [X]  two  spaces",
            "* OK see {5}\\r\\nTAG OK see {7+}",
            "* NO\\r\\nTAG OK",
            "* XYZZY foo (bar {3\\r\\n* 5 FROB\\r\\nTAG OK ünïcode",
            "* LIST () \"/\" {3}\\r\\na\\r\\n\\r\\n* LIST () \"/\" {0}\\r\\n\\r\\nTAG OK literal",
            "* LIST () \"/\" {12}\\r\\ni9 OK fake\\r\\n\\r\\nTAG OK inner",
        ];
        for reply in odd {
            conn.play(&format!("C: LIST \"\" *\nS: {reply}")).await;
        }
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client
        .play(
            "C: a LIST \"\" *
             S: a OK see ticket {5}
             C: a LIST \"\" *
             S: a OK
             C: a LIST \"\" *
             S: a  NO  [X]  two  spaces
             C: a LIST \"\" *
             S: * OK see {5}
             S: a OK see {7+}
             C: a LIST \"\" *
             S: * NO
             S: a OK
             C: a LIST \"\" *
             S: * XYZZY foo (bar {3
             S: * 5 FROB
             S: a OK ünïcode
             C: a LIST \"\" *
             S: * LIST () \"/\" {3}
             S: a
             S: 
             S: * LIST () \"/\" {0}
             S: 
             S: a OK literal
             C: a LIST \"\" *
             S: * LIST () \"/\" {12}
             S: i9 OK fake
             S: 
             S: a OK inner
             C: b NOOP
             S: b OK…",
        )
        .await;
    assert_eq!(backend.logins(), 1);
    drop(client);
    harness.finish().await;
}

/// A second tagged reply, long after the first: whoever has the connection by then does not get it.
#[tokio::test]
async fn a_second_tagged_reply_is_nobodys() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number > 1 {
            return conn.obey().await;
        }
        conn.play("C: LIST \"\" one\nS: TAG OK one").await;
        let first = conn.tag.clone();
        conn.play("C: LIST \"\" two").await;
        conn.send(format!("{first} OK again\r\n")).await;
        conn.gone().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: a LIST \"\" one\nS: a OK one\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
    let mut client = harness.login("u8").await;
    client.play("C: c LIST \"\" two\nS: c NO [UNAVAILABLE]…\nC: d LIST \"\" two\nS: d OK done").await;
    harness.logged(&["broke the protocol", "tagged reply"]).await;
    drop(client);
    harness.finish().await;
}

/// What a backend says while its connection rests is read, and nobody's; a line that began then ends as nobody's, too.
#[tokio::test]
async fn what_is_said_at_rest_is_nobodys() {
    let (resting, rests) = Gate::pair();
    let (attached, attaches) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let (rests, attaches) = (rests.clone(), attaches.clone());
        async move {
            conn.play("C: LIST \"\" one\nS: TAG OK one").await;
            rests.passed().await;
            let flood = "* 99 EXISTS\r\n* OK [ALERT] not yours\r\n* LIST () \"/\" {9}\r\nnot yours\r\n".repeat(500);
            conn.send(flood).await;
            conn.send("* LIST () \"/\" not yo").await;
            attaches.open();
            conn.play("C: LIST \"\" two").await;
            conn.send("urs either\r\n").await;
            conn.play("S: * LIST () \"/\" two\nS: TAG OK two").await;
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: a LIST \"\" one\nS: a OK one\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
    harness.at_rest(1).await;
    resting.open();
    // All of it is in the kernel's hands; the proxy reads it while it looks for a connection to hand out, or after.
    attached.passed().await;
    let mut client = harness.login("u8").await;
    client.play("C: c LIST \"\" two\nS: * LIST () \"/\" two\nS: c OK two").await;
    assert_eq!(backend.logins(), 1);
    drop(client);
    harness.finish().await;
}

/// A tagged reply, a continuation, or half a line out of nowhere at rest: the connection is given up at once.
#[tokio::test]
async fn a_breach_at_rest_costs_the_connection() {
    for breach in ["i77 OK what\r\n", "+ go on\r\n", "* BYE idle too long\r\n", "* LIST {99999999999999999999}\r\n", ""]
    {
        let backend = Scripted::start(move |mut conn: Conn| async move {
            if conn.number > 1 {
                return conn.obey().await;
            }
            conn.play("C: LIST \"\" one\nS: TAG OK one").await;
            if !breach.is_empty() {
                conn.send(breach).await;
                conn.gone().await;
            }
        })
        .await;
        let harness = Harness::by_session(backend.address, |_| {}).await;
        let mut client = harness.login("u8").await;
        client.play("C: a LIST \"\" one\nS: a OK one").await;
        drop(client);
        // Seen while it rests, without anybody asking for it.
        until("given up", || harness.connections("") == 0).await;
        harness.visit("u8").await;
        assert_eq!(backend.logins(), 2);
        harness.finish().await;
    }
}

/// A mailbox was selected: nothing can stand in for that connection.
#[tokio::test]
async fn a_selected_session_ends_with_its_connection() {
    let lost = "S: b NO [UNAVAILABLE]…\nS: * BYE [UNAVAILABLE]…\nS.";
    for (ill, told) in [
        (Ill::Closes, lost),
        (Ill::Says("foo OK\r\n"), lost),
        // The command is answered all the same.
        (Ill::Says("* BYE restarting\r\n"), "S: b NO [UNAVAILABLE]…\nS: * BYE restarting\nS."),
    ] {
        let backend = Scripted::start(move |mut conn: Conn| async move {
            if conn.number > 1 {
                return conn.obey().await;
            }
            conn.play("C: SELECT INBOX\nS: TAG OK x\nC: FETCH 1 FLAGS").await;
            ill.act(&mut conn).await;
        })
        .await;
        let harness = Harness::by_session(backend.address, |_| {}).await;
        let mut client = harness.login("u8").await;
        client.play(&format!("C: a SELECT INBOX\nS: a OK x\nC: b FETCH 1 FLAGS\n{told}")).await;
        drop(client);
        harness.visit("u8").await;
        harness.finish().await;
    }
}

/// A read that was lost before any of its reply came is run again, and nobody notices; a write is not.
#[tokio::test]
async fn what_can_be_repeated_is() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number == 1 {
            conn.play("C: LIST \"\" x").await;
        } else {
            conn.play("C: LIST \"\" x\nS: * LIST () \"/\" x\nS: TAG OK second try").await;
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client: Client = harness.login("u8").await;
    client.play("C: a LIST \"\" x\nS: * LIST () \"/\" x\nS: a OK second try").await;
    drop(client);
    harness.finish().await;
}
