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

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use self::connections::Connections;
pub use self::fault::{Fault, LookupError};
use self::memory::Memory;
use self::request::Service;
use crate::net::Net;
use crate::secret::{Fingerprint, Fingerprinter, NoRandomness, Secret};
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
#[derive(Debug, Clone)]
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

/// Why there can be no lookup.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The URL cannot be used.
    #[error("\"{url}\" {reason}")]
    Url {
        /// The URL, less its query.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is a user or a password in the URL.
    #[error("the URL has a user name in it: send it as a header (Authorization)")]
    Credentials,
    /// What cannot be sent as a header.
    #[error("\"{name}\" cannot be sent as a header: its name or its value has a character that must not be there")]
    Header {
        /// The header's name.
        name: String,
    },
    /// A header that is sent anyway.
    #[error("\"{name}\" is a header that the lookup itself sends")]
    Reserved {
        /// The header's name.
        name: String,
    },
    /// No key for fingerprints.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// Who logs in, and how.
#[derive(Debug, Clone)]
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
    Refused {
        /// For the client: one line, bounded, not empty, and not beginning with `[`.
        text: String,
        /// An IMAP response code, in upper case and without brackets.
        code: Option<String>,
        /// How long the client is to wait; with none, nginx closes the connection.
        wait: Option<Duration>,
    },
}

/// Asks one service.
pub struct Lookup {
    settings: Settings,
    service: Service,
    shown: Arc<str>,
    connections: Connections,
    fingerprinter: Fingerprinter,
    net: Net,
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

/// A question that is under way, and where its answer will be.
type Flight = watch::Receiver<Option<Outcome>>;

struct State {
    answers: Memory<Key, Kept>,
    failures: Memory<Key, LookupError>,
    flights: HashMap<Arc<Key>, Flight>,
    breaker: Breaker,
    /// Why the breaker opened.
    outage: Option<LookupError>,
}

struct Kept {
    answer: Arc<Answer>,
    fresh_until: Instant,
}

enum Begun {
    Known(Outcome),
    UnderWay(Flight),
}

/// Whatever becomes of a question, it is taken off the list, and lands with an outcome.
struct Landing {
    lookup: Arc<Lookup>,
    key: Arc<Key>,
    land: watch::Sender<Option<Outcome>>,
    outcome: Outcome,
}

impl Landing {
    fn bring(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.lookup.settle(&self.key, &self.outcome);
        self.land.send_replace(Some(self.outcome.clone()));
    }
}

impl Lookup {
    /// Connects nowhere yet.
    ///
    /// # Errors
    /// What cannot be used of the settings.
    pub fn new(settings: Settings, net: Net) -> Result<Arc<Self>, SettingsError> {
        let service = Service::new(&settings)?;
        let state = State {
            answers: Memory::new(MOST_ANSWERS, MOST_OCTETS),
            failures: Memory::new(MOST_FAILURES, MOST_OCTETS),
            flights: HashMap::new(),
            breaker: Breaker::default(),
            outage: None,
        };
        Ok(Arc::new(Self {
            shown: service.shown.as_str().into(),
            connections: Connections::new(service.host.clone(), service.port, settings.timeout, net.clone()),
            fingerprinter: Fingerprinter::new()?,
            service,
            settings,
            net,
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
            Begun::Known(outcome) => outcome,
            Begun::UnderWay(mut flight) => {
                let landed = flight.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
                landed.ok().flatten().unwrap_or_else(|| Err(self.error(Fault::Abandoned)))
            }
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

    fn begin(self: &Arc<Self>, key: &Arc<Key>, question: Question) -> Begun {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(kept) = state.answers.get(key, now).filter(|kept| now < kept.fresh_until) {
            return Begun::Known(Ok(Arc::clone(&kept.answer)));
        }
        if let Some(flight) = state.flights.get(key) {
            return Begun::UnderWay(flight.clone());
        }
        if let Some(error) = state.failures.get(key, now) {
            return Begun::Known(Err(error.clone()));
        }
        if state.flights.len() >= MOST_FLIGHTS {
            return Begun::Known(Err(self.error(Fault::Busy)));
        }
        if !state.breaker.try_attempt(now.into_std()) {
            return Begun::Known(Err(state.outage.clone().unwrap_or_else(|| self.error(Fault::Abandoned))));
        }
        let (land, flight) = watch::channel(None);
        state.flights.insert(Arc::clone(key), flight.clone());
        drop(state);
        let mut landing = Landing {
            lookup: Arc::clone(self),
            key: Arc::clone(key),
            land,
            outcome: Err(self.error(Fault::Abandoned)),
        };
        tokio::spawn(async move {
            let outcome = landing.lookup.fetch(&question).await.map(Arc::new);
            landing.bring(outcome);
        });
        Begun::UnderWay(flight)
    }

    async fn fetch(&self, question: &Question) -> Result<Answer, LookupError> {
        let fields = self.connections.ask(self.service.request(question)).await;
        fields.and_then(|fields| reply::answer(&question.user, &fields)).map_err(|fault| self.error(fault))
    }

    /// What the next ones are to know of this.
    fn settle(&self, key: &Arc<Key>, outcome: &Outcome) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.flights.remove(key);
        match outcome {
            Err(error) if error.fault.is_outage() => {
                state.breaker.failed(now.into_std(), self.net.chance());
                state.outage = Some(error.clone());
            }
            Err(error) if error.fault.is_of_the_question() => {
                state.breaker.succeeded();
                state.failures.put(Arc::clone(key), error.clone(), key.octets(), now, now + FAILURE);
            }
            Err(_) => state.breaker.undecided(),
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
            Answer::Refused { wait, .. } => (wait.map_or(negative_ttl, |wait| wait.min(negative_ttl)), Duration::ZERO),
        }
    }

    fn kept(&self, key: &Key) -> Option<Arc<Answer>> {
        self.state.lock().answers.get(key, Instant::now()).map(|kept| Arc::clone(&kept.answer))
    }

    fn error(&self, fault: Fault) -> LookupError {
        LookupError { service: Arc::clone(&self.shown), fault }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("service", &self.shown).finish_non_exhaustive()
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
            Self::Refused { text, code, .. } => text.len() + code.as_ref().map_or(0, String::len),
        }
    }
}

#[cfg(test)]
mod tests;
