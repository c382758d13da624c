//! Who may log in, and what a wrong password, a changed one, or a limit does to whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imapool::config::PerCredential;
use imapool::demo::server::{Event, Fault, Options, Passwords, Server, Stage};
use imapool::secret::Secret;

use crate::support::{Conn, Gate, Harness, Scripted, until};

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// up-imapproxy: CR LF in a literal user name, or in the base64 of AUTHENTICATE LOGIN, runs a command on the backend.
#[tokio::test]
async fn no_credential_can_end_a_line_at_the_backend() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let evil = "u8\r\nx DELETE INBOX";
    let mut client = harness.client().await;
    client.send(format!("a LOGIN {{{}+}}\r\n{evil} pw\r\n", evil.len())).await;
    client.play("S: a NO [AUTHENTICATIONFAILED]…").await;
    client
        .play(&format!("C: b AUTHENTICATE LOGIN\nS: + …\nC: {}\nS: + …\nC: {}\nS: b BAD…", base64(evil), base64("x")))
        .await;
    client.play(&format!("C: c AUTHENTICATE PLAIN {}\nS: c BAD…", base64(&format!("\0{evil}\0x")))).await;
    client.play(&format!("C: d AUTHENTICATE PLAIN {}\nS: d BAD…", base64(&format!("{evil}\0u8\0x")))).await;
    // A password may hold anything but NUL: it goes as a literal whose octets are counted.
    let password = "p\r\ny DELETE INBOX";
    client.send(format!("e LOGIN u8 {{{}}}\r\n", password.len())).await;
    client.play("S: + OK").await;
    client.send(format!("{password}\r\n")).await;
    client.play("S: e OK…").await;
    let got = backend.received();
    assert!(got.contains("LOGIN \"u8\" {17+}\r\np\r\ny DELETE INBOX\r\n"), "{got}");
    assert_eq!(got.matches("DELETE").count(), 1, "{got}");
    drop(client);
    harness.finish().await;
}

/// Dovecot CVE-2017-2669: `%` in a user name is not a variable, nor is anything else.
#[tokio::test]
async fn nothing_in_a_user_name_expands() {
    let server = Server::start(Options { passwords: Passwords::any(), ..Options::default() }).await.unwrap();
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    for harness in [Harness::start(server.address(), |_| {}).await, Harness::start(backend.address, |_| {}).await] {
        for user in ["%u%%n%d", "${HOME}", "$(id)", "../../etc/passwd", "%{env:PATH}", "~root", "a*b?", "\\\\x"] {
            let mut client = harness.client().await;
            client.play(&format!("C: a LOGIN \"{user}\" pw\nS: a OK…\nC: b LIST \"\" x\nS~ b OK…")).await;
        }
        harness.finish().await;
    }
    for user in ["\"%u%%n%d\"", "\"${HOME}\"", "\"%{env:PATH}\"", "\"a*b?\"", "\"\\\\x\""] {
        let login = format!("LOGIN {user} \"pw\"\r\n");
        assert!(backend.received().contains(&login), "{login} in {}", backend.received());
    }
}

/// up-imapproxy: a wrong password evicts the right user's connection.
#[tokio::test]
async fn a_wrong_password_disturbs_nobody() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.pool.spare = 1).await;
    let mut working = harness.login("u8").await;
    working.play("C: a SELECT INBOX\nS~ a OK…").await;
    harness.visit("u8").await;
    harness.at_rest_beside(1, 1).await;
    let before = server.counters();
    for round in 0..5 {
        let mut wrong = harness.client().await;
        wrong
            .play(&format!(
                "C: a LOGIN u8 wrong{round}\nS: a NO [AUTHENTICATIONFAILED]…\nC: b LOGOUT\nS: * BYE…\nS: b OK…"
            ))
            .await;
    }
    working.play("C: b FETCH 1 (UID)\nS: * 1 FETCH (UID 1)\nS: b OK…").await;
    harness.visit("u8").await;
    let after = server.counters();
    assert_eq!(after.logins, before.logins, "the right password is still known, its connections still there");
    assert_eq!(after.failed_logins, before.failed_logins + 5);
    // All wrong ones went over the same connection; the further ones are spare ones to take its place, and the one
    // before's.
    assert!(after.accepted <= before.accepted + 2, "{before:?} {after:?}");
    assert_eq!(harness.metric("imapool_upstream_retired_total", ""), 0);
    drop(working);
    harness.finish().await;
}

/// up-imapproxy, PgBouncer CVE-2025-2291: a changed password stays good for as long as the cache is hit.
#[tokio::test]
async fn a_changed_password_ends_with_its_time_to_live_however_often_it_is_used() {
    let server = Server::start(Options::default()).await.unwrap();
    let ttl = Duration::from_millis(600);
    let harness = Harness::start(server.address(), |config| config.auth.cache_ttl = ttl).await;
    let mut working = harness.login("u8").await;
    let accepted = Instant::now();
    working.play("C: a LIST \"\" INBOX\nS~ a OK…").await;
    harness.visit("u8").await;
    server.set_passwords(Passwords::list([("u8", "new")]));
    // Used all the time: what counts is when the backend said yes. In the last quarter it is asked again.
    let mut refused_after = None;
    for _ in 0..2000 {
        let mut client = harness.client().await;
        let reply = client.command("l LOGIN u8 pw-u8").await.remove(0);
        if reply.starts_with("l NO [AUTHENTICATIONFAILED]") {
            refused_after = Some(accepted.elapsed());
            break;
        }
        assert!(reply.starts_with("l OK"), "{reply}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        refused_after.expect("refused in the end") >= ttl.mul_f64(0.75) - Duration::from_millis(50),
        "{refused_after:?}"
    );
    // What was opened with it is not used again: at rest it goes at once, in use it goes when it comes back.
    until("one connection left", || server.open_of("u8") <= 1).await;
    drop(working);
    until("no connection left", || server.open_of("u8") == 0).await;
    assert!(harness.metric("imapool_upstream_retired_total", "reason=\"credential\"") >= 1);
    harness.logged(&["credential no longer accepted", "u8"]).await;
    let mut client = harness.client().await;
    client.play("C: a LOGIN u8 new\nS: a OK…\nC: b LIST \"\" INBOX\nS~ b OK…").await;
    drop(client);
    harness.finish().await;
}

/// With a time to live of zero the backend is asked each time, and the connection that was asked joins the pool.
#[tokio::test]
async fn without_a_cache_the_backend_is_asked_each_time() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.auth.cache_ttl = Duration::ZERO).await;
    for round in 1..=4 {
        harness.visit("u8").await;
        assert_eq!(server.counters().logins, round);
        harness.at_rest(1).await;
    }
    assert_eq!(harness.metric("imapool_upstream_retired_total", "reason=\"replaced\""), 3);
    harness.finish().await;
}

/// A credential that the backend no longer accepts when a further connection is dialed with it.
#[tokio::test]
async fn a_refusal_at_checkout_ends_the_session_and_forgets_the_credential() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::by_session(server.address(), |_| {}).await;
    let mut first = harness.login("u8").await;
    first.play("C: a LIST \"\" INBOX\nS~ a OK…").await;
    server.set_passwords(Passwords::list([("u8", "new")]));
    let mut second = harness.login("u8").await;
    second.play("C: a LIST \"\" INBOX\nS: a NO [AUTHENTICATIONFAILED]…\nS: * BYE…\nS.").await;
    let mut third = harness.client().await;
    third.play("C: a LOGIN u8 pw-u8\nS: a NO [AUTHENTICATIONFAILED]…").await;
    drop((first, third));
    until("no connection left", || server.open_of("u8") == 0).await;
    harness.finish().await;
}

/// Dovecot CVE-2025-30189, and any pool keyed by a hash or by strings put together: users whose names, authorisation
/// identities and passwords run into each other are different users.
#[tokio::test]
async fn accounts_that_look_alike_when_put_together_are_different_ones() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        while let Some(command) = conn.command().await {
            let (tag, number) = (conn.tag.clone(), conn.number);
            let end = command == "LOGOUT";
            conn.send(format!("* LIST () \"/\" conn{number}\r\n{tag} OK done\r\n")).await;
            if end {
                return;
            }
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let alike = [
        ("", "ab", "c"),
        ("a", "b", "c"),
        ("", "a", "bc"),
        ("ab", "c", "c"),
        ("", "abc", "c"),
        ("b", "a", "c"),
        ("", "AB", "c"),
    ];
    for round in 0..2 {
        for (at, (authzid, user, password)) in alike.iter().enumerate() {
            let mut client = harness.client().await;
            let message = base64(&format!("{authzid}\0{user}\0{password}"));
            client.play(&format!("C: a AUTHENTICATE PLAIN {message}\nS: a OK…")).await;
            // The first logs in on connection 1, and so on; the second time each is given its own.
            client.play(&format!("C: b LIST \"\" x\nS: * LIST () \"/\" conn{}\nS: b OK done", at + 1)).await;
            client.play("C: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
            harness.at_rest(if round == 0 { at as u64 + 1 } else { alike.len() as u64 }).await;
        }
    }
    assert_eq!(backend.logins(), alike.len());
    harness.finish().await;
}

/// `u8`, `"u8"`, `{2}` u8, PLAIN and LOGIN: one account, one connection.
#[tokio::test]
async fn spellings_of_one_user_are_one_account() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let plain = base64("\0u8\0pw-u8");
    let same = base64("u8\0u8\0pw-u8");
    for login in [
        "C: a LOGIN u8 pw-u8".to_owned(),
        "C: a LOGIN \"u8\" \"pw-u8\"".to_owned(),
        "C: a LOGIN {2}\nS: + …\nC: u8 {5}\nS: + …\nC: pw-u8".to_owned(),
        "C: a login {2+}\\r\\nu8 {5+}\\r\\npw-u8".to_owned(),
        format!("C: a AUTHENTICATE PLAIN {plain}"),
        format!("C: a AUTHENTICATE PLAIN\nS: + \nC: {same}"),
        format!(
            "C: a AUTHENTICATE LOGIN\nS: + VXNlcm5hbWU6\nC: {}\nS: + UGFzc3dvcmQ6\nC: {}",
            base64("u8"),
            base64("pw-u8")
        ),
    ] {
        let mut client = harness.client().await;
        client.play(&format!("{login}\nS: a OK…\nC: b LIST \"\" INBOX\nS~ b OK…\nC: c LOGOUT\nS~ c OK…\nS.")).await;
        harness.at_rest(1).await;
    }
    assert_eq!(server.counters().logins, 1);
    harness.finish().await;
}

/// Many logins at once with one credential: the backend is asked once. With a wrong one, too.
#[tokio::test]
async fn many_logins_at_once_are_one_flight() {
    let options = Options { login_delay: Duration::from_millis(150), ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let mut clients = Vec::new();
    for at in 0..20 {
        let mut client = harness.client().await;
        client.send(if at < 12 { "l LOGIN u8 pw-u8\r\n" } else { "l LOGIN u8 wrong\r\n" }).await;
        clients.push(client);
    }
    for (at, client) in clients.iter_mut().enumerate() {
        let wanted = if at < 12 { "S: l OK…" } else { "S: l NO [AUTHENTICATIONFAILED]…" };
        client.play(wanted).await;
    }
    let counters = server.counters();
    assert_eq!((counters.logins, counters.failed_logins), (1, 1), "{counters:?}");
    drop(clients);
    harness.finish().await;
}

/// A verification runs to its end, though whoever asked has gone; who comes after gets its result.
#[tokio::test]
async fn a_flight_outlives_its_passengers() {
    let (gate, held) = Gate::pair();
    let backend = Scripted::raw(move |mut conn: Conn| {
        let held = held.clone();
        async move {
            conn.send("* OK [CAPABILITY IMAP4rev1] hi\r\n").await;
            if !conn.read_login("IMAP4rev1").await {
                return;
            }
            held.passed().await;
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut gone = harness.client().await;
    gone.send("a LOGIN u8 pw-u8\r\n").await;
    until("LOGIN at the backend", || backend.received().contains("LOGIN")).await;
    gone.reset();
    let mut client = harness.client().await;
    client.send("b LOGIN u8 pw-u8\r\n").await;
    gate.open();
    client.play("S: b OK…\nC: c LIST \"\" x\nS: c OK…").await;
    assert_eq!(backend.received().matches("LOGIN").count(), 1);
    drop(client);
    harness.finish().await;
}

/// `pool.per_credential`: the connections of two passwords of one account are kept apart.
#[tokio::test]
async fn with_per_credential_each_password_has_its_own_connections() {
    for apart in [PerCredential::Never, PerCredential::Tokens, PerCredential::Always] {
        let options = Options { passwords: Passwords::any(), marker: true, ..Options::default() };
        let server = Server::start(options).await.unwrap();
        let harness = Harness::start(server.address(), |config| config.pool.per_credential = apart).await;
        let mut connections = Vec::new();
        for password in ["one", "two", "one", "two"] {
            let mut client = harness.client().await;
            client.play(&format!("C: a LOGIN u8 {password}\nS: a OK…")).await;
            let reply = client.command("b STATUS INBOX (MESSAGES)").await.concat();
            connections.push(reply[reply.find("conn=").unwrap()..].split(' ').next().unwrap().to_owned());
            client.play("C: c LOGOUT\nS~ c OK…\nS.").await;
            until("at rest", || harness.connections("active") + harness.connections("connecting") == 0).await;
        }
        assert_eq!(server.counters().logins, 2);
        assert_eq!(connections[0] == connections[2], apart == PerCredential::Always, "{connections:?}");
        assert_eq!(connections[1], connections[3], "{connections:?}");
        harness.finish().await;
    }
}

/// A limit or an outage never looks like a wrong password: clients would stop syncing and ask for one.
#[tokio::test]
async fn limits_and_outages_are_not_wrong_passwords() {
    for (reply, wanted) in [
        (
            "NO [LIMIT] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
            "a NO [LIMIT]",
        ),
        ("NO [ALERT] Too many simultaneous connections. (Failure)", "a NO [LIMIT]"),
        ("NO [UNAVAILABLE] Temporary authentication failure.", "a NO [UNAVAILABLE]"),
        ("NO [SERVERBUG] oops", "a NO [UNAVAILABLE]"),
        ("NO [INUSE] later", "a NO [LIMIT]"),
        ("NO [AUTHENTICATIONFAILED] no", "a NO [AUTHENTICATIONFAILED]"),
        ("NO [EXPIRED] password expired", "a NO [EXPIRED]"),
    ] {
        let text = reply.to_owned();
        let fault = move |event: &Event<'_>| match event.stage {
            Stage::Command if event.verb == "LOGIN" => Fault::Tagged(text.clone()),
            _ => Fault::None,
        };
        let server = Server::start(Options { faults: Some(Arc::new(fault)), ..Options::default() }).await.unwrap();
        let harness = Harness::start(server.address(), |_| {}).await;
        let mut client = harness.client().await;
        let said = client.command("a LOGIN u8 pw-u8").await.pop().unwrap();
        assert!(said.starts_with(wanted), "{reply}: {said}");
        assert_eq!(said.contains("AUTHENTICATIONFAILED"), reply.contains("AUTHENTICATIONFAILED"));
        drop(client);
        harness.finish().await;
    }
}

/// Dovecot CVE-2026-27856: a comparison that ends at the first difference tells how far a guess was right. Sixteen
/// megabytes that differ at once take as long as ones that differ at their end; an early exit would be a hundred
/// thousand times faster, so a factor of ten is no race with the machine's load.
#[test]
fn secrets_are_compared_in_constant_time() {
    let size = 16 << 20;
    let secret = Secret::new(vec![b'x'; size]);
    let mut first = vec![b'x'; size];
    first[0] = b'y';
    let mut last = vec![b'x'; size];
    last[size - 1] = b'y';
    let time = |other: &Secret| {
        let one = || {
            let start = Instant::now();
            assert!(std::hint::black_box(&secret) != std::hint::black_box(other));
            start.elapsed()
        };
        (0..5).map(|_| one()).min().unwrap()
    };
    let (early, late) = (time(&Secret::new(first)), time(&Secret::new(last)));
    assert!(early * 10 > late, "{early:?} against {late:?}");
    // What is compared at a login are fingerprints, too short to be measured so.
    let source = include_str!("../../src/secret.rs");
    let start = source.find("impl PartialEq for Fingerprint").expect("equality of its own");
    assert!(
        source[start..start + 200].contains("verify_slices_are_equal"),
        "not by aws-lc-rs's constant-time function"
    );
}
