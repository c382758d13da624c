//! A service over HTTP says where users belong.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::soon;
use crate::town::Town;

/// What it says to who asks for a user.
#[derive(Debug, Clone)]
enum Says {
    /// These fields behind the status.
    This(String),
    /// A status without more.
    Status(&'static str),
    /// Nothing, ever.
    Nothing,
    /// These octets, and the end.
    Octets(Vec<u8>),
}

struct Service {
    address: std::net::SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (says, asked) = (Arc::new(Mutex::new(Says::Nothing)), Arc::<Mutex<Vec<String>>>::default());
        let (ours, theirs) = (Arc::clone(&says), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (says, asked) = (Arc::clone(&ours), Arc::clone(&theirs));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    asked.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                    let says = says.lock().unwrap().clone();
                    let _gone = match says {
                        Says::This(fields) => {
                            let fields = fields.replace('\n', "\r\n");
                            stream
                                .write_all(
                                    format!(
                                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n{fields}\r\n\r\n"
                                    )
                                    .as_bytes(),
                                )
                                .await
                        }
                        Says::Status(status) => {
                            stream
                                .write_all(
                                    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                                        .as_bytes(),
                                )
                                .await
                        }
                        Says::Nothing => stream.read_to_end(&mut request).await.map(|_| ()),
                        Says::Octets(octets) => stream.write_all(&octets).await,
                    };
                });
            }
        });
        Self { address, says, asked }
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// It names this server, which `login` stands for.
    fn names(&self, town: &Town, place: usize, more: &str) {
        let address = town.servers[place].address();
        self.says(Says::This(format!(
            "Auth-Status: OK\nAuth-Server: {}\nAuth-Port: {}{more}",
            address.ip(),
            address.port()
        )));
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn town(service: &Service, more: &str) -> Town {
    let routes = format!("[[route]]\nhttp = \"http://{}/auth\"\n{more}\n[routing]\ndefault = \"a\"", service.address);
    Town::new(&routes, &[]).await
}

async fn refused(town: &Town, user: &str, reply: &str) {
    let mut client = town.harness.client().await;
    client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l {reply}\nC: n NOOP\nS: n OK…")).await;
}

#[tokio::test]
async fn users_go_where_the_service_says() {
    let service = Service::start().await;
    let town = town(&service, "ttl = \"0s\"\nheaders = [\"X-Auth-Key: secret\"]").await;
    service.names(&town, 2, "");
    assert_eq!(town.goes("anna@example.org").await, "c");
    let asked = service.asked().remove(0).to_lowercase();
    for line in [
        "get /auth http/1.1",
        "auth-user: anna@example.org",
        "auth-protocol: imap",
        "auth-method: plain",
        "client-ip: 127.0.0.1",
        "x-auth-key: secret",
        "auth-login-attempt: 1",
    ] {
        assert!(asked.lines().any(|said| said == line), "{line}: {asked}");
    }
    assert!(!asked.contains("pw-anna") && !asked.contains("auth-pass"), "{asked}");
    // As whom, and with what: the backend judges it all the same.
    service.names(&town, 1, "\nAuth-User: u7\nAuth-Pass: pw-u7");
    assert_eq!((town.goes("bert").await, town.homes("u7"), town.homes("bert")), ("b", vec!["b"], vec![]));
    service.names(&town, 1, "\nAuth-Pass: wrong");
    refused(&town, "carla", "NO [AUTHENTICATIONFAILED]…").await;
    service.says(Says::This("Auth-Status: OK\nAuth-Server: c".into()));
    assert_eq!(town.goes("dora").await, "c", "by its name");
    town.finish().await;
}

/// Short sessions of one account share its connection, whoever says where it is.
#[tokio::test]
async fn what_the_backend_has_accepted_it_is_not_asked_again() {
    for ttl in ["0s", "1m"] {
        let service = Service::start().await;
        let town = town(&service, &format!("ttl = \"{ttl}\"")).await;
        service.names(&town, 1, "");
        for _ in 0..8 {
            assert_eq!(town.goes("anna").await, "b");
        }
        assert_eq!(town.servers[1].counters().logins, 1);
        assert_eq!(town.harness.metric("imapool_logins_total", "cached"), 7);
        assert_eq!(service.asked().len(), if ttl == "0s" { 8 } else { 1 });
        town.finish().await;
    }
}

#[tokio::test]
async fn a_refusal_comes_in_the_services_words() {
    let service = Service::start().await;
    let town = town(&service, "negative_ttl = \"0s\"").await;
    for (says, reply) in [
        ("Auth-Status: Invalid login or password\nAuth-Wait: 0", "NO Invalid login or password"),
        ("Auth-Status: Not today\nAuth-Error-Code: UNAVAILABLE\nAuth-Wait: 0", "NO [UNAVAILABLE] Not today"),
        (
            "Auth-Status: Unknown\nAuth-Error-Code: AUTHENTICATIONFAILED\nAuth-Wait: 0",
            "NO [AUTHENTICATIONFAILED] Unknown",
        ),
    ] {
        service.says(Says::This(says.into()));
        refused(&town, "anna", reply).await;
    }
    assert_eq!(town.harness.metric("imapool_logins_total", "refused"), 2);
    assert_eq!(town.harness.metric("imapool_logins_total", "unavailable"), 1);
    assert!(town.servers.iter().all(|server| server.counters().logins == 0));
    town.finish().await;
}

/// Whatever goes wrong, nobody comes to a server that was not named for him.
#[tokio::test]
async fn what_goes_wrong_leads_nowhere() {
    let service = Service::start().await;
    let town = town(&service, "timeout = \"300ms\"\nttl = \"0s\"\nstale = \"0s\"").await;
    let endless = || Says::Octets([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat());
    for (number, says) in [
        Says::Status("502 Bad Gateway"),
        Says::Status("302 Found"),
        Says::Nothing,
        Says::Octets(b"\x16\x03\x01 no HTTP\r\n\r\n".to_vec()),
        Says::Octets(Vec::new()),
        endless(),
        Says::This("Auth-Status: OK".into()),
        Says::This("Auth-Status: OK\nAuth-Server: 192.0.2.1\nAuth-Port: 143".into()),
        Says::This("Auth-Status: OK\nAuth-Server: elsewhere.example".into()),
        Says::This("Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: 99999".into()),
    ]
    .into_iter()
    .enumerate()
    {
        service.says(says.clone());
        let reply = "NO [UNAVAILABLE] It cannot be found out at the moment which mail server has this account.";
        soon(&format!("{says:?}"), refused(&town, &format!("u{number}"), reply)).await;
    }
    town.harness.logged(&["cannot find out where an account belongs", "502"]).await;
    town.harness.logged(&["a service names a server that is no backend", "192.0.2.1"]).await;
    assert!(town.servers.iter().all(|server| server.counters().logins == 0), "not even the default");
    town.finish().await;
}

#[tokio::test]
async fn an_account_in_use_goes_on_while_the_service_is_gone() {
    let service = Service::start().await;
    let town = town(&service, "timeout = \"300ms\"\nttl = \"0s\"\nstale = \"10m\"").await;
    service.names(&town, 1, "");
    let mut idler = town.harness.login("anna").await;
    idler.play("C: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …").await;
    service.says(Says::Status("503 Gone"));
    assert_eq!(town.goes("anna").await, "b");
    refused(&town, "bert", "NO [UNAVAILABLE]…").await;
    idler.play("C: DONE\nS: i OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
    town.harness.sessions(0).await;
    refused(&town, "anna", "NO [UNAVAILABLE]…").await;
    town.finish().await;
}

/// Who is moved by hand still logs in by the name and the password that the service gives.
#[tokio::test]
async fn an_account_that_was_moved_logs_in_as_the_service_says() {
    let service = Service::start().await;
    let http = format!("http = \"http://{}/auth\"\nttl = \"0s\"", service.address);
    let town = Town::new(&format!("[[route]]\n{http}\n[routing]\nmoves_file = \"FOLDER/moves\""), &[]).await;
    service.names(&town, 1, "\nAuth-User: u7\nAuth-Pass: pw-u7");
    let mut stays = town.harness.login("anna").await;
    assert_eq!(town.homes("u7"), ["b"]);
    let router = town.harness.proxy().router();
    for (to, place) in [(Some("c"), "c"), (Some("a"), "a"), (None, "b")] {
        assert!(router.move_account(b"anna", to, crate::support::LIMIT).await.unwrap());
        if place == "c" {
            stays.play("S: * BYE…\nS.").await;
        }
        assert_eq!((town.goes("anna").await, town.homes("u7"), town.homes("anna")), (place, vec![place], vec![]));
    }
    // A name that it gives for the first time is moved as what it was called.
    assert!(router.move_account(b"bert", Some("c"), crate::support::LIMIT).await.unwrap());
    service.names(&town, 1, "\nAuth-User: u8\nAuth-Pass: pw-u8");
    assert_eq!((town.goes("bert").await, town.homes("u8")), ("c", vec!["c"]));
    town.finish().await;
}

/// It says otherwise each time: the account is where it said last, and never at two.
#[tokio::test]
async fn a_service_that_changes_its_mind_moves_the_account() {
    let service = Service::start().await;
    let town = town(&service, "ttl = \"0s\"").await;
    for turn in 0..6 {
        service.names(&town, turn % 3, "");
        assert_eq!(town.goes("anna").await, ["a", "b", "c"][turn % 3]);
        assert_eq!(town.homes("anna").len(), 1);
    }
    service.names(&town, 0, "");
    let mut stays = town.harness.login("bert").await;
    service.names(&town, 1, "");
    assert_eq!(town.goes("bert").await, "b");
    stays.play("S: * BYE…\nS.").await;
    town.finish().await;
}
