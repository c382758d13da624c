//! Which backend a session goes to when it logs in: by the routes of the configuration ([`imapool_proto::routing`]),
//! the files they name, and where the account is already.

mod explain;
mod files;
pub mod http;
mod rulebook;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

pub use self::explain::{ExplainError, check, explain};
pub use self::files::MapError;
use self::http::{Answer, Question};
pub use self::rulebook::{Decision, RouteError};
pub use self::table::Table;
use crate::config::{self, Live};
use crate::imap::capability::Capabilities;
use crate::imap::sasl::{Credential, SecretKind};
use crate::metrics::{Metrics, RouteResult};
use crate::residence::{Entered, Residence, Residences, Visit, Wanted};
use crate::tls::Stamp;

pub use imapool_proto::routing::{Asked, By, Member, Route, Routes, Rule, Source, Step, Target, map, name, rendezvous};

/// What a step leads to.
enum Found {
    Way(Way),
    /// Its account has to leave where it is.
    Elsewhere(Arc<Residence>),
    /// The service of this rule has to be asked.
    Ask(usize),
}

/// What is told to whom nothing else can be told.
const UNAVAILABLE: &str = "It cannot be found out at the moment which mail server has this account.";

/// See the module.
pub struct Router {
    table: ArcSwap<Table>,
    /// Held while another table is made.
    making: Mutex<()>,
    /// Held while files are read again: what those that have changed looked like, when they were last looked at.
    tending: tokio::sync::Mutex<Looks>,
    residences: Arc<Residences>,
    metrics: Arc<Metrics>,
    patience: Live<config::Pool>,
}

/// What changed files looked like.
type Looks = HashMap<PathBuf, Option<Stamp>>;

/// Why an account cannot be moved by hand.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// It could not be kept.
    #[error("routing.moves_file is not set, so a move could not be kept: name a file there, and reload")]
    NoFile,
    /// It cannot stand in a file.
    #[error("an account of this name cannot be moved: it is empty, or has a space in it")]
    Name,
    /// It is none.
    #[error("there is no backend and no group {0:?}")]
    Target(String),
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Whether it can stand as one word in a file.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('#')
        && !text.contains(char::is_whitespace)
        && !text.contains(char::is_control)
}

/// How somebody asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'c> {
    /// By which listener.
    pub listener: &'c str,
    /// As which host, in TLS.
    pub server_name: Option<&'c str>,
    /// From where; none over a Unix socket.
    pub client: Option<IpAddr>,
    /// Which address of this host.
    pub local: Option<SocketAddr>,
    /// The version of TLS.
    pub tls: Option<&'static str>,
    /// How many attempts of this session this is, from 1.
    pub attempt: u32,
}

/// Where a session goes.
#[derive(Debug)]
pub enum Way {
    /// To this backend, with this credential.
    To(Visit, Arc<Credential>),
    /// To none: it is refused like a wrong password.
    Nobody,
    /// To none, says a service, in these words: one line, bounded.
    Refused {
        /// A response code, in capitals and without brackets.
        code: Option<String>,
        /// For the client.
        text: String,
        /// How long the answer is to be held back.
        wait: Option<Duration>,
    },
    /// It cannot be said now.
    Unavailable(&'static str),
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").finish_non_exhaustive()
    }
}

fn question(credential: &Credential, caller: Caller<'_>) -> Question {
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
        server_name: caller.server_name.map(str::to_owned),
        attempt: caller.attempt,
    }
}

impl Router {
    /// Knows where nobody is.
    #[must_use]
    pub fn new(table: Table, patience: Live<config::Pool>, metrics: Arc<Metrics>) -> Self {
        let (making, tending, residences) = Default::default();
        Self { table: ArcSwap::from_pointee(table), making, tending, residences, metrics, patience }
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

    /// What sessions of a listener are offered before login.
    #[must_use]
    pub fn offered(&self, listener: &str) -> Arc<Capabilities> {
        self.table.load().offered(listener)
    }

    /// Where a session goes that logs in with this credential, if that can be said without waiting.
    #[must_use]
    pub fn way_at_once(&self, credential: &Arc<Credential>, caller: Caller<'_>) -> Option<Way> {
        let table = self.table.load();
        match self.step(&table, credential, caller) {
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
        self.metrics.routed(match way {
            Way::To(..) => RouteResult::Routed,
            Way::Nobody | Way::Refused { .. } => RouteResult::Refused,
            Way::Unavailable(_) => RouteResult::Unavailable,
        });
    }

    /// Where a session goes that logs in with this credential. Waits for the service that is to be asked, and, for
    /// `pool.checkout_timeout` at most, while its account leaves another backend.
    pub async fn way(&self, credential: &Arc<Credential>, caller: Caller<'_>) -> Way {
        let deadline = Instant::now() + self.patience.load().checkout_timeout;
        let way = loop {
            let table = self.table.load_full();
            let found = match self.step(&table, credential, caller) {
                Found::Ask(rule) => self.ask(&table, rule, credential, caller).await,
                found => found,
            };
            let residence = match found {
                Found::Way(way) if self.is_current(&table) => break way,
                Found::Way(_) => continue,
                Found::Elsewhere(residence) => residence,
                Found::Ask(_) => break Way::Unavailable(UNAVAILABLE),
            };
            // It has not been decided otherwise: it is asked for otherwise, perhaps by who has no password for it.
            if residence.is_used() && residence.by() != (caller.listener, caller.server_name) {
                break Way::Unavailable("The account is in use at another mail server, by another way.");
            }
            Self::end(&table, &residence, "its route leads elsewhere");
            let over = self.residences.over(Arc::downgrade(&residence));
            drop(residence);
            if timeout_at(deadline, over).await.is_err() {
                break Way::Unavailable("The account is being moved to another mail server; try again later.");
            }
        };
        self.count(&way);
        way
    }

    /// As far as it can be said at once.
    fn step(&self, table: &Table, credential: &Arc<Credential>, caller: Caller<'_>) -> Found {
        let routes = &table.book.routes;
        let key = routes.names.key(&credential.user, &credential.authzid);
        let Caller { listener, server_name, .. } = caller;
        match routes.step(&Asked { key: &key, listener, server_name }) {
            Step::Ask(rule) => Found::Ask(rule),
            Step::Goes(route) => {
                let credential = match route.login {
                    Some(login) => Arc::new(routes.names.renamed(credential, login)),
                    None => Arc::clone(credential),
                };
                self.enter(table, &key, (route.target, route.login), credential, caller)
            }
        }
    }

    /// Where an account goes that belongs to this target.
    fn enter(
        &self,
        table: &Table,
        key: &[u8],
        (target, login): (Target, Option<&[u8]>),
        credential: Arc<Credential>,
        caller: Caller<'_>,
    ) -> Found {
        if target == Target::Nobody {
            return Found::Way(Way::Nobody);
        }
        let index = |place: usize| table.backends[place].index;
        let allowed: Vec<_> = table.book.routes.members(target).map(index).collect();
        let wanted = Wanted {
            key,
            choice: table.book.routes.backend(target, key).map(index),
            allowed: &allowed,
            stay: table.stay(target),
            login,
            listener: caller.listener,
            server_name: caller.server_name,
        };
        match self.residences.enter(&wanted) {
            Entered::At(visit) => Found::Way(Way::To(visit, credential)),
            Entered::Elsewhere(residence) => Found::Elsewhere(residence),
            Entered::Nowhere => Found::Way(Way::Unavailable("The mail server takes no new accounts at the moment.")),
        }
    }

    /// Asks the service of a rule. Where it cannot be asked, or names what is no backend, nobody else decides.
    async fn ask(&self, table: &Table, rule: usize, credential: &Arc<Credential>, caller: Caller<'_>) -> Found {
        let unavailable = || Found::Way(Way::Unavailable(UNAVAILABLE));
        let Some((_, lookup)) = &table.book.lookups[rule] else { return unavailable() };
        let routes = &table.book.routes;
        let key = routes.names.key(&credential.user, &credential.authzid);
        let in_use = self.residences.find(&key).is_some_and(|it| it.is_visited() && !it.is_ending());
        let answer = lookup.ask(question(credential, caller), in_use).await;
        let (host, port, user, secret) = match answer.as_deref() {
            Ok(Answer::Server { host, port, user, secret }) => (host, *port, user.as_deref(), secret.clone()),
            Ok(Answer::Refused { text, code, wait }) => {
                return Found::Way(Way::Refused { code: code.clone(), text: text.clone(), wait: *wait });
            }
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
        self.enter(table, &key, (target, user), Arc::new(renamed), caller)
    }

    /// Has an account leave: its sessions end, its connections log out, and nobody else comes.
    fn end(table: &Table, residence: &Arc<Residence>, why: &str) {
        if residence.end() {
            let backend = table.backends.iter().find(|it| it.index == residence.backend());
            let (account, backend) =
                (String::from_utf8_lossy(residence.key()), backend.map(|it| it.config.name.as_str()));
            info!(account = account.as_ref(), backend, why, "an account leaves its backend");
        }
    }

    /// Goes by another table from now on. Accounts that it has elsewhere leave where they are; others notice nothing.
    pub fn apply(&self, table: Table) {
        let _making = self.making.lock();
        self.exchange(table);
    }

    fn exchange(&self, table: Table) {
        let before = self.table.swap(Arc::new(table));
        // Whoever has gone by the one before is among these, or finds that there is another.
        let table = self.table.load();
        let is_misplaced = |residence: &Arc<Residence>| {
            let (listener, server_name) = residence.by();
            let asked = Asked { key: residence.key(), listener, server_name };
            match table.book.routes.step(&asked) {
                Step::Goes(route) => {
                    let mut members = table.book.routes.members(route.target);
                    residence.login() != route.login
                        || !members.any(|place| table.backends[place].index == residence.backend())
                }
                // Asked anew with the next login.
                Step::Ask(_) => false,
            }
        };
        for residence in self.residences.all().iter().filter(|residence| is_misplaced(residence)) {
            Self::end(&before, residence, "the routes have changed");
        }
    }

    /// Has an account go to a backend or group by its name, or with none where the routes say, from now on. It is
    /// written down before anybody has to leave. Waits until nothing of the account is where it was, for so long at
    /// most; gives whether that is so.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub async fn move_account(
        self: &Arc<Self>,
        user: &[u8],
        to: Option<&str>,
        wait: Duration,
    ) -> Result<bool, MoveError> {
        let tending = self.tending.lock().await;
        let table = self.table.load_full();
        let book = &table.book;
        let key = book.routes.names.key(user, b"");
        let path = book.moves.as_ref().map(|file| file.path.clone()).ok_or(MoveError::NoFile)?;
        let name = String::from_utf8(key.clone()).ok().filter(|name| is_word(name)).ok_or(MoveError::Name)?;
        if let Some(to) = to.filter(|to| book.routes.target(to).is_none() || !is_word(to)) {
            return Err(MoveError::Target(to.to_owned()));
        }
        let line = to.map(|to| format!("{name} {to}"));
        let (ours, names) = (path.clone(), book.routes.names.clone());
        let key = Arc::new(key);
        let theirs = Arc::clone(&key);
        let written = tokio::task::spawn_blocking(move || files::amend(&ours, &names, &theirs, line.as_deref()));
        let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        written.map_err(|source| MoveError::Write { path, source })?;
        // A reload that has read it before that goes by what it said.
        while self.reread(None).await {}
        drop(tending);
        let Some(residence) = self.residences.find(&key).filter(|it| it.is_ending()).map(|it| Arc::downgrade(&it))
        else {
            return Ok(true);
        };
        Ok(timeout(wait, self.residences.over(residence)).await.is_ok())
    }

    /// Has an account leave its backend; its next login is let in there as any. False: nothing of it is anywhere.
    pub fn kick(&self, user: &[u8]) -> bool {
        let table = self.table.load();
        let residence = self.residences.find(&table.book.routes.names.key(user, b""));
        residence.is_some_and(|residence| {
            Self::end(&table, &residence, "an administrator has it leave");
            true
        })
    }

    /// Forgets who left long ago, and reads files again that have changed. Call it every few seconds; while one call is
    /// at work, another does nothing.
    pub async fn tend(self: &Arc<Self>) {
        let table = self.table.load_full();
        self.residences.sweep(table.longest_stay());
        if let Ok(mut looks) = self.tending.try_lock() {
            self.reread(Some(&mut looks)).await;
        }
    }

    /// Goes by files that have changed: by those that are written in one step at once, by others (`looks`) when they
    /// look the same twice, so that none is read while it is being written. Gives whether something else may have
    /// changed meanwhile. One at a time.
    async fn reread(&self, looks: Option<&mut Looks>) -> bool {
        let table = self.table.load_full();
        if table.book.all_files().next().is_none() {
            return false;
        }
        let ours = Arc::clone(&table);
        // Reading may take seconds.
        let mut before = looks.as_deref().cloned();
        let reading = tokio::task::spawn_blocking(move || {
            let reread = ours.book.read_changed(before.as_mut());
            (reread, before)
        });
        let Ok((reread, after)) = reading.await else { return false };
        if let (Some(looks), Some(after)) = (looks, after) {
            *looks = after;
        }
        for (path, _, map) in &reread {
            match map {
                Ok(map) => info!(file = %path.display(), lines = map.len(), "routes read again"),
                Err(error) => warn!("cannot take over changed routes; the old ones serve on: {error}"),
            }
        }
        let _making = self.making.lock();
        if !self.is_current(&table) {
            return true;
        }
        if !reread.is_empty() {
            self.exchange(table.with(table.book.with(&reread)));
        }
        false
    }
}
