//! The HTTP side, for operators and their tools: `/metrics`, `/healthz`, `/readyz`, and a page that links to them.
//!
//! It has an address of its own and cannot slow the mail service: the number, the age and the buffers of its
//! connections are bounded, and it reads atomics, never what a session waits for. It goes on answering while imapool
//! drains.

mod access;
mod actions;
mod api;
mod meant;
mod page;
mod recent;
mod routes;
mod sampler;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::access::SHORTEST_TOKEN;
pub use self::access::{TOKEN_VARIABLE, Token};
use self::actions::Origin;
pub use self::recent::{Recent, Remember, recent};
use self::routes::Routes;
use crate::config::{Change, Config, ListenAddr, Listener, Live};
use crate::listener::{BindError, BoundListener, Inherited, ListenerContext};
use crate::metrics::Metrics;
use crate::net::Net;
use crate::pool::Pools;
use crate::ports::Budget;
use crate::routing::Router;
use crate::session::crowd::{Crowd, Place};
use crate::session::registry::Registry;
use crate::stream::Stream;

/// Largest request head, in octets. A larger one is answered by 431.
const REQUEST_HEAD: usize = 16 * 1024;

/// Carries out `POST /api/{path}` for this process itself, where there is no connection that asks for it. Gives what
/// the action says it has done.
///
/// # Errors
/// There is no such action or nothing of that name, or why it is not done.
pub async fn act(subject: &dyn Subject, path: &str) -> Result<serde_json::Value, String> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let done = actions::act(subject, path, query, Origin(None)).await;
    done.ok_or("no such action")?.map_err(|Refusal(_, why)| why)
}

/// Why something is not done: a status of HTTP, and the words.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub u16, pub String);

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is in use, not of this host, or not allowed: change `admin.address`, or what else listens there.
    #[error("the admin address: {0}")]
    Bind(#[from] BindError),
    /// The token cannot be read.
    #[error("the admin token cannot be read from {}: {source}", path.display())]
    TokenFile {
        /// `admin.token_file`
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token is too short, or with spaces or control characters in it.
    #[error(
        "the admin token in {place} must have at least {SHORTEST_TOKEN} printable ASCII characters and no space: make one \
         by `openssl rand -hex 32`"
    )]
    UnfitToken {
        /// File or variable.
        place: String,
    },
    /// Other hosts can reach the address, and nothing says who of them may do what.
    #[error(
        "admin.address {address} can be reached from other hosts, and there is no token: set admin.token_file or the \
         environment variable IMAPOOL_ADMIN_TOKEN, or write a loopback address"
    )]
    NoToken {
        /// The address from the configuration.
        address: ListenAddr,
    },
}

impl AdminError {
    /// The key of `[admin]` that is at fault.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Bind(_) | Self::NoToken { .. } => "address",
            Self::TokenFile { .. } | Self::UnfitToken { .. } => "token_file",
        }
    }
}

/// Whether new client sessions can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// They can.
    Ready,
    /// imapool is stopping.
    Draining,
    /// An administrator has taken the only backend out of service: its name, and the word for that.
    OutOfService(String, &'static str),
    /// No backend can be reached, and why: shown to whoever can reach the admin address, so without secrets.
    NoBackend(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Draining => f.write_str("draining"),
            Self::OutOfService(backend, service) => {
                write!(f, "backend {backend} is {service}; imapool ctl resume {backend}")
            }
            Self::NoBackend(reason) => write!(f, "no backend can be reached: {reason}"),
        }
    }
}

/// What is looked at, and acted upon.
pub trait Subject: Send + Sync {
    /// Its numbers.
    fn metrics(&self) -> Arc<Metrics>;
    /// Its client sessions.
    fn registry(&self) -> Arc<Registry>;
    /// Accounts and their upstream connections.
    fn pools(&self) -> Arc<Pools>;
    /// How many upstream connections there may be.
    fn budget(&self) -> Arc<Budget>;
    /// What it runs by.
    fn config(&self) -> Arc<Config>;
    /// Which backend each session goes to.
    fn router(&self) -> Arc<Router>;
    /// Reads its configuration anew: what has changed, or why nothing has.
    fn reload(&self) -> Reloading<'_>;
}

/// See [`Subject::reload`].
pub type Reloading<'s> = Pin<Box<dyn Future<Output = Result<Vec<Change>, Refusal>> + Send + 's>>;

/// What the admin server shows.
#[derive(Clone)]
pub struct AdminState {
    /// The numbers of this process.
    pub metrics: Arc<Metrics>,
    /// Asked for every `/readyz`, on an async task: it must not block.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// What actions need; `None`: there are no actions.
    pub token: Live<Option<Token>>,
    /// `admin.hosts`
    pub hosts: Live<Vec<String>>,
    /// What is looked at and acted upon; without it there are only the numbers.
    pub subject: Option<Arc<dyn Subject>>,
}

/// What one admin server may use.
#[derive(Debug, Clone)]
pub struct AdminLimits {
    /// Connections at a time. The oldest of those that have asked for nothing yet gives way to the next that comes;
    /// if there is none, the oldest. Default 100.
    pub connections: usize,
    /// From the end of one answer (or accept) to the end of the next request's head. Default 5 s.
    pub header_read_timeout: Duration,
    /// A connection of this age ends after the answer under way. Default 60 s.
    pub connection_lifetime: Duration,
    /// How long an answer under way may still take when its connection is to end. Default 2 s.
    pub grace: Duration,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self {
            connections: 100,
            header_read_timeout: Duration::from_secs(5),
            connection_lifetime: Duration::from_secs(60),
            grace: Duration::from_secs(2),
        }
    }
}

/// A bound admin address, before and while it is served.
#[derive(Debug)]
pub struct AdminServer {
    listener: BoundListener,
    limits: AdminLimits,
}

impl AdminServer {
    /// Binds the address (port 0: any free one) without answering yet; from the sockets that were inherited, if one is
    /// for it; with `reuse_port`, beside another imapool or in place of it.
    ///
    /// # Errors
    /// [`AdminError::Bind`], with the address.
    pub fn bind_or_adopt(
        address: &ListenAddr,
        reuse_port: bool,
        inherited: &mut Inherited,
    ) -> Result<Self, AdminError> {
        let listener = Listener { name: "admin".into(), reuse_port, ..Listener::new(address.clone()) };
        let listener = BoundListener::with_context(ListenerContext::new(&listener)?, inherited, &Net::System)?;
        Ok(Self { listener, limits: AdminLimits::default() })
    }

    /// Replaces the default limits.
    pub fn with_limits(mut self, limits: AdminLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The address that is bound, with its real port.
    pub fn address(&self) -> &ListenAddr {
        self.listener.local_address()
    }

    /// Answers until `shutdown` is cancelled, and then, for at most [`AdminLimits::grace`], what is under way.
    ///
    /// To keep answering while imapool drains, cancel `shutdown` after the drain.
    pub async fn serve(self, state: AdminState, shutdown: CancellationToken) {
        let routes = Arc::new(Routes::new(state, &shutdown));
        let crowd = Crowd::of_strangers(self.limits.connections);
        let tasks = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                (stream, _) = self.listener.accept() => stream,
            };
            if let (Some(place), _) = crowd.enter() {
                let (routes, limits) = (Arc::clone(&routes), self.limits.clone());
                tasks.spawn(serve_connection(stream, place, routes, limits, shutdown.clone()));
            }
        }
        drop(self.listener);
        tasks.close();
        // Each task has seen the same token and keeps within the grace.
        tasks.wait().await;
    }
}

async fn serve_connection(
    stream: Stream,
    place: Place,
    routes: Arc<Routes>,
    limits: AdminLimits,
    shutdown: CancellationToken,
) {
    let origin = Origin(stream.peer_address());
    let service = service_fn(|request| {
        let routes = Arc::clone(&routes);
        place.verifies(true);
        async move { routes.respond(&request, origin).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(REQUEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);

    tokio::select! {
        // An error is the peer's (a malformed or slow request, a reset), who has been told as far as that was possible.
        _ = connection.as_mut() => return,
        () = place.given_up() => return,
        () = shutdown.cancelled() => {}
        () = sleep(limits.connection_lifetime) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Past the grace the peer is not reading: dropping the connection closes it.
    let _ = timeout(limits.grace, connection).await;
}
