//! A flood of wrong passwords from many addresses, while right users work: none of them fails, and the server sees few
//! connections. `IMAPOOL_FLOOD=10000` sets how many wrong passwords; 1,000 without it.
//!
//! The right users' accounts are attacked, too. Most are known before the flood begins, some log in for the first time
//! while it runs, from an address that right logins came from (a web front end), some so seldom that imapool has to ask
//! the server each time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};

const ACCOUNTS: usize = 100;
const ADDRESSES: usize = 50;
const RIGHT_USERS: usize = 20;
/// Of the right users, these come for the first time while the flood runs.
const FIRST_TIME: std::ops::Range<usize> = 14..20;
/// And these so seldom that their credential has expired.
const SELDOM: std::ops::Range<usize> = 10..14;
const WEB_FRONT_END: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// Between two sessions of a right user.
const PACE: Duration = Duration::from_millis(200);
/// `auth_failure_delay`, as Dovecot has it by default.
const DELAY: u32 = 2;
/// What verification may use at once, and what may be opened in all.
const AT_ONCE: usize = 8;
const IN_ALL: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_passwords_starves_nobody() {
    let wrong = std::env::var("IMAPOOL_FLOOD").map_or(1000, |count| count.parse().expect("a number"));
    flood(wrong, false).await;
}

/// With Dovecot's penalty for the address that brings wrong passwords, which is imapool's: up to 15 s for each login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_starves_nobody_where_the_server_slows_all_logins() {
    flood(150, true).await;
}

async fn flood(wrong: usize, penalty: bool) {
    let Some(world) = World::start(if wrong > 2000 { 30 } else { 15 }, penalty).await else { return };
    let right = RightUsers::start(&world);
    right.until_all_known().await;
    let attack = Attack::start(world.proxy.address, wrong, (wrong / 250).clamp(1, 4));
    right.newcomers(&world);
    let tally = attack.ended().await;
    let logins = right.stop().await;

    let (opened, peak, asked) = world.server_side.numbers();
    eprintln!("{wrong} wrong: {tally:?}; the server was asked {asked} times on {opened} connections, {peak} at once");
    eprintln!("right users: {}", Quantiles::of(logins));
    assert_eq!(tally.accepted, 0, "a wrong password was accepted");
    assert!(tally.refused > 0 && (penalty || tally.turned_away > 0), "{tally:?}");
    assert!(tally.refused <= asked, "refused without the server's word: {tally:?}, asked {asked}");
    assert!((1..=AT_ONCE).contains(&peak), "{peak} verifications at once");
    assert!(opened <= IN_ALL, "{opened} connections in all");
    world.proxy.finish();
}

/// A server, imapool, and between them a relay that counts.
pub(crate) struct World {
    pub(crate) proxy: Proxy,
    server_side: Arc<Relay>,
    time_to_live: Duration,
    _server: Server,
}

impl World {
    pub(crate) async fn start(time_to_live: u64, penalty: bool) -> Option<Self> {
        let mut options = Options::new(Accounts::numbered("u", ACCOUNTS));
        options.auth_failure_delay = DELAY;
        options.penalty = penalty;
        let server = Server::start(Kind::Dovecot, &options).await?;
        let relay = Relay::start(server.address).await;
        let settings = Settings {
            through: Some(relay.address),
            // Longer than the longest penalty, and the turn before it; without one, as by default.
            pool: if penalty { "checkout_timeout = \"40s\"" } else { "" }.into(),
            // Answers held back for long would only slow the flood down.
            auth: format!("cache_ttl = \"{time_to_live}s\"\nfailure_delay = \"100ms\""),
            ..Settings::default()
        };
        let proxy = Proxy::start(&server, &settings).await;
        let time_to_live = Duration::from_secs(time_to_live);
        Some(Self { proxy, server_side: relay, time_to_live, _server: server })
    }
}

/// Passes everything on; counts connections, and those on which a login waits for its answer.
struct Relay {
    address: SocketAddr,
    opened: AtomicUsize,
    asked: AtomicUsize,
    verifying: AtomicUsize,
    peak: AtomicUsize,
}

impl Relay {
    async fn start(server: SocketAddr) -> Arc<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let [opened, asked, verifying, peak] = [0; 4].map(AtomicUsize::new);
        let relay = Arc::new(Self { address, opened, asked, verifying, peak });
        let this = Arc::clone(&relay);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                this.opened.fetch_add(1, Ordering::Relaxed);
                let this = Arc::clone(&this);
                tokio::spawn(async move { this.pass(client, server).await });
            }
        });
        relay
    }

    fn numbers(&self) -> (usize, usize, usize) {
        let [opened, peak, asked] = [&self.opened, &self.peak, &self.asked].map(|n| n.load(Ordering::Relaxed));
        (opened, peak, asked)
    }

    async fn pass(&self, mut client: TcpStream, server: SocketAddr) {
        let Ok(mut server) = TcpStream::connect(server).await else { return };
        let (mut up, mut down) = ([0; 4096], [0; 4096]);
        let mut asking = false;
        loop {
            // imapool writes a login with one write, and nothing behind it before its answer.
            let passed = tokio::select! {
                read = client.read(&mut up) => match read {
                    Ok(count @ 1..) => {
                        if up[..count].split(|&b| b == b' ').nth(1).is_some_and(|word| word == b"LOGIN" || word == b"AUTHENTICATE") {
                            asking = true;
                            self.asked.fetch_add(1, Ordering::Relaxed);
                            let now = self.verifying.fetch_add(1, Ordering::Relaxed) + 1;
                            self.peak.fetch_max(now, Ordering::Relaxed);
                        }
                        server.write_all(&up[..count]).await
                    }
                    _ => break,
                },
                read = server.read(&mut down) => match read {
                    Ok(count @ 1..) => {
                        if std::mem::take(&mut asking) {
                            self.verifying.fetch_sub(1, Ordering::Relaxed);
                        }
                        client.write_all(&down[..count]).await
                    }
                    _ => break,
                },
            };
            if passed.is_err() {
                break;
            }
        }
        if asking {
            self.verifying.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Users with the right password, who log in anew for each session.
pub(crate) struct RightUsers {
    address: SocketAddr,
    shared: Arc<RightShared>,
    sessions: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct RightShared {
    stop: AtomicBool,
    known: AtomicUsize,
    logins: Mutex<Vec<Duration>>,
}

impl RightUsers {
    pub(crate) fn start(world: &World) -> Self {
        let users = Self { address: world.proxy.address, shared: Arc::default(), sessions: Mutex::default() };
        for user in 0..FIRST_TIME.start {
            users.spawn(user, if SELDOM.contains(&user) { world.time_to_live + PACE } else { PACE });
        }
        users
    }

    /// Waits until each has logged in once.
    pub(crate) async fn until_all_known(&self) {
        let start = Instant::now();
        while self.shared.known.load(Ordering::Acquire) < FIRST_TIME.start {
            assert!(start.elapsed() < Duration::from_secs(60), "right users cannot log in");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Those who come for the first time, one after the other.
    fn newcomers(&self, world: &World) {
        for user in FIRST_TIME.start..RIGHT_USERS {
            self.spawn(user, PACE.max(world.time_to_live / 50));
        }
    }

    fn spawn(&self, user: usize, pace: Duration) {
        // Every second one uses a program of his own; all others, and the newcomers, the web front end.
        let own = user % 2 == 1 && !FIRST_TIME.contains(&user);
        let from = if own { Ipv4Addr::new(127, 0, 2, user as u8) } else { WEB_FRONT_END };
        let (shared, address) = (Arc::clone(&self.shared), self.address);
        self.sessions.lock().spawn(async move {
            let name = format!("u{user}");
            let newcomer = FIRST_TIME.contains(&user);
            // The first of them when the flood has begun, the last a few seconds later.
            sleep(if newcomer { Duration::from_secs((user - FIRST_TIME.start) as u64 + 1) } else { Duration::ZERO })
                .await;
            let mut first = true;
            while !shared.stop.load(Ordering::Relaxed) {
                let took = session(address, from.into(), &name).await;
                shared.logins.lock().push(took);
                if std::mem::take(&mut first) {
                    shared.known.fetch_add(1, Ordering::Release);
                }
                let next = Instant::now() + pace;
                while Instant::now() < next && !shared.stop.load(Ordering::Relaxed) {
                    sleep(PACE.min(next - Instant::now())).await;
                }
            }
        });
    }

    /// The times from LOGIN to OK since the last call.
    pub(crate) fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.shared.logins.lock())
    }

    /// Ends them; one who had failed panics here.
    pub(crate) async fn stop(self) -> Vec<Duration> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut sessions = std::mem::take(&mut *self.sessions.lock());
        while let Some(end) = sessions.join_next().await {
            end.expect("no right user fails");
        }
        self.take()
    }
}

/// A session that must not fail; gives how long its LOGIN took.
async fn session(address: SocketAddr, from: IpAddr, user: &str) -> Duration {
    let mut client = Client::connect_from(from, address).await.expect("a greeting");
    let start = Instant::now();
    let reply = client.command(&format!("LOGIN {user} {}", password_of(user))).await;
    let took = start.elapsed();
    reply.unwrap_or_else(|error| panic!("{user} after {took:?}: {error}")).ok();
    client.command("SELECT INBOX").await.expect("a reply").ok();
    client.logout().await.expect("LOGOUT");
    took
}

/// What became of the wrong passwords.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) accepted: usize,
    pub(crate) refused: usize,
    pub(crate) turned_away: usize,
    pub(crate) without_answer: usize,
}

/// Who does not know the passwords.
pub(crate) struct Attack {
    sessions: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
    left: Arc<AtomicUsize>,
}

impl Attack {
    /// So many wrong passwords, by so many sessions at once from each address.
    pub(crate) fn start(proxy: SocketAddr, wrong: usize, sessions: usize) -> Self {
        let (tally, left) = (Arc::default(), Arc::new(AtomicUsize::new(wrong)));
        let mut tasks = JoinSet::new();
        for at in 0..ADDRESSES * sessions {
            let from = IpAddr::from([127, 0, 1, (at % ADDRESSES) as u8 + 1]);
            let (tally, left) = (Arc::clone(&tally), Arc::clone(&left));
            tasks.spawn(async move { attack(proxy, from, &left, &tally).await });
        }
        Self { sessions: tasks, tally, left }
    }

    /// No further attempts.
    #[allow(dead_code, reason = "for the benchmark, whose flood has no end of its own")]
    pub(crate) fn stop(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    pub(crate) async fn ended(mut self) -> Tally {
        while let Some(end) = self.sessions.join_next().await {
            end.expect("no panic");
        }
        *self.tally.lock()
    }
}

async fn attack(proxy: SocketAddr, from: IpAddr, left: &AtomicUsize, tally: &Mutex<Tally>) {
    let next = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok();
    let mut client = None;
    while let Some(number) = next() {
        if client.is_none() {
            client = Client::connect_from(from, proxy).await.ok();
        }
        let Some(session) = &mut client else { continue };
        // Each account's turn comes from each address.
        let user = number.wrapping_mul(7) % ACCOUNTS;
        let reply = session.command(&format!("LOGIN u{user} wrong-{number}")).await;
        let mut tally = tally.lock();
        match reply.as_ref().map(|reply| reply.tagged.as_str()) {
            Ok(reply) if reply.starts_with("NO [AUTHENTICATIONFAILED]") => tally.refused += 1,
            Ok(reply) if reply.starts_with("NO [UNAVAILABLE]") => tally.turned_away += 1,
            Ok(reply) if reply.starts_with("OK") => tally.accepted += 1,
            Ok(reply) => panic!("{reply}"),
            // It was at it for limits.login_timeout, or longer than a client waits.
            Err(_) => {
                tally.without_answer += 1;
                drop(tally);
                client = None;
            }
        }
    }
}

/// Of the times of logins.
pub(crate) struct Quantiles {
    pub(crate) count: usize,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) most: Duration,
}

impl Quantiles {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        Self { count: times.len(), median: at(50), p99: at(99), most: at(100) }
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, p99, most] = [self.median, self.p99, self.most].map(|time| time.as_secs_f64() * 1000.0);
        write!(f, "{} logins, median {median:.2} ms, p99 {p99:.2} ms, longest {most:.2} ms", self.count)
    }
}
