//! A service that says what it is told to, and backends that let everyone in.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Ends when dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    says: String,
    requests: Vec<Vec<u8>>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let accepting = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&seen)));
                }
            }
        });
        Self { address, seen, accepting }
    }

    pub(crate) fn says(&self, status: &str, fields: &str) {
        let fields: String =
            fields.split('\n').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
        self.seen.lock().unwrap().says = format!("{status}\r\n{fields}\r\n");
    }

    /// Those since it was asked last.
    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.seen.lock().unwrap().requests)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let says = {
        let mut seen = seen.lock().unwrap();
        seen.requests.push(request);
        seen.says.clone()
    };
    // Whoever has gone does not read it.
    let _ = stream.write_all(says.as_bytes()).await;
}

type Logins = Arc<Mutex<Vec<(Vec<u8>, Vec<u8>)>>>;

/// Ends when dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    logins: Logins,
    accepting: JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let logins = Logins::default();
        let accepting = tokio::spawn({
            let logins = Arc::clone(&logins);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(let_in(stream, Arc::clone(&logins)));
                }
            }
        });
        Self { address, logins, accepting }
    }

    /// Those since it was asked last.
    pub(crate) fn logins(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.logins.lock().unwrap())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// `tag LOGIN {4}`, `user {8}`, `password`: as nginx logs in, which sends no other literals. An empty one it sends as
/// nothing.
async fn let_in(stream: TcpStream, logins: Logins) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"* OK ready\r\n").await?;
    let line = line(&mut stream).await?;
    let tag = line.split(|octet| *octet == b' ').next().unwrap_or_default().to_vec();
    let user = literal(&mut stream, &line).await?;
    let rest = self::line(&mut stream).await?;
    let password = literal(&mut stream, &rest).await?;
    self::line(&mut stream).await?;
    logins.lock().unwrap().push((user, password));
    stream.write_all(&[&tag[..], b" OK done\r\n"].concat()).await?;
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

async fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// The one that is announced at the end of `line`.
async fn literal(stream: &mut BufReader<TcpStream>, line: &[u8]) -> std::io::Result<Vec<u8>> {
    let line = String::from_utf8_lossy(line);
    let length = line.trim_end().rsplit_once('{').and_then(|(_, length)| length.strip_suffix('}')?.parse().ok());
    let mut literal = vec![0; length.ok_or(std::io::ErrorKind::InvalidData)?];
    stream.write_all(b"+ go on\r\n").await?;
    stream.read_exact(&mut literal).await?;
    Ok(literal)
}
