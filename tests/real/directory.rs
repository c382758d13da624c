//! A service that says where accounts are, in the words of nginx's auth_http, from a table: one in front of a database.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Ends when dropped.
pub(crate) struct Directory {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

struct State {
    /// A header that whoever asks must send.
    key: &'static str,
    rows: HashMap<String, String>,
    requests: Vec<String>,
}

impl Directory {
    /// One that knows nobody, and answers only who sends this header.
    pub(crate) async fn start(key: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { key, rows: HashMap::new(), requests: Vec::new() }));
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&state)));
                }
            }
        });
        Self { address, state, accepting }
    }

    /// What it says of a user: the fields, a line each; or, if it begins so, all that comes after "raw:".
    pub(crate) fn set(&self, user: &str, says: &str) {
        self.state.lock().unwrap().rows.insert(user.to_owned(), says.to_owned());
    }

    /// All that it was asked, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let says = state.lock().unwrap().answer(&request);
    state.lock().unwrap().requests.push(request);
    // Whoever has gone does not read it.
    let _ = stream.write_all(says.as_bytes()).await;
}

impl State {
    fn answer(&self, request: &str) -> String {
        if !request.lines().any(|line| line == self.key) {
            return "HTTP/1.0 403 Forbidden\r\n\r\n".to_owned();
        }
        let user = request.lines().find_map(|line| line.strip_prefix("Auth-User: ")).unwrap_or_default();
        let row = self.rows.get(user).map_or("Auth-Status: There is no such account", String::as_str);
        match row.strip_prefix("raw:") {
            Some(raw) => raw.to_owned(),
            None => format!("HTTP/1.0 200 OK\r\n{}\r\n\r\n", row.replace('\n', "\r\n")),
        }
    }
}
