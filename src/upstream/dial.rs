//! Dialing a backend: its addresses, a race between them (RFC 8305), source addresses, TLS.

use std::collections::{HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, lookup_host};
use tokio::time::{Sleep, sleep, timeout};

use super::gate::Pass;
use crate::config::{self, TlsMode};
use crate::listener::tune;
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
    /// None of the addresses is of the family of a source address.
    #[error("{host} has no address of the same family as one of source_addresses: add one of the other family")]
    NoSource {
        /// The backend's host.
        host: String,
    },
    /// Nobody listens there.
    #[error("{address} refuses connections: is the IMAP server running, and the port right?")]
    Refused {
        /// The address that was tried.
        address: SocketAddr,
    },
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
    #[error("no free local port for {address}: add source_addresses, {WIDEN}, or lower pool.max_total")]
    NoPorts {
        /// The address that was tried.
        address: SocketAddr,
    },
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
    /// A bounded name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::NoSource { .. } | Self::Source { .. } => "source_address",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::NoPorts { .. } => "no_ports",
            Self::NoDescriptors => "no_descriptors",
            Self::Tls { source, .. } => source.label(),
            Self::Io { .. } => "io",
        }
    }

    /// Whether the fault lies with this host (ports, descriptors, source addresses) and says nothing about the backend,
    /// which a circuit breaker must not hold against it.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::NoPorts { .. } | Self::NoDescriptors | Self::Source { .. } | Self::NoSource { .. })
    }

    fn connect(address: SocketAddr, source: io::Error) -> Self {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
        match source.kind() {
            ConnectionRefused => Self::Refused { address },
            HostUnreachable | NetworkUnreachable | NetworkDown | TimedOut => Self::Unreachable { address, source },
            _ if no_ports(&source) => Self::NoPorts { address },
            _ if no_descriptors(&source) => Self::NoDescriptors,
            _ => Self::Io { address, source },
        }
    }

    /// Which of several failures to tell: the one that a person can do most about.
    fn rank(&self) -> u8 {
        match self {
            Self::NoDescriptors | Self::NoPorts { .. } | Self::Source { .. } => 3,
            Self::Refused { .. } => 2,
            Self::Io { .. } => 1,
            _ => 0,
        }
    }
}

/// Connects to one backend.
#[derive(Debug)]
pub struct Dialer {
    backend: config::Backend,
    sources: Sources,
    tls: Option<TlsConnectorConfig>,
    addresses: Mutex<HashSet<SocketAddr>>,
    net: Net,
}

impl Dialer {
    /// Loads the roots for TLS where it is on; resolves and connects nothing.
    ///
    /// # Errors
    /// When `ca_file` or `server_name` cannot be used.
    pub fn new(backend: &config::Backend) -> Result<Self, TlsConfigError> {
        Self::of(backend, Net::System)
    }

    /// As [`Dialer::new`], over another net than this host's.
    ///
    /// # Errors
    /// As [`Dialer::new`].
    pub fn of(backend: &config::Backend, net: Net) -> Result<Self, TlsConfigError> {
        let tls = match backend.tls {
            TlsMode::None => None,
            TlsMode::StartTls | TlsMode::Implicit => Some(TlsConnectorConfig::new(backend)?),
        };
        Ok(Self {
            backend: backend.clone(),
            sources: Sources::new(&backend.source_addresses),
            tls,
            addresses: Mutex::default(),
            net,
        })
    }

    /// What the backend is shown that asks for a certificate, to be renewed.
    pub fn certificate(&self) -> Option<&Arc<CertificateStore>> {
        self.tls.as_ref()?.certificate.as_ref()
    }

    /// Where its connections come from.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The backend's addresses, as they were last resolved.
    pub fn addresses(&self) -> HashSet<SocketAddr> {
        self.addresses.lock().clone()
    }

    /// A new connection, with TLS where it is implicit. Within `connect_timeout` over all addresses, and
    /// `login_timeout` for TLS.
    ///
    /// The connection is set to be reset when it is dropped, so that whatever goes wrong with it, this host is not left
    /// with a TIME_WAIT; [`Stream::close`] and [`Stream::wait_peer_close`] end it in an orderly way.
    ///
    /// # Errors
    /// Each says what to do about it.
    pub async fn connect(&self, pass: Pass) -> Result<Stream, DialError> {
        self.connect_for(pass, None, &[]).await
    }

    /// As [`Dialer::connect`], for the session of a client, if it is for one: `backend.send_proxy` tells the backend.
    /// The pass is used up: each attempt needs one of its own. `words` are said at once, ahead of TLS where there is
    /// any, and together with the header.
    ///
    /// # Errors
    /// Each says what to do about it.
    pub async fn connect_for(&self, _: Pass, client: Option<IpAddr>, words: &[u8]) -> Result<Stream, DialError> {
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
        let stream = match timeout(self.backend.connect_timeout, connect).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(DialError::Timeout {
                    host: self.backend.host.clone(),
                    limit: self.backend.connect_timeout,
                });
            }
        };
        if self.backend.tls == TlsMode::Implicit { self.start_tls(stream).await } else { Ok(stream) }
    }

    /// TLS on a connection, once the backend has answered STARTTLS with OK. The caller must throw away whatever it has
    /// read beyond that line (RFC 9051 section 6.2.1), and forget the capabilities.
    ///
    /// # Errors
    /// [`DialError::Tls`]; the connection is closed then.
    pub async fn start_tls(&self, stream: Stream) -> Result<Stream, DialError> {
        // Where the configuration says no TLS, none is needed; who asks for it all the same gets none.
        let Some(tls) = &self.tls else {
            return Err(DialError::Tls { host: self.backend.host.clone(), source: TlsError::NotConfigured });
        };
        let result = stream.client_handshake(tls, self.backend.login_timeout).await;
        result.map_err(|source| DialError::Tls { host: self.backend.host.clone(), source })
    }

    /// The address that it came to be connected to, and the socket.
    async fn connect_tcp(&self) -> Result<(SocketAddr, Socket), DialError> {
        let addresses = self.resolve().await?;
        {
            let mut known = self.addresses.lock();
            if addresses.len() != known.len() || !addresses.iter().all(|address| known.contains(address)) {
                *known = addresses.iter().copied().collect();
            }
        }
        let usable: Vec<_> = addresses.into_iter().filter(|address| self.sources.serve(address)).collect();
        let attempt = |address| async move { Ok((address, self.attempt(address).await?)) };
        match usable[..] {
            [] => Err(DialError::NoSource { host: self.backend.host.clone() }),
            // With nobody to race against, nobody keeps the time.
            [address] => attempt(address).await,
            _ => race(usable.into(), attempt).await,
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
        found.map(Vec::from)
    }

    /// One address. Where the ports of one source address are used up, the next one is tried at once.
    async fn attempt(&self, address: SocketAddr) -> Result<Socket, DialError> {
        if let Net::Given(outside) = &self.net {
            let connected = outside.connect(address).await;
            return connected.map(Socket::Given).map_err(|error| DialError::connect(address, error));
        }
        let sources = self.sources.in_turn(&address);
        if sources.is_empty() {
            return connect_from(None, self.backend.source_port_range.as_ref(), address).await;
        }
        let mut last = DialError::NoPorts { address };
        for source in sources {
            match connect_from(Some(source), self.backend.source_port_range.as_ref(), address).await {
                Err(error @ (DialError::NoPorts { .. } | DialError::Source { .. })) => last = error,
                other => return other,
            }
        }
        Err(last)
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

/// The source addresses by family, each taken in turn.
#[derive(Debug)]
struct Sources {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    next: AtomicUsize,
}

impl Sources {
    fn new(addresses: &[IpAddr]) -> Self {
        let (v4, v6) = addresses.iter().partition(|address| address.is_ipv4());
        Self { v4, v6, next: AtomicUsize::new(0) }
    }

    fn of_family(&self, address: &SocketAddr) -> &[IpAddr] {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    /// Whether `address` can be dialed at all.
    fn serve(&self, address: &SocketAddr) -> bool {
        (self.v4.is_empty() && self.v6.is_empty()) || !self.of_family(address).is_empty()
    }

    /// All of the family, beginning with another one each time; none when the kernel is to choose.
    fn in_turn(&self, address: &SocketAddr) -> Vec<IpAddr> {
        let mut sources = self.of_family(address).to_vec();
        if !sources.is_empty() {
            let first = self.next.fetch_add(1, Ordering::Relaxed) % sources.len();
            sources.rotate_left(first);
        }
        sources
    }
}

async fn connect_from(
    source: Option<IpAddr>,
    ports: Option<&RangeInclusive<u16>>,
    address: SocketAddr,
) -> Result<Socket, DialError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| DialError::connect(address, error))?;
    // A loser of the race that connects at the last moment, and whatever else is just dropped, leaves no TIME_WAIT.
    let tuned = socket.set_zero_linger().and_then(|()| tune(SockRef::from(&socket)));
    let tuned = tuned.and_then(|()| give_up_after(SockRef::from(&socket), USER_TIMEOUT));
    tuned.map_err(|error| DialError::connect(address, error))?;
    if let Some(ports) = ports {
        // That the kernel can do it was seen at the start.
        keep_to(SockRef::from(&socket), ports).map_err(|error| DialError::connect(address, error))?;
    }
    if let Some(ip) = source {
        bind(&socket, ip).map_err(|error| match no_port_to_bind(&error) {
            true => DialError::NoPorts { address },
            false => DialError::Source { source_address: ip, source: error },
        })?;
    }
    socket.connect(address).await.map(Socket::Tcp).map_err(|error| DialError::connect(address, error))
}

/// Binds the address only: the port is chosen by connect(2), where one local port serves many remote addresses. A
/// bind that chose it would take it for all of them.
fn bind(socket: &TcpSocket, source: IpAddr) -> io::Result<()> {
    leave_port_open(SockRef::from(socket))?;
    socket.bind(SocketAddr::new(source, 0))
}

/// The families by turns, beginning with that of the first address (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let count = addresses.len();
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut order = VecDeque::with_capacity(count);
    while order.len() < count {
        order.extend(preferred.next());
        order.extend(other.next());
    }
    order
}

/// Happy Eyeballs (RFC 8305 section 5): the next attempt begins when the one before has failed, or after 250 ms; the
/// first to succeed wins, and the others are dropped. When all have failed: the most telling error. `addresses` must
/// not be empty.
async fn race<T, A>(mut addresses: VecDeque<SocketAddr>, attempt: impl Fn(SocketAddr) -> A) -> Result<T, DialError>
where
    A: Future<Output = Result<T, DialError>>,
{
    let mut running: Vec<Pin<Box<A>>> = Vec::new();
    let mut worst: Option<DialError> = None;
    let mut delay: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            let due = !addresses.is_empty() && delay.as_mut().is_none_or(|delay| delay.as_mut().poll(cx).is_ready());
            if due && let Some(address) = addresses.pop_front() {
                running.push(Box::pin(attempt(address)));
                delay = Some(Box::pin(sleep(ATTEMPT_DELAY)));
            }
            let mut failed = false;
            let mut index = 0;
            while let Some(candidate) = running.get_mut(index) {
                match candidate.as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok(stream)),
                    Poll::Ready(Err(error)) => {
                        drop(running.swap_remove(index));
                        failed = true;
                        if worst.as_ref().is_none_or(|worst| error.rank() > worst.rank()) {
                            worst = Some(error);
                        }
                    }
                    Poll::Pending => index += 1,
                }
            }
            if running.is_empty() && addresses.is_empty() {
                return Poll::Ready(Err(worst.take().expect("an address was tried, and all that were have failed")));
            }
            if failed {
                delay = None;
            } else if !due {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests;
