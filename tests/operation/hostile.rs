//! Whoever reaches the admin address cannot disturb the mail: slow heads, huge bodies, octets at random, a thousand
//! connections. Sessions come and go meanwhile as if nothing were, and memory stays within bounds.

use std::net::SocketAddr;
use std::time::Duration;

use imapool::demo::server::{Options, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{TOKEN, call, get};
use crate::load::Load;
use crate::process::Imapool;
use crate::support::soon;

/// What the process may grow by, in KiB: the admin address has 100 connections with 16 KiB of head each.
const GROWTH: u64 = 48 * 1024;

/// The same octets in each run.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Sends octets, reads what comes for a moment, and goes.
async fn throw(address: SocketAddr, octets: &[u8]) {
    let Ok(Ok(mut stream)) = timeout(Duration::from_secs(5), TcpStream::connect(address)).await else { return };
    let _gone = timeout(Duration::from_secs(2), stream.write_all(octets)).await;
    let mut buffer = [0; 4096];
    let _gone = timeout(Duration::from_millis(20), stream.read(&mut buffer)).await;
}

/// A request that is right, bent at a few places.
fn bent(chance: &mut Chance) -> Vec<u8> {
    let paths = [
        "/",
        "/metrics",
        "/api/accounts?limit=10",
        "/api/sessions",
        "/api/events",
        "/api/accounts/u8/retire",
        "/api/reload",
    ];
    let methods = ["GET", "POST", "HEAD", "PUT", "G\u{e9}T"];
    let bodies = [
        "",
        "Content-Length: 99999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: -1\r\n",
        "Expect: 100-continue\r\n",
    ];
    let mut request = format!(
        "{} {} HTTP/1.{}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\n{}\r\n",
        methods[chance.next(methods.len())],
        paths[chance.next(paths.len())],
        chance.next(3),
        &TOKEN[..chance.next(TOKEN.len())],
        bodies[chance.next(bodies.len())],
    )
    .into_bytes();
    for _ in 0..chance.next(6) {
        let place = chance.next(request.len());
        let octet = u8::try_from(chance.next(256)).unwrap();
        match chance.next(3) {
            0 => request[place] = octet,
            1 => request.insert(place, octet),
            _ => request.truncate(place.max(1)),
        }
    }
    request.extend(std::iter::repeat_n(b'x', chance.next(2000)));
    request
}

fn resident(imapool: &Imapool) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", imapool.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_does_not_notice() {
    let server = Server::start(Options::default()).await.unwrap();
    let imapool = Imapool::with_tcp_admin(server.address(), "").await;
    let admin = imapool.listening("admin");
    let load = Load::start(imapool.address(), None, 3, 4).await;
    load.further(100).await;
    let before = resident(&imapool);

    // A thousand at once, each of which says nothing, or a little, or opens a stream of events and does not read it.
    let mut crowd = Vec::new();
    for number in 0..1000 {
        let mut stream = soon("connect", TcpStream::connect(admin)).await.unwrap();
        let said = match number % 3 {
            0 => "",
            1 => "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
            _ => "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        };
        let _closed = stream.write_all(said.as_bytes()).await;
        crowd.push(stream);
    }
    load.further(50).await;
    // Slow heads go on slowly; a huge body is offered to each.
    for stream in &mut crowd {
        let _closed = timeout(Duration::from_millis(5), stream.write_all(&[b'y'; 512])).await;
    }
    load.further(50).await;
    drop(crowd);

    let mut chance = Chance(7);
    for _ in 0..1500 {
        throw(admin, &bent(&mut chance)).await;
    }
    let random: Vec<Vec<u8>> =
        (0..200).map(|_| (0..chance.next(4000)).map(|_| u8::try_from(chance.next(256)).unwrap()).collect()).collect();
    for octets in &random {
        throw(admin, octets).await;
    }
    let body = vec![b'z'; 4 * 1024 * 1024];
    for path in ["/api/reload", "/metrics", "/"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000000\r\n\r\n");
        throw(admin, &[head.as_bytes(), &body].concat()).await;
    }
    let long = "a".repeat(15_000);
    for path in [format!("/api/accounts?filter={long}"), format!("/api/accounts/{long}/retire"), format!("/{long}")] {
        throw(admin, format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await;
    }
    load.further(100).await;

    let after = resident(&imapool);
    assert!(after < before + GROWTH, "{before} KiB before, {after} KiB after");
    // Connections end a moment after their clients have gone; then it answers as ever.
    soon("an answer", async {
        while !matches!(timeout(Duration::from_secs(1), ask(admin)).await, Ok(true)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(get(admin, "/api/summary").await["ready"], true);
    assert!(call(admin, "GET", "/metrics", "").await.body.contains("imapool_client_sessions "));
    assert!(!imapool.log().contains("panicked"), "{}", imapool.log());
    load.finish().await;
}

async fn ask(admin: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin).await else { return false };
    let request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    stream.write_all(request).await.is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}
