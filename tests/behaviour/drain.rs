//! The end of the proxy: no new sessions, BYE to those at rest, commands in flight finish, connections log out.

use std::time::Duration;

use imapool::demo::server::{Options, Server};
use tokio::net::TcpStream;

use crate::support::{Conn, Gate, Harness, Scripted, soon, until};

#[tokio::test]
async fn sessions_at_rest_hear_bye_and_commands_finish() {
    let (gate, held) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let held = held.clone();
        async move {
            while let Some(command) = conn.command().await {
                let tag = conn.tag.clone();
                match &*command {
                    "LOGOUT" => return conn.send(format!("* BYE bye\r\n{tag} OK bye\r\n")).await,
                    "IDLE" => conn.play("S: + idling\nC> DONE\nS: TAG OK idled").await,
                    "LIST \"\" slow" => {
                        held.passed().await;
                        conn.send(format!("* LIST () \"/\" slow\r\n{tag} OK slow\r\n")).await;
                    }
                    _ => conn.send(format!("{tag} OK done\r\n")).await,
                }
            }
        }
    })
    .await;
    let mut harness = Harness::start(backend.address, |config| config.pool.max_per_account = 9).await;
    let mut greeted = harness.client().await;
    let mut rests = harness.login("u8").await;
    let mut selected = harness.login("u8").await;
    selected.play("C: a SELECT INBOX\nS: a OK done").await;
    let mut idles = harness.login("u8").await;
    idles.play("C: a IDLE\nS: + idling").await;
    let mut half = harness.login("u8").await;
    half.send("a LI").await;
    let mut busy = harness.login("u8").await;
    busy.send("a LIST \"\" slow\r\nb LIST \"\" never\r\n").await;
    until("LIST at the backend", || backend.received().contains("slow")).await;
    let proxy = harness.take();
    let draining = tokio::spawn(proxy.drain());
    for client in [&mut greeted, &mut rests, &mut selected, &mut idles, &mut half] {
        client.play("S: * BYE [UNAVAILABLE]…\nS.").await;
    }
    let refused = soon("connect", TcpStream::connect(harness.address)).await;
    assert!(refused.is_err(), "nobody listens any more");
    assert!(!draining.is_finished());
    gate.open();
    busy.play("S: * LIST () \"/\" slow\nS: a OK slow\nS: * BYE [UNAVAILABLE]…\nS.").await;
    soon("drain", draining).await.unwrap();
    until("all logged out", || backend.open() == 0).await;
    let got = backend.received();
    assert_eq!(got.matches("LOGOUT").count(), backend.logins(), "{got}");
    assert!(!got.contains("never"), "{got}");
}

/// A goodbye comes before or after what the backend pushes during IDLE, not within.
#[tokio::test]
async fn a_push_is_not_cut_by_a_goodbye() {
    let (gate, opened) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let opened = opened.clone();
        async move {
            conn.play("C: SELECT INBOX\nS: TAG OK selected\nC: IDLE\nS: + idling").await;
            conn.send("* 1 FETCH (BODY[] {4}\r\nab").await;
            opened.passed().await;
            conn.send("cd)\r\n").await;
            conn.play("C> DONE\nS: TAG OK idled").await;
            conn.obey().await;
        }
    })
    .await;
    let mut harness = Harness::by_session(backend.address, |_| {}).await;
    let mut idles = harness.login("u8").await;
    idles.play("C: s SELECT INBOX\nS: s OK selected\nC: a IDLE\nS: + idling\nS: * 1 FETCH (BODY[] {4}").await;
    assert_eq!(idles.octets(2).await, b"ab");
    let mut rests = harness.client().await;
    let draining = tokio::spawn(harness.take().drain());
    rests.play("S: * BYE [UNAVAILABLE]…\nS.").await;
    gate.open();
    idles.play("S: cd)\nS: * BYE [UNAVAILABLE]…\nS.").await;
    soon("the end", draining).await.expect("no panic");
}

/// A command that does not end is not waited for longer than `limits.drain_timeout`.
#[tokio::test]
async fn the_drain_has_a_deadline() {
    let backend = Scripted::start(|mut conn: Conn| async move { while conn.line().await.is_some() {} }).await;
    let mut harness = Harness::start(backend.address, |config| {
        config.limits.drain_timeout = Duration::from_millis(200);
    })
    .await;
    let mut client = harness.login("u8").await;
    client.send("a LIST \"\" slow\r\n").await;
    until("LIST at the backend", || backend.received().contains("slow")).await;
    soon("drain", harness.take().drain()).await;
    harness.logged(&["WARN", "drain_timeout"]).await;
}

/// Connections at rest and spare ones say goodbye.
#[tokio::test]
async fn what_rests_logs_out() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut harness = Harness::start(server.address(), |config| config.pool.spare = 1).await;
    harness.visit("one").await;
    harness.visit("two").await;
    harness.at_rest(2).await;
    let proxy = harness.take();
    let metrics = proxy.metrics();
    soon("drain", proxy.drain()).await;
    soon("closed", server.wait_open(|open| open == 0)).await;
    let text = metrics.render();
    assert!(text.contains("imapool_upstream_retired_total{backend=\"mail\",reason=\"shutdown\"} 2"), "{text}");
}
