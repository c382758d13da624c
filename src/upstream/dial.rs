//! Dialing a backend: its addresses, a race between them (RFC 8305), source addresses, TLS.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use socket2::SockRef;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, lookup_host};
use tokio::time::timeout;

use super::gate::Pass;
use crate::config::{self, TlsMode};
use crate::listener::tune;
use crate::metrics::DialResult;
use crate::net::Net;
use crate::platform::ports::{WIDEN, keep_to};
use crate::platform::tcp::{DESCRIPTORS, give_up_after, leave_port_open};
use crate::platform::{no_descriptors, no_port_to_bind, no_ports};
use crate::proxy_protocol;
use crate::stream::{Socket, Stream};
use crate::tls::{CertificateStore, TlsConfigError, TlsConnectorConfig, TlsError};

/// The Connection Attempt Delay of RFC 8305 section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The backend's host is gone when it acknowledges nothing for so long, or has no room for a single octet: a command in
/// flight learns it then, and not after the quarter of an hour that TCP takes by itself.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why there is no connection to the backend.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address, or the resolver does not answer.
    #[error("cannot resolve {host}: {source}; check the backend's address and this host's resolver")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// None of the host's addresses is of the family of a source address.
    #[error("{0} has no address of the same family as one of source_addresses: add one of the other family")]
    NoSource(String),
    /// Nobody listens there.
    #[error("{0} refuses connections: is the IMAP server running, and the port right?")]
    Refused(SocketAddr),
    /// No way there.
    #[error("{address} cannot be reached: {source}; check routes and firewalls")]
    Unreachable {
        /// The address that was tried.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No answer from any address.
    #[error("{host} did not answer within {} (connect_timeout): it is down, overloaded, or behind a firewall that drops packets",
        humantime::format_duration(*limit))]
    Timeout {
        /// The backend's host.
        host: String,
        /// The limit.
        limit: Duration,
    },
    /// EADDRNOTAVAIL or EADDRINUSE of connect(2).
    #[error("no free local port for {0}: add source_addresses, {WIDEN}, or lower pool.max_total")]
    NoPorts(SocketAddr),
    /// A configured source address cannot be used.
    #[error("cannot dial from {source_address}: {source}; source_addresses must be addresses of this host")]
    Source {
        /// The source address.
        source_address: IpAddr,
        /// What the system says.
        source: io::Error,
    },
    /// EMFILE or ENFILE.
    #[error("no file descriptors left: {DESCRIPTORS}, or lower limits.sessions or pool.max_total")]
    NoDescriptors,
    /// TLS failed.
    #[error("{host}: {source}")]
    Tls {
        /// The backend's host.
        host: String,
        /// What is wrong.
        source: TlsError,
    },
    /// Anything else.
    #[error("cannot connect to {address}: {source}")]
    Io {
        /// The address that was tried.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl DialError {
    /// As metrics have it.
    pub fn result(&self) -> DialResult {
        match self {
            Self::Resolve { .. } => DialResult::Resolve,
            Self::Refused(_) => DialResult::Refused,
            Self::Unreachable { .. } => DialResult::Unreachable,
            Self::Timeout { .. } => DialResult::Timeout,
            Self::NoPorts(_) => DialResult::NoPorts,
            Self::NoDescriptors => DialResult::NoDescriptors,
            Self::Tls { .. } => DialResult::Tls,
            Self::NoSource(_) | Self::Source { .. } | Self::Io { .. } => DialResult::Io,
        }
    }

    /// Whether the fault lies with this host (ports, descriptors, source addresses) and says nothing about the backend,
    /// which a circuit breaker must not hold against it.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::NoPorts(_) | Self::NoDescriptors | Self::Source { .. } | Self::NoSource(_))
    }

    fn connect(address: SocketAddr, source: io::Error) -> Self {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
        match source.kind() {
            ConnectionRefused => Self::Refused(address),
            HostUnreachable | NetworkUnreachable | NetworkDown | TimedOut => Self::Unreachable { address, source },
            _ if no_ports(&source) => Self::NoPorts(address),
            _ if no_descriptors(&source) => Self::NoDescriptors,
            _ => Self::Io { address, source },
        }
    }

    /// Which of several failures to tell: the one that a person can do most about.
    fn rank(&self) -> u8 {
        match self {
            Self::NoDescriptors | Self::NoPorts(_) | Self::Source { .. } => 3,
            Self::Refused(_) => 2,
            Self::Io { .. } => 1,
            _ => 0,
        }
    }
}

/// Connects to one backend.
#[derive(Debug)]
pub struct Dialer {
    backend: config::Backend,
    /// Counts the attempts, each of which begins with another source address.
    attempts: AtomicUsize,
    tls: Option<TlsConnectorConfig>,
    addresses: Mutex<HashSet<SocketAddr>>,
    /// Where its connections come from.
    pub(super) net: Net,
}

impl Dialer {
    /// Loads the roots for TLS where it is on; resolves and connects nothing.
    ///
    /// # Errors
    /// When `ca_file` or `server_name` cannot be used.
    pub fn new(backend: &config::Backend, net: Net) -> Result<Self, TlsConfigError> {
        let tls = (backend.tls != TlsMode::None).then(|| TlsConnectorConfig::new(backend)).transpose()?;
        Ok(Self { backend: backend.clone(), attempts: AtomicUsize::default(), tls, addresses: Mutex::default(), net })
    }

    /// What the backend is shown that asks for a certificate, to be renewed.
    pub fn certificate(&self) -> Option<&Arc<CertificateStore>> {
        self.tls.as_ref()?.certificate.as_ref()
    }

    /// The backend's addresses, as they were last resolved.
    pub fn addresses(&self) -> HashSet<SocketAddr> {
        self.addresses.lock().clone()
    }

    /// A new connection, with TLS where it is implicit. Within `connect_timeout` over all addresses, and
    /// `login_timeout` for TLS. `backend.send_proxy` tells the backend of the client whose session it is for, if it is
    /// for one. The pass is used up: each attempt needs one of its own. `words` are said at once, ahead of TLS where
    /// there is any, and together with the header.
    ///
    /// The connection is set to be reset when it is dropped, so that whatever goes wrong with it, this host is not left
    /// with a TIME_WAIT; [`Stream::close`] and [`Stream::wait_peer_close`] end it in an orderly way.
    ///
    /// # Errors
    /// Each says what to do about it.
    pub async fn connect(&self, _: Pass, client: Option<IpAddr>, words: &[u8]) -> Result<Stream, DialError> {
        let connect = async {
            let (address, socket) = self.connect_tcp().await?;
            let mut stream = Stream::Plain(socket);
            let header = if self.backend.send_proxy { proxy_protocol::header(client, address) } else { Vec::new() };
            let said = [&header, words].concat();
            if !said.is_empty() {
                stream.write_all(&said).await.map_err(|error| DialError::connect(address, error))?;
            }
            Ok(stream)
        };
        let limit = self.backend.connect_timeout;
        let timed_out = |_| DialError::Timeout { host: self.backend.host.clone(), limit };
        let stream = timeout(limit, connect).await.map_err(timed_out)??;
        if self.backend.tls == TlsMode::Implicit { self.start_tls(stream).await } else { Ok(stream) }
    }

    /// TLS on a connection, once the backend has answered STARTTLS with OK. The caller must throw away whatever it has
    /// read beyond that line (RFC 9051 section 6.2.1), and forget the capabilities.
    ///
    /// # Errors
    /// [`DialError::Tls`]; the connection is closed then.
    pub async fn start_tls(&self, stream: Stream) -> Result<Stream, DialError> {
        let failed = |source| DialError::Tls { host: self.backend.host.clone(), source };
        // Where the configuration says no TLS, none is needed; who asks for it all the same gets none.
        let tls = self.tls.as_ref().ok_or(TlsError::NotConfigured).map_err(failed)?;
        stream.client_handshake(tls, self.backend.login_timeout).await.map_err(failed)
    }

    /// The address that it came to be connected to, and the socket.
    async fn connect_tcp(&self) -> Result<(SocketAddr, Socket), DialError> {
        let addresses = self.resolve().await?;
        *self.addresses.lock() = addresses.iter().copied().collect();
        let usable: Vec<_> = addresses.into_iter().filter(|address| self.has_source_for(address)).collect();
        let attempt = |address| async move { Ok((address, self.attempt(address).await?)) };
        match usable[..] {
            [] => Err(DialError::NoSource(self.backend.host.clone())),
            // With nobody to race against, nobody keeps the time.
            [address] => attempt(address).await,
            _ => race(usable, attempt).await,
        }
    }

    /// Where to try, in this order; at least one. Of several addresses, those that can be resolved will do, and no
    /// other is waited for where there is one: a resolver that says nothing of a further one must not keep from the
    /// first.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let mut found = resolve(&self.backend.host, self.backend.port).await.map(interleave);
        for further in &self.backend.fallback_addresses {
            let further = resolve(&further.host, further.port);
            match &mut found {
                Ok(found) => {
                    if let Ok(Ok(further)) = timeout(ATTEMPT_DELAY, further).await {
                        found.extend(interleave(further));
                    }
                }
                Err(_) => found = further.await.map(interleave).or(found),
            }
        }
        found
    }

    /// Whether `address` can be dialed at all.
    fn has_source_for(&self, address: &SocketAddr) -> bool {
        let sources = &self.backend.source_addresses;
        sources.is_empty() || sources.iter().any(|source| source.is_ipv4() == address.is_ipv4())
    }

    /// All source addresses of the family, beginning with another one each time; none when the kernel is to choose.
    fn sources_for(&self, address: &SocketAddr) -> Vec<IpAddr> {
        let all = self.backend.source_addresses.iter().copied();
        let mut sources: Vec<_> = all.filter(|source| source.is_ipv4() == address.is_ipv4()).collect();
        let first = self.attempts.fetch_add(1, Ordering::Relaxed).checked_rem(sources.len());
        sources.rotate_left(first.unwrap_or_default());
        sources
    }

    /// One address. Where the ports of one source address are used up, the next one is tried at once.
    async fn attempt(&self, address: SocketAddr) -> Result<Socket, DialError> {
        if let Net::Given(outside) = &self.net {
            let connected = outside.connect(address).await;
            return connected.map(Socket::Given).map_err(|error| DialError::connect(address, error));
        }
        let sources = self.sources_for(&address);
        if sources.is_empty() {
            return self.connect_from(None, address).await;
        }
        let mut last = DialError::NoPorts(address);
        for source in sources {
            match self.connect_from(Some(source), address).await {
                Err(error @ (DialError::NoPorts(_) | DialError::Source { .. })) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    async fn connect_from(&self, source: Option<IpAddr>, address: SocketAddr) -> Result<Socket, DialError> {
        let failed = |error| DialError::connect(address, error);
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        // A loser of the race that connects at the last moment, and whatever else is just dropped, leaves no TIME_WAIT.
        let tuned = socket.set_zero_linger().and_then(|()| tune(SockRef::from(&socket)));
        tuned.and_then(|()| give_up_after(SockRef::from(&socket), USER_TIMEOUT)).map_err(failed)?;
        if let Some(ports) = &self.backend.source_port_range {
            // That the kernel can do it was seen at the start.
            keep_to(SockRef::from(&socket), ports).map_err(failed)?;
        }
        if let Some(ip) = source {
            // The address only: the port is chosen by connect(2), where one local port serves many remote addresses. A
            // bind that chose it would take it for all of them.
            let open = leave_port_open(SockRef::from(&socket));
            open.and_then(|()| socket.bind(SocketAddr::new(ip, 0))).map_err(|error| match no_port_to_bind(&error) {
                true => DialError::NoPorts(address),
                false => DialError::Source { source_address: ip, source: error },
            })?;
        }
        socket.connect(address).await.map(Socket::Tcp).map_err(failed)
    }
}

/// The addresses in the resolver's order (RFC 6724); at least one. A literal address is not looked up.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if let Ok(ip) = literal {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let failed = |source| DialError::Resolve { host: host.to_owned(), source };
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(failed)?.collect();
    if addresses.is_empty() { Err(failed(io::ErrorKind::NotFound.into())) } else { Ok(addresses) }
}

/// The families by turns, beginning with that of the first address (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    itertools::interleave(preferred, other).collect()
}

/// Happy Eyeballs (RFC 8305 section 5): the next attempt begins when one before has failed, or after 250 ms; the
/// first to succeed wins, and the others are dropped. When all have failed: the most telling error. `addresses` must
/// not be empty.
async fn race<T, A>(addresses: Vec<SocketAddr>, attempt: impl Fn(SocketAddr) -> A) -> Result<T, DialError>
where
    A: Future<Output = Result<T, DialError>>,
{
    let mut addresses = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut worst: Option<DialError> = None;
    loop {
        running.extend(addresses.next().map(&attempt));
        let patience = if addresses.len() > 0 { ATTEMPT_DELAY } else { Duration::MAX };
        match timeout(patience, running.next()).await {
            Ok(Some(Ok(winner))) => return Ok(winner),
            Ok(Some(Err(error))) if worst.as_ref().is_none_or(|worst| error.rank() > worst.rank()) => {
                worst = Some(error);
            }
            Ok(Some(Err(_))) | Err(_) => {}
            Ok(None) => return Err(worst.expect("an address was tried, and all that were have failed")),
        }
    }
}

#[cfg(test)]
mod tests;
