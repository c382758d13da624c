//! Limits towards clients: how many, how long, how fast.

use std::net::SocketAddr;
use std::time::Duration;

use imapool::demo::server::{Options, Server};

use crate::support::{Client, Harness, soon};

/// up-imapproxy: a backlog of five, with which connections of a small burst are lost. Nothing is accepted while this
/// test's thread does not come back to the runtime; so the kernel has to hold all of them.
#[tokio::test]
async fn a_burst_waits_in_the_backlog() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let burst: Vec<_> = (0..200)
        .map(|at| {
            let connected = std::net::TcpStream::connect_timeout(&harness.address, Duration::from_secs(2));
            connected.unwrap_or_else(|error| panic!("connection {at} of the burst: {error}"))
        })
        .collect();
    for stream in burst {
        stream.set_nonblocking(true).unwrap();
        let mut client = Client::over(tokio::net::TcpStream::from_std(stream).unwrap());
        client.play("S: * OK…\nC: a LOGOUT\nS: * BYE…\nS: a OK…\nS.").await;
    }
    harness.finish().await;
}

/// up-imapproxy: without TCP_NODELAY each login took 44 ms. Asked of the kernel on both of the proxy's sockets.
#[tokio::test]
async fn no_reply_waits_for_an_acknowledgement() {
    use imapool::config::{self, ListenAddr};
    use imapool::listener::BoundListener;
    use imapool::net::Net;
    use imapool::stream::{Socket, Stream};
    use imapool::upstream::dial::Dialer;
    use imapool::upstream::gate::{Gate, Whom};
    use socket2::SockRef;

    let nodelay = |stream: &Stream| match stream {
        Stream::Plain(Socket::Tcp(tcp)) => SockRef::from(tcp).tcp_nodelay().unwrap(),
        other => panic!("{other:?} is no TCP"),
    };
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = BoundListener::bind(&config::Listener::new(ListenAddr::Tcp(address))).unwrap();
    let ListenAddr::Tcp(bound) = *listener.local_address() else { panic!("a TCP listener") };
    let dialer = Dialer::new(&config::Backend::new(bound.ip().to_string(), bound.port()), Net::System).unwrap();
    let pass = Gate::default().enter(Whom::Login, false, std::time::Instant::now()).unwrap();
    let (dialed, accepted) =
        soon("connected", async { tokio::join!(dialer.connect(pass, None, &[]), listener.accept()) }).await;
    assert!(nodelay(&dialed.unwrap()), "towards the backend");
    assert!(nodelay(&accepted.0), "towards the client");
}

#[tokio::test]
async fn too_many_sessions_hear_so() {
    let server = Server::start(Options::default()).await.unwrap();
    for per_address in [false, true] {
        let harness = Harness::start(server.address(), |config| match per_address {
            true => config.limits.sessions_per_address = 2,
            false => config.limits.sessions = 2,
        })
        .await;
        let held = (harness.login("u8").await, harness.login("u9").await);
        let mut third = Client::connect(harness.address).await;
        third.play("S: * BYE [LIMIT]…\nS.").await;
        harness.logged(&["WARN", "webmail", "too many sessions"]).await;
        drop(held);
        harness.sessions(0).await;
        drop(harness.client().await);
        harness.finish().await;
    }
}

#[tokio::test]
async fn who_does_not_log_in_or_says_nothing_is_ended() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| {
        config.limits.login_timeout = Duration::from_millis(300);
        config.limits.idle_timeout = Duration::from_millis(400);
    })
    .await;
    let mut silent = harness.client().await;
    let mut slow = harness.client().await;
    slow.send("a LOGIN u8 {5}\r\n").await;
    silent.play("S: * BYE…\nS.").await;
    slow.play("S: + …\nS: * BYE…\nS.").await;
    let mut idle = harness.login("u8").await;
    idle.play("C: a SELECT INBOX\nS~ a OK…\nS: * BYE…\nS.").await;
    let mut half = harness.login("u8").await;
    half.play("C- a NOO\nS: * BYE…\nS.").await;
    harness.sessions(0).await;
    assert_eq!(harness.metric("imapool_client_sessions_total", "close=\"login_timeout\""), 2);
    assert_eq!(harness.metric("imapool_client_sessions_total", "close=\"idle_timeout\""), 2);
    harness.finish().await;
}
