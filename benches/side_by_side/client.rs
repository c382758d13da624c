//! A small IMAP client: one write for each command, then reads until its tagged reply. What it costs is counted
//! against no peer, but it must be little, or it would be what is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use memchr::{memchr, memmem, memrchr};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::tls;

/// Every account's password.
pub(crate) const PASSWORD: &str = "secret";
/// Messages in each mailbox, all of which a session asks for.
pub(crate) const MESSAGES: usize = 10;

/// A reply may take this long; a peer that hangs must not hang the bench.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the server may take to close after LOGOUT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The name of an account.
pub(crate) fn account(number: usize) -> String {
    format!("user{number}")
}

/// What one worker reuses for all its sessions.
pub(crate) struct Buffers {
    out: Vec<u8>,
    input: Vec<u8>,
    discard: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { out: Vec::with_capacity(256), input: vec![0; 64 * 1024], discard: Vec::new() }
    }
}

/// Where a client connects to.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// TLS from the first octet.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Door {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(octets),
            Self::Tls(stream) => match stream.read(octets)? {
                // TLS has ended, TCP may have not.
                0 => stream.sock.read(octets),
                n => Ok(n),
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(octets),
            Self::Tls(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// One connection.
pub(crate) struct Client {
    stream: Stream,
    tag: u32,
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) fn connect(door: &Door, buffers: &mut Buffers) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&door.address, REPLY_TIMEOUT).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        let stream = match &door.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let tls = ClientConnection::new(Arc::clone(config), tls::NAME.try_into()?)?;
                Stream::Tls(Box::new(StreamOwned::new(tls, stream)))
            }
        };
        let mut client = Self { stream, tag: 0 };
        let length = client.read_until(buffers, 0, |input| input.ends_with(b"\r\n")).context("greeting")?;
        ensure!(buffers.input[..length].starts_with(b"* OK"), "greeting: {}", shown(&buffers.input[..length]));
        Ok(client)
    }

    /// Whether its TLS goes on from an earlier session's ticket.
    fn resumed(&self) -> bool {
        matches!(&self.stream, Stream::Tls(stream) if stream.conn.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Sends a command without literals and returns all of its reply, whose last line is the tagged OK.
    pub(crate) fn command<'a>(&mut self, buffers: &'a mut Buffers, command: &str) -> Result<&'a [u8]> {
        self.send(buffers, command)?;
        let length = self.read_tagged(buffers, 0, command)?;
        Ok(&buffers.input[..length])
    }

    /// LOGIN; returns the time from sending it to its OK.
    pub(crate) fn login(&mut self, buffers: &mut Buffers, account: &str) -> Result<Duration> {
        let begun = Instant::now();
        self.command(buffers, &format!("LOGIN {account} {PASSWORD}"))?;
        Ok(begun.elapsed())
    }

    /// Begins IDLE.
    pub(crate) fn idle(&mut self, buffers: &mut Buffers) -> Result<()> {
        self.send(buffers, "IDLE")?;
        self.read_until(buffers, 0, |input| last_line(input).starts_with(b"+")).context("IDLE").map(drop)
    }

    /// LOGOUT, and waits for the server to close first, so that TIME_WAIT is left at its port and not at ours.
    pub(crate) fn logout(mut self, buffers: &mut Buffers) -> Result<()> {
        self.command(buffers, "LOGOUT")?;
        self.stream.tcp().set_read_timeout(Some(CLOSE_TIMEOUT))?;
        match self.stream.read(&mut buffers.input) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => bail!("data after LOGOUT"),
            // It leaves closing to us: a reset, which leaves no TIME_WAIT behind.
            Err(_) => self.reset(),
        }
    }

    /// Closes by a reset, so that thousands of sessions that end at once leave no port in TIME_WAIT.
    pub(crate) fn reset(self) -> Result<()> {
        Ok(socket2::SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO))?)
    }

    /// Fetches the first message, which is one literal of `size` octets, and lets the kernel throw it away unread.
    pub(crate) fn fetch_bulk(&mut self, buffers: &mut Buffers, size: usize) -> Result<()> {
        self.send(buffers, "FETCH 1 BODY.PEEK[]")?;
        let mut filled = 0;
        let line = loop {
            // A few octets at a time: what is not read here need not be copied.
            let n = self.stream.read(&mut buffers.input[filled..filled + 128])?;
            ensure!(n > 0, "closed in a FETCH");
            filled += n;
            if let Some(end) = memchr(b'\n', &buffers.input[..filled]) {
                break end + 1;
            }
            ensure!(filled < 1024, "no literal in {}", shown(&buffers.input[..filled]));
        };
        let wanted = format!("{{{size}}}\r\n");
        ensure!(buffers.input[..line].ends_with(wanted.as_bytes()), "no literal: {}", shown(&buffers.input[..line]));
        self.discard(buffers, size - (filled - line))?;
        self.read_tagged(buffers, 0, "FETCH")?;
        Ok(())
    }

    /// MSG_TRUNC on a TCP socket drops octets without copying them (tcp(7)).
    fn discard(&self, buffers: &mut Buffers, mut rest: usize) -> Result<()> {
        buffers.discard.resize(1024 * 1024, 0);
        while rest > 0 {
            let most = rest.min(buffers.discard.len());
            let n = recv(self.stream.tcp().as_raw_fd(), &mut buffers.discard[..most], MsgFlags::MSG_TRUNC)?;
            ensure!(n > 0, "closed in a literal");
            rest -= n;
        }
        Ok(())
    }

    fn send(&mut self, buffers: &mut Buffers, command: &str) -> io::Result<()> {
        self.tag += 1;
        buffers.out.clear();
        write!(buffers.out, "t{} {command}\r\n", self.tag)?;
        self.stream.write_all(&buffers.out)
    }

    fn read_tagged(&mut self, buffers: &mut Buffers, filled: usize, command: &str) -> Result<usize> {
        let tag = format!("t{} ", self.tag);
        let length = self.read_until(buffers, filled, |input| last_line(input).starts_with(tag.as_bytes()));
        let length = length.with_context(|| format!("reply to {command}"))?;
        let line = last_line(&buffers.input[..length]);
        ensure!(line[tag.len()..].starts_with(b"OK"), "{command}: {}", shown(line));
        Ok(length)
    }

    fn read_until(
        &mut self,
        buffers: &mut Buffers,
        mut filled: usize,
        complete: impl Fn(&[u8]) -> bool,
    ) -> Result<usize> {
        while !complete(&buffers.input[..filled]) {
            ensure!(filled < buffers.input.len(), "a reply of more than {filled} octets");
            let n = self.stream.read(&mut buffers.input[filled..])?;
            ensure!(n > 0, "connection closed");
            filled += n;
        }
        Ok(filled)
    }
}

/// What is noted of a short session.
pub(crate) struct Session {
    /// The time from sending LOGIN to its OK.
    pub(crate) login: Duration,
    /// Whether its TLS went on from an earlier session's ticket.
    pub(crate) resumed: bool,
}

/// A whole short session: LOGIN, SELECT, the headers of ten messages, LOGOUT.
pub(crate) fn short_session(door: &Door, account: &str, buffers: &mut Buffers) -> Result<Session> {
    let mut client = Client::connect(door, buffers)?;
    let resumed = client.resumed();
    let login = client.login(buffers, account)?;
    client.command(buffers, "SELECT INBOX")?;
    let headers = client.command(buffers, "FETCH 1:10 BODY.PEEK[HEADER.FIELDS (FROM SUBJECT DATE)]")?;
    // A peer is not to be fast by answering less.
    let count = memmem::find_iter(headers, b" FETCH (").count();
    ensure!(count == MESSAGES, "{count} messages instead of {MESSAGES}");
    client.logout(buffers)?;
    Ok(Session { login, resumed })
}

/// The last line, with its CRLF; empty while the input ends within a line.
fn last_line(input: &[u8]) -> &[u8] {
    let Some(body) = input.strip_suffix(b"\r\n") else { return &[] };
    let start = memrchr(b'\n', body).map_or(0, |at| at + 1);
    &input[start..]
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().to_owned()
}
