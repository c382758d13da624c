//! Three imapools in front of one Dovecot, by the recipe of docs/replicas.md: each account has one pool, wherever its
//! sessions arrive.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::process::free_port;
use crate::proxy::Proxy;
use crate::server::{Kind, Options, Server, scratch_folder};

const PAGE: &str = include_str!("../../docs/replicas.md");
const LIMIT: Duration = Duration::from_secs(20);
/// At the server, for each account: one more is refused.
const MOST: usize = 2;

/// So many, or as many as `IMAPOOL_REPLICA_ACCOUNTS` says.
fn accounts() -> usize {
    std::env::var("IMAPOOL_REPLICA_ACCOUNTS").map_or(12, |count| count.parse().expect("a number"))
}

/// The configuration of the page, for one of the replicas.
fn recipe(own: usize, inner: &[SocketAddr], mail: SocketAddr, mode: &str) -> String {
    let (_, section) = PAGE.split_once("## They know each other").unwrap();
    let (_, block) = section.split_once("```toml\n").unwrap();
    let mut text = block.split_once("```").unwrap().0.to_owned();
    let mut put = |said: &str, meant: &str| {
        assert!(text.contains(said), "{said}");
        text = text.replace(said, meant);
    };
    put("0.0.0.0:143", "127.0.0.1:0");
    put("0.0.0.0:1143", &inner[own].to_string());
    put("10.0.0.0/8", "127.0.0.0/8");
    put("mail.example.org:143", &mail.to_string());
    for (place, address) in inner.iter().enumerate() {
        put(&format!("imapool-{place}.example.org:1143"), &address.to_string());
    }
    // What a host's name says, where there is a host for each.
    put("[routing]\n", &format!("[routing]\nreplica = \"imapool-{own}\"\n"));
    put("\"outer\"", "\"webmail\"");
    let pool = format!("[pool]\nmode = \"{mode}\"\nmax_per_account = {MOST}\nspare = 0\n");
    format!("{text}\n{pool}[admin]\naddress = \"127.0.0.1:0\"\n")
}

struct Replicas {
    proxies: Vec<Proxy>,
    server: Server,
    inner: [SocketAddr; 3],
}

impl Replicas {
    /// `None` (after saying so) if Dovecot is not installed.
    async fn start(mode: &str) -> Option<Self> {
        let options =
            Options { max_userip_connections: MOST, ..Options::new(Accounts::numbered("replica", accounts())) };
        let server = Server::start(Kind::Dovecot, &options).await?;
        let inner = [free_port(), free_port(), free_port()];
        let start = |own| Proxy::configured(scratch_folder(), &recipe(own, &inner, server.address, mode));
        Some(Self { proxies: (0..inner.len()).map(start).collect(), server, inner })
    }

    /// The place of the replica that has a user's account: all say the same.
    fn owner(&self, user: &str) -> usize {
        let told = |proxy: &Proxy| {
            let told = String::from_utf8(proxy.ask(&["route", user]).stdout).unwrap();
            let place = told.strip_prefix("backend imapool-").and_then(|rest| rest.get(..1)?.parse().ok());
            place.unwrap_or_else(|| panic!("{told}"))
        };
        let owners: Vec<usize> = self.proxies.iter().map(told).collect();
        assert!(owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
        owners[0]
    }

    fn user_of(&self, place: usize) -> String {
        let mut users = (0..accounts()).map(|number| format!("replica{number}"));
        users.find(|user| self.owner(user) == place).unwrap_or_else(|| panic!("nobody is at {place}"))
    }

    /// As somebody logs in who does not give up while an account goes from one replica to another.
    async fn come(&self, place: usize, user: &str) -> Client {
        let begun = Instant::now();
        loop {
            let mut client = Client::connect(self.proxies[place].address).await.unwrap();
            let told = client.command(&format!("LOGIN {user} {}", password_of(user))).await.unwrap().tagged;
            if told.starts_with("OK") {
                eprintln!("{user} is served at {place} after {:?}", begun.elapsed());
                return client;
            }
            assert!(told.starts_with("NO [UNAVAILABLE]") && begun.elapsed() < LIMIT, "{told}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn login(&self, place: usize, user: &str) -> Client {
        Client::login(self.proxies[place].address, user, &password_of(user)).await.unwrap()
    }
}

/// A visit of a webmail; some leave without LOGOUT.
async fn visit(address: SocketAddr, number: usize) {
    let user = format!("replica{}", number % accounts());
    let mut client = Client::login(address, &user, &password_of(&user)).await.unwrap();
    client.command("SELECT INBOX").await.unwrap().ok();
    let message = format!("Subject: {number}\r\n\r\n{}\r\n", "mail ".repeat(2000));
    client.command(&format!("APPEND INBOX {{{}+}}\r\n{message}", message.len())).await.unwrap().ok();
    let fetched = client.command("FETCH 1 BODY.PEEK[]").await.unwrap().ok();
    assert!(fetched.to_string().contains("mail mail"), "{fetched}");
    if !number.is_multiple_of(5) {
        client.logout().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_one_pool_wherever_its_sessions_arrive() {
    for mode in ["multiplex", "session"] {
        let Some(replicas) = Replicas::start(mode).await else { return };
        // With a connection for each session, no more than have one at once.
        let at_once = if mode == "session" { accounts().min(60) } else { 60 };
        let mut visits = JoinSet::new();
        for number in 0..20 * accounts() {
            if visits.len() >= at_once
                && let Err(error) = visits.join_next().await.unwrap()
            {
                let logs: String = replicas.proxies.iter().map(Proxy::log).collect();
                panic!("{error}\n{logs}");
            }
            visits.spawn(visit(replicas.proxies[number / accounts() % 3].address, number));
        }
        visits.join_all().await;
        for proxy in &replicas.proxies {
            let metrics = proxy.metrics().await;
            assert!(metrics.sum("imapool_sessions_relayed_total") > 0.0);
            assert_eq!(metrics.sum("imapool_backend_limits_total"), 0.0, "the server has refused a connection");
            // One now and then: of a client that closed its side in the moment that it was told of news.
            let (waiting, relayed) = ("imapool_ports_time_wait", metrics.sum("imapool_sessions_relayed_total"));
            assert!(metrics.sum(waiting) <= relayed / 20.0, "{relayed} relayed, and {}", metrics.text(waiting));
        }
        assert!(!replicas.server.log().contains("mail_max_userip_connections"), "{}", replicas.server.log());
        replicas.proxies.into_iter().for_each(Proxy::finish);
    }
}

/// A replica that is killed takes its accounts' sessions with it, who hear it, and no others. They come back, and are
/// served by another; and by their own when that is there again, which hears of none beyond what one may have.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed() {
    let Some(mut replicas) = Replicas::start("multiplex").await else { return };
    let (stays, goes) = (replicas.user_of(0), replicas.user_of(2));
    let mut others = [replicas.login(0, &stays).await, replicas.login(1, &stays).await];
    let mut lost = [replicas.login(0, &goes).await, replicas.login(1, &goes).await];
    for client in others.iter_mut().chain(&mut lost) {
        client.command("SELECT INBOX").await.unwrap().ok();
    }
    let lost_proxy = replicas.proxies.remove(2);
    tokio::task::block_in_place(|| lost_proxy.kill());
    for client in &mut lost {
        let said = client.response().await.unwrap().unwrap();
        assert!(said.starts_with(b"* BYE [UNAVAILABLE]"), "{}", String::from_utf8_lossy(&said));
        assert_eq!(client.response().await.unwrap(), None);
    }
    let mut meanwhile = [replicas.come(0, &goes).await, replicas.come(1, &goes).await];
    for client in &mut meanwhile {
        client.command("SELECT INBOX").await.unwrap().ok();
    }
    let again = recipe(2, &replicas.inner, replicas.server.address, "multiplex");
    replicas.proxies.push(tokio::task::block_in_place(|| Proxy::configured(scratch_folder(), &again)));
    for client in &mut meanwhile {
        let said = client.response().await.unwrap().unwrap();
        assert!(said.starts_with(b"* BYE"), "{}", String::from_utf8_lossy(&said));
    }
    for place in [0, 1, 2] {
        let mut client = replicas.come(place, &goes).await;
        client.command("SELECT INBOX").await.unwrap().ok();
        client.logout().await.unwrap();
    }
    let logged_in = replicas.proxies[2].metrics().await.logged_in();
    assert!(logged_in > 0.0, "its account is its own again");
    assert!(!replicas.server.log().contains("mail_max_userip_connections"), "{}", replicas.server.log());
    for client in &mut others {
        client.command("NOOP").await.unwrap().ok();
    }
    for client in others {
        client.logout().await.unwrap();
    }
    replicas.proxies.into_iter().for_each(Proxy::finish);
}
