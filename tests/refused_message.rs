//! A message that the backend refuses before its end: what the client still gives of it is nobody's command.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use imapool::app::Proxy;
use imapool::config::{Backend, Config, ListenAddr, Listener, PoolMode};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
enum AfterRefusal {
    /// Closes.
    Close,
    /// Reads on, as the announced size demands.
    ReadOn,
}

/// What the backend was told.
#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    literal: Vec<u8>,
}

/// Serves one connection; refuses a message after its first two octets.
async fn serve(stream: TcpStream, after: AfterRefusal, seen: Arc<Mutex<Seen>>, gone: mpsc::UnboundedSender<()>) {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"* OK [CAPABILITY IMAP4rev1 UNSELECT] hi\r\n").await.unwrap();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let command = std::mem::take(&mut line);
        let (tag, rest) = command.trim_end().split_once(' ').unwrap_or((command.trim_end(), ""));
        let mut reply = format!("{tag} OK done\r\n");
        match rest.split(' ').next().unwrap_or_default() {
            "LOGIN" => {}
            // What shows that there is a session behind a login.
            "STATUS" if rest == "STATUS INBOX (UIDNEXT)" => {}
            "CAPABILITY" => reply.insert_str(0, "* CAPABILITY IMAP4rev1 UNSELECT\r\n"),
            "APPEND" => {
                let size: usize = rest.rsplit_once('{').unwrap().1.trim_end_matches('}').parse().unwrap();
                stream.write_all(b"+ go\r\n").await.unwrap();
                let mut octets = vec![0; size];
                stream.read_exact(&mut octets[..2]).await.unwrap();
                stream.write_all(format!("{tag} NO [OVERQUOTA] full\r\n").as_bytes()).await.unwrap();
                match after {
                    AfterRefusal::Close => {
                        stream.get_mut().shutdown().await.unwrap();
                        while stream.read_u8().await.is_ok() {}
                        let _ = gone.send(());
                        return;
                    }
                    AfterRefusal::ReadOn => {
                        let _ = gone.send(());
                        // Where the session did not keep the connection, that has ended.
                        if stream.read_exact(&mut octets[2..]).await.is_err() {
                            return;
                        }
                        seen.lock().literal = octets;
                        stream.read_line(&mut line).await.unwrap();
                        assert_eq!(std::mem::take(&mut line), "\r\n", "the end of the message's command");
                        continue;
                    }
                }
            }
            "LOGOUT" => {
                let _ = stream.write_all(reply.as_bytes()).await;
                return;
            }
            _ => seen.lock().lines.push(rest.into()),
        }
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

/// Reads lines up to the tagged one.
async fn reply(client: &mut BufReader<TcpStream>, tag: &str) -> String {
    let mut line = String::new();
    while !line.starts_with(tag) {
        line.clear();
        let read = timeout(LIMIT, client.read_line(&mut line)).await.expect("a reply in time").unwrap();
        assert!(read > 0, "closed while {tag} was awaited");
    }
    line
}

/// Gives a message of `size` octets that look like commands, and the next command in the same breath.
async fn give(after: AfterRefusal, size: usize, mode: PoolMode) -> Arc<Mutex<Seen>> {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = backend.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (gone, mut is_gone) = mpsc::unbounded_channel();
    let shared = Arc::clone(&seen);
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = backend.accept().await {
            tokio::spawn(serve(stream, after, Arc::clone(&shared), gone.clone()));
        }
    });
    let listener = Listener::new(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
    let mut config = Config::new(listener, Backend::new("127.0.0.1", port));
    config.admin.address = None;
    config.pool.mode = mode;
    let proxy = Proxy::start(config).await.unwrap();
    let [(_, ListenAddr::Tcp(address))] = &proxy.listener_addresses()[..] else { panic!("one TCP listener") };

    let mut client = BufReader::new(TcpStream::connect(address).await.unwrap());
    client.write_all(b"a LOGIN u p\r\n").await.unwrap();
    assert!(reply(&mut client, "a ").await.starts_with("a OK"));
    let message: Vec<u8> = b"x1 DELETE INBOX\r\n".iter().copied().cycle().take(size).collect();
    client.write_all(format!("b APPEND x {{{size}+}}\r\n").as_bytes()).await.unwrap();
    client.write_all(&message[..2]).await.unwrap();
    assert_eq!(reply(&mut client, "b ").await, "b NO [OVERQUOTA] full\r\n");
    timeout(LIMIT, is_gone.recv()).await.expect("the connection's end in time").unwrap();
    client
        .write_all(&[&message[2..], b"\r\nc STATUS x (MESSAGES)\r\nd STATUS y (MESSAGES)\r\n"].concat())
        .await
        .unwrap();
    assert_eq!(reply(&mut client, "c ").await, "c OK done\r\n");
    assert_eq!(reply(&mut client, "d ").await, "d OK done\r\n");
    timeout(LIMIT, proxy.drain()).await.expect("a drain in time");
    serving.abort();
    if matches!((after, mode), (AfterRefusal::ReadOn, PoolMode::Session)) {
        assert!(seen.lock().literal == message, "the message arrived as it was given");
    }
    seen
}

const COMMANDS: [&str; 2] = ["STATUS x (MESSAGES)", "STATUS y (MESSAGES)"];

#[tokio::test]
async fn its_rest_does_not_go_to_the_next_connection() {
    for mode in [PoolMode::Session, PoolMode::Multiplex] {
        let seen = give(AfterRefusal::Close, 1000, mode).await;
        assert_eq!(seen.lock().lines, COMMANDS, "{mode:?}");
    }
}

#[tokio::test]
async fn its_rest_goes_before_the_next_command() {
    let seen = give(AfterRefusal::ReadOn, 20_000_000, PoolMode::Session).await;
    assert_eq!(seen.lock().lines, COMMANDS);
}

/// The session has given the connection back, which is closed in the middle of the message.
#[tokio::test]
async fn its_rest_goes_nowhere_where_the_connection_is_not_kept() {
    let seen = give(AfterRefusal::ReadOn, 20_000_000, PoolMode::Multiplex).await;
    assert_eq!(seen.lock().lines, COMMANDS);
}
