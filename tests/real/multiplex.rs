//! Many clients in few mailboxes of one account, on few connections: each checks all it is told, all the time.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};
use crate::viewer::{Keys, Known, Viewer, message, truth};

const USER: &str = "shared0";
const CLIENTS: u64 = 20;

/// No message has the same subject as another.
static NEXT: AtomicUsize = AtomicUsize::new(0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_dovecot() {
    at_work(Kind::Dovecot, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_dovecot_on_one_connection() {
    at_work(Kind::Dovecot, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_dovecot() {
    at_work(Kind::Dovecot, 5, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_dovecot_on_one_connection() {
    at_work(Kind::Dovecot, 5, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_dovecot_24() {
    at_work(Kind::Dovecot24, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_dovecot_24_on_one_connection() {
    at_work(Kind::Dovecot24, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_dovecot_24() {
    at_work(Kind::Dovecot24, 5, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_dovecot_24_on_one_connection() {
    at_work(Kind::Dovecot24, 5, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_cyrus() {
    at_work(Kind::Cyrus, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_cyrus_on_one_connection() {
    at_work(Kind::Cyrus, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_cyrus() {
    at_work(Kind::Cyrus, 5, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_cyrus_on_one_connection() {
    at_work(Kind::Cyrus, 5, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_cyrus_310() {
    at_work(Kind::Cyrus310, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailbox_of_cyrus_310_on_one_connection() {
    at_work(Kind::Cyrus310, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_cyrus_310() {
    at_work(Kind::Cyrus310, 5, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mailboxes_of_cyrus_310_on_one_connection() {
    at_work(Kind::Cyrus310, 5, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_clients_in_front_of_dovecot_need_few_connections() {
    few_connections(Kind::Dovecot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_clients_in_front_of_dovecot_24_need_few_connections() {
    few_connections(Kind::Dovecot24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_clients_in_front_of_cyrus_need_few_connections() {
    few_connections(Kind::Cyrus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_clients_in_front_of_cyrus_310_need_few_connections() {
    few_connections(Kind::Cyrus310).await;
}

/// Clients of all kinds in five mailboxes: without mod-sequences, with CONDSTORE, which some switch on in the middle of
/// a mailbox, with QRESYNC; all idle now and then. What one has switched on costs the others no connection.
async fn few_connections(kind: Kind) {
    for connections in [4, 1] {
        let Some(dials) = at_work_and(kind, 5, connections, true).await else { return };
        assert!(dials <= connections as u64 + 2, "{dials} connections were opened for {connections} places");
    }
}

/// Courier has other names for mailboxes, and no MOVE: two sessions only, who see the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sessions_share_a_mailbox_of_courier() {
    let Some(server) = Server::start(Kind::Courier, &Options::new(Accounts::numbered("shared", 1))).await else {
        return;
    };
    let proxy = Proxy::start(&server, &Settings { mode: "multiplex", spare: 0, ..Settings::default() }).await;
    let mut client = Client::login(proxy.address, USER, &password_of(USER)).await.unwrap();
    for _ in 0..6 {
        // By LITERAL+, which imapool has and Courier has not.
        client.append("INBOX", "", &message(&subject())).await.unwrap().ok();
    }
    let known = Known::default();
    let mut one = Viewer::login(proxy.address, USER, &known).await.unwrap();
    let mut other = Viewer::login(proxy.address, USER, &known).await.unwrap();
    for viewer in [&mut one, &mut other] {
        viewer.select("SELECT", "INBOX").await.unwrap();
        viewer.run("FETCH 1:* (UID FLAGS)").await.unwrap();
    }
    one.store(&[2], false, "+FLAGS", "\\Flagged").await.unwrap();
    one.store(&[3], false, "+FLAGS.SILENT", "\\Deleted").await.unwrap();
    one.run("EXPUNGE").await.unwrap();
    let mut direct = Client::login(server.address, USER, &password_of(USER)).await.unwrap();
    let truth = truth(&mut direct, "INBOX").await.unwrap();
    assert_eq!(truth.len(), 5);
    for viewer in [&mut one, &mut other] {
        viewer.settle(&truth).await.unwrap();
    }
    assert_eq!(proxy.metrics().await.logged_in(), 1.0);
    drop((one, other));
    proxy.finish();
}

async fn at_work(kind: Kind, mailboxes: usize, connections: usize) {
    at_work_and(kind, mailboxes, connections, false).await;
}

/// `polite`: clients log out, and do not vanish in the middle of something, which costs connections. How many were
/// opened; `None`: there is no such server here.
async fn at_work_and(kind: Kind, mailboxes: usize, connections: usize, polite: bool) -> Option<u64> {
    let server = Server::start(kind, &Options::new(Accounts::numbered("shared", 1))).await?;
    let mailboxes: Vec<String> =
        (0..mailboxes).map(|n| if n == 0 { "INBOX".into() } else { format!("Box{n}") }).collect();
    let mut direct = fill(&server, &mailboxes).await.unwrap();
    let settings = Settings { mode: "multiplex", max_per_account: connections, spare: 0, ..Settings::default() };
    let proxy = Proxy::start(&server, &settings).await;
    // What the server itself says is right, whatever it is: so the viewers are tested.
    let is_direct = std::env::var_os("IMAPOOL_SHARED_DIRECT").is_some();
    let address = if is_direct { server.address } else { proxy.address };
    let seconds = std::env::var("IMAPOOL_SHARED_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let end = Instant::now() + Duration::from_secs(seconds);
    let known = Known::default();
    // Cyrus has ways of its own, seen without imapool.
    known.lock().unwrap().is_cyrus = matches!(kind, Kind::Cyrus | Kind::Cyrus310);
    let mut work = JoinSet::new();
    for n in 0..CLIENTS {
        let worker = Worker { address, mailboxes: mailboxes.clone(), known: known.clone(), end, polite };
        work.spawn(async move { worker.run(Chance(n * 7919 + 1)).await });
    }
    let most = meddle(&proxy, &mut direct, &mailboxes, end).await;
    assert!(most <= connections as f64, "{most} connections at once\n{}", proxy.log());

    let (mut checked, mut viewers) = (0, Vec::new());
    while let Some(done) = work.join_next().await {
        let (commands, viewer) = done.expect("no panic").unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()));
        checked += commands;
        viewers.push(viewer);
    }
    assert!(checked > CLIENTS * 3, "{checked} commands");
    // Nothing changes any more: what they were told must be what there is.
    for mailbox in &mailboxes {
        let truth = truth(&mut direct, mailbox).await.unwrap();
        for viewer in viewers.iter_mut().filter(|viewer| viewer.mailbox == *mailbox) {
            let settled = viewer.settle(&truth).await;
            settled.unwrap_or_else(|error| panic!("at the end: {error}\n{}", viewer.history()));
        }
    }
    let metrics = proxy.metrics().await;
    let (retired, dials) = (metrics.text("imapool_upstream_retired_total"), metrics.dials());
    let boxes = mailboxes.len();
    eprintln!(
        "{kind:?}, {CLIENTS} clients, {boxes} mailboxes, {most} connections: {checked} commands, {dials} opened {retired}"
    );
    proxy.finish();
    Some(dials)
}

/// Mailboxes with some messages each.
async fn fill(server: &Server, mailboxes: &[String]) -> io::Result<Client> {
    let mut direct = Client::login(server.address, USER, &password_of(USER)).await?;
    for mailbox in mailboxes {
        if mailbox != "INBOX" {
            direct.command(&format!("CREATE {mailbox}")).await?.ok();
        }
        for _ in 0..6 {
            direct.append(mailbox, "", &message(&subject())).await?.ok();
        }
    }
    Ok(direct)
}

/// A third party changes the mailboxes until the end, not by imapool. The most connections that imapool had at any
/// time.
async fn meddle(proxy: &Proxy, direct: &mut Client, mailboxes: &[String], end: Instant) -> f64 {
    let (mut chance, mut most) = (Chance(4711), 0_f64);
    while Instant::now() < end {
        third_party(direct, mailboxes, &mut chance).await.unwrap();
        most = most.max(proxy.metrics().await.logged_in());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    most
}

async fn third_party(direct: &mut Client, mailboxes: &[String], chance: &mut Chance) -> io::Result<()> {
    let mailbox = &mailboxes[chance.below(mailboxes.len())];
    direct.command(&format!("SELECT {mailbox}")).await?.ok();
    // What is not there any more is refused.
    match chance.below(6) {
        0 | 1 => drop(direct.append(mailbox, "", &message(&subject())).await?.ok()),
        2 => drop(direct.command("STORE 1 +FLAGS (\\Flagged)").await?),
        3 => drop(direct.command("STORE 1:* -FLAGS.SILENT (\\Seen \\Flagged)").await?),
        4 => drop(direct.command(&format!("MOVE 2 {}", mailboxes[chance.below(mailboxes.len())])).await?),
        _ => {
            direct.command("STORE 1:4 +FLAGS.SILENT (\\Deleted)").await?;
            direct.command("EXPUNGE").await?;
        }
    }
    Ok(())
}

fn subject() -> String {
    format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// One client after another, until the end.
struct Worker {
    address: SocketAddr,
    mailboxes: Vec<String>,
    known: Known,
    end: Instant,
    polite: bool,
}

impl Worker {
    /// Gives the number of commands, and the last client as it was in the end.
    async fn run(&self, mut chance: Chance) -> io::Result<(u64, Viewer)> {
        let mut commands = 0;
        loop {
            let mut viewer = Viewer::login(self.address, USER, &self.known).await?;
            let worked = self.work(&mut viewer, &mut chance).await;
            worked.map_err(|wrong| io::Error::other(format!("{wrong}\n{}", viewer.history())))?;
            commands += viewer.commands;
            if Instant::now() > self.end {
                return Ok((commands, viewer));
            }
            match self.polite {
                true => viewer.client.logout().await?,
                false => leave(viewer, &mut chance).await?,
            }
        }
    }

    async fn work(&self, viewer: &mut Viewer, chance: &mut Chance) -> io::Result<()> {
        match chance.below(6) {
            0 => viewer.enable("CONDSTORE").await?,
            1 => viewer.enable("QRESYNC").await?,
            2 => viewer.enable("CONDSTORE QRESYNC").await?,
            _ => {}
        }
        viewer.select("SELECT", self.any(chance)).await?;
        for _ in 0..10 + chance.below(30) {
            if Instant::now() > self.end {
                break;
            }
            self.step(viewer, chance).await?;
            tokio::time::sleep(Duration::from_millis(chance.below(60) as u64)).await;
        }
        viewer.run("NOOP").await?;
        viewer.run("FETCH 1:* (UID FLAGS)").await
    }

    fn any(&self, chance: &mut Chance) -> &str {
        &self.mailboxes[chance.below(self.mailboxes.len())]
    }

    async fn step(&self, viewer: &mut Viewer, chance: &mut Chance) -> io::Result<()> {
        let count = viewer.view.len();
        if count == 0 {
            return match chance.below(4) {
                0 => viewer.run("NOOP").await,
                1 => viewer.select("SELECT", self.any(chance)).await,
                _ => viewer.append(self.any(chance), &subject(), false).await,
            };
        }
        let (n, m) = (1 + chance.below(count), 1 + chance.below(count));
        let (target, uid) = (self.any(chance), viewer.uid(n));
        if viewer.has_told_modseq() && chance.below(100) == 0 {
            return viewer.ask_for_modseqs().await;
        }
        if let Some(modseq) = viewer.has_modseqs().filter(|_| chance.below(5) == 0) {
            return match chance.below(4) {
                0 => viewer.run(&format!("FETCH {n}:{m} (UID FLAGS) (CHANGEDSINCE {modseq})")).await,
                1 => viewer.run(&format!("STORE {n}:{m} (UNCHANGEDSINCE {modseq}) +FLAGS.SILENT (\\Seen)")).await,
                2 => viewer.search(&format!("SEARCH {n}:{m} MODSEQ {modseq}"), n, m).await,
                _ => viewer.select("SELECT", target).await,
            };
        }
        match (chance.below(30), uid) {
            (26.., _) => self.lag(viewer, chance).await,
            (0 | 1, _) => viewer.run("NOOP").await,
            (2 | 3, _) => viewer.idle(Duration::from_millis(20 + chance.below(150) as u64)).await,
            (4 | 5, _) => viewer.run("FETCH 1:* (UID FLAGS)").await,
            (6, _) => viewer.run(&format!("FETCH {n}:{m} (UID BODY.PEEK[HEADER])")).await,
            (7, _) => viewer.run(&format!("FETCH {n} (UID BODY[])")).await,
            (8, Some(uid)) => viewer.run(&format!("UID FETCH {uid} (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")).await,
            (8 | 9, _) => viewer.store(&[n], false, "+FLAGS", "\\Seen").await,
            (10, _) => viewer.store(&[n, m], false, "-FLAGS.SILENT", "\\Seen").await,
            (11, _) => viewer.store(&[n], true, "FLAGS.SILENT", "\\Answered").await,
            (12, _) => viewer.store(&[n], true, "+FLAGS", "\\Deleted").await,
            (13, Some(uid)) => viewer.run(&format!("UID EXPUNGE {uid}")).await,
            (13, None) => viewer.run("EXPUNGE").await,
            (14, uid) => viewer.copy(&format!("COPY {n} {target}"), uid).await,
            (15, Some(uid)) => viewer.copy(&format!("UID MOVE {uid} {target}"), Some(uid)).await,
            (15 | 16, uid) => viewer.copy(&format!("MOVE {n} {target}"), uid).await,
            (17, _) => viewer.search(&format!("SEARCH {n}:{m} NOT DELETED"), n, m).await,
            (18, _) => viewer.search(&format!("SEARCH RETURN (ALL) OR {n}:{m} NOT ALL"), n, m).await,
            (19, _) => viewer.search("SORT (REVERSE DATE) UTF-8 ALL", 1, usize::MAX).await,
            (20, _) => viewer.search("THREAD REFERENCES UTF-8 ALL", 1, usize::MAX).await,
            (21, _) if chance.below(3) == 0 => {
                viewer.run("CLOSE").await?;
                viewer.select("SELECT", target).await
            }
            (22, _) if chance.below(3) == 0 => viewer.select("SELECT", target).await,
            (23, _) if chance.below(3) == 0 => {
                viewer.select("EXAMINE", target).await?;
                viewer.run("FETCH 1:* (UID FLAGS)").await?;
                viewer.select("SELECT", target).await
            }
            // Enough is there.
            (24 | 25, _) if count > 50 => viewer.store(&[n, m], true, "+FLAGS.SILENT", "\\Deleted").await,
            (24, _) => viewer.append(target, &subject(), true).await,
            _ => viewer.append(target, &subject(), false).await,
        }
    }

    /// Some commands in a row during which it may not hear of an EXPUNGE (RFC 9051 section 7.5.1).
    async fn lag(&self, viewer: &mut Viewer, chance: &mut Chance) -> io::Result<()> {
        for _ in 0..2 + chance.below(5) {
            let count = viewer.view.len();
            let (n, m) = (1 + chance.below(count), 1 + chance.below(count));
            let keys = Keys::new(chance.below(7), n, m, viewer.uid(n));
            let returns = ["", "CHARSET UTF-8 ", "RETURN () ", "RETURN (MIN MAX COUNT) "][chance.below(4)];
            match chance.below(8) {
                0 => viewer.run(&format!("FETCH {n}:{m} (UID FLAGS)")).await?,
                1 => viewer.run("FETCH 1:* (UID FLAGS)").await?,
                2 => viewer.run(&format!("FETCH {n} (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")).await?,
                3 => viewer.store(&[n], false, "+FLAGS.SILENT", "\\Flagged").await?,
                4 => viewer.store(&[n, m], false, "-FLAGS", "\\Seen").await?,
                5 => viewer.find_uids(returns, keys).await?,
                _ => viewer.find(returns, keys).await?,
            }
            tokio::time::sleep(Duration::from_millis(chance.below(40) as u64)).await;
        }
        Ok(())
    }
}

/// Politely, or not at all: in the middle of a reply, in IDLE, or just so.
async fn leave(mut viewer: Viewer, chance: &mut Chance) -> io::Result<()> {
    match chance.below(5) {
        0 => viewer.client.send(b"x FETCH 1:* (BODY.PEEK[])\r\n").await,
        1 => viewer.client.send(b"x IDLE\r\n").await,
        2 => viewer.client.send(b"x APPEND INBOX {1000+}\r\nSubject: never").await,
        3 => Ok(()),
        _ => viewer.client.logout().await,
    }
}
