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

/// A listener that cannot be set up.
#[derive(Debug, Error)]
#[error("listener \"{listener}\": {reason}")]
pub struct BindError {
    /// Its name.
    pub listener: String,
    /// Why.
    pub reason: BindProblem,
}

/// Why a listener cannot be set up.
#[derive(Debug, Error)]
pub enum BindProblem {
    /// Somebody listens there already.
    #[error("{0} is in use: stop the other server, or choose another address")]
    InUse(ListenAddr),
    /// Ports below 1024, or a directory that may not be written to.
    #[error("no permission to listen on {0}: {PERMISSION}")]
    Permission(ListenAddr),
    /// The address is none of this host's.
    #[error("this host has no address {0}")]
    NoSuchAddress(ListenAddr),
    /// The path of a Unix socket is taken by something else, which is not touched.
    #[error("{0} exists and is not a socket: remove it, or choose another path")]
    NotASocket(ListenAddr),
    /// Certificate or key.
    #[error(transparent)]
    Tls(TlsConfigError),
    /// Anything else that the system says.
    #[error("cannot listen on {0}: {1}")]
    Io(ListenAddr, io::Error),
}

impl BindError {
    fn new(listener: &config::Listener, source: io::Error) -> Self {
        let address = listener.address.clone();
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => BindProblem::InUse(address),
            io::ErrorKind::PermissionDenied => BindProblem::Permission(address),
            io::ErrorKind::AddrNotAvailable => BindProblem::NoSuchAddress(address),
            io::ErrorKind::AlreadyExists => BindProblem::NotASocket(address),
            _ => BindProblem::Io(address, source),
        };
        Self { listener: listener.name.clone(), reason }
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
    /// [`BindProblem::Tls`]
    pub fn new(config: &config::Listener) -> Result<Self, BindError> {
        Self::after(config, None)
    }

    /// As [`ListenerContext::new`], in place of another one ([`TlsAcceptorConfig::after`]).
    ///
    /// # Errors
    /// [`BindProblem::Tls`]
    pub fn after(config: &config::Listener, earlier: Option<&Self>) -> Result<Self, BindError> {
        let tls = TlsAcceptorConfig::after(config, earlier.and_then(|earlier| earlier.tls.as_ref()))
            .map_err(|error| BindError { listener: config.name.clone(), reason: BindProblem::Tls(error) })?;
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

    fn take(&mut self, wanted: &ListenAddr) -> io::Result<Option<Listening>> {
        match wanted {
            ListenAddr::Tcp(wanted) => {
                let is_wanted = |socket: &mut std::net::TcpListener| socket.local_addr().is_ok_and(|at| at == *wanted);
                self.tcp.extract_if(.., is_wanted).next().map(|socket| {
                    tune(SockRef::from(&socket))?;
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket).map(Listening::Tcp)
                })
            }
            ListenAddr::Unix(wanted) => {
                let is_wanted = |socket: &mut local::Inherited| local::path_of(socket).is_some_and(|at| at == *wanted);
                let found = self.unix.extract_if(.., is_wanted).next();
                found.map(|socket| local::Listening::adopt(socket).map(Listening::Unix))
            }
        }
        .transpose()
    }
}

/// A listener that accepts connections.
#[derive(Debug)]
pub struct BoundListener {
    context: Arc<ListenerContext>,
    address: ListenAddr,
    socket: Listening,
}

#[derive(Debug)]
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
        Self::with_context(ListenerContext::new(config)?, &mut Inherited::default(), &Net::System)
    }

    /// As [`BoundListener::bind`], for what its sessions will need, and over this net; takes a socket of this address
    /// from those that were inherited, if there is one.
    ///
    /// # Errors
    /// As [`BoundListener::bind`].
    pub fn with_context(context: ListenerContext, inherited: &mut Inherited, net: &Net) -> Result<Self, BindError> {
        let config = &context.config;
        let mut bind = || {
            let socket = match (net, &config.address) {
                (Net::Given(outside), ListenAddr::Tcp(address)) => Listening::Given(Arc::clone(outside), *address),
                (_, address) => match (inherited.take(address)?, address) {
                    (Some(socket), _) => socket,
                    (None, ListenAddr::Tcp(address)) => Listening::Tcp(listen_tcp(*address, config.reuse_port)?),
                    (None, ListenAddr::Unix(path)) => {
                        Listening::Unix(local::Listening::bind(path, config.reuse_port, BACKLOG)?)
                    }
                },
            };
            let address = match &socket {
                Listening::Tcp(tcp) => ListenAddr::Tcp(tcp.local_addr()?),
                Listening::Unix(_) | Listening::Given(..) => config.address.clone(),
            };
            Ok((socket, address))
        };
        let (socket, address) = bind().map_err(|error| BindError::new(config, error))?;
        Ok(Self { context: Arc::new(context), address, socket })
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
        // So that the runtime knows of all that have come.
        tokio::task::yield_now().await;
        loop {
            tokio::select! {
                biased;
                accepted = self.accept_once() => match accepted {
                    Ok(accepted) => waiting.push(accepted),
                    Err(_) => return waiting,
                },
                () = std::future::ready(()) => return waiting,
            }
        }
    }

    async fn accept_once(&self) -> io::Result<(Stream, ClientAddr)> {
        let (socket, peer) = match &self.socket {
            Listening::Tcp(listener) => {
                let (tcp, peer) = listener.accept().await?;
                if !tcp::HANDED_DOWN {
                    // A failure means that the connection is gone.
                    let _ = tune(SockRef::from(&tcp));
                }
                (stream::Socket::Tcp(tcp), ClientAddr::Tcp(peer))
            }
            Listening::Unix(listener) => (stream::Socket::Unix(listener.accept().await?), ClientAddr::Unix),
            Listening::Given(outside, address) => {
                let (given, peer) = std::future::poll_fn(|cx| outside.poll_accept(*address, cx)).await;
                (stream::Socket::Given(given), ClientAddr::Tcp(peer))
            }
        };
        Ok((Stream::Plain(socket), peer))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Self::Given(outside, address) = self {
            outside.stop_listening(*address);
        }
    }
}

fn listen_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    tcp::before_bind(&socket, reuse_port)?;
    tune(SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
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
