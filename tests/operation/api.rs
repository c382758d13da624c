//! The API: who may look, who may act, and what comes of it.

use std::net::SocketAddr;
use std::time::Duration;

use imapool::config::{Config, ListenAddr, PoolMode};
use imapool::demo::server::{Options, Server};
use serde_json::Value;

use crate::http::{TOKEN, call, get, post};
use crate::load::login;
use crate::support::{Harness, Scripted, soon, until};

/// A proxy with an admin address and a token, and the server behind it.
pub(crate) struct World {
    pub(crate) harness: Harness,
    pub(crate) admin: SocketAddr,
    pub(crate) server: Server,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        let address = server.address();
        Self::before(address, server, |_| {}).await
    }

    /// Sessions keep the connections that they have got.
    pub(crate) async fn by_session() -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        let address = server.address();
        Self::before(address, server, |config| config.pool.mode = PoolMode::Session).await
    }

    pub(crate) async fn changed(change: impl FnOnce(&mut Config)) -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        let address = server.address();
        Self::before(address, server, change).await
    }

    pub(crate) async fn before(backend: SocketAddr, server: Server, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let harness = Harness::start(backend, |config| {
            config.admin.address = Some(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
            config.admin.token_file = Some(token);
            change(config);
        })
        .await;
        let admin = harness.proxy().admin_address().unwrap();
        Self { harness, admin, server, _folder: folder }
    }

    pub(crate) async fn rows(&self, call: &str) -> Vec<Value> {
        get(self.admin, &format!("/api/{call}")).await["rows"].as_array().unwrap().clone()
    }

    async fn account(&self, user: &str) -> Option<Value> {
        self.rows("accounts").await.into_iter().find(|row| row["user"] == user)
    }
}

#[tokio::test]
async fn what_there_is_can_be_seen() {
    let world = World::by_session().await;
    let mut client = world.harness.login("busy").await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    world.harness.visit("quiet").await;
    let _greeted = world.harness.client().await;
    world.harness.at_rest_beside(1, 1).await;

    let busy = world.account("busy").await.unwrap();
    for (key, value) in [("sessions", 1), ("connections", 1), ("in_use", 1), ("waiting", 0), ("waits", 0)] {
        assert_eq!(busy[key], value, "{key} in {busy}");
    }
    assert_eq!((&busy["backend"], &busy["id"]), (&"mail".into(), &"busy".into()));
    assert_eq!(world.account("quiet").await.unwrap()["in_use"], 0);

    let sessions = world.rows("sessions").await;
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let session = sessions.iter().find(|row| row["user"] == "busy").unwrap();
    assert_eq!((&session["listener"], &session["commands"]), (&"webmail".into(), &1.into()));
    assert!(session["connection"].is_u64() && session["received"].as_u64() > Some(30), "{session}");
    assert!(session["client"].as_str().unwrap().starts_with("127.0.0.1:"));

    let backends = world.rows("backends").await;
    assert_eq!((&backends[0]["name"], &backends[0]["service"]), (&"mail".into(), &"running".into()));
    assert_eq!((&backends[0]["connections"]["idle"], &backends[0]["connections"]["active"]), (&1.into(), &1.into()));
    assert_eq!(backends[0]["reachable"], true);

    let summary = get(world.admin, "/api/summary").await;
    assert_eq!((&summary["ready"], &summary["sessions"]["open"]), (&true.into(), &2.into()));
    assert_eq!((&summary["upstream"]["budget"]["in_use"], &summary["accounts"]["known"]), (&2.into(), &2.into()));
    assert_eq!(get(world.admin, "/api/config").await["pool"]["linger"], "30s");
    client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
}

#[tokio::test]
async fn lists_have_pages_and_can_be_sorted_and_filtered() {
    let world = World::new().await;
    for number in 0..7 {
        world.harness.visit(&format!("user{number}")).await;
    }
    let page = |query: &str| {
        let path = format!("/api/accounts?{query}");
        async move {
            let page = get(world.admin, &path).await;
            let names = page["rows"].as_array().unwrap().iter().map(|row| row["user"].as_str().unwrap().to_owned());
            (page["total"].as_u64().unwrap(), names.collect::<Vec<_>>())
        }
    };
    assert_eq!(page("sort=name&limit=2&offset=3").await, (7, vec!["user3".into(), "user4".into()]));
    assert_eq!(page("filter=USER5").await, (1, vec!["user5".into()]));
    assert_eq!(page("filter=us%65r6").await, (1, vec!["user6".into()]));
    assert_eq!(page("filter=%00%ff").await, (0, vec![]));
    assert_eq!(page("limit=0").await.1.len(), 1);
    assert_eq!(page("limit=x&offset=-1&sort=%27&&=&?").await.1.len(), 7);
    assert_eq!(page("offset=18446744073709551615").await, (7, vec![]));
    let mut first = world.harness.login("user6").await;
    first.play("C: a NOOP\nS~ a OK…").await;
    assert_eq!(page("sort=sessions&limit=1").await.1, ["user6"]);
    assert_eq!(get(world.admin, "/api/sessions?account=user6").await["total"], 1);
    assert_eq!(get(world.admin, "/api/sessions?account=user5").await["total"], 0);
    assert_eq!(get(world.admin, "/api/sessions?filter=127.0.0.1").await["total"], 1);
}

/// Every action, with what it needs and without.
#[tokio::test]
async fn actions_need_the_token_and_the_right_origin() {
    let world = World::new().await;
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let actions = [
        "/api/accounts/u8/retire",
        "/api/accounts/u8/trace",
        "/api/accounts/u8/close",
        "/api/sessions/1/close",
        "/api/backends/mail/pause",
        "/api/backends/mail/resume",
        "/api/backends/mail/drain",
        "/api/reload",
        "/api/nothing",
    ];
    for action in actions {
        for (status, headers) in [
            (401, String::new()),
            (401, "Authorization: Bearer wrong-wrong-wrong-wrong\r\n".to_owned()),
            (401, format!("Authorization: Basic {TOKEN}\r\n")),
            (401, format!("Authorization: Bearer {TOKEN}x\r\n")),
            (403, format!("{right}Origin: http://evil.example\r\n")),
            (403, format!("{right}Origin: null\r\n")),
            (403, format!("{right}Sec-Fetch-Site: cross-site\r\n")),
            (403, format!("{right}Sec-Fetch-Site: same-site\r\n")),
            (403, format!("{right}Host: evil.example:9143\r\n")),
        ] {
            let answer = call(world.admin, "POST", action, &headers).await;
            assert_eq!(answer.status, status, "{action} {headers:?}: {answer:?}");
            assert!(answer.json()["error"].is_string());
            assert_eq!(status == 401, answer.head.to_lowercase().contains("www-authenticate: bearer"), "{answer:?}");
        }
        // Reading it is not doing it.
        let read = call(world.admin, "GET", action, &right).await;
        assert_eq!(read.status, 404, "{action}");
        let deleted = call(world.admin, "DELETE", action, &right).await;
        assert_eq!(deleted.status, 405, "{action}");
    }
    assert_eq!(world.rows("backends").await[0]["service"], "running", "nothing was done");
    for list in ["summary", "accounts", "sessions", "backends", "config"] {
        let path = format!("/api/{list}");
        assert_eq!(call(world.admin, "POST", &path, &right).await.status, 405, "{list}");
        for refused in ["Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n", "Host: evil.example\r\n"] {
            assert_eq!(call(world.admin, "GET", &path, refused).await.status, 403, "{list} {refused}");
        }
        assert_eq!(call(world.admin, "GET", &path, "Sec-Fetch-Site: same-origin\r\n").await.status, 200, "{list}");
    }
    let ours = format!("{right}Origin: http://{}\r\n", world.admin);
    assert_eq!(call(world.admin, "POST", "/api/backends/mail/resume", &ours).await.status, 200);
    assert_eq!(call(world.admin, "POST", "/api/reload", &right).await.status, 409, "not started from a file");
}

#[tokio::test]
async fn without_a_token_there_are_no_actions() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| {
        config.admin.address = Some(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
    })
    .await;
    let admin = harness.proxy().admin_address().unwrap();
    for headers in ["", "Authorization: Bearer \r\n", "Authorization: Bearer None\r\n"] {
        let answer = call(admin, "POST", "/api/backends/mail/pause", headers).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("admin.token_file"));
    }
    assert_eq!(get(admin, "/api/summary").await["ready"], true);
    harness.finish().await;
}

#[tokio::test]
async fn a_retired_account_begins_anew() {
    let world = World::new().await;
    world.harness.visit("u8").await;
    world.harness.visit("other").await;
    let mut holds = world.harness.login("u8").await;
    holds.play("C: a SELECT INBOX\nS~ a OK…").await;
    let logins = world.server.counters().logins;
    let answer = post(world.admin, "/api/accounts/u8/retire").await;
    assert_eq!((answer.status, &answer.json()["accounts"]), (200, &1.into()), "{answer:?}");
    // The session goes on, and nobody gets what is older than that.
    holds.play("C: b FETCH 1 (FLAGS)\nS~ b OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    until("nothing in use", || world.harness.connections("active") + world.harness.connections("connecting") == 0)
        .await;
    world.harness.visit("u8").await;
    assert_eq!(world.server.counters().logins, logins + 1, "its password was verified anew");
    assert_eq!(world.harness.metric("imapool_upstream_retired_total", "operator"), 1);
    assert_eq!(post(world.admin, "/api/accounts/nobody/retire").await.status, 404);
}

/// Names that would break a path, a line of a log or a request.
#[tokio::test]
async fn odd_names_are_found_and_break_nothing() {
    // It takes whatever it is given; the in-memory server refuses control characters.
    let backend = Scripted::start(|mut conn| async move { conn.obey().await }).await;
    let world = World::before(backend.address, Server::start(Options::default()).await.unwrap(), |_| {}).await;
    for (user, segment) in [
        ("a/b", "a%2Fb"),
        ("q\"uote", "q%22uote"),
        ("back\\slash", "back%5Cslash"),
        ("sp ace+plus", "sp%20ace%2Bplus"),
        ("..", "%2E%2E"),
        ("per%41cent", "per%2541cent"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("cr\rlf\nend", "cr%0Dlf%0Aend"),
        ("<script>", "%3Cscript%3E"),
    ] {
        let mut client = world.harness.client().await;
        client.send(login(user)).await;
        let reply = client.line().await;
        if user.contains('\r') {
            // No such name gets as far as a backend, let alone into a list.
            assert!(reply.starts_with("a NO"), "{reply}");
            assert_eq!(post(world.admin, &format!("/api/accounts/{segment}/retire")).await.status, 404);
            client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
            continue;
        }
        assert!(reply.starts_with("a OK"), "{user:?} {reply}");
        let row = world.account(user).await.unwrap_or_else(|| panic!("{user:?} is not listed"));
        assert_eq!(row["id"].as_str().unwrap().to_lowercase(), segment.to_lowercase(), "{user:?}");
        let answer = post(world.admin, &format!("/api/accounts/{segment}/retire")).await;
        assert_eq!(answer.status, 200, "{user:?} {answer:?}");
        let log = world.harness.log.text();
        let lines = log.matches("retired by an administrator").count();
        let begun = log.lines().filter(|line| line.contains("Z  INFO") && line.contains("retired by an administrator"));
        assert_eq!(begun.count(), lines, "a name begins a line of its own");
        assert!(!log.lines().any(|line| line.starts_with("end")) && !log.contains('\r'), "{log:?}");
        client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    }
    for odd in
        ["/api/accounts//retire", "/api/accounts/%/retire", "/api/accounts/%zz/retire", "/api/accounts/%00/retire"]
    {
        assert_eq!(post(world.admin, odd).await.status, 404, "{odd}");
    }
    for odd in ["/api/sessions/x/close", "/api/sessions/-1/close", "/api/sessions/99999999999999999999/close"] {
        assert_eq!(post(world.admin, odd).await.status, 404, "{odd}");
    }
    for odd in
        ["/api/backends/mail/stop", "/api/backends/nobody/pause", "/api/backends//pause", "/api/accounts/u8/retire/"]
    {
        assert_eq!(post(world.admin, odd).await.status, 404, "{odd}");
    }
}

#[tokio::test]
async fn sessions_are_closed_at_rest_and_after_their_command() {
    let world = World::new().await;
    let mut rests = world.harness.login("rests").await;
    rests.play("C: a SELECT INBOX\nS~ a OK…").await;
    let mut idles = world.harness.login("idles").await;
    idles.play("C: a IDLE\nS: + …").await;
    let mut greeted = world.harness.client().await;
    for row in world.rows("sessions").await {
        let answer = post(world.admin, &format!("/api/sessions/{}/close", row["id"])).await;
        assert_eq!(answer.status, 200);
    }
    for client in [&mut rests, &mut idles, &mut greeted] {
        client.play("S: * BYE [UNAVAILABLE] Session closed by the administrator\nS.").await;
    }
    world.harness.sessions(0).await;
    assert_eq!(world.harness.metric("imapool_client_sessions_total", "close=\"operator\""), 3);
    world.harness.logged(&["session ended", "user=\"rests\"", "close=\"operator\""]).await;
    assert_eq!(post(world.admin, "/api/sessions/1/close").await.status, 404, "it is gone");
    world.harness.visit("rests").await;
}

#[tokio::test]
async fn a_paused_backend_makes_sessions_wait_and_a_drained_one_is_left_alone() {
    let world = World::by_session().await;
    world.harness.visit("u8").await;
    let paused = post(world.admin, "/api/backends/mail/pause").await.json();
    assert_eq!((&paused["service"], &paused["connections"]), (&"paused".into(), &1.into()));
    let mut waits = world.harness.login("u8").await;
    waits.send("a SELECT INBOX\r\n").await;
    let mut new = world.harness.client().await;
    new.send("a LOGIN new pw-new\r\n").await;
    soon("somebody waits", async {
        while world.account("u8").await.unwrap()["waiting"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let logins = world.server.counters().logins;
    assert_eq!(world.rows("backends").await[0]["service"], "paused");
    assert_eq!(post(world.admin, "/api/backends/mail/resume").await.json()["service"], "running");
    waits.play("S~ a OK…").await;
    new.play("S: a OK…").await;
    assert_eq!(world.server.counters().logins, logins + 1);

    let drained = post(world.admin, "/api/backends/mail/drain").await.json();
    assert_eq!(drained["service"], "drained");
    // Who holds a connection is told; who holds none stays.
    waits.play("S: * BYE…\nS.").await;
    soon("nothing is open any more", world.server.wait_open(|open| open == 0)).await;
    world.harness.sessions(1).await;
    new.send("b SELECT INBOX\r\n").await;
    assert_eq!(post(world.admin, "/api/backends/mail/resume").await.status, 200);
    new.play("S~ b OK…").await;
}

/// While a backend is paused, nobody waits for longer than `pool.checkout_timeout`: neither with a command nor with a
/// login.
#[tokio::test]
async fn nobody_waits_longer_for_a_paused_backend_than_for_a_connection() {
    let server = Server::start(Options::default()).await.unwrap();
    let address = server.address();
    let patience = |config: &mut Config| config.pool.checkout_timeout = Duration::from_millis(300);
    let world = World::before(address, server, patience).await;
    let mut known = world.harness.login("u8").await;
    post(world.admin, "/api/backends/mail/pause").await;
    world.harness.client().await.play("C: a LOGIN new pw-new\nS: a NO [UNAVAILABLE]…").await;
    known.play("C: a SELECT INBOX\nS: a NO [UNAVAILABLE]…").await;
    post(world.admin, "/api/backends/mail/resume").await;
    world.harness.client().await.play("C: a LOGIN new pw-new\nS: a OK…").await;
    known.play("C: a SELECT INBOX\nS~ a OK…").await;
}

/// Whatever a session is at: who is in a mailbox or holds a connection hears BYE, who is not stays, and nothing is open
/// at the backend, nor is anything opened there before it serves again.
#[tokio::test]
async fn a_drained_backend_has_no_connection_whatever_sessions_are_at() {
    for world in [World::new().await, World::by_session().await] {
        let login = async |user: &str| world.harness.login(user).await;
        let (mut idles, mut rests, mut other, mut pinned) =
            (login("u8").await, login("u8").await, login("u8").await, login("u9").await);
        idles.play("C: a SELECT INBOX\nS~ a OK…\nC: b IDLE\nS: + …").await;
        rests.play("C: a SELECT INBOX\nS~ a OK…").await;
        other.play("C: a CREATE Other\nS: a OK…\nC: b SELECT Other\nS~ b OK…").await;
        pinned.play("C: a SELECT INBOX\nS~ a OK…\nC: b XYZZY\nS: b BAD…").await;
        // Holds nothing in the default mode, and the connection of its last command in the other.
        let mut outside = login("u10").await;
        world.harness.visit("visitor").await;
        let drained = post(world.admin, "/api/backends/mail/drain").await.json();
        assert_eq!((&drained["service"], &drained["sessions"]), (&"drained".into(), &4.into()), "{drained}");
        for client in [&mut idles, &mut rests, &mut other, &mut pinned] {
            client.play("S~ * BYE…\nS.").await;
        }
        soon("nothing is open any more", world.server.wait_open(|open| open == 0)).await;
        outside.send("c SELECT INBOX\r\n").await;
        let mut late = world.harness.client().await;
        late.send("a LOGIN late pw-late\r\n").await;
        world.harness.sessions(2).await;
        assert_eq!(world.server.open(), 0);
        post(world.admin, "/api/backends/mail/resume").await;
        outside.play("S~ c OK…").await;
        late.play("S: a OK…").await;
        drop((outside, late));
        world.harness.finish().await;
    }
}

#[tokio::test]
async fn a_trace_shows_the_protocol_of_one_account_and_no_contents() {
    let world = World::new().await;
    world.harness.visit("u8").await;
    world.harness.visit("other").await;
    assert_eq!(post(world.admin, "/api/accounts/nobody/trace").await.status, 404);
    assert_eq!(post(world.admin, "/api/accounts/u8/trace?seconds=x").await.status, 400);
    let told = post(world.admin, "/api/accounts/u8/trace?seconds=999999").await.json();
    assert_eq!(told["seconds"], 3600, "{told}");
    for user in ["u8", "other"] {
        let mut client = world.harness.login(user).await;
        client.play("C: a SELECT INBOX\nS~ a OK…\nC: b FETCH 1 (FLAGS BODY.PEEK[])\nS~ b OK…").await;
        client.play("C: c SEARCH SUBJECT \"very secret\"\nS~ c OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    }
    post(world.admin, "/api/accounts/u8/trace?seconds=0").await;
    world.harness.visit("u8").await;
    let log = world.harness.log.text();
    let trace: Vec<_> = log.lines().filter(|line| line.contains("imapool::trace")).collect();
    for shown in ["C: a SELECT INBOX", "S: * 1 FETCH (", "BODY[] {", "C: c SEARCH SUBJECT \"11\"", "S: c OK"] {
        assert!(trace.iter().any(|line| line.contains(shown)), "{shown}\n{trace:#?}");
    }
    assert!(trace.iter().all(|line| line.contains("user=\"u8\"")), "{trace:#?}");
    assert!(!trace.iter().any(|line| line.contains("LIST")), "it was switched off\n{trace:#?}");
    for secret in ["very secret", "Subject:", "pw-u8"] {
        assert!(!log.contains(secret), "{secret}");
    }
}

/// Passwords that come where a command is expected.
#[tokio::test]
async fn a_trace_shows_only_the_name_of_a_command_that_is_not_known() {
    let world = World::new().await;
    world.harness.visit("u8").await;
    post(world.admin, "/api/accounts/U8/trace").await;
    let mut client = world.harness.login("u8").await;
    for line in [
        "a LOGINN u8 s3cret",
        "a LOGIN u8 s3cret",
        "a AUTHENTICATE PLAIN s3cret",
        "a AUTHENTICAT PLAIN s3cret",
        "a X {6+}\r\ns3cret s3cret",
        "s3cret phrase of s3cret words",
        "s3cret",
        "a IDLE\r\ns3cret",
    ] {
        client.send(format!("{line}\r\n")).await;
    }
    client.send("b SELECT INBOX\r\nc LOGOUT\r\n").await;
    client.rest().await;
    let log = world.harness.log.text();
    assert!(log.contains("C: LOGINN") && log.contains("C: AUTHENTICAT") && log.contains("S: BAD"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
    world.harness.finish().await;
}

#[tokio::test]
async fn an_account_is_retired_traced_and_closed_however_it_is_spelled() {
    let world = World::new().await;
    let mut clients = Vec::new();
    for user in ["u600", "U600", "u6000"] {
        world.harness.visit(user).await;
        clients.push(world.harness.login(user).await);
    }
    world.harness.at_rest(3).await;
    let told = post(world.admin, "/api/accounts/u600/trace").await.json();
    assert_eq!((&told["accounts"], &told["users"]), (&2.into(), &serde_json::json!(["U600", "u600"])), "{told}");
    let told = post(world.admin, "/api/accounts/%20u600/retire").await.json();
    assert_eq!((&told["accounts"], &told["connections"]), (&2.into(), &2.into()), "{told}");
    assert_eq!(told["users"], serde_json::json!(["U600", "u600"]));
    world.harness.at_rest(1).await;
    assert_eq!(get(world.admin, "/api/sessions?account=U600").await["total"], 2);
    let told = post(world.admin, "/api/accounts/U600/close").await.json();
    assert_eq!((&told["sessions"], &told["users"]), (&2.into(), &serde_json::json!(["U600", "u600"])), "{told}");
    for client in &mut clients[..2] {
        client.play("S: * BYE [UNAVAILABLE]…\nS.").await;
    }
    world.harness.sessions(1).await;
    clients[2].play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    assert_eq!(post(world.admin, "/api/accounts/u600/close").await.status, 404);
    drop(clients);
    world.harness.finish().await;
}

#[tokio::test]
async fn each_session_and_connection_leaves_its_lines() {
    let world = World::new().await;
    world.harness.visit("u8").await;
    let parts =
        ["session ended", "client=127.0.0.1:", "listener=\"webmail\"", "user=\"u8\"", "commands=1", "close=\"logout\""];
    world.harness.logged(&parts).await;
    world.harness.logged(&["upstream connection opened", "user=\"u8\"", "backend=\"mail\""]).await;
    post(world.admin, "/api/accounts/u8/retire").await;
    world.harness.logged(&["upstream connection retired", "reason=\"operator\"", "cause="]).await;
    let log = world.harness.log.text();
    let connection = log.split("upstream connection opened connection=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(log.contains(&format!("connections=\"{connection}\"")), "{log}");
}

/// A command that has a shared connection handed over is one command.
#[tokio::test]
async fn a_command_counts_once_wherever_it_runs() {
    let world = World::new().await;
    let mut client = world.harness.login("u8").await;
    client.play("C: a SELECT INBOX\nS~ a OK…\nC: b XYZZY\nS: b BAD…\nC: c NOOP\nS~ c OK…").await;
    client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    world.harness.logged(&["session ended", "user=\"u8\"", "commands=3", "close=\"logout\""]).await;
    drop(client);
    world.harness.finish().await;
}

#[tokio::test]
async fn a_public_address_needs_a_token() {
    let server = Server::start(Options::default()).await.unwrap();
    let config = |token: Option<std::path::PathBuf>| {
        let listener = imapool::config::Listener::new(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
        let backend = imapool::config::Backend::new("127.0.0.1", server.address().port());
        let mut config = imapool::config::Config::new(listener, backend);
        config.admin.address = Some(ListenAddr::Tcp("0.0.0.0:0".parse().unwrap()));
        config.admin.token_file = token;
        config
    };
    let error = imapool::app::Proxy::start(config(None)).await.unwrap_err().to_string();
    assert!(error.contains("there is no token") && error.contains("0.0.0.0:0"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "short").unwrap();
    let error = imapool::app::Proxy::start(config(Some(token.clone()))).await.unwrap_err().to_string();
    assert!(error.contains("at least 16"), "{error}");
    std::fs::write(&token, TOKEN).unwrap();
    let proxy = imapool::app::Proxy::start(config(Some(token))).await.unwrap();
    until("the admin address", || proxy.admin_address().is_some()).await;
    soon("drain", proxy.drain()).await;
}
