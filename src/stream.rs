//! One type for every kind of connection: TCP or Unix socket, with or without TLS on either side of it, and the ways to
//! end one that decide where TIME_WAIT is spent.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;

use crate::net::Connection;
use crate::platform::tcp::{HOLD_BACK, cork, delivery};
use crate::platform::{Delivery, LocalStream};
use crate::tls::{TlsAcceptorConfig, TlsConnectorConfig, TlsError};

/// What a peer may still send after it was told that the connection is over; beyond that it is cut off.
const DISCARD_LIMIT: usize = 1 << 20;
/// Read at a time while discarding.
const DISCARD_CHUNK: usize = 4096;
/// How long a peer whose delivery could not be waited for may take to close.
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);
/// How often it is looked whether everything was delivered: at first, which is about a round trip, and at last.
const DELIVERY_MIN_WAIT: Duration = Duration::from_millis(1);
const DELIVERY_MAX_WAIT: Duration = Duration::from_millis(100);

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP, of either family.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(LocalStream),
    /// Neither: see [`crate::net::Outside`].
    Given(Box<dyn Connection>),
}

/// A connection: a socket, or TLS over one. Small (at most 48 octets): what is big is boxed.
///
/// The end of the other side's bytes is a read of 0 octets, also where TLS ended without a `close_notify`, as many
/// clients and servers do it: IMAP lines and literals say themselves whether they are complete, so that a cut-off
/// stream cannot be taken for a whole one.
#[derive(Debug)]
pub enum Stream {
    /// No TLS (yet).
    Plain(Socket),
    /// On either side of it.
    Tls(Box<TlsStream<Socket>>),
}

/// How the orderly end of a connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed its side, too.
    Closed,
    /// The peer did not close in time, or sent more than is read here, or the connection failed.
    Forced,
}

/// What is known of the other side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// All it has sent was read, and it has not closed.
    Silent,
    /// It has not closed.
    Open,
    /// Its FIN has come, read or not.
    Closed,
}

impl Stream {
    /// The socket beneath.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    fn tls(&self) -> Option<&TlsStream<Socket>> {
        if let Self::Tls(tls) = self { Some(tls) } else { None }
    }

    /// The socket beneath, for good; the state of TLS is dropped.
    fn into_socket(self) -> Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => match *tls {
                TlsStream::Server(tls) => tls.into_inner().0,
                TlsStream::Client(tls) => tls.into_inner().0,
            },
        }
    }

    /// Whether TLS is active.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// `"TLSv1.3"` or `"TLSv1.2"`; `None` without TLS.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.tls()?.get_ref().1.protocol_version()?.as_str()
    }

    /// What the client calls this host in TLS (SNI, RFC 6066 section 3).
    pub fn server_name(&self) -> Option<&str> {
        let TlsStream::Server(tls) = self.tls()? else { return None };
        tls.get_ref().1.server_name()
    }

    /// When the first of the certificates that the server showed expires, in seconds since the Unix epoch.
    pub fn certificate_expires(&self) -> Option<i64> {
        let TlsStream::Client(tls) = self.tls()? else { return None };
        crate::certificate::expires(tls.get_ref().1.peer_certificates()?.iter().map(|certificate| &**certificate))
    }

    /// Our end's address; `None` for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self.socket() {
            Socket::Tcp(tcp) => tcp.local_addr().ok(),
            Socket::Given(given) => Some(given.local_address()),
            Socket::Unix(_) => None,
        }
    }

    /// The other end's address; `None` for a Unix socket and for a TCP connection that is gone.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self.socket() {
            Socket::Tcp(tcp) => tcp.peer_addr().ok(),
            Socket::Given(given) => Some(given.peer_address()),
            Socket::Unix(_) => None,
        }
    }

    /// Octets written that the peer's kernel has not acknowledged: 0 means that everything owed is delivered, and that
    /// [`Stream::reset`] loses nothing. `None` where that cannot be known: the connection is gone, or the system does
    /// not tell (only Linux does, by sock_diag). Costs a few microseconds; meant for the end of a session.
    pub fn undelivered(&self) -> Option<usize> {
        let in_tls = self.tls().is_some_and(|tls| tls.get_ref().1.wants_write());
        Some(self.socket().delivery()?.undelivered + usize::from(in_tls))
    }

    /// What is known of the peer's side. `None` where nothing can be, see [`Stream::undelivered`].
    pub fn peer(&self) -> Option<Peer> {
        if let Socket::Given(given) = self.socket() {
            return Some(given.peer());
        }
        if let Socket::Tcp(tcp) = self.socket() {
            // One system call, where as a rule nothing lies unread before the FIN. The runtime's own idea of what can
            // be read may be older than the FIN.
            match SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()]) {
                Ok(0) => return Some(Peer::Closed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(Peer::Silent),
                _ => {}
            }
        }
        Some(if self.socket().delivery()?.peer_closed { Peer::Closed } else { Peer::Open })
    }

    /// Writes what there is room for, without waiting for any, and gives how many octets that were: 0 also beneath
    /// TLS. A socket that was just accepted has room before the runtime knows of it.
    ///
    /// With `last`, they are held back as [`Stream::cork`] says, without a system call for that.
    pub fn write_now(&self, octets: &[IoSlice<'_>], last: bool) -> usize {
        match self {
            // What is wrong with the connection, the next write says, too.
            Self::Plain(Socket::Tcp(tcp)) => {
                SockRef::from(tcp).send_vectored_with_flags(octets, if last { HOLD_BACK } else { 0 }).unwrap_or(0)
            }
            Self::Plain(Socket::Given(given)) => given.write_now(octets),
            _ => 0,
        }
    }

    /// What is written from now on is held back until [`Stream::close`] sends it together with its FIN, as far as it
    /// fits into one segment: a peer that closes the moment it has read the last word cannot be the first to close.
    /// For the last words only: without a close they wait for 200 ms. Does nothing where the system cannot do it.
    ///
    /// `false` sends it after all.
    pub fn cork(&self, hold_back: bool) {
        if let Socket::Tcp(tcp) = self.socket() {
            cork(SockRef::from(tcp), hold_back);
        }
    }

    /// TLS as the server, within `limit`.
    ///
    /// After STARTTLS the caller must throw away every plaintext byte it has read beyond the command: it came from
    /// whoever sat on the wire (CVE-2021-33515, RFC 9051 section 6.2.1).
    ///
    /// # Errors
    /// Why there is no TLS; the connection is closed then.
    pub async fn server_handshake(self, tls: &TlsAcceptorConfig, limit: Duration) -> Result<Self, TlsError> {
        let Self::Plain(socket) = self else { return Err(TlsError::AlreadyTls) };
        // Boxed, so that the state of a handshake does not lie in the session's task for as long as that lives.
        let handshake = Box::pin(tls.acceptor().accept(socket));
        Ok(Self::Tls(Box::new(within(limit, handshake, None).await?.into())))
    }

    /// TLS as the client, within `limit`. The certificate must be for `tls`'s server name. What
    /// [`Stream::server_handshake`] says about plaintext bytes goes for the server's, too.
    ///
    /// # Errors
    /// Why there is no TLS; the connection is closed then.
    pub async fn client_handshake(self, tls: &TlsConnectorConfig, limit: Duration) -> Result<Self, TlsError> {
        let Self::Plain(socket) = self else { return Err(TlsError::AlreadyTls) };
        let handshake = Box::pin(tls.connector.connect(tls.server_name.clone(), socket));
        Ok(Self::Tls(Box::new(within(limit, handshake, Some(&tls.server_name)).await?.into())))
    }

    /// Ends the connection by a reset: no TIME_WAIT on either side. Whatever the peer has not received yet is lost, so
    /// only when nothing is owed. A Unix socket is closed.
    pub fn reset(self) {
        self.socket().reset_at_end(true);
    }

    /// Ends a connection that the peer has closed from its side: [`Stream::reset`], as soon as everything written was
    /// delivered, and `grace` is over; so neither side is left with a TIME_WAIT. Where that does not come about within
    /// `limit`, or cannot be known: [`Stream::close`].
    pub async fn reset_when_delivered(self, limit: Duration, grace: Duration) -> Ended {
        let delivered = timeout(limit, async {
            let mut wait = DELIVERY_MIN_WAIT;
            // No event tells of it: the socket becomes writable long before.
            while let Some(undelivered) = self.undelivered() {
                if undelivered == 0 {
                    return true;
                }
                sleep(wait).await;
                wait = (wait * 2).min(DELIVERY_MAX_WAIT);
            }
            false
        });
        if delivered.await == Ok(true) {
            sleep(grace).await;
            self.reset();
            return Ended::Closed;
        }
        self.close(DISCARD_DEADLINE).await
    }

    /// Ends the connection from our side: `close_notify` where there is TLS, and FIN; then reads and discards until the
    /// peer has closed, too. What was written before is delivered first. Closing first takes TIME_WAIT to our end: on a
    /// listener's connection that is the listening port, where it costs nothing.
    ///
    /// All within `deadline` and 1 MiB; after that the socket is dropped, and the kernel goes on delivering.
    ///
    /// For sockets of a listener: those that were dialed are reset when they are dropped.
    pub async fn close(mut self, deadline: Duration) -> Ended {
        let orderly = async {
            self.shutdown().await?;
            // Beneath TLS: whatever still comes need not be deciphered to be thrown away.
            discard(&mut self.into_socket()).await
        };
        in_time(deadline, orderly).await
    }

    /// [`Stream::close`], without waiting for the peer: the kernel sends what was written, and FIN, and takes the
    /// peer's FIN. Only where the peer has nothing more to say and is [`Peer::Silent`]: it is reset for every further
    /// octet, and may lose what was sent last by that.
    pub fn hang_up(self) {
        drop(self);
    }

    /// Waits for the peer to close first (a server, after it has answered LOGOUT), reading and discarding, and closes
    /// then: TIME_WAIT stays with the peer. If the peer has not closed within `deadline` and 1 MiB: reset.
    pub async fn wait_peer_close(self, deadline: Duration) -> Ended {
        let mut socket = self.into_socket();
        let ended = in_time(deadline, discard(&mut socket)).await;
        socket.reset_at_end(ended == Ended::Forced);
        ended
    }
}

/// What comes of a handshake, in time.
async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = io::Result<T>>,
    server_name: Option<&ServerName<'_>>,
) -> Result<T, TlsError> {
    let shaken = timeout(limit, handshake).await.map_err(|_| TlsError::Timeout(limit))?;
    shaken.map_err(|error| TlsError::classify(error, server_name))
}

/// Reads to the end. On the heap, since it would lie in the task's own memory otherwise.
async fn discard(socket: &mut Socket) -> io::Result<Ended> {
    let mut scratch = vec![0; DISCARD_CHUNK];
    let mut left = DISCARD_LIMIT;
    while left > 0 {
        match socket.read(&mut scratch).await? {
            0 => return Ok(Ended::Closed),
            read => left = left.saturating_sub(read),
        }
    }
    Ok(Ended::Forced)
}

/// How it went by then.
async fn in_time(deadline: Duration, end: impl Future<Output = io::Result<Ended>>) -> Ended {
    timeout(deadline, end).await.map_or(Ended::Forced, |ended| ended.unwrap_or(Ended::Forced))
}

impl Socket {
    fn delivery(&self) -> Option<Delivery> {
        match self {
            Self::Tcp(tcp) => delivery(tcp),
            // What is written lies in the peer's queue at once; and no port is at stake in who closes first.
            Self::Unix(_) => Some(Delivery { undelivered: 0, peer_closed: false }),
            Self::Given(given) => {
                Some(Delivery { undelivered: given.undelivered(), peer_closed: given.peer() == Peer::Closed })
            }
        }
    }

    /// What closing it does to TCP: RST at once, or FIN, after everything written is delivered, which is the default. A
    /// failure means that the connection is gone, and that there is nothing left to decide.
    fn reset_at_end(&self, reset: bool) {
        match self {
            Self::Tcp(tcp) => drop(SockRef::from(tcp).set_linger(reset.then_some(Duration::ZERO))),
            Self::Unix(_) => {}
            Self::Given(given) => given.reset_at_end(reset),
        }
    }
}

/// Reads and writes go to whatever is inside.
macro_rules! pass_on {
    ($type:ident { $($variant:ident),+ }) => {
        impl AsyncRead for $type {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                let read = match self.get_mut() { $(Self::$variant(inside) => Pin::new(inside).poll_read(cx, buf),)+ };
                // The end all the same: see `Stream`.
                match read {
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                    other => other,
                }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(inside) => Pin::new(inside).poll_write(cx, buf),)+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(inside) => Pin::new(inside).poll_write_vectored(cx, bufs),)+ }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(inside) => Pin::new(inside).poll_flush(cx),)+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(inside) => Pin::new(inside).poll_shutdown(cx),)+ }
            }
        }
    };
}

pass_on!(Socket { Tcp, Unix, Given });
pass_on!(Stream { Plain, Tls });
