//! imapool and nginx's mail proxy as whole programs, side by side: one service behind both, and two Dovecots. The same
//! user comes to the same server as the same account, and who is refused reads the same words.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

#[path = "../lookup/nginx.rs"]
#[allow(dead_code, reason = "shared with tests/lookup")]
#[allow(clippy::unwrap_used)]
mod nginx;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::nginx::Nginx;
use crate::accounts::password_of;
use crate::client::Client;
use crate::directory::Directory;
use crate::places;
use crate::proxy::Proxy;
use crate::server::{Options, Server, scratch_folder};

struct Pair {
    directory: Directory,
    servers: Vec<Server>,
    nginx: Nginx,
    imapool: Proxy,
}

impl Pair {
    /// `None` (after saying so) if nginx or Dovecot is not installed.
    async fn start() -> Option<Self> {
        let directory = Directory::start("X-Auth-Key: s3cret value").await;
        let servers = places::start(2, &Options::new(places::named(["anna", "bert", "carla"]))).await?;
        let nginx = Nginx::start(directory.address).await?;
        let imapool = Proxy::configured(scratch_folder(), &configuration(&servers, directory.address));
        Some(Self { directory, servers, nginx, imapool })
    }

    /// What the service says of a user; FIRST and SECOND are the servers' ports.
    fn set(&self, user: &str, says: &str) {
        let port = |place: usize| self.servers[place].address.port().to_string();
        self.directory.set(user, &says.replace("FIRST", &port(0)).replace("SECOND", &port(1)));
    }

    /// By nginx, and by imapool.
    async fn seen(&self, user: &str, password: &str) -> [String; 2] {
        [seen(self.nginx.plain, user, password).await, seen(self.imapool.address, user, password).await]
    }
}

fn configuration(servers: &[Server], service: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n\
         [[backend]]\nname = \"first\"\naddress = \"{}\"\n\
         [[backend]]\nname = \"second\"\naddress = \"{}\"\n\
         [[route]]\nhttp = \"http://{service}/auth?a=1\"\nheaders = [\"X-Auth-Key: s3cret value\"]\n\
         send_password = true\nttl = \"0s\"\nnegative_ttl = \"0s\"\n\
         [auth]\nfailure_delay = \"10ms\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\n",
        servers[0].address, servers[1].address
    )
}

/// Where a client comes to and as whom, or what it is told.
async fn seen(address: SocketAddr, user: &str, password: &str) -> String {
    let mut client = Client::connect(address).await.unwrap();
    match client.command(&format!("LOGIN {user} {password}")).await {
        Ok(reply) if reply.tagged.starts_with("OK") => whereabouts(client).await,
        Ok(reply) => reply.tagged,
        Err(end) => end.to_string().trim().to_owned(),
    }
}

async fn whereabouts(mut client: Client) -> String {
    let place = places::of(&client.command("SELECT INBOX").await.unwrap().ok()).unwrap();
    let fetched = client.command("FETCH 1 BODY.PEEK[HEADER.FIELDS (SUBJECT)]").await.unwrap().ok().to_string();
    let (_, user) = fetched.split_once("Subject: ").unwrap();
    client.logout().await.unwrap();
    format!("{} as {}", ["first", "second"][place], user.lines().next().unwrap())
}

const TO_FIRST: &str = "Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: FIRST";

fn to_first(more: &str) -> String {
    format!("{TO_FIRST}\n{more}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_user_comes_to_the_same_place_as_behind_nginx() {
    let Some(pair) = Pair::start().await else { return };
    for (password, says, both) in [
        ("pw-anna", TO_FIRST.to_owned(), "first as anna"),
        ("pw-anna", TO_FIRST.replace("FIRST", "SECOND"), "second as anna"),
        ("pw-bert", to_first("Auth-User: bert"), "first as bert"),
        ("ticket", to_first("Auth-Pass: pw-anna"), "first as anna"),
        ("ticket", to_first("Auth-User: carla\nAuth-Pass: pw-carla").replace("FIRST", "SECOND"), "second as carla"),
        ("pw-anna", to_first("Auth-Error-Code: UNAVAILABLE"), "first as anna"),
        ("pw-anna", to_first("Auth-Wait: 20"), "first as anna"),
        ("pw-anna", "Auth-Status: Invalid login or password".to_owned(), "NO Invalid login or password"),
        ("pw-anna", "Auth-Status: [UNAVAILABLE] Come later".to_owned(), "NO [UNAVAILABLE] Come later"),
        ("pw-anna", to_first("").replace("Auth-Status: OK", "Auth-Status: Moving"), "NO Moving"),
    ] {
        pair.set("anna", &says);
        assert_eq!(pair.seen("anna", password).await, [both; 2], "{password}\n{says}");
    }
    assert_eq!(pair.seen("nobody", "pw").await, ["NO There is no such account"; 2]);
    pair.imapool.finish();
}

/// nginx closes the connection, which a client may take for anything.
const FAILS: &str = "closed before the tagged reply: * BAD internal server error";
const UNAVAILABLE: &str = "NO [UNAVAILABLE]";

/// Where they differ, they do on purpose. A service that does not answer in time is one more such case: nginx ends as
/// here, after its `auth_http_timeout` of a minute, and imapool says the same after the route's `timeout`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nginx_gives_up_the_client_is_told_what_it_can_act_on() {
    let Some(pair) = Pair::start().await else { return };
    pair.set("bert", "Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: SECOND");
    for (says, theirs, ours) in [
        ("raw:HTTP/1.0 500 Out of order\r\n\r\n", FAILS, UNAVAILABLE),
        ("raw:HTTP/1.0 404 Not Found\r\n\r\n", FAILS, UNAVAILABLE),
        ("raw:\u{1}\u{2}garbage\r\n\r\n", FAILS, UNAVAILABLE),
        ("raw:", FAILS, UNAVAILABLE),
        ("Auth-Status: OK", FAILS, UNAVAILABLE),
        ("Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: 1", FAILS, UNAVAILABLE),
        // Its status counts.
        ("raw:HTTP/1.0 502 Bad Gateway\r\nAuth-Status: No\r\n\r\n", "NO No", UNAVAILABLE),
        // By its name.
        ("Auth-Status: OK\nAuth-Server: second\nAuth-User: anna\nAuth-Pass: pw-anna", FAILS, "second as anna"),
        // The server's refusal is the client's, while nginx takes it for a fault (proxy_pass_error_message).
        (TO_FIRST, FAILS, "NO [AUTHENTICATIONFAILED]"),
        // To nginx, codes are SMTP's.
        ("Auth-Status: Later\nAuth-Error-Code: UNAVAILABLE", "NO Later", "NO [UNAVAILABLE] Later"),
    ] {
        // What cannot be said of a user is remembered for a while.
        let user = format!("row{}", pair.directory.requests().len());
        pair.set(&user, says);
        let [nginx, imapool] = pair.seen(&user, "pw").await;
        assert_eq!(nginx, theirs, "{says}");
        assert!(imapool.starts_with(ours), "{says}: {imapool}");
        // It is held against nobody else.
        assert_eq!(pair.seen("bert", "pw-bert").await, ["second as bert"; 2], "{says}");
    }
    assert_eq!(pair.directory.requests().len(), 4 * 10, "each was asked");
    pair.imapool.finish();
}

/// With Auth-Wait both hold the refusal back, and take another login on the same connection. Without, nginx closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_refused_may_try_again() {
    let Some(pair) = Pair::start().await else { return };
    pair.set("bert", "Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: SECOND");
    for (says, is_kept_by_nginx) in [("Auth-Status: No\nAuth-Wait: 1", true), ("Auth-Status: No", false)] {
        pair.set("anna", says);
        for (address, is_kept) in [(pair.nginx.plain, is_kept_by_nginx), (pair.imapool.address, true)] {
            let mut client = Client::connect(address).await.unwrap();
            let asked = Instant::now();
            assert_eq!(client.command("LOGIN anna pw-anna").await.unwrap().tagged, "NO No");
            assert!(!says.contains("Wait") || asked.elapsed() > Duration::from_millis(990), "{:?}", asked.elapsed());
            let again = client.command(&format!("LOGIN bert {}", password_of("bert"))).await;
            assert_eq!(again.is_ok_and(|reply| reply.tagged.starts_with("OK")), is_kept, "{says}");
            if is_kept {
                assert_eq!(whereabouts(client).await, "second as bert");
            }
        }
    }
    pair.imapool.finish();
}
