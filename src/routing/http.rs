//! Asking a service over HTTP which backend a user belongs to, in the words of nginx's `auth_http`
//! (<https://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html>), so that a service which answers nginx answers
//! here.
//!
//! An answer is kept for a time, by all of the question that is sent, less the number of the attempt and the client's
//! address. With `send_password`, when the service may judge who logs in and from where, the address counts, too.
//!
//! When the service is gone, nobody is kept waiting for it again and again: after some failures it is asked by one at
//! a time, every two seconds. A question that it cannot answer (a user at whom it crashes) is held against nobody
//! else.

mod connections;
mod fault;
mod memory;
mod reply;
mod request;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::connections::Connections;
pub use self::fault::{Fault, LookupError};
use self::memory::Memory;
use self::request::Service;
use crate::flights::{Flight, Flights};
use crate::net::Net;
use crate::secret::{Fingerprint, Fingerprinter, Secret};
use crate::upstream::breaker::Breaker;

/// Answers that are kept.
const MOST_ANSWERS: usize = 100_000;
/// What the answers kept may take, in octets.
const MOST_OCTETS: usize = 64 << 20;
/// How long a question that the service could not answer is not asked again.
const FAILURE: Duration = Duration::from_secs(1);
/// Such questions that are remembered.
const MOST_FAILURES: usize = 1000;
/// Questions that may wait for an answer at once.
const MOST_FLIGHTS: usize = 4096;

/// Where the service is, and what becomes of its answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `http://host[:port][/path]`; 80 is the port if there is none.
    pub url: String,
    /// For all of a lookup.
    pub timeout: Duration,
    /// How long it is remembered where a user belongs.
    pub ttl: Duration,
    /// How long it is remembered that a user was refused.
    pub negative_ttl: Duration,
    /// How much longer than `ttl` an answer serves a user who has sessions, while the service cannot be asked.
    pub stale: Duration,
    /// Sent with each request, in place of ours for `Host`.
    pub headers: Vec<(String, Secret)>,
    /// Whether the service is told what the client logs in with.
    pub send_password: bool,
}

/// Who logs in, and how.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The user, as the client gave it.
    pub user: Vec<u8>,
    /// The password or token. Without `send_password` it is not looked at.
    pub secret: Option<Secret>,
    /// `plain` for all that sends a password; `xoauth2` or `oauthbearer`.
    pub mechanism: &'static str,
    /// The client's address; none over a Unix socket.
    pub client: Option<IpAddr>,
    /// The address that the client connected to.
    pub server: Option<SocketAddr>,
    /// The version of TLS as OpenSSL calls it (`TLSv1.3`), with TLS.
    pub tls: Option<&'static str>,
    /// The name that the client asked for in TLS.
    pub server_name: Option<String>,
    /// Which attempt of the session it is, from 1 on.
    pub attempt: u32,
}

/// What the service says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Where the user belongs.
    Server {
        /// A name or an address (IPv6 without brackets).
        host: String,
        /// The port, if the service names one.
        port: Option<u16>,
        /// The user there, where it is another name.
        user: Option<Vec<u8>>,
        /// What to log in with there.
        secret: Option<Secret>,
    },
    /// The user must not log in.
    Refused(Denial),
}

/// How a service refuses a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// For the client: one line, bounded, not empty, and not beginning with `[`.
    pub text: String,
    /// An IMAP response code, in upper case and without brackets.
    pub code: Option<String>,
    /// How long the client is to wait; with none, nginx closes the connection.
    pub wait: Option<Duration>,
}

/// Asks one service.
pub struct Lookup {
    pub(super) settings: Settings,
    connections: Connections,
    fingerprinter: Fingerprinter,
    flights: Arc<Flights<Arc<Key>, Outcome>>,
    state: Mutex<State>,
}

/// What the answer depends on.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    user: Vec<u8>,
    /// The secret and the client's address, where the service is told the secret.
    judged: Option<(Option<Fingerprint>, Option<IpAddr>)>,
    mechanism: &'static str,
    server: Option<SocketAddr>,
    tls: Option<&'static str>,
    server_name: Option<String>,
}

type Outcome = Result<Arc<Answer>, LookupError>;

struct State {
    answers: Memory<Key, Kept>,
    failures: Memory<Key, LookupError>,
    breaker: Breaker,
    /// Why the breaker opened.
    outage: Option<LookupError>,
}

struct Kept {
    answer: Arc<Answer>,
    fresh_until: Instant,
}

impl Lookup {
    /// Connects nowhere yet.
    ///
    /// # Errors
    /// What cannot be used of the settings.
    pub fn new(settings: Settings, net: Net) -> Result<Arc<Self>, String> {
        let state = State {
            answers: Memory::new(MOST_ANSWERS, MOST_OCTETS),
            failures: Memory::new(MOST_FAILURES, MOST_OCTETS),
            breaker: Breaker::default(),
            outage: None,
        };
        Ok(Arc::new(Self {
            connections: Connections::new(Service::new(&settings)?, settings.timeout, net),
            fingerprinter: Fingerprinter::new().map_err(|error| error.to_string())?,
            flights: Arc::default(),
            settings,
            state: Mutex::new(state),
        }))
    }

    /// What the service says, or has said of late. All who have the same question share one request, which runs to its
    /// end whoever leaves. With `in_use` (the account has sessions), an answer that is older than `ttl`, but not by
    /// more than `stale`, serves where there is an error.
    ///
    /// # Errors
    /// The service cannot be asked, or its answer cannot be used. Nothing is known of the user then.
    pub async fn ask(self: &Arc<Self>, question: Question, in_use: bool) -> Result<Arc<Answer>, LookupError> {
        let key = Arc::new(self.key(&question));
        let outcome = match self.begin(&key, question) {
            Ok(flight) => flight.landed().await.unwrap_or_else(|| Err(self.error(Fault::Abandoned))),
            Err(known) => known,
        };
        outcome.or_else(|error| if in_use { self.kept(&key).ok_or(error) } else { Err(error) })
    }

    fn key(&self, question: &Question) -> Key {
        let fingerprint = |secret: &Secret| self.fingerprinter.fingerprint(&[secret.expose()]);
        Key {
            user: question.user.clone(),
            judged: self.settings.send_password.then(|| (question.secret.as_ref().map(fingerprint), question.client)),
            mechanism: question.mechanism,
            server: question.server,
            tls: question.tls,
            server_name: question.server_name.clone(),
        }
    }

    /// What there is to wait for, or what is known already.
    fn begin(self: &Arc<Self>, key: &Arc<Key>, question: Question) -> Result<Flight<Outcome>, Outcome> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(kept) = state.answers.get(key, now).filter(|kept| now < kept.fresh_until) {
            return Err(Ok(Arc::clone(&kept.answer)));
        }
        if let Some(flight) = self.flights.under_way(key) {
            return Ok(flight);
        }
        if let Some(error) = state.failures.get(key, now) {
            return Err(Err(error.clone()));
        }
        if self.flights.len() >= MOST_FLIGHTS {
            return Err(Err(self.error(Fault::Busy)));
        }
        if !state.breaker.try_attempt(now.into_std()) {
            return Err(Err(state.outage.clone().unwrap_or_else(|| self.error(Fault::Abandoned))));
        }
        let (fetching, settling, settled) = (Arc::clone(self), Arc::clone(self), Arc::clone(key));
        let fetch = || async move { fetching.fetch(&question).await };
        let settle = move |outcome: &Outcome| settling.settle(&settled, outcome);
        Ok(self.flights.join(Arc::clone(key), Err(self.error(Fault::Abandoned)), fetch, settle))
    }

    async fn fetch(&self, question: &Question) -> Outcome {
        let fields = self.connections.ask(question).await;
        let answer = fields.and_then(|fields| reply::answer(&question.user, &fields));
        answer.map(Arc::new).map_err(|fault| self.error(fault))
    }

    /// What the next ones are to know of this.
    fn settle(&self, key: &Arc<Key>, outcome: &Outcome) {
        let now = Instant::now();
        let mut state = self.state.lock();
        match outcome {
            Err(error) if error.fault.is_outage() => {
                state.breaker.failed(now.into_std(), self.connections.net.chance());
                state.outage = Some(error.clone());
            }
            Err(LookupError { fault: Fault::Abandoned, .. }) => state.breaker.undecided(),
            // It has answered this question, though not with an answer.
            Err(error) => {
                state.breaker.succeeded();
                state.failures.put(Arc::clone(key), error.clone(), key.octets(), now, now + FAILURE);
            }
            Ok(answer) => {
                state.breaker.succeeded();
                let (fresh, stale) = self.good_for(answer);
                let kept = Kept { answer: Arc::clone(answer), fresh_until: now + fresh };
                state.answers.put(Arc::clone(key), kept, key.octets() + answer.octets(), now, now + fresh + stale);
            }
        }
    }

    /// How long an answer is good, and how much longer in need.
    fn good_for(&self, answer: &Answer) -> (Duration, Duration) {
        let Settings { ttl, negative_ttl, stale, .. } = self.settings;
        match answer {
            Answer::Server { .. } => (ttl, stale),
            Answer::Refused(denial) => (denial.wait.unwrap_or(negative_ttl).min(negative_ttl), Duration::ZERO),
        }
    }

    fn kept(&self, key: &Key) -> Option<Arc<Answer>> {
        self.state.lock().answers.get(key, Instant::now()).map(|kept| Arc::clone(&kept.answer))
    }

    fn error(&self, fault: Fault) -> LookupError {
        LookupError { service: Arc::clone(&self.connections.service.shown), fault }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("service", &self.connections.service.shown).finish_non_exhaustive()
    }
}

impl Key {
    fn octets(&self) -> usize {
        self.user.len() + self.server_name.as_ref().map_or(0, String::len)
    }
}

impl Answer {
    fn octets(&self) -> usize {
        match self {
            Self::Server { host, user, secret, .. } => {
                host.len()
                    + user.as_ref().map_or(0, Vec::len)
                    + secret.as_ref().map_or(0, |secret| secret.expose().len())
            }
            Self::Refused(Denial { text, code, .. }) => text.len() + code.as_ref().map_or(0, String::len),
        }
    }
}

#[cfg(test)]
mod tests;
