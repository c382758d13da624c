//! A client that speaks raw octets.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, Socket as Socket2};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::soon;

pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

pub(crate) struct Client {
    pub(crate) stream: Box<dyn Socket>,
    buffer: Vec<u8>,
    socket: Option<Socket2>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("connect", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let socket = SockRef::from(&stream).try_clone().unwrap();
        Self { socket: Some(socket), ..Self::over(stream) }
    }

    /// Vanishes: what half-closes and still reads is another matter.
    pub(crate) fn reset(self) {
        self.socket.expect("a TCP socket").set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub(crate) fn over(stream: impl Socket + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), socket: None }
    }

    pub(crate) fn into_stream(self) -> Box<dyn Socket> {
        self.stream
    }

    pub(crate) async fn send(&mut self, octets: impl AsRef<[u8]>) {
        soon("send", self.stream.write_all(octets.as_ref())).await.unwrap();
        soon("send", self.stream.flush()).await.unwrap();
    }

    /// As [`Client::send`], to a proxy that may have closed already.
    pub(crate) async fn try_send(&mut self, octets: impl AsRef<[u8]>) {
        let _closed = soon("send", self.stream.write_all(octets.as_ref())).await;
    }

    /// One line without its end; `None` at the end of the connection.
    pub(crate) async fn try_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                let line = String::from_utf8_lossy(&line);
                let ended = line.strip_suffix("\r\n");
                return Some(ended.unwrap_or_else(|| panic!("a line without CR: {line:?}")).to_owned());
            }
            if self.read().await == 0 {
                assert!(self.buffer.is_empty(), "half a line: {:?}", String::from_utf8_lossy(&self.buffer));
                return None;
            }
        }
    }

    pub(crate) async fn line(&mut self) -> String {
        self.try_line().await.expect("a line, not the end of the connection")
    }

    async fn read(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        // A reset is an end, too.
        let read = soon("a line from the proxy", self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..read]);
        read
    }

    /// So many octets as they are.
    pub(crate) async fn octets(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.read().await > 0, "ended after {} of {count} octets", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> String {
        while self.read().await > 0 {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// All lines up to one that `last` accepts, that one included.
    pub(crate) async fn until(&mut self, last: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.try_line().await;
            let line = line.unwrap_or_else(|| panic!("the connection ended after {lines:#?}"));
            lines.push(line);
            if last(&lines[lines.len() - 1]) {
                return lines;
            }
        }
    }

    /// Sends a line, and gives all lines up to its tagged reply.
    pub(crate) async fn command(&mut self, line: &str) -> Vec<String> {
        self.send(format!("{line}\r\n")).await;
        let tag = format!("{} ", line.split(' ').next().unwrap());
        self.until(|line| line.starts_with(&tag)).await
    }

    /// Runs a transcript. `C: ` sends a line (`C- `: without line end), in which `\r`, `\n`, `\0` stand for these
    /// octets; `S: ` is the line that must come next, `S~ ` one that must come, whatever stands before it; `…` at the
    /// end stands for any rest; `S.` is the end of the connection.
    pub(crate) async fn play(&mut self, script: &str) {
        for step in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            let (side, line) = step.split_at(2);
            let line = line.strip_prefix(' ').unwrap_or(line);
            match side {
                "C:" => self.send(format!("{}\r\n", unescape(line))).await,
                "C-" => self.send(unescape(line)).await,
                "S:" => {
                    let said = self.try_line().await;
                    assert!(said.as_deref().is_some_and(|said| matches(line, said)), "expected {line:?}, got {said:?}");
                }
                "S~" => drop(self.until(|said| matches(line, said)).await),
                "S." => assert_eq!(self.try_line().await, None),
                _ => panic!("no step of a transcript: {step:?}"),
            }
        }
    }
}

pub(crate) fn matches(pattern: &str, line: &str) -> bool {
    pattern.strip_suffix('…').map_or(pattern == line, |start| line.starts_with(start))
}

pub(crate) fn unescape(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0")
}
