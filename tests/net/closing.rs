//! How connections end, as the peer sees it, and on whose side TIME_WAIT lies then.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use imapool::config::{ListenAddr, TlsMode};
use imapool::listener::{BoundListener, prepare};
use imapool::net::Net;
use imapool::stream::{Ended, Stream};
use imapool::upstream::dial::Dialer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::support::{Authority, Folder, LIMIT, backend, listener, pass, port_of, soon, tcp_listener, tcp_pair};

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn a_stream_is_small() {
    assert!(size_of::<Stream>() <= 48, "{}", size_of::<Stream>());
}

async fn read_to_end(client: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon(client.read_to_end(&mut bytes)).await.map(|_| bytes)
}

#[tokio::test]
async fn a_reset_is_seen_as_one() {
    let (mut client, server) = tcp_pair().await;
    server.reset();
    assert_eq!(read_to_end(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn close_delivers_everything_and_then_a_fin() {
    let (mut client, mut server) = tcp_pair().await;
    // What the client sends unasked must not turn the FIN into a reset.
    client.write_all(b"a9 NOOP\r\n").await.unwrap();
    server.write_all(b"* BYE\r\na1 OK bye\r\n").await.unwrap();
    let closing = tokio::spawn(server.close(LIMIT));
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"* BYE\r\na1 OK bye\r\n");
    client.write_all(b"a10 NOOP\r\n").await.unwrap();
    assert!(!closing.is_finished(), "it waits for the client's FIN");
    drop(client);
    assert_eq!(soon(closing).await.unwrap(), Ended::Closed);
}

#[tokio::test]
async fn close_ends_with_its_deadline() {
    let (_client, server) = tcp_pair().await;
    let begun = Instant::now();
    assert_eq!(soon(server.close(SHORT)).await, Ended::Forced);
    assert!(begun.elapsed() >= SHORT);
}

#[tokio::test]
async fn close_does_not_read_for_ever() {
    let (mut client, server) = tcp_pair().await;
    let flood = tokio::spawn(async move {
        let junk = vec![0; 1 << 16];
        let mut sent = 0;
        while client.write_all(&junk).await.is_ok() {
            sent += junk.len();
        }
        sent
    });
    // It is not the deadline that ends it.
    assert_eq!(soon(server.close(2 * LIMIT)).await, Ended::Forced);
    assert!(soon(flood).await.unwrap() >= 1 << 20);
}

#[tokio::test]
async fn a_client_that_half_closes_still_reads() {
    let (mut client, mut server) = tcp_pair().await;
    client.write_all(b"a1 LOGOUT\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut server).await.unwrap(), b"a1 LOGOUT\r\n");
    server.write_all(b"a1 OK bye\r\n").await.unwrap();
    assert_eq!(soon(server.close(LIMIT)).await, Ended::Closed);
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"a1 OK bye\r\n");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_the_client_has_not_taken_is_known() {
    use tokio::io::AsyncWrite;

    // Both families, and both ends of a connection.
    for host in ["127.0.0.1", "[::1]"] {
        let listener = BoundListener::bind(&listener(ListenAddr::Tcp(format!("{host}:0").parse().unwrap()))).unwrap();
        let dialer = Dialer::new(&backend(host, port_of(&listener)), Net::System).unwrap();
        let (client, (mut server, _)) =
            soon(async { tokio::join!(dialer.connect(pass(), None, &[]), listener.accept()) }).await;
        let mut client = client.unwrap();
        assert_eq!((server.undelivered(), client.undelivered()), (Some(0), Some(0)));

        // Until nothing more goes in: the client's window is closed then, and the rest lies here.
        let chunk = vec![b'x'; 1 << 16];
        let mut written = 0;
        let full = std::future::poll_fn(|cx| {
            use std::task::Poll;
            loop {
                match std::pin::Pin::new(&mut server).poll_write(cx, &chunk) {
                    Poll::Ready(Ok(len)) => written += len,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Ready(Ok(())),
                }
            }
        });
        full.await.unwrap();
        let left = server.undelivered().unwrap();
        assert!(left > 0 && left < written, "{left} of {written}");

        let mut taken = vec![0; written];
        soon(client.read_exact(&mut taken)).await.unwrap();
        let delivered = async {
            while server.undelivered() != Some(0) {
                tokio::task::yield_now().await;
            }
        };
        soon(delivered).await;
        // Where the question is asked: the client has closed its side.
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut server).await.unwrap(), b"");
        assert_eq!(server.undelivered(), Some(0));
        client.reset();
        assert_eq!(server.write_all(b"into the void").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(server.undelivered(), None, "the connection is gone");
    }
}

#[tokio::test]
async fn unix_sockets_close_and_reset() {
    let folder = Folder::new();
    let path = folder.0.join("imap.sock");
    let listener = BoundListener::bind(&listener(ListenAddr::Unix(path.clone()))).unwrap();
    for reset in [false, true] {
        let (client, (mut server, _)) =
            soon(async { tokio::join!(UnixStream::connect(&path), listener.accept()) }).await;
        let mut client = client.unwrap();
        server.write_all(b"* BYE\r\n").await.unwrap();
        if reset {
            server.reset();
        } else {
            tokio::spawn(server.close(LIMIT));
        }
        assert_eq!(read_to_end(&mut client).await.unwrap(), b"* BYE\r\n");
    }
}

#[tokio::test]
async fn tls_says_close_notify_before_the_fin() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let mut config = tcp_listener();
    config.tls = TlsMode::Implicit;
    ca.sign("mail.example.org").install(&folder.0, &mut config);
    let listener = BoundListener::bind(&config).unwrap();
    let mut backend = backend("127.0.0.1", port_of(&listener));
    backend.tls = TlsMode::Implicit;
    backend.ca_file = Some(folder.file("ca.pem", &ca.pem));
    let dialer = Dialer::new(&backend, Net::System).unwrap();
    let accepted = async {
        let (stream, peer) = listener.accept().await;
        prepare(stream, peer, listener.context(), LIMIT).await.unwrap().stream
    };
    let (client, mut server) = soon(async { tokio::join!(dialer.connect(pass(), None, &[]), accepted) }).await;
    server.write_all(b"* BYE\r\n").await.unwrap();
    let closing = tokio::spawn(server.close(LIMIT));
    // tokio-rustls itself, which makes an error of a FIN that comes without close_notify.
    let Ok(Stream::Tls(mut tls)) = client else { panic!("no TLS") };
    assert_eq!(read_to_end(&mut tls).await.unwrap(), b"* BYE\r\n");
    tls.shutdown().await.unwrap();
    assert_eq!(soon(closing).await.unwrap(), Ended::Closed);
}

/// A backend's end of a dialed connection, and ours.
async fn dialed() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialer = Dialer::new(&backend("127.0.0.1", listener.local_addr().unwrap().port()), Net::System).unwrap();
    let (stream, accepted) = soon(async { tokio::join!(dialer.connect(pass(), None, &[]), listener.accept()) }).await;
    (accepted.unwrap().0, stream.unwrap())
}

#[tokio::test]
async fn a_server_that_closes_after_logout_is_waited_for() {
    let (mut server, stream) = dialed().await;
    let waiting = tokio::spawn(stream.wait_peer_close(LIMIT));
    server.write_all(b"* BYE\r\n").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(soon(waiting).await.unwrap(), Ended::Closed);
    assert_eq!(read_to_end(&mut server).await.unwrap(), b"", "a FIN, no reset");
}

#[tokio::test]
async fn a_server_that_does_not_close_is_reset() {
    let (mut server, stream) = dialed().await;
    assert_eq!(soon(stream.wait_peer_close(SHORT)).await, Ended::Forced);
    assert_eq!(read_to_end(&mut server).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_upstream_connection_that_is_dropped_is_reset() {
    let (mut server, stream) = dialed().await;
    drop(stream);
    assert_eq!(read_to_end(&mut server).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Read from the kernel's table.
#[cfg(target_os = "linux")]
mod time_wait {
    use std::net::SocketAddr;

    use super::*;

    /// Whether `local` holds a TIME_WAIT for its connection with `remote`.
    fn lies_on(local: SocketAddr, remote: SocketAddr) -> bool {
        let written = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
        let (local, remote) = (written(local), written(remote));
        std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().take(4).collect();
            fields.len() == 4 && fields[1..] == [&local, &remote, "06"]
        })
    }

    #[tokio::test]
    async fn close_takes_it_to_the_listening_port() {
        let (mut client, server) = tcp_pair().await;
        let (ours, theirs) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
        let closing = tokio::spawn(server.close(LIMIT));
        read_to_end(&mut client).await.unwrap();
        drop(client);
        assert_eq!(soon(closing).await.unwrap(), Ended::Closed);
        assert!(lies_on(ours, theirs));
        assert!(!lies_on(theirs, ours));
    }

    #[tokio::test]
    async fn a_reset_leaves_none() {
        let (mut client, server) = tcp_pair().await;
        let (ours, theirs) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
        // The client closes first, which would cost it 60 s of its port.
        client.shutdown().await.unwrap();
        server.reset();
        // A shut down socket reads the end without an error, or the reset: it must be in its final state either way.
        let _ = read_to_end(&mut client).await;
        drop(client);
        assert!(!lies_on(ours, theirs) && !lies_on(theirs, ours));
    }

    #[tokio::test]
    async fn retiring_an_upstream_connection_leaves_it_with_the_server() {
        let (mut server, stream) = dialed().await;
        let (ours, theirs) = (stream.local_address().unwrap(), server.local_addr().unwrap());
        server.shutdown().await.unwrap();
        assert_eq!(soon(stream.wait_peer_close(LIMIT)).await, Ended::Closed);
        read_to_end(&mut server).await.unwrap();
        drop(server);
        assert!(lies_on(theirs, ours));
        assert!(!lies_on(ours, theirs));
    }
}
