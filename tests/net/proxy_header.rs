//! PROXY headers on real connections: who is believed, and that not a byte behind the header is lost.

use std::time::Duration;

use imapool::config::TlsMode;
use imapool::listener::{Accepted, BoundListener, ClientAddr, HandshakeError, prepare};
use imapool::proxy_protocol::InvalidHeader;
use imapool::stream::{Socket, Stream};
use imapool::tls::TlsConnectorConfig;
use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Authority, Folder, LIMIT, accept_from, backend, soon, tcp_listener};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 143\r\n";

fn v2() -> Vec<u8> {
    let addresses = ProxiedAddress::stream("192.0.2.7:40000".parse().unwrap(), "198.51.100.1:143".parse().unwrap());
    let mut bytes = Vec::new();
    ProxyHeader::with_address(addresses).encode_v2(&mut bytes).unwrap();
    bytes
}

fn source() -> ClientAddr {
    ClientAddr::Tcp("192.0.2.7:40000".parse().unwrap())
}

/// A listener that believes this host.
fn believing() -> BoundListener {
    let mut config = tcp_listener();
    config.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
    BoundListener::bind(&config).unwrap()
}

async fn rest_of(accepted: Accepted) -> Vec<u8> {
    let (mut stream, mut rest) = (accepted.stream, Vec::new());
    soon(stream.read_to_end(&mut rest)).await.unwrap();
    rest
}

#[tokio::test]
async fn headers_in_two_pieces_and_the_bytes_behind_them() {
    let listener = believing();
    let imap = b"a1 LOGIN u p\r\na2 NOOP\r\n";
    for header in [V1.to_vec(), v2()] {
        let all = [&header, &imap[..]].concat();
        for cut in 0..=all.len() {
            let (mut client, (stream, peer)) = accept_from(&listener).await;
            let send = async {
                client.write_all(&all[..cut]).await.unwrap();
                // The other side takes the first piece now, if there is one.
                tokio::task::yield_now().await;
                client.write_all(&all[cut..]).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let ready = prepare(stream, peer, listener.context(), LIMIT);
            let (accepted, ()) = soon(async { tokio::join!(ready, send) }).await;
            let accepted = accepted.unwrap();
            assert_eq!((accepted.client, accepted.via), (source(), peer), "cut at {cut}");
            assert_eq!(rest_of(accepted).await, imap, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn byte_by_byte() {
    let listener = believing();
    let all = [V1, b"a1 NOOP\r\n"].concat();
    let (mut client, (stream, peer)) = accept_from(&listener).await;
    let send = async {
        for byte in &all {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let ready = prepare(stream, peer, listener.context(), LIMIT);
    let (accepted, ()) = soon(async { tokio::join!(ready, send) }).await;
    assert_eq!(rest_of(accepted.unwrap()).await, b"a1 NOOP\r\n");
}

#[tokio::test]
async fn a_header_and_tls_right_behind_it() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let mut config = tcp_listener();
    config.proxy_protocol_from = vec!["127.0.0.1/32".parse().unwrap()];
    config.tls = TlsMode::Implicit;
    ca.sign("mail.example.org").install(&folder.0, &mut config);
    let listener = BoundListener::bind(&config).unwrap();
    let mut backend = backend("unused", 1);
    backend.ca_file = Some(folder.file("ca.pem", &ca.pem));
    let tls = TlsConnectorConfig::new(&backend).unwrap();
    for header in [V1.to_vec(), v2()] {
        let (mut client, (stream, peer)) = accept_from(&listener).await;
        // Both are there before the other side looks: the ClientHello is the header's neighbour.
        client.write_all(&header).await.unwrap();
        let handshake = async {
            let mut client = Stream::Plain(Socket::Tcp(client)).client_handshake(&tls, LIMIT).await.unwrap();
            client.write_all(b"a1 NOOP\r\n").await.unwrap();
            client.shutdown().await.unwrap();
            client
        };
        let ready = prepare(stream, peer, listener.context(), LIMIT);
        let (_client, accepted) = soon(async { tokio::join!(handshake, ready) }).await;
        let accepted = accepted.unwrap();
        assert!(accepted.stream.is_tls());
        assert_eq!(accepted.client, source());
        assert_eq!(rest_of(accepted).await, b"a1 NOOP\r\n");
    }
}

/// Sends `bytes`, closes, and tells what becomes of the connection.
async fn outcome(listener: &BoundListener, bytes: &[u8]) -> (ClientAddr, Result<Accepted, HandshakeError>) {
    let (mut client, (stream, peer)) = accept_from(listener).await;
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    (peer, soon(prepare(stream, peer, listener.context(), LIMIT)).await)
}

#[tokio::test]
async fn local_and_unknown_leave_the_address_of_the_connection() {
    let listener = believing();
    let mut local = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut local).unwrap();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), local] {
        let (peer, accepted) = outcome(&listener, &[&header, &b"a1 NOOP\r\n"[..]].concat()).await;
        let accepted = accepted.unwrap();
        assert_eq!(accepted.client, peer);
        assert_eq!(rest_of(accepted).await, b"a1 NOOP\r\n");
    }
}

#[tokio::test]
async fn where_a_header_is_required_nothing_else_will_do() {
    let listener = believing();
    let error = outcome(&listener, b"a1 LOGIN u p\r\n").await.1.unwrap_err();
    assert!(matches!(error, HandshakeError::Proxy(InvalidHeader::Missing)), "{error:?}");
    assert_eq!(error.label(), "proxy_header");
    let error = outcome(&listener, b"PROXY TCP4 nonsense\r\n").await.1.unwrap_err();
    assert!(matches!(error, HandshakeError::Proxy(InvalidHeader::Malformed)), "{error:?}");
    for cut in [&b""[..], &V1[..20], &v2()[..14]] {
        let error = outcome(&listener, cut).await.1.unwrap_err();
        assert!(matches!(error, HandshakeError::Closed), "{error:?}");
    }
}

#[tokio::test]
async fn a_peer_that_keeps_us_waiting_for_its_header_is_cut_off() {
    let listener = believing();
    for begun in [&b""[..], &V1[..20]] {
        let (mut client, (stream, peer)) = accept_from(&listener).await;
        client.write_all(begun).await.unwrap();
        let limit = Duration::from_millis(50);
        let error = soon(prepare(stream, peer, listener.context(), limit)).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Timeout(_)), "{error:?}");
    }
}

#[tokio::test]
async fn elsewhere_a_header_is_only_bytes() {
    let mut config = tcp_listener();
    config.proxy_protocol_from = vec!["192.0.2.0/24".parse().unwrap(), "::/0".parse().unwrap()];
    let listener = BoundListener::bind(&config).unwrap();
    let (peer, accepted) = outcome(&listener, V1).await;
    let accepted = accepted.unwrap();
    assert_eq!((accepted.client, accepted.via), (peer, peer));
    assert_eq!(rest_of(accepted).await, V1);
}
