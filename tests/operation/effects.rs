//! What `check --diff` and a reload say of a change is what happens: for the keys where that can be seen from outside.

use std::net::SocketAddr;
use std::time::Duration;

use imapool::app::Checked;
use imapool::config::{Config, ListenAddr, PoolMode, TlsMode};
use imapool::demo::server::{Options, Server};
use socket2::{Domain, Socket, Type};

use crate::authority::Authority;
use crate::support::{Client, Harness, until};

/// A reload of what runs with one change; gives what is said of it.
async fn reload(harness: &Harness, change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = (*harness.proxy().config()).clone();
    change(&mut config);
    harness.proxy().reload(config).await.unwrap().iter().map(ToString::to_string).collect()
}

/// `pool.mode`: for new sessions. Those that share go on, on the connection that they have.
#[tokio::test]
async fn another_mode_is_for_new_sessions() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.pool.spare = 0).await;
    let mut clients = [harness.login("u8").await, harness.login("u8").await];
    for client in &mut clients {
        client.play("C: a SELECT INBOX\nS~ a OK…").await;
    }
    assert_eq!(server.open_of("u8"), 1);
    let said = reload(&harness, |config| config.pool.mode = PoolMode::Session).await;
    assert_eq!(said, ["~ pool.mode: \"multiplex\" -> \"session\"  (for new sessions)"]);
    for client in &mut clients {
        client.play("C: b FETCH 1 (FLAGS)\nS~ b OK…").await;
    }
    assert_eq!((server.open_of("u8"), harness.metric("imapool_upstream_retired_total", "")), (1, 0));
    // Each of these has its own, although that mailbox is shared.
    let mut own = Vec::new();
    for open in [2, 3] {
        let mut client = harness.login("u8").await;
        client.play("C: a SELECT INBOX\nS~ a OK…").await;
        assert_eq!(server.open_of("u8"), open);
        own.push(client);
    }
    for client in &mut clients {
        client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    }
}

/// `listener.reuse_port`: nothing before a restart, as the socket stays.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_socket_that_stays_is_not_shared_afterwards() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let shares = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).is_ok()
    };
    let said = reload(&harness, |config| config.listeners[0].reuse_port = true).await;
    assert!(said[0].ends_with(".reuse_port: false -> true  (NEEDS A RESTART)"), "{said:?}");
    assert!(!shares(harness.address));
    let mut other = Client::connect(harness.address).await;
    assert!(other.line().await.starts_with("* OK"));
    drop(other);
    harness.finish().await;
}

/// Another name makes no other listener: nobody is refused meanwhile.
#[tokio::test]
async fn a_listener_with_another_name_stays() {
    let server = Server::start(Options::default()).await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let harness = Harness::start(server.address(), |config| {
        config.listeners[0].address = ListenAddr::Tcp(free);
        config.listeners[0].name = "old".into();
    })
    .await;
    let mut before = harness.client().await;
    let said = reload(&harness, |config| config.listeners[0].name = "new".into()).await;
    assert_eq!(said, ["~ listener \"old\".name: \"old\" -> \"new\"  (for new sessions)"]);
    assert_eq!(harness.proxy().listener_addresses(), [("new".to_owned(), ListenAddr::Tcp(free))]);
    for client in [&mut before, &mut harness.client().await] {
        client.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    }
    harness.logged(&["session ended", "listener=\"new\""]).await;
    harness.finish().await;
}

/// `listener.address` that overlaps: refused, as `check --diff` says, and the old one serves on.
#[tokio::test]
async fn an_address_that_overlaps_is_refused() {
    let server = Server::start(Options::default()).await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let harness = Harness::start(server.address(), |config| config.listeners[0].address = ListenAddr::Tcp(free)).await;
    let mut config = (*harness.proxy().config()).clone();
    let old = serde_json::to_value(&config).unwrap();
    config.listeners[0].address = ListenAddr::Tcp(SocketAddr::from(([0, 0, 0, 0], free.port())));
    let said = imapool::config::diff(&old, &serde_json::to_value(&config).unwrap());
    assert!(said.iter().any(|change| change.to_string().contains("A RELOAD IS REFUSED")), "{said:?}");
    let error = harness.proxy().reload(config).await.unwrap_err().to_string();
    assert!(error.contains("is in use"), "{error}");
    harness.visit("u8").await;
    harness.finish().await;
}

/// `log.slow`, `limits.idle_timeout`: for new sessions. `pool.share_patience` is told as it is written.
#[tokio::test]
async fn what_a_session_goes_by_it_keeps() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let mut stays = harness.login("u8").await;
    let said = reload(&harness, |config| {
        config.log.slow = Duration::from_nanos(1);
        config.limits.idle_timeout = Duration::from_millis(200);
        config.pool.share_patience = Duration::from_secs(1);
    })
    .await;
    assert_eq!(
        said,
        [
            "~ limits.idle_timeout: \"30m\" -> \"200ms\"  (for new sessions)",
            "~ log.slow: \"10s\" -> \"1ns\"  (for new sessions)",
            "~ pool.share_patience: \"200ms\" -> \"1s\"  (for mailboxes that sessions begin to share)",
        ]
    );
    let mut comes = harness.login("u8").await;
    comes.play("S: * BYE…\nS.").await;
    stays.play("C: a STATUS INBOX (MESSAGES)\nS~ a OK…").await;
    until("the session that is there goes on", || harness.metric("imapool_client_sessions", "") == 1).await;
    stays.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    harness.finish().await;
}

/// Files that do not fit are refused by a reload as by `check` and by a start, also if the log has told of them before.
#[tokio::test]
async fn a_pair_that_does_not_fit_is_refused_each_time() {
    let server = Server::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(1).write(folder.path());
    let harness = Harness::start(server.address(), |config| {
        config.listeners[0].tls = TlsMode::Implicit;
        config.listeners[0].certificate = Some(folder.path().join("certificate.pem"));
        config.listeners[0].private_key = Some(folder.path().join("key.pem"));
    })
    .await;
    std::fs::write(folder.path().join("key.pem"), authority.issue(2).key).unwrap();
    harness.logged(&["WARN", "cannot renew the certificate"]).await;
    for _ in 0..2 {
        let config = (*harness.proxy().config()).clone();
        assert_eq!(Checked::new(&config).faults.len(), 1);
        let error = harness.proxy().reload(config).await.unwrap_err().to_string();
        assert!(error.contains("key.pem does not belong to the certificate"), "{error}");
    }
    harness.finish().await;
}
