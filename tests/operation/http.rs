//! A client of the admin address.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::soon;

pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends octets on a connection of their own and reads until the server closes it.
pub(crate) async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut stream = soon("connect", TcpStream::connect(address)).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    let mut received = Vec::new();
    soon("an answer", stream.read_to_end(&mut received)).await.unwrap();
    let text = String::from_utf8(received).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// With these header lines more, each ended by CR LF.
pub(crate) async fn call(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let host = if headers.contains("Host: ") { String::new() } else { format!("Host: {address}\r\n") };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n");
    exchange(address, request).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Value {
    let answer = call(address, "GET", path, "").await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// With the token.
pub(crate) async fn post(address: SocketAddr, path: &str) -> Answer {
    call(address, "POST", path, &format!("Authorization: Bearer {TOKEN}\r\n")).await
}
