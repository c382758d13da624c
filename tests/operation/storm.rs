//! An operator who does everything at once, at random, while sessions of all kinds come and go. Sessions may be told
//! that the server is not to be had, or to go; none may hang, hear anything else, or leave anything behind.
//!
//! `IMAPOOL_STORM_SEED` and `IMAPOOL_STORM_ACTIONS` choose another storm, or a longer one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imapool::config::PoolMode;
use imapool::demo::server::{Options, Server};

use crate::api::World;
use crate::http::post;
use crate::support::{Client, soon, until};

const USERS: usize = 3;
const CLIENTS: u64 = 12;
const MAILBOXES: [&str; 3] = ["INBOX", "One", "Two"];

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or_default() % n
    }
}

#[tokio::test]
async fn an_operator_who_does_everything_at_once() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
        let seed = number("IMAPOOL_STORM_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        println!("IMAPOOL_STORM_SEED={seed}, {mode:?}");
        storm(mode, seed, number("IMAPOOL_STORM_ACTIONS").unwrap_or(60)).await;
    }
}

async fn storm(mode: PoolMode, seed: u64, actions: u64) {
    let server = Server::start(Options::default()).await.unwrap();
    let address = server.address();
    let other = Server::start(Options::default()).await.unwrap();
    let world = World::before(address, server, |config| {
        config.pool.mode = mode;
        config.pool.spare = 0;
        config.pool.checkout_timeout = Duration::from_millis(500);
    })
    .await;
    for port in [other.address().port(), address.port()] {
        let mut config = (*world.harness.proxy().config()).clone();
        config.backends[0].port = port;
        world.harness.proxy().reload(config).await.unwrap();
        for user in 0..USERS {
            let mut client = world.harness.login(&format!("user{user}")).await;
            client.play("C: a CREATE One\nS~ a OK…\nC: b CREATE Two\nS~ b OK…\nC: z LOGOUT\nS~ z OK…\nS.").await;
        }
    }
    let stop = Arc::<AtomicBool>::default();
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|n| {
            let (stop, address, chance) = (Arc::clone(&stop), world.harness.address, Chance(seed * 97 + n));
            tokio::spawn(come_and_go(address, chance, stop))
        })
        .collect();
    let mut chance = Chance(seed | 1);
    for _ in 0..actions {
        assert!(!clients.iter().any(tokio::task::JoinHandle::is_finished), "a client has failed");
        act(&world, &other, &mut chance).await;
        tokio::time::sleep(Duration::from_millis(chance.below(20) as u64)).await;
    }
    stop.store(true, Ordering::Relaxed);
    post(world.admin, "/api/backends/mail/resume").await;
    for client in clients {
        soon("the end of a client", client).await.unwrap();
    }
    // All is as if nothing had been, as soon as the accounts may open connections again: some were closed so often
    // before they were of use that the next one has to wait.
    for user in 0..USERS {
        soon("a session as ever", async {
            while is_served(world.harness.address, user).await != Some(true) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    world.harness.sessions(0).await;
    let most = world.harness.proxy().config().pool.max_per_account * USERS;
    until("no more connections than allowed", || world.server.open() + other.open() <= most).await;
    for account in world.rows("accounts").await {
        assert_eq!((&account["sessions"], &account["waiting"]), (&0.into(), &0.into()), "{account}");
    }
    post(world.admin, "/api/backends/mail/drain").await;
    soon("nothing is open", world.server.wait_open(|open| open == 0)).await;
    soon("nothing is open", other.wait_open(|open| open == 0)).await;
    world.harness.finish().await;
}

/// One action of an operator.
async fn act(world: &World, other: &Server, chance: &mut Chance) {
    let user = chance.below(USERS);
    let call = match chance.below(9) {
        0 => {
            post(world.admin, "/api/backends/mail/drain").await;
            // Nothing is opened behind it.
            soon("drained", world.server.wait_open(|open| open == 0)).await;
            soon("drained", other.wait_open(|open| open == 0)).await;
            "backends/mail/resume".to_owned()
        }
        1 => "backends/mail/pause".to_owned(),
        2 | 3 => "backends/mail/resume".to_owned(),
        4 => format!("accounts/user{user}/retire"),
        5 => format!("accounts/USER{user}/close"),
        6 => {
            let mut config = (*world.harness.proxy().config()).clone();
            config.backends[0].port = [world.server.address(), other.address()][chance.below(2)].port();
            return drop(world.harness.proxy().reload(config).await.unwrap());
        }
        _ => {
            let mut config = (*world.harness.proxy().config()).clone();
            config.pool.max_per_account = 1 + chance.below(4);
            config.pool.max_lifetime = Duration::from_millis(50 + chance.below(500) as u64);
            return drop(world.harness.proxy().reload(config).await.unwrap());
        }
    };
    post(world.admin, &format!("/api/{call}")).await;
}

async fn come_and_go(address: SocketAddr, mut chance: Chance, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::connect(address).await;
        // A limit of the operator's making may close it at any moment.
        let _ = visit(&mut client, &mut chance).await;
    }
}

/// Whether a session gets in and has a connection; `None`: it was sent away.
async fn is_served(address: SocketAddr, user: usize) -> Option<bool> {
    let mut client = Client::connect(address).await;
    client.try_line().await?;
    Some(log_in(&mut client, user).await? && ask(&mut client, "LIST \"\" INBOX").await?)
}

async fn log_in(client: &mut Client, user: usize) -> Option<bool> {
    ask(client, &format!("LOGIN user{user} pw-user{user}")).await
}

/// `None`: it was sent away.
async fn visit(client: &mut Client, chance: &mut Chance) -> Option<()> {
    client.try_line().await?;
    log_in(client, chance.below(USERS)).await?.then_some(())?;
    for _ in 0..chance.below(8) {
        let command = match chance.below(8) {
            0 | 1 => format!("SELECT {}", MAILBOXES[chance.below(3)]),
            2 => "FETCH 1 (FLAGS)".to_owned(),
            3 => "STORE 1 +FLAGS (\\Flagged)".to_owned(),
            4 => "STATUS INBOX (UIDNEXT)".to_owned(),
            5 => "XYZZY".to_owned(),
            6 => {
                client.try_send("t IDLE\r\n").await;
                let mut line = client.try_line().await?;
                while !line.starts_with('+') && !line.starts_with("t ") {
                    line = client.try_line().await?;
                }
                if line.starts_with("t ") {
                    continue;
                }
                tokio::time::sleep(Duration::from_millis(chance.below(30) as u64)).await;
                client.try_send("DONE\r\n").await;
                reply(client).await?;
                continue;
            }
            _ => "NOOP".to_owned(),
        };
        ask(client, &command).await?;
    }
    if chance.below(3) > 0 {
        ask(client, "LOGOUT").await?;
    }
    Some(())
}

async fn ask(client: &mut Client, command: &str) -> Option<bool> {
    client.try_send(format!("t {command}\r\n")).await;
    reply(client).await
}

/// Whether it was OK. What is not is BAD of what makes no sense, or says that the server is not to be had.
async fn reply(client: &mut Client) -> Option<bool> {
    loop {
        let line = client.try_line().await?;
        let Some(tagged) = line.strip_prefix("t ") else {
            assert!(line.starts_with("* "), "{line}");
            continue;
        };
        let known = ["OK", "BAD", "NO [UNAVAILABLE]", "NO [LIMIT]"];
        assert!(known.iter().any(|known| tagged.starts_with(known)), "{line}");
        return Some(tagged.starts_with("OK"));
    }
}
