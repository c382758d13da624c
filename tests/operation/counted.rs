//! What the numbers tell an operator: results, health, limits, reloads, certificates; and what is logged of commands
//! that take long.

use std::fs;
use std::time::Duration;

use imapool::config::TlsMode;

use crate::api::World;
use crate::http::post;
use crate::support::tls::Certificates;
use crate::support::{Conn, Harness, Scripted, until};

#[tokio::test]
async fn results_of_commands_are_counted_once_each() {
    for by_session in [false, true] {
        let world = if by_session { World::by_session().await } else { World::new().await };
        let mut client = world.harness.login("u8").await;
        client
            .play(
                "C: a LIST \"\" INBOX\nS~ a OK…\nC: b SELECT Nowhere\nS~ b NO…\nC: c SELECT INBOX\nS~ c OK…
                 C: d FETCH 1 (NONSENSE\nS~ d BAD…\nC: e FETCH 1 FLAGS\nS~ e OK…\nC: z LOGOUT\nS~ z OK…\nS.",
            )
            .await;
        let of = |command: &str, result: &str| {
            world.harness.metric("imapool_commands_total", &format!("command=\"{command}\",result=\"{result}\""))
        };
        let counted = [("list", "ok"), ("select", "no"), ("select", "ok"), ("fetch", "bad"), ("fetch", "ok")];
        for (command, result) in counted {
            assert_eq!(of(command, result), 1, "{command} {result}, {by_session}");
        }
        assert_eq!(world.harness.metric("imapool_commands_total", ""), counted.len() as u64);
        drop(client);
        world.harness.finish().await;
    }
}

#[tokio::test]
async fn a_command_is_lost_with_its_connection() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        while let Some(command) = conn.command().await {
            if command.starts_with("CREATE") || command.starts_with("STORE") {
                return;
            }
            let more = if command.starts_with("SELECT") { "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] valid\r\n" } else { "" };
            conn.send(format!("{more}{} OK done\r\n", conn.tag)).await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: a CREATE x\nS: a NO [UNAVAILABLE]…\nC: b SELECT INBOX\nS~ b OK…\nC: c STORE 1 FLAGS ()\nS~ c NO [UNAVAILABLE]…").await;
    let of = |labels: &str| harness.metric("imapool_commands_total", labels);
    for (command, result) in [("create", "lost"), ("select", "ok"), ("store", "lost")] {
        assert_eq!(of(&format!("command=\"{command}\",result=\"{result}\"")), 1, "{command}");
    }
    assert_eq!(of(""), 3);
    drop(client);
    harness.finish().await;
}

#[tokio::test]
async fn health_and_limits_are_numbers() {
    let world = World::new().await;
    let metric = |name: &str, labels: &str| world.harness.metric(&format!("imapool_{name}"), labels);
    assert_eq!((metric("ready", ""), metric("backend_up", "backend=\"mail\"")), (1, 1));
    let service = |word: &str| metric("backend_service", &format!("service=\"{word}\""));
    assert_eq!((service("running"), service("paused"), service("drained")), (1, 0, 0));
    let config = world.harness.proxy().config();
    assert_eq!(metric("client_sessions_limit", ""), config.limits.sessions as u64);
    let capacity = world.harness.proxy().budget().capacity() as u64;
    assert_eq!(
        (metric("upstream_connections_limit", ""), metric("backend_connections_limit", "")),
        (capacity, capacity)
    );

    post(world.admin, "/api/backends/mail/pause").await;
    assert_eq!((metric("ready", ""), service("running"), service("paused")), (0, 0, 1));
    assert_eq!(metric("backend_up", ""), 1, "it is there all the same");
    post(world.admin, "/api/backends/mail/resume").await;
    assert_eq!((metric("ready", ""), service("running")), (1, 1));

    world.server.stop().await;
    let mut client = world.harness.client().await;
    for _ in 0..5 {
        client.play("C: a LOGIN u8 pw-u8\nS: a NO [UNAVAILABLE]…").await;
    }
    until("it is seen to be away", || metric("backend_up", "") == 0 && metric("ready", "") == 0).await;
    drop(client);
    world.harness.finish().await;
}

#[tokio::test]
async fn a_reload_that_was_refused_is_a_number() {
    let world = World::new().await;
    let metric = |name: &str| world.harness.metric(&format!("imapool_config_last_reload_{name}"), "");
    let started = metric("success_timestamp_seconds");
    assert!(metric("successful") == 1 && started > 1_700_000_000, "{started}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "[[listener]]\n").unwrap();
    world.harness.proxy().set_source(file.path().to_owned());
    assert_eq!(post(world.admin, "/api/reload").await.status, 422);
    assert_eq!((metric("successful"), metric("success_timestamp_seconds")), (0, started));
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"{}\"\n[admin]\naddress = \"\"\n",
        world.server.address()
    );
    fs::write(file.path(), config).unwrap();
    world.harness.proxy().reload_file().await.unwrap();
    assert_eq!(metric("successful"), 1);
}

#[tokio::test]
async fn certificates_tell_when_they_expire() {
    let certificates = Certificates::new();
    let acceptor = certificates.acceptor();
    let backend = Scripted::raw(move |conn: Conn| {
        let acceptor = acceptor.clone();
        async move {
            let mut conn = conn.secure(&acceptor).await;
            conn.send("* OK [CAPABILITY IMAP4rev1] ready\r\n").await;
            if conn.log_in("IMAP4rev1").await {
                conn.obey().await;
            }
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| {
        certificates.secure_listener(&mut config.listeners[0], TlsMode::StartTls);
        certificates.secure_backend(&mut config.backends[0], TlsMode::Implicit);
    })
    .await;
    // What rcgen makes by default is good until the year 4096.
    let expiry = |side: &str, label: &str| {
        harness.metric(&format!("imapool_{side}_certificate_expiry_timestamp_seconds"), label)
    };
    assert_eq!(expiry("listener", "listener=\"webmail\""), 67_090_118_400);
    until("the backend has shown its own", || expiry("backend", "backend=\"mail\"") == 67_090_118_400).await;
    harness.finish().await;
}

#[tokio::test]
async fn slow_commands_are_logged_once_at_their_end() {
    for (slow, by_session) in [(1, false), (1, true), (0, false)] {
        let world = World::changed(|config| {
            config.log.slow = Duration::from_nanos(slow);
            if by_session {
                config.pool.mode = imapool::config::PoolMode::Session;
            }
        })
        .await;
        let mut client = world.harness.login("u8").await;
        client.play("C: a SELECT INBOX\nS~ a OK…\nC: b IDLE\nS~ +…\nC: DONE\nS~ b OK…\nC: c NOOP\nS~ c OK…").await;
        client.play("C: d SELECT Nowhere\nS~ d NO…\nC: z LOGOUT\nS~ z OK…\nS.").await;
        let log = world.harness.log.text();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("slow command")).collect();
        assert_eq!(lines.len(), if slow == 0 { 0 } else { 3 }, "{lines:#?}");
        for (line, (command, result)) in lines.iter().zip([("SELECT", "ok"), ("NOOP", "ok"), ("SELECT", "no")]) {
            for part in
                ["session=1 ", "client=127.0.0.1:", "user=\"u8\"", "backend=\"mail\"", "connection=", "seconds="]
            {
                assert!(line.contains(part), "{part} in {line}");
            }
            assert!(line.contains(&format!("command=\"{command}\" result=\"{result}\"")), "{line}");
        }
        drop(client);
        world.harness.finish().await;
    }
}

/// The line names the connection that the command ran on; not one of earlier commands, where it ran on none.
#[tokio::test]
async fn a_slow_command_that_got_no_connection_names_none() {
    let world = World::changed(|config| {
        config.log.slow = Duration::from_nanos(1);
        config.pool.max_per_account = 1;
        config.pool.checkout_timeout = Duration::from_millis(200);
    })
    .await;
    let (mut one, mut other) = (world.harness.login("u8").await, world.harness.login("u8").await);
    other.play("C: a SELECT INBOX\nS~ a OK…\nC: b NOOP\nS~ b OK…").await;
    one.play("C: a XYZZY\nS~ a …").await;
    other.play("C: c CHECK\nS~ c NO [UNAVAILABLE]…").await;
    let log = world.harness.log.text();
    let line = |command: &str| {
        let mut lines = log.lines().filter(|line| line.contains("slow command"));
        lines.find(|line| line.contains(&format!("command=\"{command}\""))).unwrap_or_else(|| panic!("{log}"))
    };
    assert!(line("NOOP").contains("connection="), "{}", line("NOOP"));
    assert!(!line("CHECK").contains("connection="), "{}", line("CHECK"));
    drop((one, other));
    world.harness.finish().await;
}

/// In both directions, on both sides.
#[tokio::test]
async fn octets_are_counted_by_listener_and_by_backend() {
    for by_session in [false, true] {
        let world = if by_session { World::by_session().await } else { World::new().await };
        let mut client = world.harness.login("u8").await;
        let metric = |name: &str, labels: &str| world.harness.metric(&format!("imapool_{name}"), labels);
        let [of_clients, of_server] = ["listener_octets_total", "backend_octets_total"]
            .map(|name| move |direction: &str| metric(name, &format!("direction=\"{direction}\"")));
        assert_eq!(metric("listener_sessions", "listener=\"webmail\""), 1);
        client.play("C: a SELECT INBOX\nS~ a OK…").await;
        let before = [of_clients("received"), of_clients("sent"), of_server("received"), of_server("sent")];
        let command = "b FETCH 1 (BODY.PEEK[])";
        let told: usize = client.command(command).await.iter().map(|line| line.len() + 2).sum();
        assert_eq!(of_clients("received") - before[0], command.len() as u64 + 2);
        assert_eq!(of_clients("sent") - before[1], told as u64);
        // The tags differ in length.
        assert!(of_server("received") - before[2] >= told as u64 && of_server("sent") > before[3]);
        client.play("C: z LOGOUT\nS~ z OK…\nS.").await;
        world.harness.sessions(0).await;
        assert_eq!(metric("listener_sessions", ""), 0);
        drop(client);
        world.harness.finish().await;
    }
}
