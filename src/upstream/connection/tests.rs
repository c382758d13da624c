//! One connection over a pipe in memory, on which nothing takes time: the test is the backend at the other end of it.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Barrier;
use std::thread;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};
use tokio::time::{advance, timeout};

use super::*;
use crate::imap::command::{Command, Name, Segment};
use crate::metrics::{BackendMetrics, ConnectionState};
use crate::net;
use crate::stream::{Peer, Socket};
use crate::upstream::backend::Unauthenticated;
use crate::upstream::login::Login;

const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// None of which comes into play, but for the last.
fn timing() -> Timing {
    let seconds = Duration::from_secs;
    let pool = config::Pool {
        linger: seconds(600),
        keepalive: seconds(600),
        checkout_timeout: REPLY_TIMEOUT,
        ..config::Pool::default()
    };
    let (idle_timeout, lifetime) = (seconds(1200), seconds(3600));
    Timing { pool: Arc::new(pool), idle_timeout, lifetime, reply_timeout: REPLY_TIMEOUT }
}

/// Of the other side no more is known than of a Unix socket's.
#[derive(Debug)]
struct Pipe(DuplexStream);

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl net::Connection for Pipe {
    fn local_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 1))
    }

    fn peer_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 143))
    }

    fn write_now(&self, _: &[IoSlice<'_>]) -> usize {
        0
    }

    fn peer(&self) -> Peer {
        Peer::Open
    }

    fn undelivered(&self) -> usize {
        0
    }

    fn reset_at_end(&self, _: bool) {}
}

/// A connection that a session has, and the backend's end of it.
fn connection() -> (Connection, DuplexStream) {
    let (ours, backend) = duplex(1 << 16);
    let (budget, metrics) = (Budget::of(1, [1]), Arc::<BackendMetrics>::default());
    let mut login = Login::default();
    // The first tag is used up.
    login.probe();
    let opened = Unauthenticated {
        stream: Stream::Plain(Socket::Given(Box::new(Pipe(ours)))),
        input: BytesMut::new(),
        login: Box::new(login),
        opened: Instant::now(),
        limit: REPLY_TIMEOUT,
        state: metrics.connection(ConnectionState::Connecting),
        permit: budget.try_permit(0).expect("room"),
        kept: None,
        used: false,
    };
    let wire = Wire::new(opened, timing(), &Arc::default(), &metrics);
    (Connection::spawn(wire, 0, &budget), backend)
}

fn run(name: Name, text: &'static str, streams: Option<u64>) -> Box<Request> {
    let segments = vec![Segment { text: Bytes::from_static(text.as_bytes()), literal: None }];
    let streams = streams.map(|len| Literal { len, sync: true, binary: false });
    Request::new(Command { tag: Bytes::from_static(b"a"), name, segments }, streams)
}

/// The next event; time goes on by itself, so that none at all is noticed.
async fn next(connection: &mut Connection) -> FromUpstream {
    timeout(REPLY_TIMEOUT * 10, connection.event()).await.expect("an event")
}

async fn hears(backend: &mut DuplexStream, wanted: &str) {
    let mut heard = vec![0; wanted.len()];
    let read = timeout(REPLY_TIMEOUT * 10, backend.read_exact(&mut heard)).await;
    assert!(matches!(read, Ok(Ok(_))), "{wanted:?} was not sent: {:?}", String::from_utf8_lossy(&heard));
    assert_eq!(String::from_utf8_lossy(&heard), wanted);
}

async fn says(backend: &mut DuplexStream, text: &str) {
    backend.write_all(text.as_bytes()).await.expect("room for it");
}

/// The event when the backend has heard this and said that.
async fn answered(connection: &mut Connection, backend: &mut DuplexStream, heard: &str, said: &str) -> FromUpstream {
    let (event, ()) = tokio::join!(next(connection), async {
        hears(backend, heard).await;
        says(backend, said).await;
    });
    event
}

/// Waits until nobody can use the connection any more, without touching it.
async fn closes(shared: &Shared) {
    let seen = timeout(REPLY_TIMEOUT, async {
        while !shared.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    seen.await.expect("the keeper to see the end");
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_not_held_against_the_backend() {
    let (mut connection, mut backend) = connection();
    connection.run(run(Name::List, "LIST NIL *", None)).expect("a connection");
    connection.poll_held(&mut Context::from_waker(std::task::Waker::noop()));
    hears(&mut backend, "i1 LIST NIL *\r\n").await;
    says(&mut backend, "* LIST () NIL x\r\n").await;
    assert!(matches!(next(&mut connection).await, FromUpstream::Data(_)));
    // The session does not read on, while its client takes nothing; nor can the backend say anything meanwhile.
    connection.poll_held(&mut Context::from_waker(std::task::Waker::noop()));
    advance(REPLY_TIMEOUT * 3).await;
    let silent = timeout(REPLY_TIMEOUT / 2, connection.event()).await;
    assert!(silent.is_err(), "the backend's time begins anew: {silent:?}");
    says(&mut backend, "i1 OK done\r\n").await;
    assert!(matches!(next(&mut connection).await, FromUpstream::Done(..)));
    assert!(connection.release(), "clean");
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_is_given_up_where_the_client_is_not_slow() {
    let (mut connection, mut backend) = connection();
    connection.run(run(Name::Fetch, "FETCH 1 BODY[]", None)).expect("a connection");
    let early = timeout(REPLY_TIMEOUT / 2, connection.event()).await;
    assert!(early.is_err(), "{early:?}");
    hears(&mut backend, "i1 FETCH 1 BODY[]\r\n").await;
    let lost = timeout(REPLY_TIMEOUT, connection.event()).await.expect("given up in time");
    assert_eq!(
        match lost {
            FromUpstream::Lost(loss) => (loss.unsent, loss.unanswered, loss.cut),
            other => panic!("{other:?}"),
        },
        (false, true, false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_asks_for_no_literal_has_not_understood() {
    let (mut connection, mut backend) = connection();
    connection.run(run(Name::Append, "APPEND x foo ", Some(6))).expect("a connection");
    let early = timeout(Duration::from_secs(29), connection.event()).await;
    assert!(early.is_err(), "{early:?}");
    hears(&mut backend, "i1 APPEND x foo {6}\r\n").await;
    let lost = timeout(Duration::from_secs(2), connection.event()).await.expect("given up in time");
    assert!(matches!(&lost, FromUpstream::Lost(loss) if loss.unasked && !loss.unsent && !loss.cut), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_part_of_a_message_goes_out_without_a_further_look_for_room() {
    let (mut connection, mut backend) = connection();
    connection.run(run(Name::Append, "APPEND x ", Some(6))).expect("a connection");
    let event = answered(&mut connection, &mut backend, "i1 APPEND x {6}\r\n", "+ go\r\n").await;
    assert!(matches!(event, FromUpstream::Continue(_)), "{event:?}");
    connection.send(Input::Octets(Bytes::from_static(b"abcdef")));
    connection.send(Input::Segment(Bytes::new(), None));
    let event = answered(&mut connection, &mut backend, "abcdef\r\n", "i1 OK kept\r\n").await;
    assert!(matches!(event, FromUpstream::Done(..)), "{event:?}");
    assert!(connection.release(), "clean");
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_message_refused_early_goes_before_the_next_command() {
    let (mut connection, mut backend) = connection();
    connection.run(run(Name::Append, "APPEND x ", Some(6))).expect("a connection");
    let event = answered(&mut connection, &mut backend, "i1 APPEND x {6}\r\n", "+ go\r\n").await;
    assert!(matches!(event, FromUpstream::Continue(_)), "{event:?}");
    connection.send(Input::Octets(Bytes::from_static(b"abc")));
    says(&mut backend, "i1 NO full\r\n").await;
    assert!(matches!(next(&mut connection).await, FromUpstream::Done(..)));
    assert!(
        !connection.wire.as_mut().is_some_and(|wire| wire.release(&connection.shared)),
        "the backend waits for more"
    );
    connection.send(Input::Run(run(Name::Noop, "NOOP", None)));
    connection.send(Input::Octets(Bytes::from_static(b"def")));
    connection.send(Input::Segment(Bytes::new(), None));
    let event = answered(&mut connection, &mut backend, "abcdef\r\ni2 NOOP\r\n", "i2 OK done\r\n").await;
    assert!(matches!(event, FromUpstream::Done(..)), "{event:?}");
    assert!(connection.release(), "clean");
}

#[tokio::test(start_paused = true)]
async fn at_rest_a_goodbye_and_an_end_are_seen_at_once() {
    for goodbye in [Some("* BYE restarting\r\n"), None] {
        let (mut connection, mut backend) = connection();
        // Twice, so that its keeper has begun its watch both ways: by itself, and having it begun in its name.
        for _ in 0..2 {
            assert!(connection.release());
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(connection.attach(), "nothing was said");
        }
        assert!(connection.release());
        tokio::time::sleep(Duration::from_secs(1)).await;
        match goodbye {
            Some(text) => says(&mut backend, text).await,
            None => drop(backend),
        }
        closes(&connection.shared).await;
        assert!(!connection.attach());
    }
}

#[tokio::test(start_paused = true)]
async fn what_had_ended_by_the_time_it_was_put_to_rest_is_not_used_again() {
    let (mut connection, mut backend) = connection();
    // Its keeper has told its name by now, so that it is looked at in that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    connection.run(run(Name::Noop, "NOOP", None)).expect("a connection");
    let event = answered(&mut connection, &mut backend, "i1 NOOP\r\n", "i1 OK done\r\n").await;
    assert!(matches!(event, FromUpstream::Done(..)), "{event:?}");
    says(&mut backend, "* BYE restarting\r\n").await;
    // The runtime hears of it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _seen_or_not = connection.release();
    closes(&connection.shared).await;
    assert!(!connection.attach());
}

/// Whoever comes first has it: it is never used and ended at once.
#[tokio::test]
async fn taken_to_be_used_and_to_be_ended_at_the_same_moment() {
    let (mut used, mut ended) = (0, 0);
    for _ in 0..300 {
        let (mut connection, mut backend) = connection();
        assert!(connection.release());
        let (start, runtime) = (Barrier::new(2), tokio::runtime::Handle::current());
        let shared = Arc::clone(&connection.shared);
        let (attached, retired) = thread::scope(|scope| {
            let eviction = scope.spawn(|| {
                let _runtime = runtime.enter();
                start.wait();
                shared.retire(RetireReason::Evicted)
            });
            start.wait();
            (connection.attach(), eviction.join().expect("no panic"))
        });
        assert_ne!(attached, retired, "one of them has it");
        assert_eq!(shared.is_closed(), retired);
        if attached {
            used += 1;
            connection.run(run(Name::Noop, "NOOP", None)).expect("it can be used");
            let event = answered(&mut connection, &mut backend, "i1 NOOP\r\n", "i1 OK done\r\n").await;
            assert!(matches!(event, FromUpstream::Done(..)), "{event:?}");
        } else {
            ended += 1;
            hears(&mut backend, "i1 LOGOUT\r\n").await;
        }
    }
    assert_eq!(used + ended, 300);
}
