//! The HTTP side, for operators and their tools: `/metrics`, `/healthz`, `/readyz`, and a page that links to them.
//!
//! It has an address of its own and cannot slow the mail service: the number, the age and the buffers of its connections
//! are bounded, and it reads atomics, never what a session waits for. It goes on answering while imapool drains.

mod routes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::routes::Routes;
use crate::metrics::Metrics;

/// Largest request head, in octets. A larger one is answered by 431.
const REQUEST_HEAD: usize = 16 * 1024;

/// Before accepting is tried again after the system refused it, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is in use, not of this host, or not allowed: change `admin.address`, or what else listens there.
    #[error("cannot listen on the admin address {address}: {source}")]
    Bind {
        /// The address from the configuration.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether new client sessions can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// They can.
    Ready,
    /// imapool is stopping.
    Draining,
    /// No backend can be reached, and why: shown to whoever can reach the admin address, so without secrets.
    NoBackend(String),
}

/// What the admin server shows.
#[derive(Clone)]
pub struct AdminState {
    /// The numbers of this process.
    pub metrics: Arc<Metrics>,
    /// Asked for every `/readyz`, on an async task: it must not block.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
}

/// What one admin server may use.
#[derive(Debug, Clone)]
pub struct AdminLimits {
    /// Connections at a time; further ones are closed at once. Default 100.
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
    listener: TcpListener,
    address: SocketAddr,
    limits: AdminLimits,
}

impl AdminServer {
    /// Binds the address (port 0: any free one) without answering yet.
    ///
    /// # Errors
    /// [`AdminError::Bind`], with the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let refused = |source| AdminError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address, limits: AdminLimits::default() })
    }

    /// Replaces the default limits.
    pub fn with_limits(mut self, limits: AdminLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The address that is bound, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is cancelled, and then, for at most [`AdminLimits::grace`], what is under way.
    ///
    /// To keep answering while imapool drains, cancel `shutdown` after the drain.
    pub async fn serve(self, state: AdminState, shutdown: CancellationToken) {
        let routes = Arc::new(Routes::new(state));
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let tasks = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                stream = accept(&self.listener) => stream,
            };
            // Without a free slot the stream is dropped here, which closes it.
            if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                let connection = serve_connection(stream, Arc::clone(&routes), self.limits.clone(), shutdown.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
        }
        drop(self.listener);
        tasks.close();
        // Each task has seen the same token and keeps within the grace.
        tasks.wait().await;
    }
}

/// The next connection, however long the system refuses one.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "the admin address cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, routes: Arc<Routes>, limits: AdminLimits, shutdown: CancellationToken) {
    let service = service_fn(move |request| {
        let routes = Arc::clone(&routes);
        async move { routes.respond(&request).await }
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
        () = shutdown.cancelled() => {}
        () = sleep(limits.connection_lifetime) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Past the grace the peer is not reading: dropping the connection closes it.
    let _ = timeout(limits.grace, connection).await;
}
