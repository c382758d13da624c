//! A backend that is down costs nothing and answers fail at once; when it is back, nobody stampedes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imapool::demo::server::{Event, Fault, Options, Server, Stage};

use crate::support::{Client, Harness, until};

/// An address where nobody listens.
async fn nowhere() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_dead_backend_is_left_alone() {
    let address = nowhere().await;
    let harness = Harness::start(address, |_| {}).await;
    let dials = |label: &str| harness.metric("imapool_upstream_dials_total", label);
    let mut asked = 0;
    while dials("result=\"breaker\"") == 0 {
        let mut client = harness.client().await;
        client.play("C: a LOGIN u8 pw-u8\nS: a NO [UNAVAILABLE]…").await;
        asked += 1;
        assert!(asked < 50, "the circuit opens");
    }
    harness.logged(&["WARN", "mail", "refuses connections"]).await;
    // From now on it is asked again and again by one, with pauses, however many want it.
    let start = Instant::now();
    let tried = dials("result=\"refused\"");
    for _ in 0..100 {
        let mut client = harness.client().await;
        client.play("C: a LOGIN u8 pw-u8\nS: a NO [UNAVAILABLE]…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
    }
    // At most one for each 125 ms, the shortest pause there is.
    let most = start.elapsed().as_millis() as u64 / 125 + 1;
    assert!(dials("result=\"refused\"") - tried <= most, "{} of at most {most}", dials("result=\"refused\"") - tried);
    assert_eq!(harness.connections(""), 0);
    // Back again.
    let server = Server::start(Options { addresses: vec![address], ..Options::default() }).await.unwrap();
    until_it_serves(&harness, "u8").await;
    harness.logged(&["backend reached", "mail"]).await;
    drop(server);
    harness.finish().await;
}

/// Tries again and again, as users do: nothing else tells whether it serves.
async fn until_it_serves(harness: &Harness, user: &str) {
    crate::support::soon("the backend is used again", async {
        loop {
            let mut client = harness.client().await;
            if client.command(&format!("a LOGIN {user} pw-{user}")).await[0].starts_with("a OK") {
                return client.play("C: b LIST \"\" INBOX\nS: * LIST…\nS: b OK…").await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Sessions that were logged in before an outage hear of it, and go on after it.
#[tokio::test]
async fn a_session_survives_an_outage() {
    let server = Server::start(Options::default()).await.unwrap();
    let address = server.address();
    let harness = Harness::start(address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: a LIST \"\" INBOX\nS: * LIST…\nS: a OK…").await;
    server.stop().await;
    until("seen", || harness.connections("") == 0).await;
    client.play("C: b LIST \"\" INBOX\nS: b NO [UNAVAILABLE]…").await;
    let _server = Server::start(Options { addresses: vec![address], ..Options::default() }).await.unwrap();
    crate::support::soon("works again", async {
        while !client.command("c LIST \"\" INBOX").await.last().unwrap().starts_with("c OK") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(client);
    harness.finish().await;
}

/// Known logins are answered during an outage, as the credential is known: what needs the backend is not.
#[tokio::test]
async fn an_outage_is_not_a_wrong_password() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    harness.visit("u8").await;
    server.stop().await;
    until("seen", || harness.connections("") == 0).await;
    let mut client = harness.login("u8").await;
    client.play("C: a SELECT INBOX\nS: a NO [UNAVAILABLE]…\nC: b NOOP\nS: b OK…").await;
    let mut other = harness.client().await;
    other.play("C: a LOGIN u9 pw-u9\nS: a NO [UNAVAILABLE]…").await;
    drop((client, other));
    harness.finish().await;
}

/// When it is back, at most sixteen connections are dialed at once.
#[tokio::test]
async fn nobody_stampedes() {
    let (greeting, most, held) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (now, peak) = (Arc::clone(&greeting), Arc::clone(&most));
    let slow = Arc::clone(&held);
    let fault = move |event: &Event<'_>| match event.stage {
        Stage::Greeting => {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Fault::DelayMs(if slow.load(Ordering::SeqCst) { 20 } else { 0 })
        }
        Stage::Command => {
            if event.command == 1 {
                now.fetch_sub(1, Ordering::SeqCst);
            }
            Fault::None
        }
        Stage::Literal => Fault::None,
    };
    let server = Server::start(Options { faults: Some(Arc::new(fault)), ..Options::default() }).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    // The probe of the start was greeted, and said nothing.
    greeting.store(0, Ordering::SeqCst);
    let mut sessions = Vec::new();
    for at in 0..80 {
        let address = harness.address;
        sessions.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            client.line().await;
            client.play(&format!("C: l LOGIN u{at} pw-u{at}\nS: l OK…\nC: o LOGOUT\nS~ o OK…\nS.")).await;
        }));
    }
    for session in sessions {
        crate::support::soon("a session", session).await.unwrap();
    }
    let most = most.load(Ordering::SeqCst);
    assert!((2..=16).contains(&most), "{most} at once");
    harness.finish().await;
}
