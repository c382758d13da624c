//! A connection to a backend on which nobody is logged in.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::OpenError;
use crate::imap::MAX_WHOLE_LINE;
use crate::imap::sasl::Credential;
use crate::metrics::StateGuard;
use crate::ports::Permit;
use crate::stream::Stream;
use crate::upstream::login::{Login, LoginError, Outcome};

/// A connection on which nobody is logged in. Dropping it resets it.
#[derive(Debug)]
pub struct Unauthenticated {
    pub(super) stream: Stream,
    pub(super) input: BytesMut,
    pub(super) login: Login,
    pub(super) opened: Instant,
    pub(super) limit: Duration,
    pub(super) state: StateGuard,
    pub(super) permit: Permit,
    /// It has waited for its use: the backend may have closed it.
    pub(super) kept: bool,
    /// A credential was tried on it.
    pub(super) used: bool,
    /// When it was last kept.
    pub(super) since: Instant,
}

impl Unauthenticated {
    /// Tries a credential. After a refusal the connection can be used again.
    ///
    /// # Errors
    /// The connection is of no further use, but for [`LoginError::NoMechanism`].
    pub(super) async fn log_in(
        &mut self,
        credential: &Credential,
        client: Option<IpAddr>,
    ) -> Result<Outcome, OpenError> {
        if let Some(client) = client
            && self.login.introduce(client)
        {
            self.outcome().await?;
        }
        self.login.start(credential)?;
        let outcome = self.outcome().await?;
        match outcome {
            Outcome::Limit(text) => Err(OpenError::Limit(text)),
            Outcome::Unavailable(text) => Err(OpenError::Unavailable(text)),
            outcome => Ok(outcome),
        }
    }

    /// Sends what has to be sent and reads lines, until a step is over.
    pub(super) async fn outcome(&mut self) -> Result<Outcome, OpenError> {
        let limit = self.limit;
        timeout(limit, self.run()).await.unwrap_or(Err(OpenError::Timeout(limit)))
    }

    async fn run(&mut self) -> Result<Outcome, OpenError> {
        loop {
            let output = self.login.poll_transmit();
            if !output.is_empty() {
                self.stream.write_all(&output).await?;
                self.stream.flush().await?;
            }
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line = self.input.split_to(end + 1);
                match self.login.handle_line(&line).map_err(OpenError::from_login)? {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                }
            }
            if self.input.len() > MAX_WHOLE_LINE {
                return Err(OpenError::Login(LoginError::Unexpected("a line without end".into())));
            }
            self.input.reserve(1024);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(OpenError::Closed);
            }
        }
    }

    /// Whether the backend has neither closed it nor said anything: it has nothing to say before a login.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut scratch = [0; 64];
        let mut buffer = tokio::io::ReadBuf::new(&mut scratch);
        let read = tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut self.stream), &mut context, &mut buffer);
        read.is_pending() && self.input.is_empty()
    }
}
