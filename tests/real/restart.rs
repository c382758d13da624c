//! The server is restarted, or killed, under many sessions: those at rest notice nothing, and those at work lose at
//! most the command that runs.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};
use crate::viewer::{Known, Viewer, message, truth};

const ACCOUNTS: usize = 50;
/// Of each account.
const AT_REST: usize = 10;
/// Accounts at work, and sessions at work of each.
const WORKING: usize = 10;
const AT_WORK: usize = 5;
/// How long the server is away.
const OUTAGE: Duration = Duration::from_secs(3);
/// What a Dovecot says that has to mend an index first.
const MENDING: &str = "NO [SERVERBUG]";
/// The longest that anything may take afterwards.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_not_noticed_at_rest() {
    outage(Kind::Dovecot, |server| assert!(server.processes.stop().is_some())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_all_processes_are_killed_is_not_noticed_at_rest() {
    outage(Kind::Dovecot, |server| server.processes.kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_dovecot_24_is_not_noticed_at_rest() {
    outage(Kind::Dovecot24, |server| assert!(server.processes.stop().is_some())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_dovecot_24_is_killed_is_not_noticed_at_rest() {
    outage(Kind::Dovecot24, |server| server.processes.kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_cyrus_310_is_not_noticed_at_rest() {
    outage(Kind::Cyrus310, |server| assert!(server.processes.stop().is_some())).await;
}

async fn outage(kind: Kind, end: impl FnOnce(&mut Server)) {
    // Of a process that was killed, maildir keeps locks for two minutes.
    let options = Options { mail_location: "sdbox:~/dbox", ..Options::new(Accounts::numbered("rest", ACCOUNTS)) };
    let Some(mut server) = Server::start(kind, &options).await else { return };
    let settings = Settings { mode: "multiplex", spare: 0, ..Settings::default() };
    let proxy = Proxy::start(&server, &settings).await;
    let mut resting = JoinSet::new();
    for n in 0..ACCOUNTS {
        resting.spawn(sessions_at_rest(server.address, proxy.address, user(n)));
    }
    let mut resting: Vec<Resting> = resting.join_all().await.into_iter().flatten().collect();
    assert_eq!(resting.len(), ACCOUNTS * AT_REST);
    let phase = watch::Sender::new(Phase::Before);
    let (written, mut writes) = tokio::sync::mpsc::unbounded_channel();
    let mut working = JoinSet::new();
    for n in 0..WORKING * AT_WORK {
        let written = written.clone();
        let worker = Worker { user: user(n % WORKING), name: n, phase: phase.subscribe(), ledger: Ledger::default() };
        working.spawn(async move { worker.run(proxy.address, written).await });
    }
    for _ in 0..WORKING * AT_WORK * 8 {
        tokio::time::timeout(LIMIT, writes.recv()).await.unwrap().unwrap();
    }

    phase.send_replace(Phase::Away);
    end(&mut server);
    sleep(OUTAGE).await;
    server.start_again().await;
    let back = Instant::now();
    let third_parties: JoinSet<()> = (0..ACCOUNTS).map(|n| third_party(server.address, user(n))).collect();
    third_parties.join_all().await;
    phase.send_replace(Phase::Back);

    let ledgers = tokio::time::timeout(LIMIT, working.join_all()).await.expect("all who work go on");
    eprintln!("all who work have gone on {:?} after it was back", back.elapsed());
    for n in 0..WORKING {
        let ledgers: Vec<&Ledger> = ledgers.iter().filter(|ledger| ledger.user == user(n)).collect();
        check(server.address, &user(n), &ledgers).await;
    }
    let mut longest = Duration::ZERO;
    for session in &mut resting {
        session.notices_nothing(server.address).await;
        longest = longest.max(back.elapsed());
    }
    let affected: usize = ledgers.iter().map(|ledger| ledger.affected).sum();
    let most = ledgers.iter().map(|ledger| ledger.affected).max();
    let writes: usize = ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum();
    let metrics = proxy.metrics().await.text("imapool_upstream_retired_total");
    eprintln!("{writes} writes acknowledged, {affected} commands affected (most of one session: {most:?})\n{metrics}");
    drop(resting);
    proxy.finish();
}

fn user(n: usize) -> String {
    format!("rest{n}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    Away,
    Back,
}

/// A session that does nothing while the server is away.
struct Resting {
    user: String,
    viewer: Viewer,
    idling: bool,
}

/// All of one account: in IDLE, in two mailboxes without, and without a mailbox.
async fn sessions_at_rest(server: SocketAddr, proxy: SocketAddr, user: String) -> Vec<Resting> {
    let mut direct = Client::login(server, &user, &password_of(&user)).await.unwrap();
    for mailbox in ["Copies", "Moved"] {
        direct.command(&format!("CREATE {mailbox}")).await.unwrap().ok();
    }
    for mailbox in ["INBOX", "Copies"] {
        for n in 0..4 {
            direct.append(mailbox, "", &message(&format!("old{n}"))).await.unwrap().ok();
        }
    }
    let mut sessions = Vec::new();
    for n in 0..AT_REST {
        let mut viewer = Viewer::login(proxy, &user, &Known::default()).await.unwrap();
        match n % 5 {
            0 => {}
            1 => viewer.select("SELECT", "Copies").await.unwrap(),
            2 => viewer.select("EXAMINE", "INBOX").await.unwrap(),
            _ => viewer.select("SELECT", "INBOX").await.unwrap(),
        }
        if n % 5 > 0 && n > 5 {
            viewer.run("FETCH 1:* (UID FLAGS)").await.unwrap();
        }
        let idling = n % 5 > 2;
        if idling {
            viewer.begin_idle().await.unwrap();
        }
        sessions.push(Resting { user: user.clone(), viewer, idling });
    }
    sessions
}

/// Changes what the sessions at rest know, as soon as that can be done again.
async fn third_party(server: SocketAddr, user: String) {
    let mut direct = Client::login(server, &user, &password_of(&user)).await.unwrap();
    for mailbox in ["INBOX", "Copies"] {
        let text = message("new");
        for line in [
            format!("APPEND {mailbox} {{{}+}}\r\n{text}", text.len()),
            format!("SELECT {mailbox}"),
            "STORE 1 +FLAGS (\\Answered)".into(),
            "STORE 2 +FLAGS (\\Deleted)".into(),
            "EXPUNGE".into(),
        ] {
            insist(&mut direct, &line).await;
        }
    }
}

/// A Dovecot whose processes were all killed mends its indexes as it finds them, and may refuse a command for that.
async fn insist(direct: &mut Client, line: &str) {
    for _ in 0..20 {
        let reply = direct.command(line).await.unwrap();
        if !reply.tagged.starts_with(MENDING) {
            reply.ok();
            return;
        }
    }
    panic!("{line} is refused again and again");
}

impl Resting {
    /// It is connected, and hears of what has changed, and of nothing else.
    async fn notices_nothing(&mut self, server: SocketAddr) {
        let viewer = &mut self.viewer;
        if viewer.mailbox.is_empty() {
            return viewer.run("STATUS INBOX (MESSAGES)").await.unwrap();
        }
        let mut direct = Client::login(server, &self.user, &password_of(&self.user)).await.unwrap();
        let truth = truth(&mut direct, &viewer.mailbox).await.unwrap();
        if self.idling {
            while viewer.agrees(&truth, "IDLE").is_err() {
                let heard = viewer.hear(LIMIT).await.unwrap();
                assert!(heard, "{:?}\n{}", viewer.agrees(&truth, "IDLE"), viewer.history());
            }
            viewer.end_idle().await.unwrap();
        }
        let settled = viewer.settle(&truth).await;
        settled.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.user, viewer.history()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Write {
    Append,
    Flag,
    Copy,
    Move,
}

/// What a session has written.
#[derive(Debug, Default)]
struct Ledger {
    user: String,
    /// With the message's subject.
    acknowledged: Vec<(Write, String)>,
    /// All messages that it ever named.
    tried: Vec<String>,
    /// Commands that were refused.
    affected: usize,
}

struct Worker {
    user: String,
    name: usize,
    phase: watch::Receiver<Phase>,
    ledger: Ledger,
}

impl Worker {
    /// Works until some of what it wrote after the outage was acknowledged; its connection must last until then.
    async fn run(mut self, proxy: SocketAddr, written: tokio::sync::mpsc::UnboundedSender<()>) -> Ledger {
        self.ledger.user = self.user.clone();
        let mut client = Client::login(proxy, &self.user, &password_of(&self.user)).await.unwrap();
        client.command("SELECT INBOX").await.unwrap().ok();
        let mut since = 0;
        for round in 0.. {
            let whole = self.round(&mut client, format!("w{}r{round}", self.name)).await;
            let phase = *self.phase.borrow();
            since += usize::from(whole && phase == Phase::Back);
            if whole {
                let _ = written.send(());
            }
            if since > 5 {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        client.logout().await.unwrap();
        self.ledger
    }

    /// Writes in every way; true: all of it was acknowledged.
    async fn round(&mut self, client: &mut Client, subject: String) -> bool {
        self.ledger.tried.push(subject.clone());
        let text = message(&subject);
        let Some(appended) =
            self.write(client, Write::Append, &subject, format!("APPEND INBOX {{{}+}}\r\n{text}", text.len())).await
        else {
            return false;
        };
        let uid = appended.split_once("APPENDUID ").unwrap().1.split([' ', ']']).nth(1).unwrap().to_owned();
        let flag = format!("UID STORE {uid} +FLAGS (\\Flagged)");
        let mut whole = self.write(client, Write::Flag, &subject, flag).await.is_some();
        whole &= self.write(client, Write::Copy, &subject, format!("UID COPY {uid} Copies")).await.is_some();
        whole &= self.write(client, Write::Move, &subject, format!("UID MOVE {uid} Moved")).await.is_some();
        let read = client.command("UID FETCH 1:* (FLAGS)").await.unwrap();
        self.judge(&read.tagged);
        whole && read.tagged.starts_with("OK")
    }

    async fn write(&mut self, client: &mut Client, write: Write, subject: &str, line: String) -> Option<String> {
        let reply = client.command(&line).await.unwrap_or_else(|error| panic!("{}: {line}: {error}", self.user));
        let acknowledged = self.judge(&reply.tagged);
        if acknowledged {
            self.ledger.acknowledged.push((write, subject.to_owned()));
        }
        acknowledged.then_some(reply.tagged)
    }

    fn judge(&mut self, tagged: &str) -> bool {
        if tagged.starts_with("OK") {
            return true;
        }
        self.ledger.affected += 1;
        let phase = *self.phase.borrow();
        // A message may be gone because an earlier MOVE whose outcome was unknown was carried out.
        let expected = ["NO [UNAVAILABLE]", "NO [EXPUNGEISSUED]", MENDING];
        assert!(expected.iter().any(|refusal| tagged.starts_with(refusal)), "{tagged}");
        assert_ne!(phase, Phase::Before, "{}: {tagged}", self.user);
        false
    }
}

/// Looks directly: nothing that was acknowledged is lost, and nothing is there twice.
async fn check(server: SocketAddr, user: &str, ledgers: &[&Ledger]) {
    let mut direct = Client::login(server, user, &password_of(user)).await.unwrap();
    let inbox = contents(&mut direct, "INBOX").await;
    let copies = contents(&mut direct, "Copies").await;
    let moved = contents(&mut direct, "Moved").await;
    let count = |mailbox: &HashMap<String, Vec<bool>>, subject: &str| mailbox.get(subject).map_or(0, Vec::len);
    for ledger in ledgers {
        for subject in &ledger.tried {
            let places = [&inbox, &copies, &moved].map(|mailbox| count(mailbox, subject));
            assert!(places.iter().all(|count| *count <= 1), "{subject} of {user}: {places:?}");
        }
        for (write, subject) in &ledger.acknowledged {
            let [in_inbox, in_copies, in_moved] = [&inbox, &copies, &moved].map(|mailbox| count(mailbox, subject));
            // One is enough: of a MOVE that was cut, a Dovecot that mends its index finds the new file without flags.
            let flags = [&inbox, &moved].map(|mailbox| mailbox.get(subject));
            let flagged = flags.iter().flatten().any(|flags| flags.contains(&true));
            let kept = match write {
                Write::Append => in_inbox + in_moved >= 1,
                Write::Flag => flagged,
                Write::Copy => in_copies == 1,
                Write::Move => (in_inbox, in_moved) == (0, 1),
            };
            assert!(kept, "{write:?} of {subject} of {user}: {in_inbox} {in_copies} {in_moved}, flagged: {flags:?}");
        }
    }
}

/// The subjects in a mailbox, and for each message of that subject whether it is flagged.
async fn contents(direct: &mut Client, mailbox: &str) -> HashMap<String, Vec<bool>> {
    direct.command(&format!("EXAMINE {mailbox}")).await.unwrap().ok();
    let fetched = direct.command("FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])").await.unwrap().to_string();
    let mut contents: HashMap<String, Vec<bool>> = HashMap::new();
    for message in fetched.split("\r\n* ") {
        if let Some((head, rest)) = message.split_once("Subject: ") {
            let subject = rest.lines().next().unwrap_or_default();
            contents.entry(subject.to_owned()).or_default().push(head.contains("\\Flagged"));
        }
    }
    contents
}
