//! One run: the proxy as it is, a network and a server in memory, clients, operators; and what must hold at its end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use imapool::admin::act;
use imapool::app::Proxy;
use imapool::config::{self, Config, ListenAddr, PlaintextLogin};
use imapool::demo::server::personality::{Names, Personality, Quirks};
use imapool::demo::server::{Capabilities, Event, Fault, Kill, Options, Seed, Server, Stage};
use imapool::listener::Inherited;
use imapool::routing::rendezvous;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::chance::Chance;
use crate::client::Client;
use crate::directory::Directory;
use crate::net::{Faults, Net, SERVICE};
use crate::plan::{Action, Guest, Kindness, Mood, Plan, Way};
use crate::secrets::Secrets;
use crate::truth::{Identity, Truth};
use crate::view::View;
use crate::visit::{Kind, Rules, Visitor, visits};

/// Mailboxes that all clients of a user work in.
pub(crate) const MAILBOXES: [&str; 2] = ["INBOX", "One"];
/// Where the server is.
pub(crate) const BACKENDS: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const NAMES: [&str; 2] = ["mail", "other"];
/// A connection at rest is closed after so long.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
pub(crate) const CHECKOUT: Duration = Duration::from_secs(10);
pub(crate) const REPLY: Duration = Duration::from_secs(30);

/// From one check of a backend to the next.
const CHECK: Duration = Duration::from_secs(1);

/// No run takes longer.
pub(crate) const LONGEST: Duration = Duration::from_secs(4 * 3600);

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Two runs that are alike have the same.
    pub(crate) fingerprint: u64,
    pub(crate) dials: usize,
    pub(crate) commands: u64,
}

pub(crate) struct World {
    plan: Plan,
    net: Net,
    server: Arc<Server>,
    truth: Arc<Mutex<Truth>>,
    secrets: Arc<Secrets>,
    /// In what it differs from others.
    quirks: Quirks,
    proxy: Proxy,
    directory: Arc<Directory>,
    seen: Arc<Seen>,
    /// Of the file of moves.
    _folder: Option<TempDir>,
}

/// What is counted at the server, and what holds there.
struct Seen {
    /// The most connections that an account may have, by what was configured at any time.
    most: AtomicUsize,
    /// By what is configured now, since when, and how often that has changed.
    limit: Mutex<(usize, Instant, u64)>,
    commands: AtomicU64,
    /// Of these, SELECT.
    selects: AtomicU64,
    /// The server is as kind as can be.
    kind: AtomicBool,
    /// It hangs up on whoever selects a mailbox.
    spoils: AtomicBool,
    /// How often it was told to serve or not.
    services: AtomicU64,
}

pub(crate) fn user(number: u64) -> String {
    format!("u{number}")
}

/// Runs it; panics where something does not hold.
pub(crate) async fn run(plan: &Plan, trace: bool, net: &RefCell<Option<Net>>) -> Report {
    let world = World::start(plan, trace).await;
    net.replace(Some(world.net.clone()));
    timeout(LONGEST, world.live()).await.expect("somebody waits for ever")
}

impl World {
    async fn start(plan: &Plan, trace: bool) -> Self {
        let chance = Chance::new(plan.seed).fork(1);
        let [refused, lost, cut, frozen, slow] = plan.net;
        let net = Net::new(chance.fork(2), Faults { refused, lost, cut, frozen, slow }, trace);
        let seen = Arc::new(Seen {
            most: AtomicUsize::new(plan.max_per_account),
            limit: Mutex::new((plan.max_per_account, Instant::now(), 0)),
            commands: AtomicU64::new(0),
            selects: AtomicU64::new(0),
            kind: AtomicBool::new(false),
            spoils: AtomicBool::new(false),
            services: AtomicU64::new(0),
        });
        let asking =
            if plan.is_whole() { Duration::from_millis(3_000 + plan.server.delay * 4) } else { CHECKOUT + REPLY };
        let secrets = Secrets::new(Duration::from_millis(plan.cache_ttl), asking);
        let mut options = options(plan);
        options.passwords = secrets.rule();
        let quirks = options.quirks.clone();
        let directory = Directory::new(NAMES[0]);
        if plan.asks() {
            net.set_service(Some(directory.service()));
            for (_, action) in plan.actions.iter().filter(|(at, _)| *at == 0) {
                if let Action::Says(of, place) = action {
                    directory.says(user(*of), NAMES[*place]);
                }
            }
        }
        options.faults = Some(Arc::new(watch(plan, &net, (&seen, &directory), chance.fork(3))));
        let server = Arc::new(Server::start(options).await.expect("no address, no failure"));
        net.set_server(Some(Arc::clone(&server)));
        let given = imapool::net::Net::Given(Arc::new(net.clone()));
        let folder = plan.keeps().then(|| tempfile::tempdir().expect("a folder"));
        let mut config = configuration(plan);
        config.routing.moves_file = folder.as_ref().map(|folder| folder.path().join("moves"));
        let proxy = Proxy::start_over(config, Inherited::default(), given).await.expect("it starts");
        let truth = Arc::new(Mutex::new(Truth::new(&server)));
        Self { plan: plan.clone(), net, server, truth, secrets, quirks, proxy, directory, seen, _folder: folder }
    }

    async fn live(self) -> Report {
        let rules = self.rules();
        let mut seeds = Vec::new();
        for user in (0..self.plan.users).map(user) {
            for mailbox in MAILBOXES {
                let uids = self.truth.lock().uids(&user, mailbox);
                seeds.push((user.clone(), mailbox, uids));
            }
        }
        let clients: Vec<_> = self
            .plan
            .visitors
            .iter()
            .map(|guest| tokio::spawn(visits(visitor(guest, self.plan.seed), rules.clone())))
            .collect();
        self.expect_given_up();
        self.operate().await;
        for client in clients {
            if let Err(error) = client.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        if self.plan.is_sleepy() {
            let (selects, alone) = (self.seen.selects.load(Ordering::Relaxed), self.truth.lock().alone);
            assert!(selects <= alone, "selected {selects} times, and {alone} times somebody came who was alone");
        }
        self.settle().await;
        for user in (0..self.plan.users).map(user) {
            look_again(&self.net, &self.truth, &self.secrets, &user).await;
        }
        self.check(seeds);
        self.end().await
    }

    /// `seeds`: what there was in the beginning.
    fn check(&self, seeds: Vec<(String, &str, BTreeSet<u32>)>) {
        let truth = self.truth.lock();
        truth.check_all_kept();
        for (user, mailbox, uids) in seeds {
            truth.check_doomed(&user, mailbox, &uids);
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            net: self.net.clone(),
            truth: Arc::clone(&self.truth),
            secrets: Arc::clone(&self.secrets),
            mailboxes: MAILBOXES.map(str::to_owned).to_vec(),
            calm: self.plan.is_calm(),
            patience: patience(&self.plan),
            leaves_refused: (self.plan.is_whole() && self.plan.shares_all() && self.plan.personality.is_empty())
                .then(|| soon(&self.plan)),
            shares: self.plan.is_calm() && self.plan.shares_all(),
            serves_what_is_left: self.quirks.serves_what_is_left,
            // ID may have been one of the commands that failed.
            refused: [
                (self.quirks.status_of_selected, "STATUS"),
                (self.quirks.idle_refused, "IDLE"),
                (self.quirks.id_before_select, "SELECT"),
                (self.quirks.id_before_select, "EXAMINE"),
            ]
            .into_iter()
            .filter_map(|(status, command)| status.map(|_| command))
            .collect(),
        }
    }

    /// All that is not done by clients.
    async fn operate(&self) {
        let begun = Instant::now();
        let mut actions = self.plan.actions.clone();
        actions.sort_by_key(|(at, _)| *at);
        let mut number = 0;
        for (at, action) in actions {
            sleep_until(begun + Duration::from_millis(at)).await;
            self.net.note(&format!("{action:?}"));
            number += 1;
            self.act(&action, number).await;
        }
    }

    async fn act(&self, action: &Action, number: u64) {
        let call = match *action {
            Action::Pause | Action::Resume | Action::Drain => {
                let service = 1 + self.seen.services.fetch_add(1, Ordering::Relaxed);
                if *action == Action::Drain {
                    self.expect_drained(service);
                }
                format!("backends/mail/{}", format!("{action:?}").to_ascii_lowercase())
            }
            Action::Revoke(of) | Action::Retire(of) => {
                if let Action::Revoke(_) = action {
                    self.secrets.change(&user(of));
                }
                self.secrets.retire(&user(of));
                self.expect_retired(user(of));
                format!("accounts/{}/retire", user(of))
            }
            Action::Close(of) => format!("accounts/{}/close", user(of)),
            Action::Reload(most, lifetime) => {
                let mut config = (*self.proxy.config()).clone();
                config.pool.max_per_account = most;
                config.pool.max_lifetime = Duration::from_millis(lifetime);
                self.seen.most.fetch_max(most, Ordering::Relaxed);
                self.proxy.reload(config).await.expect("nothing to bind");
                self.expect_no_more_than(most);
                return;
            }
            Action::Move => {
                let mut config = (*self.proxy.config()).clone();
                config.backends[0].port ^= 1;
                self.proxy.reload(config).await.expect("nothing to bind");
                return;
            }
            Action::Keep(of, place) => {
                format!("accounts/{}/move?to={}&keep_sessions=true", user(of), NAMES[place])
            }
            Action::Group(_) => return,
            Action::Weigh(place, weight) => format!("backends/{}/weight?to={weight}", NAMES[place]),
            Action::Evacuate(place) => format!("backends/{}/evacuate", NAMES[place]),
            Action::Down(place, time) => {
                let backend = BACKENDS[place].parse().expect("an address");
                self.net.set_down(backend, true);
                self.server.kill(Kill::Close);
                sleep(Duration::from_millis(time)).await;
                self.net.set_down(backend, false);
                return;
            }
            Action::Says(of, place) => return self.directory.says(user(of), NAMES[place]),
            Action::Mood(mood) => return self.directory.set_mood(mood),
            Action::Route(of, place) => {
                let mut config = (*self.proxy.config()).clone();
                config.routes.retain(|route| route.users != [user(of)]);
                let to = Some(NAMES[place].to_owned());
                config.routes.push(config::Route { users: vec![user(of)], to, ..config::Route::default() });
                self.proxy.reload(config).await.expect("nothing to bind");
                return;
            }
            Action::Password(of) => return self.secrets.change(&user(of)),
            Action::Kill(of, how) => {
                let how = [Kill::Bye, Kill::Close, Kill::Reset][usize::from(how)];
                self.server.kill_user(&user(of), how);
                return;
            }
            Action::Away(time) => {
                self.net.set_server(None);
                self.server.kill(Kill::Close);
                sleep(Duration::from_millis(time)).await;
                self.net.set_server(Some(Arc::clone(&self.server)));
                return;
            }
            Action::Spoil(of) => return self.spoil(&user(of)).await,
            Action::Deliver(of, mailbox) => {
                let user = user(of);
                let message = Identity::padded(&user, &format!("d{number}"), self.plan.padding);
                self.server.deliver(&user, MAILBOXES[mailbox], message);
                return;
            }
        };
        // There may be nothing of that name yet.
        let _ = act(&self.proxy, &call).await;
    }

    /// Who lies in IDLE meanwhile costs few connections: it is tried again after longer and longer.
    async fn spoil(&self, user: &str) {
        let so_far = || (self.net.links().len(), self.truth.lock().asked);
        let (dials, asked) = so_far();
        self.seen.spoils.store(true, Ordering::Relaxed);
        self.server.kill_user(user, Kill::Close);
        sleep(Duration::from_secs(30)).await;
        self.seen.spoils.store(false, Ordering::Relaxed);
        let (dials, asked) = (so_far().0 - dials, so_far().1 - asked);
        let checked = self.plan.groups().is_some();
        if self.plan.is_whole()
            && !checked
            && asked == 0
            && self.plan.visitors.iter().all(|guest| guest.kind == Kind::Sleeper)
        {
            // Of the one mailbox, after 0, 0, 0.2, 0.4, ... and 5 seconds; and the spare ones are renewed.
            let most = 12 + self.plan.spare;
            assert!(dials <= most, "{dials} connections were opened in vain");
        }
    }

    /// What is retired is left between two commands, also by who does nothing.
    fn expect_retired(&self, user: String) {
        if !self.plan.is_calm() || !self.plan.shares_all() {
            return;
        }
        let (net, now, patience) = (self.net.clone(), Instant::now(), patience(&self.plan));
        tokio::spawn(async move {
            sleep(patience + Duration::from_secs(5)).await;
            let left = net.older_of(&user, now);
            assert_eq!(left, 0, "connections of {user} that were retired are still open");
        });
    }

    /// Nothing is open to a backend that was drained, for as long as it does not serve.
    fn expect_drained(&self, service: u64) {
        if !self.plan.is_whole() {
            return;
        }
        let (net, seen, soon) = (self.net.clone(), Arc::clone(&self.seen), soon(&self.plan));
        let users = self.plan.users;
        tokio::spawn(async move {
            sleep(soon).await;
            if seen.services.load(Ordering::Relaxed) == service {
                let drained = BACKENDS[0].parse().expect("an address");
                for user in (0..users).map(user) {
                    let open = net.open_to(&user, drained);
                    assert_eq!(open, 0, "connections of {user} are open to what is drained");
                }
            }
        });
    }

    /// What is left of who has a newer token is given up.
    fn expect_given_up(&self) {
        if !self.plan.is_whole() {
            return;
        }
        let (net, secrets) = (self.net.clone(), Arc::clone(&self.secrets));
        let quiet = Duration::from_millis(self.plan.linger) + Duration::from_secs(20);
        tokio::spawn(async move {
            for _ in 0..40 {
                sleep(Duration::from_secs(5)).await;
                for token in net.tokens() {
                    let superseded = secrets.is_superseded(&token, quiet);
                    assert!(!superseded, "a connection of {token} is open, and its user has a newer one");
                }
            }
        });
    }

    /// What is open beyond a lower limit is left between two commands, also by who does nothing.
    fn expect_no_more_than(&self, most: usize) {
        let reload = {
            let mut limit = self.seen.limit.lock();
            *limit = (most, Instant::now(), limit.2 + 1);
            limit.2
        };
        if !self.plan.is_calm() || !self.plan.shares_all() {
            return;
        }
        let (net, seen, patience) = (self.net.clone(), Arc::clone(&self.seen), patience(&self.plan));
        let accounts: Vec<_> =
            (0..self.plan.users).map(|number| (user(number), self.plan.accounts_of(number))).collect();
        tokio::spawn(async move {
            sleep(patience + Duration::from_secs(5)).await;
            let mut least = vec![usize::MAX; accounts.len()];
            // Beside them, logins are verified now and then.
            for _ in 0..20 {
                for (least, (user, _)) in least.iter_mut().zip(&accounts) {
                    *least = (*least).min(net.open_of(user));
                }
                sleep(Duration::from_millis(250)).await;
            }
            if seen.limit.lock().2 == reload {
                for (open, (user, accounts)) in least.iter().zip(&accounts) {
                    let most = most * accounts;
                    assert!(*open <= most, "{open} connections of {user} are open, where {most} may be by now");
                }
            }
        });
    }

    /// Nothing goes wrong any more, and what went wrong is over.
    async fn settle(&self) {
        self.net.note("settles");
        self.net.calm();
        self.seen.kind.store(true, Ordering::Relaxed);
        self.seen.services.fetch_add(1, Ordering::Relaxed);
        let _ = act(&self.proxy, "backends/mail/resume").await;
        self.directory.set_mood(Mood::Good);
        if self.plan.groups().is_some() {
            // Nobody is checked any more, once all are up.
            sleep(CHECK * 4).await;
            let mut config = (*self.proxy.config()).clone();
            config.groups[0].check.interval = LONGEST;
            self.proxy.reload(config).await.expect("nothing to bind");
            for name in NAMES {
                let _ = act(&self.proxy, &format!("backends/{name}/weight")).await;
            }
        }
        // A command that hangs is given up, and a backend that was away is tried again.
        sleep(REPLY + CHECKOUT + Duration::from_secs(60)).await;
    }

    /// All goes, and nothing is left.
    async fn end(self) -> Report {
        let report = Report {
            fingerprint: self.net.fingerprint(),
            dials: self.net.links().len(),
            commands: self.seen.commands.load(Ordering::Relaxed),
        };
        let quiet = self.net.links().len();
        sleep(IDLE * 2).await;
        let dials = self.net.links().len() - quiet;
        let spare = self.plan.spare * if self.plan.routes() { 2 } else { 1 };
        // Spares are renewed, and each minute it is looked whether the server is there.
        let looks = if self.plan.routes() { 6 } else { 3 };
        assert!(dials <= 2 * spare + looks, "{dials} connections were opened while nobody was there");
        assert_eq!(self.proxy.registry().all().len(), 0, "sessions are left");
        if self.net.open() > spare {
            // It may be that look, which takes a few round trips and comes once a minute.
            sleep(Duration::from_secs(10)).await;
        }
        let left = self.net.open();
        assert!(left <= spare, "{left} connections are left at rest");
        assert_eq!(self.proxy.budget().in_use(), left, "connections that are counted, and those that are");
        timeout(Duration::from_secs(60), self.proxy.drain()).await.expect("the drain ends");
        assert_eq!(self.net.open(), 0, "connections are left");
        self.net.set_server(None);
        self.net.set_service(None);
        drop(self.truth);
        drop(self.server);
        sleep(Duration::from_secs(10)).await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert_eq!(tasks, 0, "tasks are left");
        report
    }
}

/// Each user finds in each mailbox what the server holds.
pub(crate) async fn look_again(net: &Net, truth: &Arc<Mutex<Truth>>, secrets: &Secrets, user: &str) {
    let look = async {
        let mut client = Client::connect(net, 99, truth, CHECKOUT).await.ok()?;
        user.clone_into(&mut client.user);
        let password = Secrets::password(user, secrets.version(user));
        let status = client.run(&format!("LOGIN {user} {password}")).await.ok()?;
        assert!(status.is_ok(), "at the end, {user} cannot log in: {status:?}");
        for mailbox in MAILBOXES {
            client.view = Some(View::new(user, mailbox, false));
            let status = client.run(&format!("SELECT {mailbox}")).await.ok()?;
            assert!(status.is_ok(), "at the end, {user} cannot select {mailbox}: {status:?}");
            client.view.as_mut()?.opening = false;
            let status = client.run("UID FETCH 1:* (FLAGS)").await.ok()?;
            assert!(status.is_ok(), "at the end, {user} cannot fetch: {status:?}");
            let held = truth.lock().uids(user, mailbox);
            assert_eq!(client.view.as_ref()?.uids(), held, "at the end, in {user} {mailbox}");
        }
        client.run("LOGOUT").await.ok()
    };
    assert!(look.await.is_some(), "at the end, {user} is sent away");
}

pub(crate) fn visitor(guest: &Guest, seed: u64) -> Visitor {
    Visitor {
        name: guest.name,
        kind: guest.kind,
        user: user(guest.user),
        way: guest.way,
        visits: guest.visits,
        commands: guest.commands,
        begins: Duration::from_millis(guest.begins),
        seed: Chance::new(seed).fork(1000 + guest.name).next(),
    }
}

/// What is to be left between two commands is left within that, where the server answers.
fn soon(plan: &Plan) -> Duration {
    CHECKOUT + Duration::from_secs(5) + Duration::from_millis(plan.server.delay * 20 + plan.server.farewell)
}

/// No command takes longer.
pub(crate) fn patience(plan: &Plan) -> Duration {
    let server = Duration::from_millis(plan.server.delay * 40);
    if plan.is_calm() { CHECKOUT + server } else { CHECKOUT + REPLY + REPLY + server }
}

fn configuration(plan: &Plan) -> Config {
    let mut listener = config::Listener::new(ListenAddr::Tcp("10.0.0.1:143".parse().expect("an address")));
    listener.plaintext_login = PlaintextLogin::Always;
    let backend = |place: usize| config::Backend {
        name: NAMES[place].to_owned(),
        reply_timeout: REPLY,
        ..config::Backend::new(BACKENDS[place], 143)
    };
    let mut config = Config::new(listener, backend(0));
    if plan.routes() {
        config.backends.push(backend(1));
    }
    if let Some(failover) = plan.groups() {
        let mut group = config::Group::new("both");
        group.failover_after = failover.map(Duration::from_millis);
        group.check.interval = CHECK;
        config.groups.push(group);
        config.backends.iter_mut().for_each(|backend| backend.group = Some("both".to_owned()));
        config.routing.default = Some("both".to_owned());
    }
    if plan.asks() {
        let http = Some(format!("http://{SERVICE}/auth"));
        let (ttl, timeout) = (Duration::from_millis(plan.linger / 10), Duration::from_secs(2));
        config.routes.push(config::Route { http, ttl, timeout, ..config::Route::default() });
    }
    config.admin.address = None;
    config.pool.mode = plan.mode;
    config.pool.max_per_account = plan.max_per_account;
    config.pool.max_total = plan.max_total;
    config.pool.spare = plan.spare;
    config.pool.max_lifetime = Duration::from_millis(plan.max_lifetime);
    config.pool.linger = Duration::from_millis(plan.linger);
    config.pool.checkout_timeout = CHECKOUT;
    config.pool.idle_timeout = IDLE;
    config.auth.failure_delay = Duration::from_millis(100);
    config.auth.cache_ttl = Duration::from_millis(plan.cache_ttl);
    config
}

pub(crate) fn options(plan: &Plan) -> Options {
    let Kindness { condstore, qresync, unselect, literal_plus, .. } = plan.server;
    let mut capabilities = Capabilities::default();
    if condstore {
        capabilities.after += if qresync { " CONDSTORE QRESYNC" } else { " CONDSTORE" };
    }
    if !unselect {
        capabilities = capabilities.without("UNSELECT");
    }
    if !literal_plus {
        capabilities = capabilities.without("LITERAL+");
    }
    let mailboxes = MAILBOXES.iter().map(|name| ((*name).to_owned(), plan.messages));
    let own = plan.visitors.iter().map(|guest| (format!("Own{}", guest.name), 0));
    let mut enable = vec!["UTF8=ACCEPT".to_owned()];
    if condstore {
        enable.push("CONDSTORE".to_owned());
    }
    if qresync {
        enable.push("QRESYNC".to_owned());
    }
    let padding = plan.padding;
    let seed = Seed {
        mailboxes: mailboxes.chain(own).collect(),
        message: Arc::new(move |user, mailbox, n| Identity::padded(user, &format!("{mailbox}-{n}"), padding)),
    };
    let own = || Options {
        quirks: Quirks { serves_what_is_left: plan.server.serves_what_is_left, ..Quirks::default() },
        capabilities,
        enable,
        ..Options::default()
    };
    let others = Personality::of(plan.personality).map(|kind| kind.options());
    Options { addresses: Vec::new(), seed, names: Names::default(), ..others.unwrap_or_else(own) }
}

/// Sees each command at the server: counts, holds the limits against what is open, and lets faults happen.
fn watch(
    plan: &Plan,
    net: &Net,
    (seen, directory): (&Arc<Seen>, &Arc<Directory>),
    chance: Chance,
) -> impl Fn(&Event<'_>) -> Fault + use<> {
    let (net, seen, directory) = (net.clone(), Arc::clone(seen), Arc::clone(directory));
    let (asks, stays) = (plan.asks(), plan.stays_in_group());
    let (server, total, chance) = (plan.server, plan.max_total, Mutex::new(chance));
    // Each token has connections of its own, and so has each that replaced it.
    let changes =
        plan.actions.iter().filter(|(_, action)| matches!(action, Action::Password(_) | Action::Revoke(_))).count();
    let tokens = plan.visitors.iter().filter(|guest| guest.way == Way::Token).count() * (1 + changes);
    let oldest = (plan.is_calm() && plan.shares_all())
        .then(|| Duration::from_millis(plan.longest_lifetime()) + patience(plan) + Duration::from_secs(5));
    let (exact, shares) = (plan.verifies_once().then(|| Instant::now() + Plan::ONCE), plan.shares_all());
    move |event| {
        seen.commands.fetch_add(1, Ordering::Relaxed);
        let selects_one = event.stage == Stage::Command && event.verb == "SELECT";
        seen.selects.fetch_add(selects_one.into(), Ordering::Relaxed);
        if let Some(user) = event.user {
            let links = net.links();
            let link = &links[usize::from(event.address.port()) - 1];
            // A spare one may be older.
            let is_first = link.user.lock().replace(user.to_owned()).is_none();
            if is_first {
                *link.since.lock() = Instant::now();
            }
            let homes = net.homes_of(user);
            assert!(homes.len() < 2, "{user} is at two backends: {homes:?}");
            let place = link.to.to_string();
            let name = BACKENDS.iter().position(|address| *address == place).map_or("none", |place| NAMES[place]);
            assert!(
                !asks || user.is_empty() || directory.has_said(user, name),
                "{user} is at {name}, which nobody has said"
            );
            if stays && !user.is_empty() {
                let shares = NAMES.into_iter().map(|name| (name, 100));
                let picked = rendezvous::pick(user.as_bytes(), shares).map(|picked| BACKENDS[picked]);
                assert_eq!(picked, Some(place.as_str()), "{user} is where another should be");
            }
            let age = link.since.lock().elapsed();
            let leaves = matches!(event.verb, "LOGOUT" | "DONE" | "");
            assert!(leaves || oldest.is_none_or(|most| age <= most), "{} on a connection {age:?} old", event.verb);
            // One more for the time in which a login is verified, of each password.
            let ever = seen.most.load(Ordering::Relaxed);
            let (open, most) = (net.open_of(user), (1 + tokens) * (ever + 1 + changes));
            assert!(open <= most, "{open} connections of {user} are open, and {most} may be");
            if exact.is_some_and(|until| Instant::now() < until) {
                let (most, since, _) = *seen.limit.lock();
                // What was open when there came to be fewer places may be for long.
                let most = if is_first && shares && link.dialed > since { most } else { ever };
                let held = net.held_of(user);
                assert!(held <= most, "{held} connections of {user} are not closed, and {most} may be");
            }
        }
        let open = net.open();
        assert!(total == 0 || open <= total, "{open} connections are open, and {total} may be");
        let mut chance = chance.lock();
        if server.faults > 0 && !seen.kind.load(Ordering::Relaxed) && chance.one_in(server.faults) {
            return fault(event, &mut chance);
        }
        if seen.spoils.load(Ordering::Relaxed) && matches!(event.verb, "SELECT" | "EXAMINE") {
            return Fault::CloseBefore;
        }
        let farewell = if event.verb == "LOGOUT" { server.farewell } else { 0 };
        if server.delay + farewell > 0 && event.stage == Stage::Command {
            Fault::DelayMs(chance.below(server.delay) + farewell)
        } else {
            Fault::None
        }
    }
}

pub(crate) fn fault(event: &Event<'_>, chance: &mut Chance) -> Fault {
    match chance.below(8) {
        0 => Fault::CloseBefore,
        1 => Fault::ResetBefore,
        2 => Fault::CloseMidReply(usize::try_from(chance.below(200)).expect("small")),
        3 => Fault::Silence,
        4 => Fault::DelayMs(chance.below(5_000)),
        5 => Fault::Untagged("OK still here".into()),
        6 => Fault::ByeThenClose,
        _ if event.stage == Stage::Command => Fault::Tagged("NO [UNAVAILABLE] busy".into()),
        _ => Fault::None,
    }
}
