//! A look at a backend, for `imapool check --connect`: all that comes before a login, and nothing of it is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Backend, OpenError, Purpose};
use crate::config::TlsMode;
use crate::imap::capability::Capabilities;
use crate::tls::TlsError;
use crate::upstream::dial::DialError;
use crate::upstream::gate::Whom;
use crate::upstream::login::LoginError;

/// Whatever the backend does, and whatever the configuration allows it: not longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Steps on the way to a login, as they are told.
pub(super) const CONNECTING: &str = "connecting";
/// The first line.
pub(super) const GREETING: &str = "greeting";

/// What a backend has shown of itself.
#[derive(Debug)]
pub struct Asked {
    /// Where it was reached.
    pub address: Option<SocketAddr>,
    /// `"TLSv1.3"`, for example; `None`: without TLS.
    pub tls: Option<&'static str>,
    /// When the first of its certificates expires, in seconds since the Unix epoch.
    pub expires: Option<i64>,
    /// What it offers before login.
    pub capabilities: Arc<Capabilities>,
}

/// Why it cannot be used. Displays with the step that failed, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}{remedy}")]
pub struct AskError {
    /// Resolving, connecting, TLS, greeting, STARTTLS, capabilities, login.
    pub step: &'static str,
    /// What happened.
    pub error: OpenError,
    remedy: &'static str,
}

impl Backend {
    /// Resolves, connects, begins TLS, hears the greeting and the capabilities, as for a login; within half a minute.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self) -> Result<Asked, AskError> {
        let mut step = CONNECTING;
        let asked = timeout(PATIENCE, self.asked(&mut step)).await.unwrap_or(Err(OpenError::Timeout(PATIENCE)));
        asked.map_err(|error| AskError { step: named(&error, step), remedy: self.remedy(&error, step), error })
    }

    async fn asked(&self, step: &mut &'static str) -> Result<Asked, OpenError> {
        let permit = self.room().await?;
        let pass = self.pass(Whom::Login).await?;
        let connection = self.connect(pass, permit, Purpose::of(Whom::Login), step).await?;
        let stream = &connection.stream;
        let (address, tls, expires) = (stream.peer_address(), stream.tls_version(), stream.certificate_expires());
        let capabilities = Arc::clone(connection.login.capabilities());
        let takes = |mechanism| capabilities.takes_mechanism(mechanism);
        if !["PLAIN", "XOAUTH2", "OAUTHBEARER"].into_iter().any(takes) {
            *step = "login";
            return Err(LoginError::NoMechanism.into());
        }
        Ok(Asked { address, tls, expires, capabilities })
    }

    /// What the error itself does not know: how TLS was to begin.
    fn remedy(&self, error: &OpenError, step: &str) -> &'static str {
        let expects_tls = "; if it expects TLS from the first octet there, as on port 993, write tls = \"implicit\"";
        let strange = "; is it an IMAP server, and does it let this host in? Its log may say more";
        let plain = self.config.tls != TlsMode::Implicit;
        match error {
            OpenError::Dial(DialError::Tls {
                source: TlsError::Closed | TlsError::Timeout(_) | TlsError::Io(_),
                ..
            }) if !plain => "; does it begin TLS with the first octet there? On port 143, \"starttls\" is usual",
            OpenError::Login(LoginError::NoStartTls(_)) => {
                "; write tls = \"implicit\" and the port for it, or, on a trusted network, tls = \"none\""
            }
            OpenError::Login(LoginError::Unexpected(_))
            | OpenError::Closed
            | OpenError::Io(_)
            | OpenError::Timeout(_)
                if step == GREETING && plain =>
            {
                expects_tls
            }
            OpenError::Closed | OpenError::Io(_) | OpenError::Timeout(_) | OpenError::Login(_)
                if step != CONNECTING =>
            {
                strange
            }
            OpenError::Dial(DialError::Io { .. }) => strange,
            _ => "",
        }
    }
}

fn named(error: &OpenError, step: &'static str) -> &'static str {
    match error {
        OpenError::Dial(DialError::Resolve { .. }) => "resolving",
        OpenError::Dial(DialError::Tls { .. }) => "TLS",
        OpenError::Login(LoginError::NoStartTls(_)) => "STARTTLS",
        _ => step,
    }
}
