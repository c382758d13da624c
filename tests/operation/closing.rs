//! `imapool ctl close`: by account, client and listener.

use imapool::config::{ListenAddr, Listener};

use crate::api::World;
use crate::http::post;
use crate::load::connect;

async fn world() -> (World, std::net::SocketAddr) {
    let world = World::changed(|config| {
        let second = Listener::new(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
        config.listeners.push(Listener { name: "second one".into(), ..second });
    })
    .await;
    let ListenAddr::Tcp(second) = world.harness.proxy().listener_addresses().remove(1).1 else {
        panic!("a TCP address")
    };
    (world, second)
}

/// Each says how many it closes, and closes those; also whose connection is being retired, and who has not logged in.
#[tokio::test]
async fn whoever_is_meant_is_closed_and_nobody_else() {
    for (whose, sessions, stay) in [
        ("account=U1", 2, [false, false, true, true]),
        ("client=127.0.0.1", 4, [false, false, false, false]),
        ("client=%3A%3Affff%3A127.0.0.1", 4, [false, false, false, false]),
        ("listener=second+one", 2, [true, false, true, false]),
        ("listener=webmail", 2, [false, true, false, true]),
    ] {
        let (world, second) = world().await;
        let mut shares = world.harness.login("u1").await;
        shares.play("C: a SELECT INBOX\nS~ a OK…").await;
        let mut pinned = connect(second, None).await;
        pinned.play("C: l LOGIN u1 pw-u1\nS: l OK…\nC: a SELECT INBOX\nS~ a OK…\nC: b XYZZY\nS: b BAD…").await;
        let mut other = world.harness.login("u2").await;
        other.play("C: a NOOP\nS~ a OK…").await;
        let greeted = connect(second, None).await;
        post(world.admin, "/api/accounts/u1/retire").await;
        let told = post(world.admin, &format!("/api/sessions/close?{whose}")).await;
        assert_eq!((told.status, &told.json()["sessions"]), (200, &sessions.into()), "{whose} {told:?}");
        let mut clients = [shares, pinned, other, greeted];
        for (client, stays) in clients.iter_mut().zip(stay) {
            match stays {
                true => client.play("C: n NOOP\nS~ n …\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await,
                false => client.play("S: * BYE [UNAVAILABLE] Session closed by the administrator\nS.").await,
            }
        }
        world.harness.sessions(0).await;
        let log = world.harness.log.text();
        let line = log.lines().find(|line| line.contains("sessions closed by an administrator")).unwrap();
        assert!(line.contains("origin=127.0.0.1:") && line.contains(&format!("sessions={sessions}")), "{line}");
        drop(clients);
        world.harness.finish().await;
    }
}

#[tokio::test]
async fn one_client_is_meant_by_its_port() {
    let (world, _) = world().await;
    let [mut one, mut other] = [world.harness.login("u1").await, world.harness.login("u1").await];
    let rows = world.rows("sessions").await;
    let client = rows[0]["client"].as_str().unwrap();
    let told = post(world.admin, &format!("/api/sessions/close?client={client}")).await.json();
    assert_eq!(told["sessions"], 1, "{told}");
    one.play("S: * BYE…\nS.").await;
    other.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    drop((one, other));
    world.harness.finish().await;
}

#[tokio::test]
async fn who_is_not_there_is_not_closed() {
    let (world, _) = world().await;
    for (query, status, words) in [
        ("account=nobody", 404, "no such account with a session"),
        ("client=192.0.2.1", 404, "no such client with a session"),
        ("client=unix", 404, "no such client with a session"),
        ("listener=third", 404, "no such listener with a session"),
        ("client=web.example", 400, "is no IP address"),
        ("client=127.0.0.1&account=u1", 400, "say whose sessions"),
        ("everybody=1", 400, "say whose sessions"),
        ("", 400, "say whose sessions"),
    ] {
        let told = post(world.admin, &format!("/api/sessions/close?{query}")).await;
        assert_eq!(told.status, status, "{query} {told:?}");
        assert!(told.json()["error"].as_str().unwrap().contains(words), "{query} {told:?}");
    }
    world.harness.finish().await;
}
