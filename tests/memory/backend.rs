//! An IMAP server whose messages exist only while they are sent: each octet follows from its place in the message.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Octets in the message that every FETCH gets, and which every APPEND is expected to carry.
pub(crate) const MESSAGE: u64 = 200 * 1000 * 1000;

/// A part of the message; what comes after it is the same again.
const PART: usize = 251 * 256;

/// The part.
fn part() -> Vec<u8> {
    (0..=250).cycle().take(PART).collect()
}

/// What was seen on all connections together.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicU64,
    /// Fetches begun.
    pub(crate) fetches: AtomicU64,
    /// Octets of messages that the network has taken.
    pub(crate) sent: AtomicU64,
    /// Octets of messages that came, all of them right.
    pub(crate) received: AtomicU64,
}

/// Accepts until it is aborted.
pub(crate) async fn serve(listener: TcpListener, seen: Arc<Seen>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let seen = Arc::clone(&seen);
        seen.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            // However it ends, the proxy sees the connection closed.
            let _ = speak(stream, &seen).await;
        });
    }
}

async fn speak(stream: TcpStream, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(16 * 1024, stream);
    stream.write_all(b"* OK [CAPABILITY IMAP4rev1 LITERAL+ UNSELECT] ready\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (tag, verb) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match verb {
            "CAPABILITY" => stream.write_all(b"* CAPABILITY IMAP4rev1 LITERAL+ UNSELECT\r\n").await?,
            "SELECT" => {
                let mailbox = "* FLAGS (\\Seen)\r\n* 1 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1] valid\r\n\
                               * OK [UIDNEXT 2] next\r\n";
                stream.write_all(mailbox.as_bytes()).await?;
            }
            "UID" => stream.write_all(b"* SEARCH 1\r\n").await?,
            "STATUS" => stream.write_all(b"* STATUS INBOX (UIDNEXT 2 UIDVALIDITY 1)\r\n").await?,
            "FETCH" if line.contains("BODY[]") => fetch(&mut stream, seen).await?,
            "FETCH" => stream.write_all(b"* 1 FETCH (UID 1 FLAGS ())\r\n").await?,
            "APPEND" => {
                stream.write_all(b"+ go ahead\r\n").await?;
                let received = receive(&mut stream, MESSAGE).await?;
                seen.received.fetch_add(received, Ordering::Relaxed);
                let mut end = [0; 2];
                stream.read_exact(&mut end).await?;
            }
            "LOGOUT" => {
                stream.write_all(format!("* BYE\r\n{tag} OK bye\r\n").as_bytes()).await?;
                return Ok(());
            }
            _ => {}
        }
        stream.write_all(format!("{tag} OK {verb} completed\r\n").as_bytes()).await?;
    }
}

async fn fetch(stream: &mut BufReader<TcpStream>, seen: &Seen) -> io::Result<()> {
    seen.fetches.fetch_add(1, Ordering::Relaxed);
    stream.write_all(format!("* 1 FETCH (BODY[] {{{MESSAGE}}}\r\n").as_bytes()).await?;
    static PARTS: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let part = PARTS.get_or_init(part);
    let mut at = 0;
    while at < MESSAGE {
        let start = usize::try_from(at).unwrap_or_default() % PART;
        let len = (PART - start).min(usize::try_from(MESSAGE - at).unwrap_or(PART));
        let written = stream.write(&part[start..start + len]).await?;
        seen.sent.fetch_add(written as u64, Ordering::Relaxed);
        at += written as u64;
    }
    stream.write_all(b")\r\n").await
}

/// Sends the message.
pub(crate) async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin)) -> io::Result<()> {
    let part = part();
    let mut left = MESSAGE;
    while left > 0 {
        let len = PART.min(usize::try_from(left).unwrap_or(PART));
        stream.write_all(&part[..len]).await?;
        left -= len as u64;
    }
    stream.flush().await
}

/// Reads the first `len` octets of the message; an error when one of them is wrong.
pub(crate) async fn receive(stream: &mut (impl AsyncRead + Unpin), len: u64) -> io::Result<u64> {
    let part = part();
    let mut buffer = vec![0; PART];
    let mut at = 0;
    while at < len {
        let start = usize::try_from(at).unwrap_or_default() % PART;
        let want = (PART - start).min(usize::try_from(len - at).unwrap_or(PART));
        let read = stream.read(&mut buffer[..want]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buffer[..read] != part[start..start + read] {
            return Err(io::Error::other(format!("wrong octets after {at}")));
        }
        at += read as u64;
    }
    Ok(at)
}
