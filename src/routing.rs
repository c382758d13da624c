//! Which backend a session goes to when it logs in: by the routes of the configuration ([`imapool_proto::routing`]),
//! the files they name, and where the account is already.

mod by_hand;
mod checks;
mod explain;
mod files;
pub mod http;
mod moving;
mod relay;
mod rulebook;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

pub use self::by_hand::{Evacuation, HandError};
pub use self::explain::{check, explain};
pub use self::files::MapError;
use self::http::{Answer, Denial, Question};
pub use self::moving::Moved;
pub use self::relay::is_on_its_way;
use self::rulebook::Rulebook;
pub use self::rulebook::{Decision, RouteError};
pub use self::table::Table;
use crate::config::{self, Config, Live};
use crate::imap::sasl::{Credential, SecretKind};
use crate::metrics::{Metrics, RouteResult};
use crate::net::Net;
use crate::residence::{Entered, Presence, Residence, Residences, Visit, Wanted};
use crate::tls::Stamp;

pub use imapool_proto::routing::{Asked, By, Member, Route, Routes, Rule, Source, Step, Target, map, name, rendezvous};

/// What a step leads to.
enum Found<'t> {
    Way(Way),
    /// It belongs to a group of replicas, and this process is the one: it goes on as if it had come by this listener.
    Here(Arc<Credential>, &'t str),
    /// Its account is coming from another replica: it is to be asked again after the next check, and then.
    Later(Instant),
    /// Its account has to leave where it is.
    Elsewhere(Arc<Residence>),
    /// The service of this rule has to be asked.
    Ask(usize),
}

/// So often one login has an account leave other places.
const TURNS: u32 = 100;

/// What is told while an account goes from one replica to another.
const RETURNING: &str = "The account goes back to its replica at the moment; try again.";

/// What is told while an account goes from one backend to another.
const MOVES: &str = "The account is being moved to another mail server; try again later.";

/// What is told to whom nothing else can be told.
const UNAVAILABLE: &str = "It cannot be found out at the moment which mail server has this account.";

/// See the module.
pub struct Router {
    table: ArcSwap<Table>,
    /// Held while another table is made: what those that have changed looked like, when they were last looked at.
    tending: tokio::sync::Mutex<Looks>,
    /// There is another table.
    exchanged: Notify,
    /// A check has ended.
    noticed: Notify,
    /// The process ends.
    ends: AtomicBool,
    /// Accounts that are here, and other replicas' by all that is known here; some of them twice.
    lent: Mutex<Vec<Weak<Residence>>>,
    residences: Arc<Residences>,
    metrics: Arc<Metrics>,
    patience: Live<config::Pool>,
}

/// See [`Router::rules`].
pub(crate) struct Rules<'r> {
    book: Rulebook,
    _still: tokio::sync::MutexGuard<'r, Looks>,
}

/// What changed files looked like.
type Looks = HashMap<PathBuf, Option<Stamp>>;

/// How somebody asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// By which listener.
    pub listener: String,
    /// As which host, in TLS.
    pub server_name: Option<String>,
    /// From where; none over a Unix socket.
    pub client: Option<IpAddr>,
    /// Which address of this host.
    pub local: Option<SocketAddr>,
    /// The version of TLS.
    pub tls: Option<&'static str>,
    /// How many attempts of this session this is, from 1.
    pub attempt: u32,
}

/// By which listener, and as which host.
type Approach<'b> = (&'b str, Option<&'b str>);

/// What is asked: at first by a client, and then perhaps anew, as if it had come to a replica.
#[derive(Clone)]
struct Request<'a> {
    credential: Arc<Credential>,
    by: Approach<'a>,
}

/// Where a session goes.
#[derive(Debug)]
pub enum Way {
    /// To this backend, with this credential.
    To(Visit, Arc<Credential>),
    /// The same of a replica, which judges it and has the session from then on.
    Relay(Visit, Arc<Credential>),
    /// To none: it is refused like a wrong password.
    Nobody,
    /// To none, says a service, in these words.
    Refused(Denial),
    /// It cannot be said now.
    Unavailable(&'static str),
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").finish_non_exhaustive()
    }
}

fn question(credential: &Credential, server_name: Option<&str>, caller: &Caller) -> Question {
    let user = if credential.authzid.is_empty() { &credential.user } else { &credential.authzid };
    Question {
        user: user.clone(),
        secret: Some(credential.secret.clone()),
        mechanism: match credential.mechanism.kind() {
            SecretKind::Password => "plain",
            SecretKind::XOAuth2 => "xoauth2",
            SecretKind::OAuthBearer => "oauthbearer",
        },
        client: caller.client,
        server: caller.local,
        tls: caller.tls,
        server_name: server_name.map(str::to_owned),
        attempt: caller.attempt,
    }
}

impl Router {
    /// Knows where nobody is.
    #[must_use]
    pub fn new(table: Table, patience: Live<config::Pool>, metrics: Arc<Metrics>) -> Self {
        table.mark_local();
        let (tending, exchanged, noticed, ends, lent, residences) = Default::default();
        let table = ArcSwap::from_pointee(table);
        Self { table, tending, exchanged, noticed, ends, lent, residences, metrics, patience }
    }

    /// What it goes by now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Where accounts are.
    #[must_use]
    pub fn residences(&self) -> &Arc<Residences> {
        &self.residences
    }

    /// A place for one more session where this visitor is, if the account may have one more.
    #[must_use]
    pub fn admit(&self, visit: &Visit) -> Option<Presence> {
        let residence = visit.residence();
        residence.admit(self.table.load().book.terms.sessions(&residence.name))
    }

    /// Where a session goes that logs in with this credential, if that can be said without waiting.
    #[must_use]
    pub fn way_at_once(&self, credential: &Arc<Credential>, listener: &str, server_name: Option<&str>) -> Option<Way> {
        let table = self.table.load();
        let mut request = Request { credential: Arc::clone(credential), by: (listener, server_name) };
        match self.step(&table, &mut request) {
            Found::Way(way) if self.is_current(&table) => {
                self.count(&way);
                Some(way)
            }
            _ => None,
        }
    }

    /// Nothing has taken its place, so that what was decided by it holds: who changes that sees who is where.
    fn is_current(&self, table: &Arc<Table>) -> bool {
        Arc::ptr_eq(&self.table.load(), table)
    }

    fn count(&self, way: &Way) {
        self.metrics.routes.inc(match way {
            Way::To(..) | Way::Relay(..) => RouteResult::Routed,
            Way::Nobody | Way::Refused(_) => RouteResult::Refused,
            Way::Unavailable(_) => RouteResult::Unavailable,
        });
    }

    /// Until when somebody waits who logs in now.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.patience.load().checkout_timeout
    }

    /// Where a session goes that logs in with this credential. Waits for the services that are to be asked, and, until
    /// the deadline at most, while its account leaves another backend.
    pub async fn way(&self, credential: &Arc<Credential>, caller: &Caller, deadline: Instant) -> Way {
        let mut left = 0..TURNS;
        let by = (&*caller.listener, caller.server_name.as_deref());
        let way = loop {
            let noticed = self.noticed.notified();
            let table = self.table.load_full();
            let mut request = Request { credential: Arc::clone(credential), by };
            let mut found = self.step(&table, &mut request);
            // One says which replica it is, and perhaps another one for that replica to which backend.
            for _ in 0..2 {
                if let Found::Ask(rule) = found {
                    let asked = self.ask(&table, rule, &request, caller).await;
                    found = self.go_on(&table, asked, &mut request);
                }
            }
            let residence = match found {
                Found::Way(_) | Found::Elsewhere(_) if !self.is_current(&table) => continue,
                Found::Way(way) => break way,
                Found::Elsewhere(residence) => residence,
                Found::Later(at) => {
                    if Instant::now() >= deadline {
                        break Way::Unavailable(RETURNING);
                    }
                    tokio::select! {
                        () = noticed => {}
                        () = sleep_until(at.min(deadline)) => {}
                    }
                    continue;
                }
                Found::Ask(_) | Found::Here(..) => break Way::Unavailable(UNAVAILABLE),
            };
            if residence.is_moving() {
                if timeout_at(deadline, residence.settled()).await.is_err() {
                    break Way::Unavailable(MOVES);
                }
                continue;
            }
            // It has not been decided otherwise: it is asked for otherwise, perhaps by who has no password for it.
            let may_stay = |place| table.may_stay(place);
            let stays = !residence.is_ending() && table.place_of(residence.backend()).is_some_and(may_stay);
            let name = table.book.routes.names.key(&request.credential.user, &request.credential.authzid);
            if stays && residence.is_used() && (residence.by() != request.by || *residence.name != *name) {
                break Way::Unavailable("The account is in use at another mail server, by another way.");
            }
            Self::end(&table, &residence, "its route leads elsewhere");
            // Others may come to where it was again and again.
            if left.next().is_none() || timeout_at(deadline, residence.over()).await.is_err() {
                break Way::Unavailable(MOVES);
            }
        };
        self.count(&way);
        way
    }

    /// As far as it can be said at once.
    fn step<'t>(&self, table: &'t Table, request: &mut Request<'t>) -> Found<'t> {
        let found = self.look(table, &request.credential, request.by);
        self.go_on(table, found, request)
    }

    /// Looks once more where that leads to this very process, as a replica would that the session came to.
    fn go_on<'t>(&self, table: &'t Table, found: Found<'t>, request: &mut Request<'t>) -> Found<'t> {
        let Found::Here(credential, inner) = found else { return found };
        *request = Request { credential, by: (inner, None) };
        self.look(table, &request.credential, request.by)
    }

    fn look<'t>(&self, table: &'t Table, credential: &Arc<Credential>, by: Approach<'_>) -> Found<'t> {
        let routes = &table.book.routes;
        let key = routes.names.key(&credential.user, &credential.authzid);
        if !table.book.terms.allow_all(&credential.user, &credential.authzid) {
            return Found::Way(Way::Nobody);
        }
        let (listener, server_name) = by;
        match routes.step(&Asked { key: &key, listener, server_name }) {
            Step::Ask(rule) => Found::Ask(rule),
            Step::Goes(route) => {
                let credential = match route.login {
                    Some(login) => Arc::new(routes.names.renamed(credential, login)),
                    None => Arc::clone(credential),
                };
                self.enter(table, &key, (route.target, route.login), credential, by)
            }
        }
    }

    /// Where an account goes that belongs to this target.
    fn enter<'t>(
        &self,
        table: &'t Table,
        key: &[u8],
        (target, login): (Target, Option<&[u8]>),
        credential: Arc<Credential>,
        by: Approach<'_>,
    ) -> Found<'t> {
        // Nor may who has another's mail by the name that a route gives him.
        let may = login.is_none_or(|_| table.book.terms.allow_all(&credential.user, &credential.authzid));
        if target == Target::Nobody || !may {
            return Found::Way(Way::Nobody);
        }
        let routes = &table.book.routes;
        // Whose mail it is: one account, whichever of several names leads to it.
        let (name, key) = (key, &routes.names.key(&credential.user, &credential.authzid)[..]);
        let relay = table.relay(target);
        let choice = match relay {
            Some(relay) => table.choice_unsettled(relay, target, key),
            None => table.choice(target, key),
        };
        let index = |place: usize| table.backends[place].index;
        let mut wanted = Wanted {
            key,
            name,
            choice: choice.map(index),
            free: matches!(target, Target::Group(_)),
            allowed: routes.members(target).filter(|place| table.may_stay(*place)).map(index).collect(),
            stay: table.stay(target),
            login,
            by,
        };
        let is_lent = match relay {
            Some(relay) => self.leave_for_replica(table, relay, target, &credential, &mut wanted),
            None => self.admit_at_replica(table, &wanted),
        };
        let is_lent = match is_lent {
            Ok(is_lent) => is_lent,
            Err(found) => return found,
        };
        match self.residences.enter(&wanted) {
            Entered::At(visit) if relay.is_some() => Found::Way(Way::Relay(visit, credential)),
            Entered::At(visit) => {
                let residence = visit.residence();
                if !residence.is_used() && !self.is_still_here(table, residence, is_lent) {
                    return Found::Way(Way::Unavailable(RETURNING));
                }
                Found::Way(Way::To(visit, credential))
            }
            Entered::Elsewhere(residence) => Found::Elsewhere(residence),
            Entered::Nowhere if relay.is_some() => {
                Found::Way(Way::Unavailable("No replica takes new accounts at the moment."))
            }
            Entered::Nowhere => Found::Way(Way::Unavailable("The mail server takes no new accounts at the moment.")),
        }
    }

    /// Asks the service of a rule. Where it cannot be asked, or names what is no backend, nobody else decides.
    async fn ask<'t>(&self, table: &'t Table, rule: usize, request: &Request<'_>, caller: &Caller) -> Found<'t> {
        let Request { credential, by } = request;
        let unavailable = || Found::Way(Way::Unavailable(UNAVAILABLE));
        let Some(lookup) = &table.book.lookups[rule] else { return unavailable() };
        let routes = &table.book.routes;
        let key = routes.names.key(&credential.user, &credential.authzid);
        let in_use = self.residences.visited(&key).is_some();
        let answer = lookup.ask(question(credential, by.1, caller), in_use).await;
        let (host, port, user, secret) = match answer.as_deref() {
            Ok(Answer::Server { host, port, user, secret }) => (host, *port, user.as_deref(), secret.clone()),
            Ok(Answer::Refused(denial)) => return Found::Way(Way::Refused(denial.clone())),
            Err(error) => {
                warn!(rule = table.book.words[rule], %error, "cannot find out where an account belongs");
                return unavailable();
            }
        };
        let Some(target) = table.named(host, port) else {
            warn!(rule = table.book.words[rule], host, port, "a service names a server that is no backend");
            return unavailable();
        };
        let mut renamed = match user {
            Some(user) => routes.names.renamed(credential, user),
            None => Credential::clone(credential),
        };
        if let Some(secret) = secret.filter(|_| credential.mechanism.kind() == SecretKind::Password) {
            renamed.secret = secret;
        }
        let route = Route { by: By::Rule(rule), line: None, target, login: user };
        let route = routes.moved(&key, route);
        self.enter(table, &key, (route.target, route.login), Arc::new(renamed), *by)
    }

    /// Has an account leave: its sessions end, its connections log out, and nobody else comes.
    fn end(table: &Table, residence: &Arc<Residence>, why: &str) {
        if residence.end() {
            let account = String::from_utf8_lossy(&residence.key);
            let backend = table.place_of(residence.backend()).map(|place| table.backends[place].config.name.as_str());
            info!(account = account.as_ref(), backend, why, "an account leaves its backend");
        }
    }

    /// The rules of another configuration. Nobody is moved by hand until they hold, or are dropped.
    ///
    /// # Errors
    /// When a file or a service cannot be used.
    pub(crate) async fn rules(&self, config: &Config, net: &Net) -> Result<Rules<'_>, RouteError> {
        let still = self.tending.lock().await;
        let table = self.table.load_full();
        let reads = config.routing.moves_file.is_some() || config.routes.iter().any(|route| route.file.is_some());
        let (config, net) = (config.clone(), net.clone());
        let make = move || Rulebook::new(&config, Some(&table.book), &net);
        let book = if reads {
            // It may take seconds.
            tokio::task::spawn_blocking(make)
                .await
                .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        } else {
            make()
        };
        Ok(Rules { book: book?, _still: still })
    }

    /// Goes by another table from now on. Accounts that it has elsewhere leave where they are; others notice nothing.
    pub(crate) fn apply(&self, table: Table, _rules: &Rules<'_>) {
        self.exchange(table);
    }

    fn exchange(&self, mut table: Table) {
        table.settles_as(&self.table.load());
        table.mark_local();
        let before = self.table.swap(Arc::new(table));
        self.exchanged.notify_waiters();
        self.noticed.notify_waiters();
        // Whoever has gone by the one before is among these, or finds that there is another.
        let table = self.table.load();
        for residence in self.residences.all() {
            let by = residence.by().0;
            let is_left = table.is_left(by) && !before.is_left(by);
            if let Some(why) = table.misplaces(&residence).or(is_left.then_some("the routes have changed")) {
                Self::end(&before, &residence, why);
            }
        }
        self.residences.all().iter().for_each(|residence| self.lend(&table, residence));
    }

    /// Forgets who left long ago, and reads files again that have changed. Call it every few seconds; while one call is
    /// at work, another does nothing.
    pub async fn tend(self: &Arc<Self>) {
        let table = self.table.load_full();
        let longest = table.groups.iter().map(|group| group.stay).max();
        self.residences.sweep(longest.unwrap_or_default());
        if let Ok(mut looks) = self.tending.try_lock() {
            self.reread(Some(&mut looks)).await;
        }
    }

    /// Goes by files that have changed: by those that are written in one step at once, by others (`looks`) when they
    /// look the same twice, so that none is read while it is being written. The caller holds `tending`.
    async fn reread(&self, looks: Option<&mut Looks>) {
        let table = self.table.load_full();
        if table.book.all_files().next().is_none() {
            return;
        }
        let ours = Arc::clone(&table);
        // Reading may take seconds.
        let mut before = looks.as_deref().cloned();
        let reading = tokio::task::spawn_blocking(move || {
            let reread = ours.book.read_changed(before.as_mut());
            (reread, before)
        });
        let Ok((reread, after)) = reading.await else { return };
        if let (Some(looks), Some(after)) = (looks, after) {
            *looks = after;
        }
        for (path, _, map) in &reread {
            match map {
                Ok(map) => info!(file = %path.display(), lines = map.keys(), "routes read again"),
                Err(error) => {
                    for line in error.to_string().lines() {
                        warn!("cannot take over changed routes; the old ones serve on: {line}");
                    }
                }
            }
        }
        if !reread.is_empty() {
            self.exchange(table.with(table.book.with(&reread)));
        }
    }
}
