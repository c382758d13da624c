//! Three imapools that know each other, in front of two servers over one storage: they are stopped, die and come back,
//! do not reach each other, and are given another list of themselves.
//!
//! What must hold is what [docs/replicas.md] promises. While all replicas reach each other, and for as long as it takes
//! to settle after they did not, no two have connections of one account.
//!
//! [docs/replicas.md]: ../../docs/replicas.md

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imapool::app::Proxy;
use imapool::config::{Config, PoolMode};
use imapool::demo::server::{Event, Fault, Server, Stage};
use imapool::listener::Inherited;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::chance::Chance;
use crate::kept::quiet;
use crate::net::hosts::Host;
use crate::net::{Faults, Net};
use crate::plan::{Guest, Plan, Way};
use crate::secrets::Secrets;
use crate::truth::Truth;
use crate::visit::{Kind, Rules, visits};
use crate::world::{
    BACKENDS, CHECKOUT, IDLE, LONGEST, MAILBOXES, REPLY, Report, look_again, options, patience, user, visitor,
};

/// What happens to replicas, each by its number; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// One ends in order, and begins again after so long.
    Stop(usize, u64),
    /// One is gone from one moment to the next, and begins again after so long. `true`: nobody says so.
    Die(usize, u64, bool),
    /// Two do not reach each other for so long; clients reach both.
    Part(usize, usize, u64),
    /// All take it out of their list, one after the other, and in again after so long.
    Without(usize, u64),
    /// All go by other limits: `max_per_account`.
    Limit(usize),
}

/// A whole run.
#[derive(Debug, Clone)]
pub(crate) struct Trio {
    pub(crate) base: Plan,
    pub(crate) acts: Vec<(u64, Act)>,
}

impl Trio {
    pub(crate) fn of(seed: u64) -> Self {
        // Not what the same seed means for one imapool.
        let mut chance = Chance::new(seed).fork(4);
        let users = 1 + chance.below(4);
        let mut base = Plan {
            seed,
            mode: if chance.one_in(4) { PoolMode::Session } else { PoolMode::Multiplex },
            max_per_account: 1 + small(chance.below(4)),
            linger: chance.of(&[0, 1_000, 30_000]),
            users,
            ..quiet()
        };
        base.server.delay = if chance.one_in(3) { chance.below(400) } else { 0 };
        base.server.farewell = if chance.one_in(4) { chance.below(2_500) } else { 0 };
        if chance.one_in(4) {
            base.server.faults = 20 + chance.below(40);
            base.net = [0, 0, 10, 10, 0];
        }
        for name in 1..=2 + chance.below(7) {
            let (kind, user) = (chance.of(&Kind::ALL), chance.below(users));
            let (visits, commands) = (3 + chance.below(8), 2 + chance.below(12));
            base.visitors.push(Guest {
                name,
                kind,
                user,
                way: Way::Login,
                visits,
                commands,
                begins: chance.below(9_000),
            });
        }
        let acts = (0..1 + chance.below(5)).map(|_| (chance.below(40_000), Self::act(&mut chance))).collect();
        Self { base, acts }
    }

    fn act(chance: &mut Chance) -> Act {
        let (which, other) = (small(chance.below(3)), small(1 + chance.below(2)));
        let most = chance.of(&[500, 3_000, 15_000, 40_000]);
        let time = chance.below(most);
        match chance.below(9) {
            0..3 => Act::Stop(which, time),
            3..5 => Act::Die(which, time, chance.one_in(3)),
            5 => Act::Part(which, (which + other) % 3, time),
            6 => Act::Limit(1 + small(chance.below(4))),
            _ => Act::Without(which, time),
        }
    }

    /// Plans that are a little less than this one.
    pub(crate) fn less(&self) -> Vec<Self> {
        let acts = (0..self.acts.len()).map(|place| {
            let mut less = self.clone();
            less.acts.remove(place);
            less
        });
        acts.chain(self.base.less().into_iter().map(|base| Self { base, ..self.clone() })).collect()
    }
}

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

/// Where the replica of this number is.
fn address(which: usize) -> IpAddr {
    format!("10.0.1.{}", which + 1).parse().expect("an address")
}

/// What all of them go by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wishes {
    members: [bool; 3],
    most: usize,
}

struct Ring {
    plan: Trio,
    net: Net,
    running: [tokio::sync::Mutex<Option<(Proxy, Host)>>; 3],
    wishes: Mutex<Wishes>,
    /// Held while they are given another list.
    listing: tokio::sync::Mutex<()>,
    /// Those that have died, and are about to end for themselves.
    dead: Mutex<JoinSet<()>>,
    seen: Arc<Seen>,
}

/// What is held against what the server sees.
struct Seen {
    commands: AtomicU64,
    /// Pairs that do not reach each other, and until when what comes of that is not over.
    trouble: Mutex<(Vec<[usize; 2]>, Option<Instant>)>,
    /// The most connections that an account may have, by what was configured at any time.
    most: Mutex<usize>,
    quiet: Mutex<bool>,
}

impl Seen {
    fn is_troubled(&self) -> bool {
        let trouble = self.trouble.lock();
        !trouble.0.is_empty() || trouble.1.is_some_and(|until| Instant::now() < until)
    }
}

/// Runs it; panics where something does not hold.
pub(crate) async fn run(plan: &Trio, trace: bool, kept: &RefCell<Option<Net>>) -> Report {
    let base = &plan.base;
    let chance = Chance::new(base.seed).fork(1);
    let [refused, lost, cut, frozen, slow] = base.net;
    let net = Net::new(chance.fork(2), Faults { refused, lost, cut, frozen, slow }, trace);
    kept.replace(Some(net.clone()));
    let seen = Arc::new(Seen {
        commands: AtomicU64::new(0),
        trouble: Mutex::default(),
        most: Mutex::new(base.max_per_account),
        quiet: Mutex::new(false),
    });
    let secrets = Secrets::new(Duration::from_millis(base.cache_ttl), CHECKOUT + REPLY);
    let mut options = options(base);
    options.passwords = secrets.rule();
    options.faults = Some(Arc::new(watch(base, &net, &seen, chance.fork(3))));
    let server = Arc::new(Server::start(options).await.expect("no address, no failure"));
    net.set_server(Some(Arc::clone(&server)));
    let truth = Arc::new(Mutex::new(Truth::new(&server)));
    let wishes = Wishes { members: [true; 3], most: base.max_per_account };
    let ring = Arc::new(Ring {
        plan: plan.clone(),
        net: net.clone(),
        running: Default::default(),
        wishes: Mutex::new(wishes),
        listing: tokio::sync::Mutex::default(),
        dead: Mutex::default(),
        seen,
    });
    for which in 0..3 {
        ring.start(which).await;
    }
    let rules = Rules {
        net: net.clone(),
        truth: Arc::clone(&truth),
        secrets: Arc::clone(&secrets),
        mailboxes: MAILBOXES.map(str::to_owned).to_vec(),
        calm: false,
        // Two of them may wait, one after the other.
        patience: patience(base) + CHECKOUT * 2 + REPLY * 2,
        leaves_refused: None,
        shares: false,
        serves_what_is_left: base.server.serves_what_is_left,
        refused: Vec::new(),
    };
    timeout(LONGEST, ring.live(&rules)).await.expect("somebody waits for ever");
    truth.lock().check_all_kept();
    let report = Report {
        fingerprint: net.fingerprint(),
        dials: net.links().len(),
        commands: ring.seen.commands.load(Ordering::Relaxed),
    };
    timeout(LONGEST, ring.end()).await.expect("it ends");
    assert_eq!(net.open(), 0, "connections are left");
    net.set_server(None);
    drop((rules, truth, server, ring));
    sleep(Duration::from_secs(10)).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks, 0, "tasks are left");
    report
}

impl Ring {
    async fn live(self: &Arc<Self>, rules: &Rules) {
        let seed = self.plan.base.seed;
        let guests = self.plan.base.visitors.iter().map(|guest| visits(visitor(guest, seed), rules.clone()));
        let mut tasks: JoinSet<()> = guests.collect();
        for (at, act) in self.plan.acts.clone() {
            let ring = Arc::clone(self);
            tasks.spawn(async move {
                sleep(Duration::from_millis(at)).await;
                ring.net.note(&format!("{act:?}"));
                ring.act(&act).await;
                ring.net.note(&format!("over: {act:?}"));
            });
        }
        while let Some(over) = tasks.join_next().await {
            if let Err(error) = over {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        self.net.note("settles");
        self.net.calm();
        *self.seen.quiet.lock() = true;
        sleep(REPLY + CHECKOUT + self.settles()).await;
        // Whoever comes is served, wherever that is.
        for which in 0..3 {
            self.net.prefer(address(which));
            for user in (0..self.plan.base.users).map(user) {
                look_again(&rules.net, &rules.truth, &rules.secrets, &user).await;
            }
        }
    }

    async fn act(&self, act: &Act) {
        match *act {
            Act::Stop(which, away) => {
                let mut running = self.running[which].lock().await;
                if let Some((proxy, _host)) = running.take() {
                    proxy.drain().await;
                    sleep(Duration::from_millis(away)).await;
                }
                drop(running);
                self.start(which).await;
            }
            Act::Die(which, away, mute) => {
                let mut running = self.running[which].lock().await;
                if let Some((proxy, host)) = running.take() {
                    self.net.kill(&host, mute);
                    self.dead.lock().spawn(proxy.drain());
                    sleep(Duration::from_millis(away)).await;
                }
                drop(running);
                self.start(which).await;
            }
            Act::Part(one, other, time) => self.part([one.min(other), one.max(other)], time).await,
            Act::Without(which, time) => {
                let _listing = self.listing.lock().await;
                for member in [false, true] {
                    self.wish(|wishes| wishes.members[which] = member).await;
                    sleep(Duration::from_millis(time)).await;
                }
            }
            Act::Limit(most) => {
                {
                    let mut ever = self.seen.most.lock();
                    *ever = most.max(*ever);
                }
                let _listing = self.listing.lock().await;
                self.wish(|wishes| wishes.most = most).await;
            }
        }
    }

    async fn part(&self, pair: [usize; 2], time: u64) {
        {
            let mut trouble = self.seen.trouble.lock();
            if trouble.0.contains(&pair) {
                return;
            }
            trouble.0.push(pair);
        }
        let [one, other] = pair.map(address);
        self.net.part(one, other, true);
        sleep(Duration::from_millis(time)).await;
        self.net.part(one, other, false);
        let mut trouble = self.seen.trouble.lock();
        trouble.0.retain(|known| *known != pair);
        trouble.1 = Some(Instant::now() + self.settles());
    }

    /// As long as it takes until all that could not be known is known, and gone by.
    fn settles(&self) -> Duration {
        let check = self.configuration(0).groups[0].check.clone();
        check.settles_within() + check.steady_after()
    }

    /// All that run take it over, one after the other, as an operator does it.
    async fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.wishes.lock());
        for which in 0..3 {
            // One that begins meanwhile sees to that itself.
            if let Ok(running) = self.running[which].try_lock()
                && let Some((proxy, _)) = &*running
            {
                proxy.reload(self.configuration(which)).await.expect("nothing to bind");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// It begins, unless it runs.
    async fn start(&self, which: usize) {
        let mut running = self.running[which].lock().await;
        if running.is_some() {
            return;
        }
        let host = self.net.host(address(which));
        let given = imapool::net::Net::Given(Arc::new(host.clone()));
        let mut wishes = self.wishes.lock().clone();
        let proxy = Proxy::start_over(self.configuration(which), Inherited::default(), given).await.expect("it starts");
        loop {
            let now = self.wishes.lock().clone();
            if now == wishes {
                break;
            }
            wishes = now;
            proxy.reload(self.configuration(which)).await.expect("nothing to bind");
        }
        *running = Some((proxy, host));
    }

    fn configuration(&self, which: usize) -> Config {
        let (wishes, base) = (self.wishes.lock().clone(), &self.plan.base);
        let own = address(which);
        let mut text = format!(
            "[[listener]]\nname = \"outer\"\naddress = \"{own}:143\"\nplaintext_login = \"always\"\n\
             [[listener]]\nname = \"inner\"\naddress = \"{own}:1143\"\nplaintext_login = \"always\"\n\
             proxy_protocol_from = [\"10.0.1.0/24\"]\n"
        );
        for member in (0..3).filter(|member| wishes.members[*member]) {
            let there = address(member);
            let more = "group = \"replicas\"\nsend_proxy = true\n";
            let _ = write!(text, "[[backend]]\nname = \"r{member}\"\naddress = \"{there}:1143\"\n{more}");
        }
        for (name, backend) in ["mail", "other"].iter().zip(BACKENDS) {
            let _ = write!(text, "[[backend]]\nname = \"{name}\"\naddress = \"{backend}:143\"\n");
        }
        text += "[[group]]\nname = \"replicas\"\nmode = \"relay\"\ninner = \"inner\"\n\
                 [[route]]\nlisteners = [\"outer\"]\nto = \"replicas\"\n\
                 [[route]]\nusers = [\"u0\"]\nto = \"other\"\n[routing]\ndefault = \"mail\"\n";
        if wishes.members[which] {
            let _ = writeln!(text, "replica = \"r{which}\"");
        }
        let mut config = Config::parse(&text, "trio").unwrap_or_else(|error| panic!("{error}\n{text}"));
        config.backends.iter_mut().for_each(|backend| backend.reply_timeout = REPLY);
        config.admin.address = None;
        config.pool.mode = base.mode;
        config.pool.max_per_account = wishes.most;
        config.pool.spare = base.spare;
        config.pool.linger = Duration::from_millis(base.linger);
        config.pool.checkout_timeout = CHECKOUT;
        config.pool.idle_timeout = IDLE;
        config.auth.failure_delay = Duration::from_millis(100);
        config.auth.cache_ttl = Duration::from_millis(base.cache_ttl);
        config
    }

    async fn end(&self) {
        // Who has said LOGOUT is gone by then.
        sleep(Duration::from_secs(10)).await;
        for running in &self.running {
            let running = running.lock().await.take();
            let (proxy, _host) = running.expect("all run at the end");
            assert!(proxy.registry().all().iter().all(|record| record.user().is_none()), "sessions are left");
            proxy.drain().await;
        }
        let mut dead = std::mem::take(&mut *self.dead.lock());
        while dead.join_next().await.is_some() {}
    }
}

/// Sees each command at the server: who has connections of whom, and where.
fn watch(plan: &Plan, net: &Net, seen: &Arc<Seen>, chance: Chance) -> impl Fn(&Event<'_>) -> Fault + use<> {
    let (net, seen, server, chance) = (net.clone(), Arc::clone(seen), plan.server, Mutex::new(chance));
    move |event| {
        seen.commands.fetch_add(1, Ordering::Relaxed);
        if let Some(user) = event.user.filter(|user| !user.is_empty()) {
            let links = net.links();
            let link = &links[usize::from(event.address.port()) - 1];
            *link.user.lock() = Some(user.to_owned());
            let place = if user == "u0" { BACKENDS[1] } else { BACKENDS[0] };
            assert_eq!(link.to.to_string(), place, "{user} is at another's backend");
            if !seen.is_troubled() {
                let lives = net.lives_of(user);
                assert!(lives.len() < 2, "{user} is logged in by two replicas: {lives:?}");
                // One more for the time in which a login is verified.
                let (open, most) = (net.open_of(user), *seen.most.lock() + 1);
                assert!(open <= most, "{open} connections of {user} are open, and {most} may be");
            }
        }
        let mut chance = chance.lock();
        if server.faults > 0 && !*seen.quiet.lock() && chance.one_in(server.faults) {
            return crate::world::fault(event, &mut chance);
        }
        let farewell = if event.verb == "LOGOUT" { server.farewell } else { 0 };
        if server.delay + farewell > 0 && event.stage == Stage::Command {
            Fault::DelayMs(chance.below(server.delay) + farewell)
        } else {
            Fault::None
        }
    }
}
