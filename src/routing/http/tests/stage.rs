//! A service that follows a script, over a network in memory: so that time may stand still.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};
use tokio::time::sleep;

use super::super::{Lookup, Question, Settings};
use crate::net::{Connecting, Connection, Net, Outside};
use crate::stream::Peer;

/// What the service does when it has read a request.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Say(Vec<u8>),
    Wait(Duration),
    /// Says this for ever.
    Endless(&'static [u8]),
    Close,
    /// Nothing, until the other side is gone.
    Hang,
}

type Script = Box<dyn FnMut(&str) -> Vec<Act> + Send>;

#[derive(Default)]
struct Seen {
    script: Option<Script>,
    is_down: bool,
    requests: Vec<String>,
    dials: usize,
    open: usize,
    most_open: usize,
}

/// The service, seen from outside.
#[derive(Clone, Default)]
pub(super) struct Stage(Arc<Mutex<Seen>>);

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stage")
    }
}

impl Stage {
    /// A lookup at a service that does this for each request.
    pub(super) fn new(
        script: impl FnMut(&str) -> Vec<Act> + Send + 'static,
        change: impl FnOnce(&mut Settings),
    ) -> (Self, Arc<Lookup>) {
        let stage = Self::default();
        stage.0.lock().script = Some(Box::new(script));
        let mut settings = settings();
        change(&mut settings);
        let lookup = Lookup::new(settings, Net::Given(Arc::new(stage.clone()))).unwrap();
        (stage, lookup)
    }

    /// A lookup at a service that does one of these after the other, and then no more than hang.
    pub(super) fn acts(acts: impl IntoIterator<Item = Vec<Act>>) -> (Self, Arc<Lookup>) {
        let mut acts: VecDeque<_> = acts.into_iter().collect();
        Self::new(move |_| acts.pop_front().unwrap_or_else(|| vec![Act::Hang]), |_| {})
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.0.lock().requests.clone()
    }

    pub(super) fn asked(&self) -> usize {
        self.0.lock().requests.len()
    }

    /// How often it was connected to.
    pub(super) fn dials(&self) -> usize {
        self.0.lock().dials
    }

    /// Connections that are open, and how many were at once.
    pub(super) fn open(&self) -> (usize, usize) {
        let seen = self.0.lock();
        (seen.open, seen.most_open)
    }

    pub(super) fn set_down(&self, is_down: bool) {
        self.0.lock().is_down = is_down;
    }

    async fn serve(self, mut stream: DuplexStream) {
        // Whoever is gone is no fault of the service.
        let _ = self.converse(&mut stream).await;
        self.0.lock().open -= 1;
    }

    async fn converse(&self, stream: &mut DuplexStream) -> io::Result<()> {
        loop {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            let request: String = request.iter().map(|&octet| char::from(octet)).collect();
            let acts = {
                let mut seen = self.0.lock();
                if seen.is_down {
                    return Ok(());
                }
                let acts = seen.script.as_mut().map(|script| script(&request));
                seen.requests.push(request);
                acts.unwrap_or_default()
            };
            for act in acts {
                match act {
                    Act::Say(octets) => stream.write_all(&octets).await?,
                    Act::Wait(time) => sleep(time).await,
                    Act::Endless(octets) => loop {
                        stream.write_all(octets).await?;
                    },
                    Act::Close => return Ok(()),
                    Act::Hang => while stream.read(&mut [0; 1024]).await? > 0 {},
                }
            }
        }
    }
}

impl Outside for Stage {
    fn connect(&self, _: SocketAddr) -> Connecting {
        let mut seen = self.0.lock();
        seen.dials += 1;
        if seen.is_down {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        seen.open += 1;
        seen.most_open = seen.most_open.max(seen.open);
        let (ours, theirs) = duplex(16 * 1024);
        tokio::spawn(self.clone().serve(theirs));
        Box::pin(async { Ok(Box::new(End(ours)) as Box<dyn Connection>) })
    }

    fn poll_accept(&self, _: SocketAddr, _: &mut Context<'_>) -> Poll<(Box<dyn Connection>, SocketAddr)> {
        Poll::Pending
    }

    fn chance(&self) -> f64 {
        1.0
    }
}

#[derive(Debug)]
struct End(DuplexStream);

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
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

impl Connection for End {
    fn local_address(&self) -> SocketAddr {
        ([192, 0, 2, 1], 1).into()
    }

    fn peer_address(&self) -> SocketAddr {
        ([192, 0, 2, 2], 80).into()
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

pub(super) fn settings() -> Settings {
    Settings {
        url: "http://192.0.2.2/auth?key=k3y".to_owned(),
        timeout: Duration::from_secs(5),
        ttl: Duration::from_secs(60),
        negative_ttl: Duration::from_secs(10),
        stale: Duration::from_secs(600),
        headers: Vec::new(),
        send_password: false,
    }
}

pub(super) fn question(user: &str) -> Question {
    Question {
        user: user.as_bytes().to_vec(),
        secret: None,
        mechanism: "plain",
        client: Some([203, 0, 113, 7].into()),
        server: None,
        tls: None,
        server_name: None,
        attempt: 1,
    }
}

/// A response with these fields and no body.
pub(super) fn says(fields: &str) -> Vec<Act> {
    vec![Act::Say(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", lines(fields)).into_bytes())]
}

/// Each line with its end.
pub(super) fn lines(fields: &str) -> String {
    fields.split('\n').map(|line| format!("{line}\r\n")).collect()
}

pub(super) const OK: &str = "Auth-Status: OK\nAuth-Server: 192.0.2.9";
