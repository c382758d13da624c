//! A small IMAP client: commands out, whole responses in (literals included), every wait bounded.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The longest a test waits for one response.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    /// The greeting, as it came.
    pub(crate) greeting: Vec<u8>,
    next_tag: u32,
}

/// What one command brought.
#[derive(Debug)]
pub(crate) struct Reply {
    /// All untagged responses, as they came.
    pub(crate) untagged: Vec<u8>,
    /// The tagged response without its tag, line end cut off.
    pub(crate) tagged: String,
}

impl Reply {
    /// The reply of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.tagged.starts_with("OK"), "{self}");
        self
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", String::from_utf8_lossy(&self.untagged), self.tagged)
    }
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::greeted(bounded(TcpStream::connect(address)).await?).await
    }

    /// Connects from a local address of the test's choice, which must be an IPv4 one.
    pub(crate) async fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        Self::greeted(bounded(socket.connect(address)).await?).await
    }

    async fn greeted(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut client = Self { stream: BufReader::new(stream), greeting: Vec::new(), next_tag: 0 };
        client.greeting = client.response().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(client)
    }

    /// Connects and logs in.
    pub(crate) async fn login(address: SocketAddr, user: &str, password: &str) -> io::Result<Self> {
        let mut client = Self::connect(address).await?;
        let reply = client.command(&format!("LOGIN {user} {password}")).await?;
        if reply.tagged.starts_with("OK") { Ok(client) } else { Err(io::Error::other(reply.to_string())) }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        bounded(self.stream.get_mut().write_all(bytes)).await
    }

    /// The next response with its literals and line end; `None` when the server has closed.
    pub(crate) async fn response(&mut self) -> io::Result<Option<Vec<u8>>> {
        bounded(async {
            let mut response = Vec::new();
            loop {
                let start = response.len();
                if self.stream.read_until(b'\n', &mut response).await? == 0 {
                    return if response.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
                let Some(length) = announced_literal(&response, start) else { return Ok(Some(response)) };
                let text = response.len();
                response.resize(text + length, 0);
                self.stream.read_exact(&mut response[text..]).await?;
            }
        })
        .await
    }

    /// Whether something comes within `quiet`; it is left to be read. The end is an error.
    pub(crate) async fn has_more(&mut self, quiet: Duration) -> io::Result<bool> {
        match timeout(quiet, self.stream.fill_buf()).await {
            Ok(Ok([])) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(result) => result.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    /// Sends a command under a tag of its own and reads up to its tagged response.
    pub(crate) async fn command(&mut self, command: &str) -> io::Result<Reply> {
        self.command_bytes(command.as_bytes()).await
    }

    /// As [`Client::command`], for a command with non-synchronising literals.
    pub(crate) async fn command_bytes(&mut self, command: &[u8]) -> io::Result<Reply> {
        self.next_tag += 1;
        let tag = format!("t{} ", self.next_tag);
        self.send(&[tag.as_bytes(), command, b"\r\n"].concat()).await?;
        let mut untagged = Vec::new();
        loop {
            let response = self.response().await?.ok_or_else(|| {
                let told = String::from_utf8_lossy(&untagged);
                io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed before the tagged reply: {told}"))
            })?;
            if let Some(rest) = response.strip_prefix(tag.as_bytes()) {
                return Ok(Reply { untagged, tagged: String::from_utf8_lossy(rest).trim_end().to_owned() });
            }
            untagged.extend(response);
        }
    }

    /// APPENDs a message; needs LITERAL+.
    pub(crate) async fn append(&mut self, mailbox: &str, options: &str, message: &str) -> io::Result<Reply> {
        self.command(&format!("APPEND {mailbox} {options}{{{}+}}\r\n{message}", message.len())).await
    }

    /// LOGOUT, and the rest up to the server's end of the connection.
    pub(crate) async fn logout(mut self) -> io::Result<()> {
        self.command("LOGOUT").await?;
        while self.response().await?.is_some() {}
        Ok(())
    }
}

/// The octets that follow the line of `response` that begins at `start`, if that line announces a literal. The
/// text of a status response or a continuation never does, whatever it ends in.
fn announced_literal(response: &[u8], start: usize) -> Option<usize> {
    const STATUS: [&[u8]; 5] = [b"* OK", b"* NO", b"* BAD", b"* BYE", b"* PREAUTH"];
    if !response.starts_with(b"* ") || STATUS.iter().any(|status| response.starts_with(status)) {
        return None;
    }
    let line = response[start..].strip_suffix(b"}\r\n")?;
    let digits = &line[line.iter().rposition(|&byte| byte == b'{')? + 1..];
    std::str::from_utf8(digits).ok()?.parse().ok()
}

async fn bounded<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
