//! Where client sessions come in: binding, accepting.

mod handshake;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use self::handshake::{Accepted, HandshakeError, prepare};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::warn;

use crate::config::{self, ListenAddr};
use crate::net::{Net, Outside};
use crate::platform::local;
use crate::platform::tcp::{self, DESCRIPTORS, PERMISSION};
use crate::stream::{self, Stream};
use crate::tls::{TlsAcceptorConfig, TlsConfigError};

/// What may wait to be accepted; the kernel cuts it down to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Without a word from the other side for so long, the kernel asks.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
/// Between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// After accepting failed for want of descriptors or memory: the first pause, doubled up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Why a listener cannot be set up.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("listener \"{listener}\": {address} is in use: stop the other server, or choose another address")]
    InUse {
        /// The listener's name.
        listener: String,
        /// Its address.
        address: ListenAddr,
    },
    /// Ports below 1024, or a directory that may not be written to.
    #[error("listener \"{listener}\": no permission to listen on {address}: {PERMISSION}")]
    Permission {
        /// The listener's name.
        listener: String,
        /// Its address.
        address: ListenAddr,
    },
    /// The address is none of this host's.
    #[error("listener \"{listener}\": this host has no address {address}")]
    NoSuchAddress {
        /// The listener's name.
        listener: String,
        /// Its address.
        address: ListenAddr,
    },
    /// The path of a Unix socket is taken by something else, which is not touched.
    #[error("listener \"{listener}\": {address} exists and is not a socket: remove it, or choose another path")]
    NotASocket {
        /// The listener's name.
        listener: String,
        /// Its address.
        address: ListenAddr,
    },
    /// Certificate or key.
    #[error("listener \"{listener}\": {source}")]
    Tls {
        /// The listener's name.
        listener: String,
        /// What is wrong with them.
        source: TlsConfigError,
    },
    /// Anything else.
    #[error("listener \"{listener}\": cannot listen on {address}: {source}")]
    Io {
        /// The listener's name.
        listener: String,
        /// Its address.
        address: ListenAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl BindError {
    /// Which listener cannot be set up.
    pub fn listener(&self) -> &str {
        match self {
            Self::InUse { listener, .. }
            | Self::Permission { listener, .. }
            | Self::NoSuchAddress { listener, .. }
            | Self::NotASocket { listener, .. }
            | Self::Tls { listener, .. }
            | Self::Io { listener, .. } => listener,
        }
    }

    fn new(listener: &config::Listener, source: io::Error) -> Self {
        let (name, address) = (listener.name.clone(), listener.address.clone());
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { listener: name, address },
            io::ErrorKind::PermissionDenied => Self::Permission { listener: name, address },
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress { listener: name, address },
            io::ErrorKind::AlreadyExists => Self::NotASocket { listener: name, address },
            _ => Self::Io { listener: name, address, source },
        }
    }
}

/// Who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// IP address and port.
    Tcp(SocketAddr),
    /// A process of this host, by a Unix socket.
    Unix,
}

impl ClientAddr {
    /// The IP address; `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }

    /// Whether the client is on this host: a loopback address or a Unix socket.
    pub fn is_loopback(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_loopback())
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What the sessions of a listener need of it.
#[derive(Debug)]
pub struct ListenerContext {
    /// Its configuration.
    pub config: config::Listener,
    /// The server side of TLS, present when `config.tls` is not none.
    pub tls: Option<TlsAcceptorConfig>,
}

impl ListenerContext {
    /// Loads certificates and keys. Blocks for the reading of these files.
    ///
    /// # Errors
    /// [`BindError::Tls`]
    pub fn new(config: &config::Listener) -> Result<Self, BindError> {
        Self::after(config, None)
    }

    /// As [`ListenerContext::new`], in place of another one ([`TlsAcceptorConfig::after`]).
    ///
    /// # Errors
    /// [`BindError::Tls`]
    pub fn after(config: &config::Listener, earlier: Option<&Self>) -> Result<Self, BindError> {
        let tls = TlsAcceptorConfig::after(config, earlier.and_then(|earlier| earlier.tls.as_ref()))
            .map_err(|source| BindError::Tls { listener: config.name.clone(), source })?;
        Ok(Self { config: config.clone(), tls })
    }

    /// Whether both are of the same configuration, and of the same certificates.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let same = match (&self.tls, &other.tls) {
            (Some(ours), Some(others)) => ours.is_like(others),
            (ours, others) => ours.is_none() && others.is_none(),
        };
        self.config == other.config && same
    }
}

/// Listening sockets that the process was started with: by systemd (socket activation), or by another launcher that
/// speaks its protocol.
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<local::Inherited>,
}

impl Inherited {
    /// Those that the environment variables LISTEN_FDS and LISTEN_PID tell of. Call it once, before anything is opened.
    #[must_use]
    pub fn from_environment() -> Self {
        let (tcp, unix) = local::inherited();
        Self { tcp, unix }
    }

    /// The addresses of those that nobody took.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter_map(|socket| socket.local_addr().ok()).map(|address| address.to_string());
        let unix = self.unix.iter().filter_map(local::path_of).map(|path| path.display().to_string());
        tcp.chain(unix).collect()
    }

    fn take(&mut self, address: &ListenAddr) -> io::Result<Option<Listening>> {
        match address {
            ListenAddr::Tcp(address) => {
                let Some(place) = self.tcp.iter().position(|socket| socket.local_addr().is_ok_and(|at| at == *address))
                else {
                    return Ok(None);
                };
                let socket = self.tcp.remove(place);
                tune(SockRef::from(&socket))?;
                socket.set_nonblocking(true)?;
                Ok(Some(Listening::Tcp(TcpListener::from_std(socket)?)))
            }
            ListenAddr::Unix(path) => {
                let ours = |socket: &local::Inherited| local::path_of(socket).is_some_and(|at| at == *path);
                let Some(place) = self.unix.iter().position(ours) else { return Ok(None) };
                Ok(Some(Listening::Unix(local::Listening::adopt(self.unix.remove(place))?)))
            }
        }
    }
}

/// A listener that accepts connections.
pub struct BoundListener {
    context: Arc<ListenerContext>,
    address: ListenAddr,
    socket: Listening,
}

enum Listening {
    Tcp(TcpListener),
    Unix(local::Listening),
    Given(Arc<dyn Outside>, SocketAddr),
}

impl BoundListener {
    /// Binds and listens; loads certificates and keys. Needs a tokio runtime. Blocks for the reading of these files.
    ///
    /// IPv6 addresses are for IPv6 only: `[::]:143` and `0.0.0.0:143` are two listeners. A Unix socket gets mode 0660;
    /// one left over from a process that is gone is replaced.
    ///
    /// # Errors
    /// Names listener and address and what to do.
    pub fn bind(config: &config::Listener) -> Result<Self, BindError> {
        Self::bind_or_adopt(config, &mut Inherited::default())
    }

    /// As [`BoundListener::bind`], but takes a socket of this address from those that were inherited, if there is one.
    ///
    /// # Errors
    /// As [`BoundListener::bind`].
    pub fn bind_or_adopt(config: &config::Listener, inherited: &mut Inherited) -> Result<Self, BindError> {
        Self::adopt_or_bind(ListenerContext::new(config)?, inherited)
    }

    fn adopt_or_bind(context: ListenerContext, inherited: &mut Inherited) -> Result<Self, BindError> {
        let context = Arc::new(context);
        let config = &context.config;
        if let Some(socket) = inherited.take(&config.address).map_err(|error| BindError::new(config, error))? {
            let address = config.address.clone();
            return Ok(Self { context, address, socket });
        }
        let (socket, address) = match &config.address {
            ListenAddr::Tcp(address) => listen_tcp(*address, config.reuse_port),
            ListenAddr::Unix(path) => local::Listening::bind(path, config.reuse_port, BACKLOG)
                .map(|socket| (Listening::Unix(socket), config.address.clone())),
        }
        .map_err(|error| BindError::new(config, error))?;
        Ok(Self { context, address, socket })
    }

    /// As [`BoundListener::bind_or_adopt`], over this net.
    ///
    /// # Errors
    /// As [`BoundListener::bind`].
    pub fn bind_over(config: &config::Listener, inherited: &mut Inherited, net: &Net) -> Result<Self, BindError> {
        Self::with_context(ListenerContext::new(config)?, inherited, net)
    }

    /// As [`BoundListener::bind_over`], for what its sessions will need.
    ///
    /// # Errors
    /// As [`BoundListener::bind`].
    pub fn with_context(context: ListenerContext, inherited: &mut Inherited, net: &Net) -> Result<Self, BindError> {
        let address = context.config.address.clone();
        match (net, &address) {
            (Net::Given(outside), ListenAddr::Tcp(tcp)) => {
                let socket = Listening::Given(Arc::clone(outside), *tcp);
                Ok(Self { context: Arc::new(context), address, socket })
            }
            _ => Self::adopt_or_bind(context, inherited),
        }
    }

    /// Where it listens; with the real port where the configuration says 0.
    pub fn local_address(&self) -> &ListenAddr {
        &self.address
    }

    /// For the sessions.
    pub fn context(&self) -> &Arc<ListenerContext> {
        &self.context
    }

    /// The next connection, with TCP_NODELAY and keepalive. Never fails: what concerns one connection (ECONNABORTED and
    /// network errors, see accept(2)) is passed over, and while descriptors or memory are short it pauses, saying so.
    /// Cancel safe.
    pub async fn accept(&self) -> (Stream, ClientAddr) {
        let mut pause = PAUSE.0;
        loop {
            let error = match self.accept_once().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            if concerns_one_connection(&error) {
                continue;
            }
            warn!(
                listener = %self.context.config.name,
                %error,
                pause = %humantime::format_duration(pause),
                "cannot accept connections; new clients wait. If it is for want of descriptors: {DESCRIPTORS}, \
                 or lower limits.sessions"
            );
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Has the kernel give connections that begin from now on to the process that takes over, if one listens here, too
    /// (`reuse_port`). Those that have begun still come here: close after a while. False: not on this socket or system.
    pub fn hand_over(&self) -> bool {
        match &self.socket {
            Listening::Tcp(listener) if self.context.config.reuse_port => tcp::hand_over(listener),
            _ => false,
        }
    }

    /// Stops listening; gives the connections that wait to be accepted.
    pub async fn close(self) -> Vec<(Stream, ClientAddr)> {
        let mut waiting = Vec::new();
        while let Some(Ok(accepted)) = std::future::poll_fn(|cx| {
            let accepting = std::pin::pin!(self.accept_once());
            std::task::Poll::Ready(match std::future::Future::poll(accepting, cx) {
                std::task::Poll::Ready(accepted) => Some(accepted),
                std::task::Poll::Pending => None,
            })
        })
        .await
        {
            waiting.push(accepted);
        }
        waiting
    }

    async fn accept_once(&self) -> io::Result<(Stream, ClientAddr)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                if !tcp::HANDED_DOWN {
                    // A failure means that the connection is gone.
                    let _ = tune(SockRef::from(&stream));
                }
                Ok((stream.into(), ClientAddr::Tcp(peer)))
            }
            Listening::Unix(listener) => Ok((listener.accept().await?.into(), ClientAddr::Unix)),
            Listening::Given(outside, address) => {
                let (given, peer) = std::future::poll_fn(|cx| outside.poll_accept(*address, cx)).await;
                Ok((Stream::Plain(stream::Socket::Given(given)), ClientAddr::Tcp(peer)))
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Self::Given(outside, address) = self {
            outside.stop_listening(*address);
        }
    }
}

impl fmt::Debug for BoundListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundListener")
            .field("name", &self.context.config.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn listen_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<(Listening, ListenAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    tcp::before_bind(&socket, reuse_port)?;
    tune(SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = ListenAddr::Tcp(listener.local_addr()?);
    Ok((Listening::Tcp(listener), address))
}

/// TCP_NODELAY, since replies are small and awaited, and keepalive, since hosts vanish.
pub(crate) fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))
}

/// Whether accept(2) reported the fate of one connection, which it has taken from the queue, so that the next may come.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}
