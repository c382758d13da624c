//! The admin address, over real TCP.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imapool::admin::{AdminError, AdminLimits, AdminServer, AdminState, Readiness};
use imapool::config::ListenAddr;
use imapool::listener::Inherited;
use imapool::metrics::{Metrics, SessionClose};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here takes so long unless it hangs.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Arc<Mutex<Readiness>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: AdminLimits) -> Server {
        let server = bind(&admin("127.0.0.1:0")).unwrap().with_limits(limits);
        let ListenAddr::Tcp(address) = *server.address() else { panic!("TCP") };
        let metrics = Metrics::new(&["main".to_owned()]);
        let readiness = Arc::new(Mutex::new(Readiness::Ready));
        let shutdown = CancellationToken::new();
        let asked = Arc::clone(&readiness);
        let state = AdminState {
            metrics: Arc::clone(&metrics),
            readiness: Arc::new(move || asked.lock().clone()),
            token: Arc::default(),
            hosts: Arc::default(),
            subject: None,
        };
        let task = tokio::spawn(server.serve(state, shutdown.clone()));
        Server { address, metrics, readiness, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.address)).await.unwrap()
    }

    /// Sends the request on a connection of its own and reads until the server closes it.
    async fn exchange(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::parse(&read_all(&mut stream).await)
    }

    async fn get(&self, path: &str) -> Answer {
        self.exchange(&request("GET", path)).await
    }

    /// Until a connection is answered: slots come free a moment after a connection ends.
    async fn until_served(&self) {
        soon(async {
            loop {
                let mut stream = TcpStream::connect(self.address).await.unwrap();
                let mut received = Vec::new();
                if stream.write_all(request("GET", "/healthz").as_bytes()).await.is_ok()
                    && stream.read_to_end(&mut received).await.is_ok()
                    && received.starts_with(b"HTTP/1.1 200")
                {
                    return;
                }
            }
        })
        .await;
    }
}

fn admin(address: &str) -> ListenAddr {
    ListenAddr::Tcp(address.parse().unwrap())
}

fn bind(address: &ListenAddr) -> Result<AdminServer, AdminError> {
    AdminServer::bind_or_adopt(address, false, &mut Inherited::default())
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    soon(stream.read_to_end(&mut received)).await.unwrap();
    String::from_utf8(received).unwrap()
}

/// Reads one whole answer, whose body is `body_ends_with`, from a connection that stays open.
async fn read_until(stream: &mut TcpStream, body_ends_with: &str) -> String {
    let mut received = Vec::new();
    while !received.ends_with(body_ends_with.as_bytes()) {
        assert_ne!(soon(stream.read_buf(&mut received)).await.unwrap(), 0, "closed early");
    }
    String::from_utf8(received).unwrap()
}

/// Whether the server has ended the connection, in either way and without a word.
async fn ended_silently(stream: &mut TcpStream) -> bool {
    soon(stream.read_u8()).await.is_err()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> &str {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).unwrap_or_else(|| panic!("no {name} in {self:?}")).1
    }
}

#[tokio::test]
async fn a_scrape_has_the_numbers_in_the_text_format() {
    let server = Server::start(AdminLimits::default()).await;
    server.metrics.client_sessions.inc();
    server.metrics.sessions_closed.inc(SessionClose::Logout);
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "# TYPE imapool_client_sessions gauge",
        "imapool_client_sessions 1",
        "# TYPE imapool_client_sessions_total counter",
        "imapool_client_sessions_total{close=\"logout\"} 1",
        "imapool_client_sessions_total{close=\"drain\"} 0",
        "imapool_upstream_connections{backend=\"main\",state=\"idle\"} 0",
    ] {
        assert_eq!(answer.body.lines().filter(|found| *found == line).count(), 1, "{line}");
    }
    #[cfg(target_os = "linux")]
    assert!(answer.body.contains("\nprocess_resident_memory_bytes "));
}

#[tokio::test]
async fn the_page_links_to_the_others() {
    let server = Server::start(AdminLimits::default()).await;
    let answer = server.get("/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=utf-8"));
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(answer.body.contains(&format!("href=\"{path}\"")), "{path}");
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn readiness_is_told_in_words_and_health_stays() {
    let server = Server::start(AdminLimits::default()).await;
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.body.trim_end()), (200, "ready"));

    *server.readiness.lock() = Readiness::Draining;
    let draining = server.get("/readyz").await;
    assert_eq!((draining.status, draining.body.as_str()), (503, "not ready: draining\n"));
    let health = server.get("/healthz").await;
    assert_eq!((health.status, health.body.trim_end()), (200, "ok"));

    *server.readiness.lock() = Readiness::NoBackend("main: connection refused".to_owned());
    let alone = server.get("/readyz").await;
    assert_eq!(alone.status, 503);
    assert!(alone.body.contains("main: connection refused"), "{}", alone.body);
}

#[tokio::test]
async fn unknown_pages_and_methods_are_refused_in_words() {
    let server = Server::start(AdminLimits::default()).await;
    for path in ["/nothing", "/metrics/", "/healthz/../metrics", "//"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("no such page"));
    }
    for method in ["POST", "DELETE", "OPTIONS", "BREW"] {
        let answer = server.exchange(&request(method, "/metrics")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method}");
        assert!(answer.body.contains("GET and HEAD"));
    }
    assert_eq!(server.get("/healthz?verbose=1").await.status, 200);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start(AdminLimits::default()).await;
    let answer = server.exchange(&request("HEAD", "/healthz")).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.body.as_str()), (200, "3", ""));
}

#[tokio::test]
async fn a_body_is_not_waited_for() {
    let server = Server::start(AdminLimits::default()).await;
    let head = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n";
    let answer = server.exchange(head).await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let server = Server::start(AdminLimits::default()).await;
    let answer = server.exchange("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.trim_end()), (200, "ok"));
    assert!(answer.head.starts_with("HTTP/1.0 "), "{}", answer.head);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(AdminLimits::default()).await;
    let mut stream = server.connect().await;
    let open = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let requests = open("/healthz") + &open("/nothing") + &open("/metrics") + &request("GET", "/readyz");
    stream.write_all(requests.as_bytes()).await.unwrap();
    let received = read_all(&mut stream).await;
    let places: Vec<_> = ["ok\n", "no such page", "imapool_logins_total", "ready\n"]
        .iter()
        .map(|text| received.find(text).unwrap_or_else(|| panic!("no {text:?}")))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(received.matches("HTTP/1.1 ").count(), 4);
}

#[tokio::test]
async fn a_connection_can_be_used_again() {
    let server = Server::start(AdminLimits::default()).await;
    let mut stream = server.connect().await;
    for _ in 0..10 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert!(read_until(&mut stream, "ok\n").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_slow_header_ends_the_connection() {
    let limits = AdminLimits { header_read_timeout: Duration::from_millis(100), ..AdminLimits::default() };
    let server = Server::start(limits).await;
    let mut silent = server.connect().await;
    let mut begun = server.connect().await;
    begun.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut trickling = server.connect().await;
    assert!(ended_silently(&mut silent).await);
    assert!(ended_silently(&mut begun).await);
    soon(async {
        // Bytes that keep coming do not put the deadline off; a write fails once the server has closed.
        while trickling.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn an_oversized_header_is_refused() {
    let server = Server::start(AdminLimits::default()).await;
    let mut stream = server.connect().await;
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}", "x".repeat(16 * 1024));
    // Without the end of the header: it is refused by its size alone.
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = [0; 12];
    soon(stream.read_exact(&mut received)).await.unwrap();
    assert_eq!(&received, b"HTTP/1.1 431");
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let server = Server::start(AdminLimits::default()).await;
    let answer = server.exchange("a1 LOGIN \"user\" \"password\"\r\n").await;
    assert_eq!(answer.status, 400);
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn of_200_connections_at_once_the_100_oldest_give_way() {
    let server = Server::start(AdminLimits::default()).await;
    let mut streams = Vec::new();
    for _ in 0..200 {
        streams.push(server.connect().await);
    }
    // Connections are accepted in the order they were made.
    for stream in &mut streams[..100] {
        assert!(ended_silently(stream).await);
    }
    for stream in &mut streams[100..] {
        stream.write_all(request("GET", "/metrics").as_bytes()).await.unwrap();
    }
    for stream in &mut streams[100..] {
        assert!(read_all(stream).await.starts_with("HTTP/1.1 200"));
    }
    drop(streams);
    server.until_served().await;
}

/// Whoever begins requests and never ends them keeps nobody out who asks.
#[tokio::test]
async fn half_requests_give_way_to_whole_ones() {
    let limits =
        AdminLimits { connections: 8, header_read_timeout: Duration::from_secs(300), ..AdminLimits::default() };
    let server = Server::start(limits).await;
    let mut asker = server.connect().await;
    asker.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut asker, "ok\n").await;
    let mut halves = Vec::new();
    for _ in 0..40 {
        let mut half = server.connect().await;
        // It may have given way already.
        let _ = half.write_all(b"GET /x HTTP/1.1\r\nX:").await;
        halves.push(half);
        assert_eq!(server.get("/healthz").await.status, 200);
    }
    // Who has asked before is older than all of them, and stays.
    asker.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut asker, "ok\n").await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() {
    let limits = AdminLimits {
        connections: 1,
        connection_lifetime: Duration::from_secs(1),
        grace: Duration::from_millis(100),
        ..AdminLimits::default()
    };
    let server = Server::start(limits).await;
    let mut stalled = server.connect().await;
    // More answers than the kernel's buffers of both sides take: the server is stuck with one half written, and reads
    // no more requests. A write fails once it has given up.
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    soon(async { while stalled.write_all(requests.as_bytes()).await.is_ok() {} }).await;
    server.until_served().await;
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_the_server() {
    // No other time limit may end the connection first.
    let limits = AdminLimits { header_read_timeout: Duration::from_secs(300), ..AdminLimits::default() };
    let server = Server::start(limits).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut idle, "ok\n").await;
    server.shutdown.cancel();
    soon(server.task).await.unwrap();
    assert!(ended_silently(&mut idle).await);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = bind(&admin("127.0.0.1:0")).unwrap();
    let error = bind(&admin(&first.address().to_string())).unwrap_err();
    assert!(matches!(error, AdminError::Bind(_)));
    assert!(error.to_string().contains(&first.address().to_string()), "{error}");
}
