//! What an operator sees of who is on which connection.

use serde_json::Value;

use crate::api::World;
use crate::http::{call, get, post};
use crate::support::{soon, until};

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"))
}

/// By the default, sessions of a mailbox share a connection: each one's line at its end names it all the same.
#[tokio::test]
async fn sessions_that_share_a_connection_are_seen_on_it() {
    let world = World::new().await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = world.harness.login("u8").await;
        client.play("C: a SELECT INBOX\nS~ a OK…\nC: b FETCH 1 FLAGS\nS~ b OK…").await;
        clients.push(client);
    }
    clients[0].play("C: c NOOP\nS~ c OK…").await;
    world.harness.at_rest_beside(0, 1).await;
    let hubs = world.rows("hubs").await;
    assert_eq!(hubs.len(), 1, "{hubs:?}");
    let hub = &hubs[0];
    for (key, value) in [("user", "u8"), ("backend", "mail"), ("mailbox", "INBOX"), ("state", "connected")] {
        assert_eq!(hub[key], value, "{key} in {hub}");
    }
    assert_eq!((number(hub, "sessions"), &hub["read_only"]), (2, &false.into()));
    let connection = number(hub, "connection");

    let sessions = world.rows("sessions").await;
    for session in &sessions {
        assert_eq!((number(session, "connection"), &session["mailbox"]), (connection, &"INBOX".into()), "{session}");
    }
    let connections = world.rows("connections").await;
    assert_eq!(connections.len(), 1, "{connections:?}");
    let row = &connections[0];
    assert_eq!((number(row, "id"), number(row, "sessions")), (connection, 2), "{row}");
    assert_eq!((&row["state"], &row["mailbox"], &row["user"]), (&"in use".into(), &"INBOX".into(), &"u8".into()));
    assert_eq!(row["session_ids"], Value::from(sessions.iter().map(|row| number(row, "id")).collect::<Vec<_>>()));
    assert!(number(row, "local_port") > 0 && row["at_rest_seconds"].is_null(), "{row}");

    for client in &mut clients {
        client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    }
    world.harness.sessions(0).await;
    let log = world.harness.log.text();
    let ends: Vec<_> = log.lines().filter(|line| line.contains("session ended")).collect();
    let named = |line: &&str| line.contains(&format!("connections=\"{connection}\""));
    assert!(ends.len() == 2 && ends.iter().all(named), "{ends:#?}");
    world.harness.at_rest(1).await;
    let row = &world.rows("connections").await[0];
    assert_eq!((&row["state"], number(row, "sessions"), number(row, "at_rest_seconds")), (&"at rest".into(), 0, 0));
    assert_eq!(world.rows("hubs").await.len(), 0);
    drop(clients);
    world.harness.finish().await;
}

#[tokio::test]
async fn a_session_with_a_connection_of_its_own_is_seen_in_its_mailbox() {
    let world = World::by_session().await;
    let mut client = world.harness.login("u8").await;
    client.play("C: a EXAMINE inbox\nS~ a OK…").await;
    let session = &world.rows("sessions").await[0];
    assert_eq!(session["mailbox"], "INBOX", "{session}");
    let row = &world.rows("connections").await[0];
    assert_eq!((row["id"].clone(), &row["session_ids"][0]), (session["connection"].clone(), &session["id"]), "{row}");
    client.play("C: b CLOSE\nS~ b OK…").await;
    let session = &world.rows("sessions").await[0];
    assert!(session["mailbox"].is_null() && session["connection"].is_u64(), "{session}");
    client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    drop(client);
    world.harness.finish().await;
}

#[tokio::test]
async fn what_is_being_retired_is_seen_until_it_is_closed() {
    let world = World::by_session().await;
    let mut client = world.harness.login("u8").await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    post(world.admin, "/api/accounts/u8/retire").await;
    let row = &world.rows("connections").await[0];
    assert_eq!((&row["state"], number(row, "sessions")), (&"retiring".into(), 1), "{row}");
    client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    drop(client);
    until("it is closed", || world.harness.proxy().budget().roster.views().is_empty()).await;
    world.harness.finish().await;
}

#[tokio::test]
async fn lists_of_hubs_and_connections_have_pages() {
    let world = World::new().await;
    let mut clients = Vec::new();
    for (user, mailbox) in [("u1", "INBOX"), ("u2", "INBOX"), ("u2", "Sent")] {
        let mut client = world.harness.login(user).await;
        client.play(&format!("C: a SELECT {mailbox}\nS~ a OK…")).await;
        clients.push(client);
    }
    for list in ["hubs", "connections"] {
        let page = get(world.admin, &format!("/api/{list}?limit=1&offset=1")).await;
        assert_eq!((&page["total"], page["rows"].as_array().unwrap().len()), (&3.into(), 1), "{page}");
        assert_eq!(page["rows"][0]["user"], "u2");
        assert_eq!(get(world.admin, &format!("/api/{list}?account=U2")).await["total"], 2, "{list}");
        assert_eq!(get(world.admin, &format!("/api/{list}?filter=U1")).await["total"], 1, "{list}");
    }
    assert_eq!(get(world.admin, "/api/hubs?filter=sent").await["total"], 1);
    drop(clients);
    world.harness.finish().await;
}

/// Until the page of readiness says so.
async fn ready(admin: std::net::SocketAddr, status: u16) -> String {
    let mut body = String::new();
    soon("readiness", async {
        loop {
            let answer = call(admin, "GET", "/readyz", "").await;
            if answer.status == status {
                body = answer.body;
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    body
}

#[tokio::test]
async fn it_is_not_ready_while_its_only_backend_is_out_of_service_or_away() {
    let world = World::new().await;
    let now = || call(world.admin, "GET", "/readyz", "");
    assert_eq!(now().await.status, 200);
    for (verb, word) in [("pause", "paused"), ("drain", "drained")] {
        post(world.admin, &format!("/api/backends/mail/{verb}")).await;
        let answer = now().await;
        let words = format!("not ready: backend mail is {word}; imapool ctl resume mail\n");
        assert_eq!((answer.status, answer.body), (503, words));
        assert_eq!(get(world.admin, "/api/summary").await["ready"], false);
        post(world.admin, "/api/backends/mail/resume").await;
        assert_eq!(now().await.status, 200);
    }
    let address = world.server.address();
    world.harness.visit("u8").await;
    world.server.stop().await;
    let mut client = world.harness.client().await;
    for _ in 0..5 {
        client.play("C: a LOGIN other pw-other\nS: a NO [UNAVAILABLE]…").await;
    }
    let words = ready(world.admin, 503).await;
    assert!(
        words.starts_with("not ready: no backend can be reached: ") && words.contains(&address.to_string()),
        "{words}"
    );
    drop(client);
    world.harness.finish().await;
}

#[tokio::test]
async fn actions_are_logged_with_their_origin() {
    let world = World::new().await;
    let client = world.harness.login("u8").await;
    world.harness.proxy().set_source("/nowhere/imapool.toml".into());
    for (action, words) in [
        ("accounts/u8/trace", "protocol traced by an administrator"),
        ("accounts/u8/retire", "retired by an administrator"),
        ("backends/mail/pause", "set by an administrator"),
        ("backends/mail/resume", "set by an administrator"),
        ("sessions/1/close", "session closed by an administrator"),
        ("reload", "reload asked for by an administrator"),
    ] {
        let before = world.harness.log.text().len();
        post(world.admin, &format!("/api/{action}")).await;
        let log = world.harness.log.text();
        let line = log[before..].lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {log}"));
        assert!(line.contains("origin=127.0.0.1:"), "{line}");
    }
    drop(client);
    world.harness.finish().await;
}
