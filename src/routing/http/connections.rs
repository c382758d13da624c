//! Connections to the service: a few, kept alive and used again, so that lookups use up no ports.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::{TcpSocket, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Question;
use super::fault::Fault;
use super::request::Service;
use crate::listener::tune;
use crate::net::Net;
use crate::stream::Socket;

/// Connections at once. Who finds none waits for one.
const MOST: usize = 64;
/// Of these, how many are kept when nobody needs them.
const MOST_IDLE: usize = 8;
/// Octets of a response's head.
const LONGEST_HEAD: usize = 64 * 1024;
/// Octets of a body that are read to use the connection again.
const LONGEST_BODY: usize = 64 * 1024;
/// How long a body may take to come. The answer is known by then, and waits for it.
const BODY_PATIENCE: Duration = Duration::from_millis(100);

/// The connections to one service.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) service: Service,
    timeout: Duration,
    pub(super) net: Net,
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// One of them. Ends when it is dropped, by a reset: that leaves no TIME_WAIT.
#[derive(Debug)]
struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    _task: AbortOnDropHandle<()>,
}

impl Connections {
    pub(super) fn new(service: Service, timeout: Duration, net: Net) -> Self {
        Self { service, timeout, net, places: Semaphore::new(MOST), idle: Mutex::default() }
    }

    /// What the service answers: the fields of a response that is a success.
    ///
    /// nginx looks at no status, so that services say what they like: 204 is common, since there is no body.
    pub(super) async fn ask(&self, question: &Question) -> Result<HeaderMap, Fault> {
        let deadline = Instant::now() + self.timeout;
        let asked = timeout_at(deadline, self.ask_by(self.service.request(question), deadline)).await;
        asked.unwrap_or(Err(Fault::Timeout(self.timeout)))
    }

    async fn ask_by(&self, request: Request<Empty<Bytes>>, deadline: Instant) -> Result<HeaderMap, Fault> {
        let _place = self.places.acquire().await.map_err(|_| Fault::Abandoned)?;
        if Instant::now() >= deadline {
            // Else all who waited in vain would dial at the same moment.
            return Err(Fault::Timeout(self.timeout));
        }
        let (mut connection, response) = self.response(request, deadline).await?;
        let (head, body) = response.into_parts();
        let patience = deadline.min(Instant::now() + BODY_PATIENCE);
        if is_short(&head.headers, &body) && timeout_at(patience, rest(&mut connection, body)).await == Ok(true) {
            self.keep(connection);
        }
        if head.status.is_success() { Ok(head.headers) } else { Err(Fault::Status(head.status.as_u16())) }
    }

    /// A connection that was used before may turn out to be closed by the service: then a new one is asked, once.
    async fn response(
        &self,
        request: Request<Empty<Bytes>>,
        deadline: Instant,
    ) -> Result<(Connection, Response<Incoming>), Fault> {
        if let Some(mut connection) = self.kept() {
            match connection.send(request.clone()).await {
                Err(Fault::Cut) => {}
                other => return other.map(|response| (connection, response)),
            }
        }
        let mut connection = self.dial(deadline).await?;
        let response = connection.send(request).await?;
        Ok((connection, response))
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        idle.retain(|connection| !connection.requests.is_closed());
        idle.pop()
    }

    /// While others need them, or whoever gets this one's place, more are kept than otherwise: one for each at most, so
    /// that there are never more than [`MOST`] in all.
    fn keep(&self, connection: Connection) {
        let needed = MOST - self.places.available_permits();
        let mut idle = self.idle.lock();
        idle.push(connection);
        idle.truncate(needed.max(MOST_IDLE));
    }

    /// Each address of the service in turn, with its share of the time.
    async fn dial(&self, deadline: Instant) -> Result<Connection, Fault> {
        let addresses = self.addresses().await?;
        let mut last = Fault::Cut;
        for (index, &address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let connected = timeout(share, self.connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(socket) => return Connection::new(socket).await,
                Err(reason) => last = Fault::Connect { address, reason: Arc::new(reason) },
            }
        }
        Err(last)
    }

    /// At least one. A literal address is not looked up.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Fault> {
        let Service { host, port, .. } = &self.service;
        let failed = |reason| Fault::Resolve { host: host.clone(), reason: Arc::new(reason) };
        let addresses: Vec<_> = lookup_host((host.as_str(), *port)).await.map_err(failed)?.collect();
        if addresses.is_empty() { Err(failed(io::ErrorKind::NotFound.into())) } else { Ok(addresses) }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        if let Net::Given(outside) = &self.net {
            return outside.connect(address).await.map(Socket::Given);
        }
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_zero_linger()?;
        tune(SockRef::from(&socket))?;
        socket.connect(address).await.map(Socket::Tcp)
    }
}

impl Connection {
    async fn new(socket: Socket) -> Result<Self, Fault> {
        let mut http = http1::Builder::new();
        http.title_case_headers(true).max_buf_size(LONGEST_HEAD);
        let (requests, connection) = http.handshake(TokioIo::new(socket)).await.map_err(|error| fault(&error))?;
        let task = tokio::spawn(async move {
            // What went wrong is told to whoever waits for the response.
            let _ = connection.await;
        });
        Ok(Self { requests, _task: AbortOnDropHandle::new(task) })
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Fault> {
        self.requests.send_request(request).await.map_err(|error| fault(&error))
    }
}

fn fault(error: &hyper::Error) -> Fault {
    if error.is_parse() { Fault::NoHttp } else { Fault::Cut }
}

/// Whether the body has an end other than that of the connection, and is not known to be long.
fn is_short(fields: &HeaderMap, body: &Incoming) -> bool {
    let has_end = body.is_end_stream() || fields.contains_key(CONTENT_LENGTH) || fields.contains_key(TRANSFER_ENCODING);
    has_end && body.size_hint().lower() <= LONGEST_BODY as u64
}

/// Reads a body to its end, unless it is too long. Whether the connection can be used again.
async fn rest(connection: &mut Connection, body: Incoming) -> bool {
    Limited::new(body, LONGEST_BODY).collect().await.is_ok() && connection.requests.ready().await.is_ok()
}
