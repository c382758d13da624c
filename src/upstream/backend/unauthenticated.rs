//! A connection to a backend on which nobody is logged in.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::OpenError;
use crate::imap::sasl::Credential;
use crate::metrics::StateGuard;
use crate::ports::Permit;
use crate::stream::Stream;
use crate::upstream::login::{Login, LoginError, Outcome};

/// A connection that was kept for longer has to show that it is alive before a credential is shown to it: firewalls
/// forget without a word.
const SURE_FOR: Duration = Duration::from_secs(30);
/// For so long the answer to a credential is waited for after a BYE.
const AFTER_BYE: Duration = Duration::from_secs(2);

/// A connection on which nobody is logged in. Dropping it resets it.
#[derive(Debug)]
pub struct Unauthenticated {
    pub(in crate::upstream) stream: Stream,
    pub(in crate::upstream) input: BytesMut,
    pub(in crate::upstream) login: Box<Login>,
    pub(in crate::upstream) opened: Instant,
    pub(in crate::upstream) limit: Duration,
    pub(in crate::upstream) state: StateGuard,
    /// Keeps what says that an account is at this backend, until its socket is closed.
    pub(crate) permit: Permit,
    /// It has waited for its use, since then: the backend may have closed it.
    pub(in crate::upstream) kept: Option<Instant>,
    /// A credential was tried on it.
    pub(in crate::upstream) used: bool,
}

impl Unauthenticated {
    /// Makes sure of the connection before a credential is shown to it: one that has waited may have been closed
    /// meanwhile. It tells the backend of `client`, where that is wished.
    ///
    /// # Errors
    /// The connection is of no further use. No credential was written to it.
    pub(super) async fn prepare(&mut self, client: Option<IpAddr>) -> Result<(), OpenError> {
        let told = client.is_some_and(|client| self.login.introduce(client));
        if !told && self.kept.is_some_and(|since| since.elapsed() > SURE_FOR) {
            self.login.probe();
        }
        if self.login.has_output() {
            self.outcome().await?;
        }
        if self.kept.is_some() && !self.is_alive() { Err(OpenError::Closed) } else { Ok(()) }
    }

    /// Tries a credential, unless that was begun ahead of the greeting. After a refusal the connection can be used
    /// again, if it is still there.
    ///
    /// # Errors
    /// The connection is of no further use, but for [`OpenError::Login`] with `NoMechanism`.
    pub(super) async fn log_in(&mut self, credential: &Credential) -> Result<Outcome, OpenError> {
        if !self.login.has_started() {
            self.login.start(credential)?;
        }
        let outcome = match self.outcome().await {
            Ok(outcome) => outcome,
            Err(error) => self.login.handle_end(&error.to_string()).ok_or_else(|| {
                let words = self.login.last_words().map(|words| LoginError::Bye(words.to_owned()).into());
                OpenError::Unjudged(Box::new(words.unwrap_or(error)))
            })?,
        };
        match outcome {
            Outcome::Limit(text) => Err(OpenError::Limit(text)),
            Outcome::Unavailable(text) => Err(OpenError::Unavailable(text)),
            Outcome::NotConnected(text) => Err(OpenError::NotConnected(text)),
            outcome => Ok(outcome),
        }
    }

    /// Sends what has to be sent and reads lines, until a step is over.
    pub(super) async fn outcome(&mut self) -> Result<Outcome, OpenError> {
        let limit = self.limit;
        timeout(limit, self.run()).await.unwrap_or(Err(OpenError::Timeout(limit)))
    }

    /// As [`Self::outcome`], but within `limit` where that is less; it is told that it took `told`.
    pub(super) async fn greeting(&mut self, limit: Duration, told: Duration) -> Result<Outcome, OpenError> {
        if self.limit < limit {
            return self.outcome().await;
        }
        timeout(limit, self.run()).await.unwrap_or(Err(OpenError::Timeout(told)))
    }

    async fn run(&mut self) -> Result<Outcome, OpenError> {
        loop {
            let output = self.login.poll_transmit();
            if !output.is_empty() {
                self.stream.write_all(&output).await?;
                self.stream.flush().await?;
            }
            if let Some(outcome) = self.login.handle_input(&mut self.input).map_err(OpenError::from_login)? {
                return Ok(outcome);
            }
            if self.login.has_output() {
                continue;
            }
            self.input.reserve(1024);
            let read = self.stream.read_buf(&mut self.input);
            let read = match self.login.last_words() {
                // The answer that may follow a BYE follows it closely.
                Some(_) => timeout(AFTER_BYE, read).await.unwrap_or(Ok(0)),
                None => read.await,
            };
            if read? == 0 {
                return Err(OpenError::Closed);
            }
        }
    }

    /// Whether the backend has neither closed it nor said anything: it has nothing to say before a login.
    pub(super) fn is_alive(&mut self) -> bool {
        self.input.is_empty() && self.stream.read_u8().now_or_never().is_none()
    }
}
