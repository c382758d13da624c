//! What must be settled before the first octet of IMAP.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::{ClientAddr, ListenerContext};
use crate::config::TlsMode;
use crate::proxy_protocol::{self, InvalidHeader, Progress};
use crate::stream::{Socket, Stream};
use crate::tls::TlsError;

/// A connection that is ready for IMAP.
#[derive(Debug)]
pub struct Accepted {
    /// With TLS where it is implicit.
    pub stream: Stream,
    /// Who the client is: as its PROXY header says where one is believed, else `via`.
    pub client: ClientAddr,
    /// Who connected to us: the client or its load balancer.
    pub via: ClientAddr,
}

/// Why a connection never came to speak IMAP. It is closed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// Not done within the limit.
    #[error("not ready within {} (limits.tls_handshake_timeout)", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The peer must send a PROXY header, and what it sent is none.
    #[error("the peer is in proxy_protocol_from, but {0}")]
    Proxy(#[from] InvalidHeader),
    /// The peer went away, as port scans and health checks do.
    #[error("closed before it was ready")]
    Closed,
    /// TLS failed.
    #[error(transparent)]
    Tls(TlsError),
    /// The connection failed.
    #[error("{0}")]
    Io(io::Error),
}

impl HandshakeError {
    /// A bounded name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Proxy(_) => "proxy_header",
            Self::Closed => "closed",
            Self::Tls(error) => error.label(),
            Self::Io(_) => "io",
        }
    }
}

/// Settles what comes before IMAP: the PROXY header where the peer is in `proxy_protocol_from` (it is required there,
/// and never looked for elsewhere), then implicit TLS. All within `limit`.
///
/// # Errors
/// The connection is closed, without a word: the other side does not speak the same protocol.
pub async fn prepare(
    mut stream: Stream,
    peer: ClientAddr,
    context: &ListenerContext,
    limit: Duration,
) -> Result<Accepted, HandshakeError> {
    let deadline = Instant::now() + limit;
    let mut client = peer;
    if let Stream::Plain(socket) = &mut stream
        && context.expects_proxy_header(peer)
    {
        let header = timeout_at(deadline, read_proxy_header(socket)).await;
        if let Some(source) = header.map_err(|_| HandshakeError::Timeout(limit))?? {
            client = ClientAddr::Tcp(source);
        }
    }
    if let (TlsMode::Implicit, Some(tls)) = (context.config.tls, &context.tls) {
        let left = deadline.saturating_duration_since(Instant::now());
        stream = stream.server_handshake(tls, left).await.map_err(|error| match error {
            TlsError::Timeout(_) => HandshakeError::Timeout(limit),
            TlsError::Closed => HandshakeError::Closed,
            error => HandshakeError::Tls(error),
        })?;
    }
    Ok(Accepted { stream, client, via: peer })
}

impl ListenerContext {
    /// Whether there is nothing to [`prepare`] for this peer.
    #[must_use]
    pub fn is_ready(&self, peer: ClientAddr) -> bool {
        self.config.tls != TlsMode::Implicit && !self.expects_proxy_header(peer)
    }

    fn expects_proxy_header(&self, peer: ClientAddr) -> bool {
        // An IPv4 peer may be written in either way, in the configuration as well as by the kernel.
        peer.ip().is_some_and(|ip| self.config.proxy_protocol_from.iter().any(|net| net.contains(&ip.to_canonical())))
    }
}

/// Takes the header from the socket and not one byte more: it looks (MSG_PEEK), and takes what it has seen to belong to
/// the header. In most cases that is two system calls.
async fn read_proxy_header(socket: &mut Socket) -> Result<Option<SocketAddr>, HandshakeError> {
    let mut buffer = Vec::new();
    loop {
        let taken = buffer.len();
        let max = match proxy_protocol::parse(&buffer)? {
            Progress::NeedMore(max) => max,
            Progress::Header { source, .. } => return Ok(source),
        };
        buffer.resize(taken + max, 0);
        let seen = peek(socket, &mut buffer[taken..]).await.map_err(HandshakeError::Io)?;
        if seen == 0 {
            return Err(HandshakeError::Closed);
        }
        buffer.truncate(taken + seen);
        if let Progress::Header { len, .. } = proxy_protocol::parse(&buffer)? {
            buffer.truncate(len);
        }
        socket.read_exact(&mut buffer[taken..]).await.map_err(HandshakeError::Io)?;
    }
}

async fn peek(socket: &mut Socket, octets: &mut [u8]) -> io::Result<usize> {
    match socket {
        Socket::Tcp(tcp) => tcp.peek(octets).await,
        Socket::Given(given) => poll_fn(|cx| given.poll_peek(cx, octets)).await,
        // Nobody at a Unix socket has an address that a header is believed from.
        Socket::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
