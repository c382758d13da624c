//! Three real Dovecots under load, while all that says where accounts go is changed by turns, and one of them is
//! killed. Whom no change concerns notices nothing; and, by the servers' own logs, nobody is ever at two of them.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

mod journal;
mod load;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tokio::time::sleep;

use self::journal::{Stay, now};
use self::load::{Event, Load};
use crate::client::Client;
use crate::places;
use crate::process::wait_until;
use crate::proxy::Proxy;
use crate::server::{Options, Server, scratch_folder};

const NAMES: [&str; 3] = ["north", "south", "east"];
const KILLED: &str = "a server killed";
const ROUNDS: usize = 3;
/// How long it may take until a change holds, and until a server that is back serves all of its accounts.
const LIMIT: Duration = Duration::from_secs(10);
/// So many of those who have to move are in the middle of a message, and for how long: at two servers, they would be so
/// for longer than [`RESOLUTION`].
const WRITERS: usize = 5;
const WRITING: Duration = Duration::from_secs(1);
/// Accounts that come for the first time when the weights have changed, in each round.
const LATE: usize = 4;
/// imapool lets nobody in elsewhere before the server has closed the connection, or has said OK to LOGOUT; but Dovecot
/// writes its line only after that, through a pipe to another process, which puts the time before it. So the line may
/// come after that of the next login elsewhere, by what these processes have to wait for a processor.
const RESOLUTION: f64 = 0.25;

/// What says where an account goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Route,
    Map,
    Group,
}

fn by(account: usize) -> By {
    [By::Route, By::Map, By::Group][account % 3]
}

/// Where an account that is not of the group belongs in this turn. Every other one of the map stays where it is.
fn place(account: usize, turn: usize) -> usize {
    let stays = by(account) == By::Map && account.is_multiple_of(2);
    (account / 3 + if stays { 0 } else { turn }) % NAMES.len()
}

fn user(account: usize) -> String {
    format!("town{account}")
}

/// What happened when, and to whom.
struct Change {
    what: &'static str,
    from: Instant,
    /// It holds everywhere.
    to: Instant,
    concerned: HashSet<usize>,
    /// Where each account is from then on.
    homes: Vec<usize>,
}

struct Town {
    servers: Vec<Server>,
    proxy: Proxy,
    load: Load,
    accounts: usize,
    turn: usize,
    weights: [u32; 3],
    /// The last is in force.
    changes: Vec<Change>,
    /// Servers that were killed, and when by the clock of the logs.
    kills: Vec<(usize, f64)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_at_two_servers_and_only_those_concerned_notice() {
    let accounts = std::env::var("IMAPOOL_TOWN_ACCOUNTS").map_or(60, |count| count.parse().expect("a number"));
    let late = (0..ROUNDS * LATE).map(|n| format!("late{n}"));
    let users: Vec<_> = (0..accounts).map(user).chain(late).collect();
    // Of a process that was killed, maildir keeps locks for two minutes.
    let options =
        Options { mail_location: "sdbox:~/dbox", ..Options::new(places::named(users.iter().map(String::as_str))) };
    let Some(servers) = places::start(NAMES.len(), &options).await else { return };
    let begun = now();
    let mut town = Town::start(servers, accounts).await;
    for round in 1..=ROUNDS {
        town.turn = round;
        town.change_routes().await;
        town.change_weights(round).await;
        town.kill(round % NAMES.len()).await;
        town.evacuate(round % NAMES.len()).await;
        town.exchange_map().await;
    }
    town.finish(begun).await;
}

impl Town {
    async fn start(servers: Vec<Server>, accounts: usize) -> Self {
        let folder = scratch_folder();
        let weights = [100, 100, 200];
        std::fs::write(folder.path().join("town.map"), map(accounts, 0)).unwrap();
        std::fs::write(folder.path().join("admin.token"), "0123456789abcdef").unwrap();
        let map = folder.path().join("town.map").display().to_string();
        let proxy = Proxy::configured(folder, &configuration(&servers, accounts, 0, weights, &map));
        let homes: Vec<_> = (0..accounts).map(|account| home(&proxy, account)).collect();
        let from = Instant::now();
        let load = Load::start(proxy.address, accounts);
        let (changes, kills) = (Vec::new(), Vec::new());
        let mut town = Self { servers, proxy, load, accounts, turn: 0, weights, changes, kills };
        town.settled("the beginning", from, HashSet::new(), homes).await;
        town
    }

    fn homes(&self) -> Vec<usize> {
        self.changes.last().unwrap().homes.clone()
    }

    /// Where accounts are that this says, in this turn, and who has to go there.
    fn moved(&self, what: By) -> (HashSet<usize>, Vec<usize>) {
        let mut homes = self.homes();
        let concerned = |account: &usize| by(*account) == what && homes[*account] != place(*account, self.turn);
        let concerned: HashSet<_> = (0..self.accounts).filter(concerned).collect();
        concerned.iter().for_each(|account| homes[*account] = place(*account, self.turn));
        (concerned, homes)
    }

    /// Waits until the change holds for all accounts.
    async fn settled(&mut self, what: &'static str, from: Instant, concerned: HashSet<usize>, homes: Vec<usize>) {
        let since = Instant::now();
        let is_settled = self.load.settled(since, &homes, LIMIT).await;
        eprintln!("{what}: {} accounts, {:?}, settled after {:?}", concerned.len(), since - from, since.elapsed());
        assert!(is_settled, "{what}: not in time\n{}{}", self.load.last(), self.proxy.log());
        self.changes.push(Change { what, from, to: Instant::now(), concerned, homes });
    }

    fn reload(&self) {
        let map = self.proxy.folder().join("town.map").display().to_string();
        let text = configuration(&self.servers, self.accounts, self.turn, self.weights, &map);
        block_in_place(|| self.proxy.reload(&text));
    }

    async fn change_routes(&mut self) {
        let from = Instant::now();
        let (concerned, homes) = self.moved(By::Route);
        let mut writers = Vec::new();
        for account in concerned.iter().take(WRITERS) {
            writers.push(writer(self.proxy.address, &user(*account)).await);
        }
        self.reload();
        sleep(WRITING).await;
        for writer in &mut writers {
            assert_eq!(written(writer).await, "OK");
        }
        self.settled("other routes", from, concerned, homes).await;
    }

    /// Those that are there stay; those that come anew go by the new weights.
    async fn change_weights(&mut self, round: usize) {
        let from = Instant::now();
        self.weights.rotate_right(1);
        self.weights[round % NAMES.len()] = 0;
        self.reload();
        for n in (round - 1) * LATE..round * LATE {
            let user = format!("late{n}");
            let (client, place) = load::enter(self.proxy.address, &user).await.unwrap();
            assert_eq!(place, route(&self.proxy, &user));
            assert_ne!(place, round % NAMES.len(), "it has no weight");
            client.logout().await.unwrap();
        }
        self.settled("other weights", from, HashSet::new(), self.homes()).await;
    }

    async fn kill(&mut self, server: usize) {
        let (from, homes) = (Instant::now(), self.homes());
        let concerned: Vec<_> = (0..self.accounts).filter(|account| homes[*account] == server).collect();
        block_in_place(|| self.servers[server].processes.kill());
        self.kills.push((server, now()));
        let noticed = tokio::time::timeout(LIMIT, self.load.fails(&concerned, Instant::now())).await;
        noticed.expect("sessions fail while it is away");
        self.servers[server].start_again().await;
        self.settled(KILLED, from, concerned.into_iter().collect(), homes).await;
    }

    /// Those of the group that are there go to the others, and stay there when it has its weight again.
    async fn evacuate(&mut self, server: usize) {
        let (from, mut homes) = (Instant::now(), self.homes());
        let is_concerned = |account: &usize| by(*account) == By::Group && homes[*account] == server;
        let concerned: HashSet<_> = (0..self.accounts).filter(is_concerned).collect();
        let admin = self.proxy.admin.to_string();
        let ctl = |proxy: &Proxy, order: &[&str]| {
            let done = block_in_place(|| proxy.ask(&[&["ctl", "--admin", &admin], order].concat()));
            assert!(done.status.success(), "{order:?}: {done:?}");
        };
        ctl(&self.proxy, &["evacuate", NAMES[server]]);
        let mut weights = self.weights;
        weights[server] = 0;
        for account in &concerned {
            homes[*account] = picked(&user(*account), &weights);
        }
        self.settled("a server evacuated", from, concerned, homes).await;
        ctl(&self.proxy, &["weight", NAMES[server], "--as-configured"]);
    }

    /// As docs/routing.md says: written beside the old one, and renamed.
    async fn exchange_map(&mut self) {
        let from = Instant::now();
        let (concerned, homes) = self.moved(By::Map);
        let [new, file] = ["town.map.new", "town.map"].map(|name| self.proxy.folder().join(name));
        std::fs::write(&new, map(self.accounts, self.turn)).unwrap();
        block_in_place(|| self.proxy.logs(&["routes read again"], || std::fs::rename(&new, &file).unwrap()));
        self.settled("another map", from, concerned, homes).await;
    }

    async fn finish(self, begun: f64) {
        let events = self.load.stop().await;
        self.proxy.finish();
        let mut faults = String::new();
        for (account, events) in events.iter().enumerate() {
            for event in events.iter().filter(|event| !is_expected(&self.changes, account, event)) {
                let _ = writeln!(faults, "{}: {event:?}, during {:?}", user(account), during(&self.changes, event));
            }
        }
        assert!(faults.is_empty(), "{faults}");
        let sessions: usize = events.iter().map(Vec::len).sum();
        let failed = events.iter().flatten().filter(|event| event.outcome.is_err()).count();
        eprintln!("{sessions} sessions, {failed} of which ended by a change");

        let stays = wait_until(LIMIT, || all_ended(&self.servers, &self.kills, begun)).expect("all have logged out");
        let logins = stays.len();
        let found = journal::overlaps(stays);
        eprintln!("{logins} logins, {} moves; at two servers for {:.6} s at most", found.moves, found.longest);
        let moves: usize = self.changes.iter().filter(|it| it.what != KILLED).map(|it| it.concerned.len()).sum();
        assert!(found.moves >= moves, "{found:?}");
        assert!(found.longest < RESOLUTION, "{found:?}");
    }
}

/// In the middle of an APPEND, to a mailbox that nobody looks at.
async fn writer(proxy: SocketAddr, user: &str) -> Client {
    let (mut client, _) = load::enter(proxy, user).await.unwrap();
    client.send(b"w APPEND Sent {6}\r\n").await.unwrap();
    assert!(client.response().await.unwrap().unwrap().starts_with(b"+"));
    client
}

/// The rest of it. Who has to move is sent away only when it is answered.
async fn written(client: &mut Client) -> String {
    client.send(b"mail\r\n\r\n").await.unwrap();
    let mut said = String::new();
    while let Some(line) = client.response().await.unwrap() {
        said += &String::from_utf8_lossy(&line);
    }
    let told = said.lines().find_map(|line| line.strip_prefix("w ")).unwrap_or(&said);
    told.split(' ').next().unwrap_or_default().to_owned()
}

/// What the logs tell, once all that have come have gone.
fn all_ended(servers: &[Server], kills: &[(usize, f64)], begun: f64) -> Option<Vec<Stay>> {
    let of = |(place, server): (usize, &Server)| {
        let kills: Vec<_> = kills.iter().filter(|(killed, _)| *killed == place).map(|(_, at)| *at).collect();
        journal::stays(place, &server.log(), begun, &kills)
    };
    let stays: Vec<_> = servers.iter().enumerate().flat_map(of).collect();
    stays.iter().all(|stay| stay.to.is_some()).then_some(stays)
}

/// The changes that a session has seen.
fn seen<'c>(changes: &'c [Change], event: &Event) -> impl Iterator<Item = &'c Change> {
    changes.iter().skip(1).filter(|change| change.from <= event.to && event.from <= change.to)
}

fn during(changes: &[Change], event: &Event) -> Vec<&'static str> {
    seen(changes, event).map(|change| change.what).collect()
}

fn is_expected(changes: &[Change], account: usize, event: &Event) -> bool {
    match &event.outcome {
        Ok(place) => {
            let earlier = changes.iter().rev().find(|change| change.to < event.from).unwrap_or(&changes[0]);
            std::iter::once(earlier).chain(seen(changes, event)).any(|change| change.homes[account] == *place)
        }
        // Who has to move is sent away, or told that no connection can be had for the command that runs; but it can log
        // in all the time, and nobody is told that a password is wrong.
        Err(told) => {
            let is_login = told.starts_with("LOGIN ") || told.starts_with("connecting");
            let may_fail = |change: &Change| change.what == KILLED || !is_login;
            !told.contains("AUTHENTICATIONFAILED")
                && seen(changes, event).any(|change| change.concerned.contains(&account) && may_fail(change))
        }
    }
}

/// Where `imapool route` says that an account goes.
fn route(proxy: &Proxy, user: &str) -> usize {
    let told = String::from_utf8(proxy.ask(&["route", user]).stdout).unwrap();
    NAMES.iter().position(|name| told.starts_with(&format!("backend {name}\n"))).unwrap_or_else(|| panic!("{told}"))
}

/// Where an account of the group goes that is nowhere.
fn picked(user: &str, weights: &[u32]) -> usize {
    let shares = NAMES.into_iter().zip(weights.iter().copied());
    imapool::routing::rendezvous::pick(user.as_bytes(), shares).unwrap()
}

fn home(proxy: &Proxy, account: usize) -> usize {
    if by(account) == By::Group { route(proxy, &user(account)) } else { place(account, 0) }
}

fn configuration(servers: &[Server], accounts: usize, turn: usize, weights: [u32; 3], map: &str) -> String {
    let mut text = String::new();
    for ((name, server), weight) in NAMES.iter().zip(servers).zip(weights) {
        let address = server.address;
        let _ = writeln!(
            text,
            "[[backend]]\nname = \"{name}\"\naddress = \"{address}\"\ngroup = \"town\"\nweight = {weight}"
        );
    }
    for (to, name) in NAMES.iter().enumerate() {
        let belongs = |account: &usize| by(*account) == By::Route && place(*account, turn) == to;
        let users: Vec<_> = (0..accounts).filter(belongs).map(user).collect();
        let _ = writeln!(text, "[[route]]\nusers = {users:?}\nto = \"{name}\"");
    }
    let token = std::path::Path::new(map).with_file_name("admin.token").display().to_string();
    text + &format!(
        "[[route]]\nfile = \"{map}\"\n\
         [[group]]\nname = \"town\"\n\
         [routing]\ndefault = \"town\"\n\
         [[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{token}\"\n"
    )
}

fn map(accounts: usize, turn: usize) -> String {
    let mapped = (0..accounts).filter(|account| by(*account) == By::Map);
    mapped.map(|account| format!("{} {}\n", user(account), NAMES[place(account, turn)])).collect()
}
