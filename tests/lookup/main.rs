//! The lookup over HTTP beside nginx, whose words it speaks: both are asked the same, and given the same answers.
//!
//! Where nginx with its mail module is not installed, a test says `SKIPPED`, or fails with `IMAPOOL_REQUIRE_REAL=1`.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

mod nginx;
#[allow(dead_code, reason = "shared with tests/real")]
#[path = "../real/process.rs"]
mod process;
mod service;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imapool::net::Net;
use imapool::routing::http::{Answer, Denial, Lookup, Question, Settings};
use imapool::secret::Secret;

use self::nginx::{Client, Nginx};
use self::service::{Backend, Service};

/// A service, two backends that it may name, and nginx before it.
struct Stage {
    service: Service,
    backends: [Backend; 2],
    nginx: Nginx,
}

/// What came of a login.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Seen {
    /// The index of the backend, the user, the password.
    LoggedIn(usize, Vec<u8>, Vec<u8>),
    /// The reason that the client reads.
    Refused(String),
    /// The service's answer could not be used.
    Failed,
}

impl Stage {
    async fn start() -> Option<Self> {
        let (service, backends) = (Service::start().await, [Backend::start().await, Backend::start().await]);
        let nginx = Nginx::start(service.address).await?;
        Some(Self { service, backends, nginx })
    }

    /// The fields with the backends' ports in them.
    fn filled(&self, fields: &str) -> String {
        let [first, second] = self.backends.each_ref().map(|backend| backend.address.port().to_string());
        fields.replace("FIRST", &first).replace("SECOND", &second)
    }

    fn lookup(&self) -> Arc<Lookup> {
        let long = Duration::from_secs(20);
        let settings = Settings {
            url: format!("http://{}/auth?a=1", self.service.address),
            timeout: long,
            ttl: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            stale: Duration::ZERO,
            headers: vec![("X-Auth-Key".to_owned(), Secret::copy_of(b"s3cret value"))],
            send_password: true,
        };
        Lookup::new(settings, Net::System).unwrap()
    }

    async fn seen_by_nginx(&self, user: &[u8], password: &[u8]) -> Seen {
        let mut client = Client::new(self.nginx.connect().await).await;
        let reply = client.login(user, password).await;
        if let Some(reason) = reply.strip_prefix("a NO ") {
            return Seen::Refused(reason.to_owned());
        }
        if reply.starts_with("* BAD internal server error") {
            return Seen::Failed;
        }
        assert!(reply.starts_with("a OK"), "{reply}");
        let logins: Vec<_> = self.backends.iter().map(Backend::logins).collect();
        let index = logins.iter().position(|logins| !logins.is_empty()).expect("a backend was logged in to");
        let (user, password) = logins[index][0].clone();
        Seen::LoggedIn(index, user, password)
    }

    async fn seen_by_us(&self, user: &[u8], password: &[u8]) -> Seen {
        match self.lookup().ask(question(user, password), false).await.as_deref() {
            Ok(Answer::Server { host, port, user: named, secret }) => {
                assert!(host == "127.0.0.1" || host == "localhost", "{host}");
                let at = |backend: &Backend| port.is_none_or(|port| backend.address.port() == port);
                Seen::LoggedIn(
                    self.backends.iter().position(at).unwrap(),
                    named.as_deref().unwrap_or(user).to_vec(),
                    secret.as_ref().map_or(password, Secret::expose).to_vec(),
                )
            }
            Ok(Answer::Refused(Denial { text, code, .. })) => {
                Seen::Refused(code.as_ref().map_or(text.clone(), |code| format!("[{code}] {text}")))
            }
            Err(_) => Seen::Failed,
        }
    }
}

fn question(user: &[u8], password: &[u8]) -> Question {
    Question {
        user: user.to_vec(),
        secret: Some(Secret::copy_of(password)),
        mechanism: "plain",
        client: Some(IpAddr::from([127, 0, 0, 1])),
        server: None,
        tls: None,
        server_name: None,
        attempt: 1,
    }
}

/// Names in lower case, in the order of the alphabet; nginx leaves the port out of Host.
fn fields(request: &[u8]) -> Vec<(String, Vec<u8>)> {
    let lines = request.split(|octet| *octet == b'\n').skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let field = |line: &[u8]| {
        let colon = line.iter().position(|octet| *octet == b':').expect("a field");
        let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
        let value = line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..]);
        let port = value.iter().position(|octet| *octet == b':').filter(|_| name == "host");
        (name, value[..port.unwrap_or(value.len())].to_vec())
    };
    let mut fields: Vec<_> = lines.filter(|line| !line.is_empty()).map(field).collect();
    fields.sort();
    fields
}

fn users() -> Vec<Vec<u8>> {
    let mut users: Vec<Vec<u8>> =
        ["user", "user@example.org", "Jörg Müller", "100%", "%41", "a+b", "\"q\"", "back\\slash"]
            .iter()
            .map(|user| user.as_bytes().to_vec())
            .collect();
    users.push((1..=0x20).collect());
    users.push((0x21..=0x7e).collect());
    users.push((0x80..=0xff).collect());
    users.push("ü".repeat(700).into_bytes());
    users
}

#[tokio::test]
async fn the_service_is_asked_what_nginx_asks_it() {
    let Some(stage) = Stage::start().await else { return };
    stage.service.says("HTTP/1.0 200 OK", "Auth-Status: no");
    let lookup = stage.lookup();
    for user in users() {
        let password: Vec<u8> = user.iter().rev().copied().collect();
        stage.seen_by_nginx(&user, &password).await;
        lookup.ask(question(&user, &password), false).await.unwrap();
        let [theirs, ours] = stage.service.requests().try_into().expect("two requests");
        assert_eq!(fields(&theirs), fields(&ours), "{}", user.escape_ascii());
        assert!(theirs.starts_with(b"GET /auth?a=1 HTTP/1.0\r\n") && ours.starts_with(b"GET /auth?a=1 HTTP/1.1\r\n"));
    }
    // No field's value may have DEL in it; nginx writes it all the same.
    stage.seen_by_nginx(b"a\x7fb", b"p").await;
    lookup.ask(question(b"a\x7fb", b"p"), false).await.unwrap();
    let user = |request: &Vec<u8>| fields(request).into_iter().find(|(name, _)| name == "auth-user").unwrap().1;
    assert_eq!(stage.service.requests().iter().map(user).collect::<Vec<_>>(), [&b"a\x7fb"[..], b"a%7Fb"]);
}

#[tokio::test]
async fn attempts_sockets_and_tls_are_told_as_nginx_tells_them() {
    let Some(stage) = Stage::start().await else { return };
    stage.service.says("HTTP/1.0 200 OK", "Auth-Status: no\nAuth-Wait: 1");
    let lookup = stage.lookup();
    let mut client = Client::new(stage.nginx.connect().await).await;
    client.login(b"u", b"p").await;
    client.login(b"u", b"p").await;
    let theirs = stage.service.requests().remove(1);
    lookup.ask(Question { attempt: 2, ..question(b"u", b"p") }, false).await.unwrap();
    assert_eq!(fields(&theirs), fields(&stage.service.requests()[0]));

    Client::new(stage.nginx.connect_unix().await).await.login(b"u", b"p").await;
    lookup.ask(Question { client: None, ..question(b"u", b"p") }, false).await.unwrap();
    let requests = stage.service.requests();
    assert_eq!(fields(&requests[0]), fields(&requests[1]));

    Client::new(stage.nginx.connect_tls().await).await.login(b"u", b"p").await;
    lookup.ask(Question { tls: Some("TLSv1.3"), ..question(b"u", b"p") }, false).await.unwrap();
    let requests = stage.service.requests();
    let mut theirs = fields(&requests[0]);
    // The cipher is not known to us.
    theirs.retain(|(name, _)| name != "auth-ssl-cipher");
    assert_eq!(theirs, fields(&requests[1]));
}

#[tokio::test]
async fn answers_mean_what_they_mean_to_nginx() {
    let Some(stage) = Stage::start().await else { return };
    let (user, password) = (&b"user"[..], &b"password"[..]);
    let logged_in = |index, user: &[u8], password: &[u8]| Seen::LoggedIn(index, user.to_vec(), password.to_vec());
    let first = logged_in(0, user, password);
    let refused = |text: &str| Seen::Refused(text.to_owned());
    let to_first = "Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: FIRST";
    let with = |more: &str| format!("{to_first}\n{more}");
    // What both make of it.
    let same = [
        ("200 OK", to_first.to_owned(), first.clone()),
        ("204 No Content", to_first.to_owned(), first.clone()),
        ("200 OK", to_first.replace("FIRST", "SECOND"), logged_in(1, user, password)),
        ("200 OK", to_first.to_lowercase().replace("first", "FIRST").replace("ok", "OK"), first.clone()),
        ("200 OK", with("Auth-User: other%20na me"), logged_in(0, b"other%20na me", password)),
        ("200 OK", with("Auth-Pass: pä%41 \"x\""), logged_in(0, user, "pä%41 \"x\"".as_bytes())),
        ("200 OK", with("Auth-User: a\nAuth-Pass: b"), logged_in(0, b"a", b"b")),
        ("200 OK", with("Auth-Error-Code: UNAVAILABLE"), first.clone()),
        ("200 OK", "Auth-Status: Invalid login".to_owned(), refused("Invalid login")),
        ("200 OK", with("").replace(": OK", ": ok"), refused("ok")),
        ("200 OK", "Auth-Status: [UNAVAILABLE] later".to_owned(), refused("[UNAVAILABLE] later")),
        ("200 OK", to_first.replace("FIRST", "0"), Seen::Failed),
        ("200 OK", to_first.replace("FIRST", "65536"), Seen::Failed),
        ("200 OK", to_first.replace("127.0.0.1", "127.1.1"), Seen::Failed),
        ("200 OK", "Auth-Status: OK\nAuth-Port: FIRST".to_owned(), Seen::Failed),
    ];
    // What nginx makes of it, and what is made of it here.
    let differs = [
        // Its status counts.
        ("502 Bad Gateway", to_first.to_owned(), first.clone(), Seen::Failed),
        // Nothing is guessed.
        ("200 OK", with("").replace("Auth-Status: OK\n", ""), first.clone(), Seen::Failed),
        ("200 OK", with("Auth-Port: SECOND"), logged_in(1, user, password), Seen::Failed),
        ("200 OK", with("Auth-User: "), logged_in(0, b"", password), Seen::Failed),
        // Names, and servers on the usual port.
        ("200 OK", to_first.replace("127.0.0.1", "localhost"), Seen::Failed, first.clone()),
        ("200 OK", "Auth-Status: OK\nAuth-Server: 127.0.0.1".to_owned(), Seen::Failed, first.clone()),
        // To nginx, codes are SMTP's.
        ("200 OK", "Auth-Status: x\nAuth-Error-Code: LIMIT".to_owned(), refused("x"), refused("[LIMIT] x")),
    ];
    let same = same.map(|(status, fields, seen)| (status, fields, seen.clone(), seen));
    for (status, fields, theirs, ours) in same.into_iter().chain(differs) {
        stage.service.says(&format!("HTTP/1.0 {status}"), &stage.filled(&fields));
        assert_eq!(stage.seen_by_nginx(user, password).await, theirs, "nginx: {status}\n{fields}");
        assert_eq!(stage.seen_by_us(user, password).await, ours, "{status}\n{fields}");
    }
}
