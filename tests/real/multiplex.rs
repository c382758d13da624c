//! Many clients in few mailboxes of one account, on few connections: each checks all it is told, all the time.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};

const USER: &str = "shared0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_dovecot_on_one_connection() {
    at_work(Kind::Dovecot, 50, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_dovecot_on_one_connection() {
    at_work(Kind::Dovecot, 20, 5, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_dovecot() {
    at_work(Kind::Dovecot, 50, 5, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_cyrus() {
    at_work(Kind::Cyrus, 50, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_cyrus_on_two_connections() {
    at_work(Kind::Cyrus, 50, 5, 2).await;
}

async fn at_work(kind: Kind, clients: u64, mailboxes: usize, connections: usize) {
    let Some(server) = Server::start(kind, &Options::new(Accounts::numbered("shared", 1))).await else { return };
    let mailboxes: Vec<String> =
        (0..mailboxes).map(|n| if n == 0 { "INBOX".into() } else { format!("Box{n}") }).collect();
    let mut direct = Client::login(server.address, USER, &password_of(USER)).await.unwrap();
    for mailbox in &mailboxes {
        if mailbox != "INBOX" {
            direct.command(&format!("CREATE {mailbox}")).await.unwrap().ok();
        }
        for n in 0..6 {
            direct.append(mailbox, "", &message(n)).await.unwrap().ok();
        }
    }
    let settings = Settings { mode: "multiplex", max_per_account: connections, spare: 0, ..Settings::default() };
    let proxy = Proxy::start(&server, &settings).await;
    let seconds = std::env::var("IMAPOOL_SHARED_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut work = JoinSet::new();
    for n in 0..clients {
        let (address, mailboxes) = (proxy.address, mailboxes.clone());
        work.spawn(async move { client(n + 1, address, &mailboxes, end).await });
    }
    let mut chance = Chance(4711);
    while Instant::now() < end {
        third_party(&mut direct, &mailboxes, &mut chance).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut checked = 0;
    while let Some(done) = work.join_next().await {
        match done.expect("no panic") {
            Ok(commands) => checked += commands,
            Err(error) => panic!("{error}\n{}", proxy.log()),
        }
    }
    assert!(checked > clients * 3, "{checked} commands");
    let metrics = proxy.metrics().await;
    let open = metrics.sum("imapool_upstream_connections");
    assert!(open <= connections as f64, "{open} connections");
    let retired = metrics.text("imapool_upstream_retired_total");
    eprintln!("{kind:?}, {clients} clients, {} mailboxes: {checked} commands\n{retired}", mailboxes.len());
    proxy.finish();
}

fn message(n: u32) -> String {
    format!("From: a@example.org\r\nSubject: {n}\r\nMessage-ID: <{n}@example.org>\r\n\r\nbody {n}\r\n")
}

/// Changes a mailbox, not by imapool.
async fn third_party(direct: &mut Client, mailboxes: &[String], chance: &mut Chance) -> io::Result<()> {
    let mailbox = &mailboxes[chance.below(mailboxes.len())];
    direct.command(&format!("SELECT {mailbox}")).await?.ok();
    match chance.below(4) {
        0 | 1 => drop(direct.append(mailbox, "", &message(7)).await?.ok()),
        2 => drop(direct.command("STORE 1 +FLAGS (\\Flagged)").await?),
        _ => {
            direct.command("STORE 1 +FLAGS.SILENT (\\Deleted)").await?;
            direct.command("EXPUNGE").await?;
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// A client's view: the UID of each message, where it knows it.
struct Viewer {
    client: Client,
    view: Vec<Option<u32>>,
    commands: u64,
    history: Vec<String>,
}

/// Works until the end; gives the number of commands.
async fn client(n: u64, address: SocketAddr, mailboxes: &[String], end: Instant) -> io::Result<u64> {
    let mut chance = Chance(n * 7919);
    let mut commands = 0;
    while Instant::now() < end {
        let client = Client::login(address, USER, &password_of(USER)).await?;
        let mut viewer = Viewer { client, view: Vec::new(), commands: 0, history: Vec::new() };
        let wrong = viewer.work(&mut chance, mailboxes, end).await;
        commands += viewer.commands;
        if let Err(wrong) = wrong {
            let from = viewer.history.len().saturating_sub(40);
            return Err(io::Error::other(format!("client {n}: {wrong}\n{}", viewer.history[from..].join("\n"))));
        }
        // Now and then without LOGOUT.
        if chance.below(2) == 0 {
            viewer.client.logout().await?;
        }
    }
    Ok(commands)
}

impl Viewer {
    async fn work(&mut self, chance: &mut Chance, mailboxes: &[String], end: Instant) -> io::Result<()> {
        let mailbox = mailboxes[chance.below(mailboxes.len())].clone();
        self.run(&format!("SELECT {mailbox}")).await?;
        let steps = 10 + chance.below(30);
        for _ in 0..steps {
            if Instant::now() > end {
                break;
            }
            self.step(chance, mailboxes).await?;
            tokio::time::sleep(Duration::from_millis(chance.below(60) as u64)).await;
        }
        self.run("NOOP").await?;
        self.run("FETCH 1:* (UID FLAGS)").await
    }

    async fn step(&mut self, chance: &mut Chance, mailboxes: &[String]) -> io::Result<()> {
        let count = self.view.len();
        let number = 1 + chance.below(count);
        let other = 1 + chance.below(count);
        let target = &mailboxes[chance.below(mailboxes.len())];
        let uid = self.view.get(number.saturating_sub(1)).copied().flatten();
        let line = match (chance.below(if count == 0 { 3 } else { 17 }), uid) {
            (0 | 1, _) => "NOOP".to_owned(),
            (2, _) => return self.idle(chance).await,
            (3 | 4, _) => "FETCH 1:* (UID FLAGS)".into(),
            (5, _) => format!("FETCH {number}:{other} (UID BODY.PEEK[HEADER])"),
            (6, _) => format!("FETCH {number} (UID BODY[])"),
            (7, _) => format!("STORE {number} +FLAGS (\\Seen)"),
            (8, _) => format!("STORE {number},{other} -FLAGS.SILENT (\\Seen)"),
            (9, Some(uid)) => format!("UID STORE {uid} +FLAGS (\\Deleted)"),
            (10, Some(uid)) => format!("UID EXPUNGE {uid}"),
            (10, None) => "EXPUNGE".into(),
            (11, _) => format!("COPY {number} {target}"),
            (12, Some(uid)) => format!("UID MOVE {uid} {target}"),
            (13, _) => format!("SEARCH {number}:{other} NOT DELETED"),
            (14, _) => "SORT (DATE) UTF-8 ALL".into(),
            (15, _) => "THREAD REFERENCES UTF-8 ALL".into(),
            (16, _) if chance.below(3) == 0 => {
                self.run("CLOSE").await?;
                format!("SELECT {target}")
            }
            _ => format!("APPEND {target} {{{}+}}\r\n{}", message(9).len(), message(9)),
        };
        self.run(&line).await
    }

    async fn idle(&mut self, chance: &mut Chance) -> io::Result<()> {
        self.history.push("C: IDLE".into());
        self.client.send(b"i IDLE\r\n").await?;
        let mut done = false;
        let quiet = Duration::from_millis(20 + chance.below(150) as u64);
        loop {
            match tokio::time::timeout(quiet, self.client.response()).await {
                Err(_) if !done => {
                    done = true;
                    self.client.send(b"DONE\r\n").await?;
                }
                Err(_) => {}
                Ok(response) => {
                    let response = response?.ok_or_else(|| io::Error::other("closed in IDLE"))?;
                    if response.starts_with(b"i ") {
                        self.history.push(format!("S: {}", String::from_utf8_lossy(&response)));
                        return Ok(());
                    }
                    if !response.starts_with(b"+") {
                        self.untagged(&response, false)?;
                    }
                }
            }
        }
    }

    /// Runs a command and looks at all that comes.
    async fn run(&mut self, line: &str) -> io::Result<()> {
        self.commands += 1;
        self.history.push(format!("C: {line}"));
        if line.starts_with("SELECT") {
            self.view.clear();
        }
        let tag = format!("v{}", self.commands);
        self.client.send(format!("{tag} {line}\r\n").as_bytes()).await?;
        let keeps_numbers = ["FETCH", "STORE", "SEARCH", "SORT", "THREAD"].iter().any(|verb| line.starts_with(verb));
        loop {
            let response = self.client.response().await?;
            let response = response.ok_or_else(|| io::Error::other(format!("closed during {line}")))?;
            if let Some(rest) = response.strip_prefix(format!("{tag} ").as_bytes()) {
                let rest = String::from_utf8_lossy(rest).into_owned();
                self.history.push(format!("S: {rest}"));
                let gone = rest.contains("EXPUNGEISSUED") || line.starts_with("COPY") || line.contains("STORE");
                if rest.starts_with("OK") || rest.starts_with("NO") && (gone || line.contains("FETCH")) {
                    return Ok(());
                }
                return Err(io::Error::other(format!("{line}: {rest}")));
            }
            self.untagged(&response, keeps_numbers)?;
        }
    }

    fn untagged(&mut self, response: &[u8], keeps_numbers: bool) -> io::Result<()> {
        let text = String::from_utf8_lossy(response).into_owned();
        self.history.push(format!("S: {}", text.lines().next().unwrap_or_default()));
        let wrong = |what: &str| Err(io::Error::other(format!("{what}: {text}")));
        if text.starts_with("* BYE") {
            return wrong("BYE");
        }
        let mut words = text.trim_end().splitn(4, ' ').skip(1);
        let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<usize>), words.next()) else {
            return Ok(());
        };
        match what {
            "EXISTS" if number < self.view.len() => return wrong("fewer messages"),
            "EXISTS" => self.view.resize(number, None),
            "EXPUNGE" if keeps_numbers => return wrong("EXPUNGE where none may come"),
            "EXPUNGE" if number == 0 || number > self.view.len() => return wrong("EXPUNGE of no message"),
            "EXPUNGE" => drop(self.view.remove(number - 1)),
            "FETCH" if number == 0 || number > self.view.len() => return wrong("FETCH of no message"),
            "FETCH" => {
                let head = text.lines().next().unwrap_or_default();
                let Some((_, rest)) = head.split_once("UID ") else { return Ok(()) };
                let uid: u32 = rest.split([' ', ')']).next().and_then(|uid| uid.parse().ok()).unwrap_or(0);
                if self.view[number - 1].is_some_and(|known| known != uid) {
                    return wrong(&format!("message {number} was {:?}", self.view[number - 1]));
                }
                self.view[number - 1] = Some(uid);
                let known: Vec<u32> = self.view.iter().flatten().copied().collect();
                if !known.is_sorted_by(|a, b| a < b) {
                    return wrong(&format!("UIDs out of order: {known:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

const IDLERS: usize = 8;
const IDLE_ACCOUNTS: usize = 20;

/// One connection for each mailbox, however many idle there; all of them hear of a message, also after all connections were cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_in_idle_hears_of_mail() {
    let options = Options::new(Accounts::numbered("idler", IDLE_ACCOUNTS));
    let Some(server) = Server::start(Kind::Dovecot, &options).await else { return };
    let relay = Relay::start(server.address).await;
    let settings = Settings { mode: "multiplex", spare: 0, through: Some(relay.address), ..Settings::default() };
    let proxy = Proxy::start(&server, &settings).await;
    let mut clients = Vec::new();
    for n in 0..IDLE_ACCOUNTS * IDLERS {
        let user = format!("idler{}", n % IDLE_ACCOUNTS);
        let mut client = Client::login(proxy.address, &user, &password_of(&user)).await.unwrap();
        client.command("SELECT INBOX").await.unwrap().ok();
        client.send(b"i IDLE\r\n").await.unwrap();
        assert!(client.response().await.unwrap().unwrap().starts_with(b"+"));
        clients.push(client);
    }
    for round in 1..=2 {
        let delivered = Instant::now();
        for n in 0..IDLE_ACCOUNTS {
            let user = format!("idler{n}");
            let mut direct = Client::login(server.address, &user, &password_of(&user)).await.unwrap();
            direct.append("INBOX", "", &message(1)).await.unwrap().ok();
        }
        for client in &mut clients {
            loop {
                let told = client.response().await.unwrap().expect("nobody is disconnected");
                let told = String::from_utf8_lossy(&told).into_owned();
                assert!(!told.starts_with("* BYE"), "{told}");
                if told == format!("* {round} EXISTS\r\n") {
                    break;
                }
            }
        }
        eprintln!("round {round}: all {} clients know after {:?}", clients.len(), delivered.elapsed());
        let metrics = proxy.metrics().await;
        assert!(metrics.sum("imapool_upstream_connections") <= IDLE_ACCOUNTS as f64);
        relay.cut();
    }
    drop(clients);
    proxy.finish();
}

/// Passes octets on, until it is told to cut all connections.
struct Relay {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<u64>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = tokio::sync::watch::Sender::new(0);
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }

    fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}
