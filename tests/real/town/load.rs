//! Sessions of all accounts: short ones, one after the other, and one that idles.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::user;
use crate::accounts::password_of;
use crate::client::Client;
use crate::places;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// A session, or what an idling one heard.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) from: Instant,
    pub(super) to: Instant,
    /// Where it was served; or how it failed.
    pub(super) outcome: Result<usize, String>,
}

/// By account.
#[derive(Default)]
struct Ledger {
    events: Mutex<Vec<Vec<Event>>>,
    news: Notify,
}

/// Runs until it is stopped.
pub(super) struct Load {
    ledger: Arc<Ledger>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Load {
    pub(super) fn start(proxy: SocketAddr, accounts: usize) -> Self {
        let ledger = Arc::new(Ledger::default());
        ledger.events.lock().unwrap().resize_with(accounts, Vec::new);
        let stop = watch::Sender::new(false);
        let mut clients = JoinSet::new();
        for account in 0..accounts {
            let user = user(account);
            let pace = Duration::from_millis(accounts as u64);
            let visitor = Visitor { proxy, account, user, pace, ledger: ledger.clone(), stop: stop.subscribe() };
            clients.spawn(visitor.clone().comes_and_goes());
            clients.spawn(visitor.idles());
        }
        Self { ledger, stop, clients }
    }

    /// Waits until each account was served where `homes` says since then, again and again; false: not in time.
    pub(super) async fn settled(&self, since: Instant, homes: &[usize], limit: Duration) -> bool {
        timeout(limit, async {
            loop {
                let mut news = std::pin::pin!(self.ledger.news.notified());
                news.as_mut().enable();
                let is_settled = |(events, home): (&Vec<Event>, &usize)| {
                    let recent = events.iter().rev().take_while(|event| event.from >= since);
                    recent.take(3).filter(|event| event.outcome == Ok(*home)).count() == 3
                };
                if self.ledger.events.lock().unwrap().iter().zip(homes).all(is_settled) {
                    return;
                }
                news.await;
            }
        })
        .await
        .is_ok()
    }

    /// Waits until a session of one of these fails that began after `since`.
    pub(super) async fn fails(&self, accounts: &[usize], since: Instant) {
        loop {
            let mut news = std::pin::pin!(self.ledger.news.notified());
            news.as_mut().enable();
            {
                let events = self.ledger.events.lock().unwrap();
                let mut theirs = accounts.iter().flat_map(|account| &events[*account]);
                if theirs.any(|event| event.from > since && event.outcome.is_err()) {
                    return;
                }
            }
            news.await;
        }
    }

    /// The last of each account, for a failing test.
    pub(super) fn last(&self) -> String {
        let events = self.ledger.events.lock().unwrap();
        let last = |(account, events): (usize, &Vec<Event>)| format!("{}: {:?}\n", user(account), events.last());
        events.iter().enumerate().map(last).collect()
    }

    /// All that happened, by account. Those who idle are served to the end.
    pub(super) async fn stop(self) -> Vec<Vec<Event>> {
        self.stop.send_replace(true);
        timeout(Duration::from_secs(20), self.clients.join_all()).await.expect("all sessions end");
        std::mem::take(&mut self.ledger.events.lock().unwrap())
    }
}

/// One account's.
#[derive(Clone)]
struct Visitor {
    proxy: SocketAddr,
    account: usize,
    user: String,
    /// Between two sessions.
    pace: Duration,
    ledger: Arc<Ledger>,
    stop: watch::Receiver<bool>,
}

impl Visitor {
    async fn comes_and_goes(mut self) {
        while !*self.stop.borrow() {
            let from = Instant::now();
            self.note(from, short_session(self.proxy, &self.user).await);
            let _ = timeout(self.pace, self.stop.changed()).await;
        }
    }

    /// Comes again when it is sent away.
    async fn idles(mut self) {
        while !*self.stop.borrow() {
            if let Err(end) = self.idle().await {
                self.note(end.since, Err(end.text));
                let _ = timeout(self.pace, self.stop.changed()).await;
            }
        }
    }

    fn note(&self, from: Instant, outcome: Result<usize, String>) {
        let event = Event { from, to: Instant::now(), outcome };
        self.ledger.events.lock().unwrap()[self.account].push(event);
        self.ledger.news.notify_waiters();
    }

    async fn idle(&mut self) -> Result<(), End> {
        let from = Instant::now();
        let before = |text| End { since: from, text };
        let (mut client, place) = enter(self.proxy, &self.user).await.map_err(before)?;
        self.note(from, Ok(place));
        client.send(b"i IDLE\r\n").await.map_err(|error| before(error.to_string()))?;
        loop {
            let more = tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => break,
                more = client.has_more(LONG) => more,
            };
            let since = Instant::now();
            let heard = match more {
                Ok(_) => client.response().await,
                Err(error) => Err(error),
            };
            let heard = heard.map(|it| String::from_utf8_lossy(&it.unwrap_or_default()).into_owned());
            match heard {
                Ok(line) if line.starts_with("* BYE") => return Err(End { since, text: line }),
                Ok(_) => {}
                Err(error) => return Err(End { since, text: format!("in IDLE: {error}") }),
            }
        }
        let since = Instant::now();
        let served = async {
            client.send(b"DONE\r\n").await?;
            while client.response().await?.is_some_and(|line| !line.starts_with(b"i OK")) {}
            client.command("NOOP").await.map(|reply| reply.tagged)
        };
        let served = served.await.unwrap_or_else(|error| error.to_string());
        if served.starts_with("OK") { Ok(()) } else { Err(End { since, text: format!("after IDLE: {served}") }) }
    }
}

/// How a session that idles ended.
struct End {
    since: Instant,
    text: String,
}

/// Where it came to.
async fn short_session(proxy: SocketAddr, user: &str) -> Result<usize, String> {
    let (mut client, place) = enter(proxy, user).await?;
    ok(&mut client, "UID SEARCH ALL").await?;
    client.logout().await.map_err(|error| format!("LOGOUT: {error}"))?;
    Ok(place)
}

pub(super) async fn enter(proxy: SocketAddr, user: &str) -> Result<(Client, usize), String> {
    let mut client = Client::connect(proxy).await.map_err(|error| format!("connecting: {error}"))?;
    ok(&mut client, &format!("LOGIN {user} {}", password_of(user))).await?;
    let selected = ok(&mut client, "SELECT INBOX").await?;
    let place = places::of(&selected).ok_or_else(|| selected.to_string())?;
    Ok((client, place))
}

async fn ok(client: &mut Client, command: &str) -> Result<crate::client::Reply, String> {
    let reply = client.command(command).await.map_err(|error| format!("{command}: {error}"))?;
    if reply.tagged.starts_with("OK") { Ok(reply) } else { Err(format!("{command}: {reply}")) }
}
