//! Dialing a backend: names, families, source addresses, and errors that say what to do.

use std::time::{Duration, Instant};

use imapool::config::ListenAddr;
use imapool::listener::BoundListener;
use imapool::metrics::DialResult;
use imapool::net::Net;
use imapool::stream::Socket;
use imapool::upstream::dial::{DialError, Dialer};
use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::net::TcpListener;

use crate::support::{backend, listener, pass, port_of, soon, tcp_listener};

/// A port of 127.0.0.1 on which nobody listens: bound, so that nobody else gets it, but not listening.
fn refusing_port() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

#[tokio::test]
async fn addresses_and_names_of_both_families() {
    let six = BoundListener::bind(&listener(ListenAddr::Tcp("[::1]:0".parse().unwrap()))).unwrap();
    let four = BoundListener::bind(&tcp_listener()).unwrap();
    for (host, listener) in [("127.0.0.1", &four), ("::1", &six), ("[::1]", &six), ("localhost", &four)] {
        let dialer = Dialer::new(&backend(host, port_of(listener)), Net::System).unwrap();
        // "localhost" may be ::1 first, where nobody listens on this port.
        let (stream, (server, peer)) =
            soon(async { tokio::join!(dialer.connect(pass(), None, &[]), listener.accept()) }).await;
        let stream = stream.unwrap();
        assert_eq!(stream.local_address().map(|address| address.to_string()), Some(peer.to_string()));
        assert_eq!(stream.peer_address(), server.local_address());
        let Socket::Tcp(tcp) = stream.socket() else { panic!("{stream:?} is not TCP") };
        assert!(tcp.nodelay().unwrap() && SockRef::from(tcp).keepalive().unwrap());
    }
}

#[tokio::test]
async fn a_refusal_names_the_address() {
    let (_held, port) = refusing_port();
    let error = soon(Dialer::new(&backend("127.0.0.1", port), Net::System).unwrap().connect(pass(), None, &[]))
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Refused(address) if address.port() == port), "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port} refuses")), "{error}");
    assert_eq!((error.result(), error.is_local()), (DialResult::Refused, false));
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_told() {
    // ".invalid" is reserved for this (RFC 6761); no resolver at all gives the same answer.
    let dialer = Dialer::new(&backend("imap.invalid", 143), Net::System).unwrap();
    let error = soon(dialer.connect(pass(), None, &[])).await.unwrap_err();
    assert!(matches!(&error, DialError::Resolve { host, .. } if host == "imap.invalid"), "{error:?}");
    assert_eq!(error.result(), DialResult::Resolve);
}

/// A listener whose queue is full takes no further connection: its SYNs are dropped, as a firewall does it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_black_hole_costs_the_connect_timeout() {
    let hole = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    hole.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    hole.listen(0).unwrap();
    let address = hole.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let mut backend = backend("127.0.0.1", address.port());
    backend.connect_timeout = Duration::from_millis(100);
    let begun = Instant::now();
    let error = soon(Dialer::new(&backend, Net::System).unwrap().connect(pass(), None, &[])).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { .. }), "{error:?}");
    assert!(begun.elapsed() >= backend.connect_timeout);
    assert!(error.to_string().contains("100ms (connect_timeout)"), "{error}");
}

/// 127.0.0.0/8 is all this host's on Linux.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn source_addresses_take_turns() {
    use nix::sys::socket::{getsockopt, sockopt::IpBindAddressNoPort};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut backend = backend("127.0.0.1", listener.local_addr().unwrap().port());
    let sources = ["127.0.0.2", "127.0.0.3", "::1"].map(|address| address.parse().unwrap());
    backend.source_addresses = sources.to_vec();
    let dialer = Dialer::new(&backend, Net::System).unwrap();
    let mut seen = Vec::new();
    let mut open = Vec::new();
    for _ in 0..4 {
        let (stream, accepted) =
            soon(async { tokio::join!(dialer.connect(pass(), None, &[]), listener.accept()) }).await;
        seen.push(accepted.unwrap().1.ip());
        let stream = stream.unwrap();
        // Else each bind would take a local port for all remote addresses.
        let Socket::Tcp(tcp) = stream.socket() else { panic!("{stream:?} is not TCP") };
        assert!(getsockopt(tcp, IpBindAddressNoPort).unwrap());
        open.push(stream);
    }
    assert_eq!(seen, [sources[0], sources[1], sources[0], sources[1]]);
}

#[tokio::test]
async fn source_addresses_that_cannot_be_used_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut backend = backend("127.0.0.1", listener.local_addr().unwrap().port());
    backend.source_addresses = vec!["192.0.2.1".parse().unwrap()];
    let error = soon(Dialer::new(&backend, Net::System).unwrap().connect(pass(), None, &[])).await.unwrap_err();
    assert!(matches!(error, DialError::Source { .. }) && error.is_local(), "{error:?}");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    backend.source_addresses = vec!["::1".parse().unwrap()];
    let error = soon(Dialer::new(&backend, Net::System).unwrap().connect(pass(), None, &[])).await.unwrap_err();
    assert!(matches!(error, DialError::NoSource(_)), "{error:?}");
}

/// One source address of this host that works, after one that does not.
#[tokio::test]
async fn a_source_address_that_fails_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut backend = backend("127.0.0.1", listener.local_addr().unwrap().port());
    backend.source_addresses = vec!["192.0.2.1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
    let dialer = Dialer::new(&backend, Net::System).unwrap();
    for _ in 0..2 {
        let (stream, _) = soon(async { tokio::join!(dialer.connect(pass(), None, &[]), listener.accept()) }).await;
        stream.unwrap();
    }
}
