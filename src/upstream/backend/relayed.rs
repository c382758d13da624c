//! Connections to a replica, on which one session each goes through.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::{Backend, Judgement, OpenError, Purpose, Unauthenticated};
use crate::config::TlsMode;
use crate::imap::sasl::Credential;
use crate::metrics::{ConnectionState, StateGuard};
use crate::ports::Permit;
use crate::residence::Visit;
use crate::stream::Stream;
use crate::upstream::dial::DialError;
use crate::upstream::gate::Whom;
use crate::upstream::login::Login;

/// A connection on which a session is logged in that is somebody else's from now on.
#[derive(Debug)]
pub struct Relayed {
    /// The connection. Dropping it resets it.
    pub stream: Stream,
    /// What has come behind the OK.
    pub input: Bytes,
    /// The capabilities that the OK told.
    pub offered: Arc<str>,
    /// Given back after the connection is closed.
    pub held: (StateGuard, Permit),
}

impl Backend {
    /// Has a replica judge a credential, on a new connection, which is for this session alone.
    pub async fn relay(self: &Arc<Self>, credential: &Credential, client: Option<IpAddr>) -> Judgement {
        let relayed = async {
            let permit = self.room().await?;
            // In no task of its own: whoever gives up has nothing be said there any more.
            let opened = self.open(Purpose { whom: Whom::Relay, client, ahead: Some(credential) }, permit).await;
            if matches!(opened, Err(OpenError::Dial(DialError::Refused(_)))) {
                self.nobody_is_there();
            }
            Ok(self.show(opened?, credential).await)
        };
        // On the heap, once, as it is large: who waits for it moves it about otherwise.
        self.while_there(Box::pin(relayed)).await
    }

    /// What a connection begins with, and what of it is said before anything is heard: the login, to a replica of which
    /// it is known what it offers.
    pub(super) fn first_words(&self, purpose: Purpose<'_>) -> (Box<Login>, Bytes) {
        let starttls = self.config.tls == TlsMode::StartTls;
        if purpose.whom != Whom::Relay {
            return (Box::new(Login::new(starttls, self.config.id)), Bytes::new());
        }
        let mut login = Box::new(Login::relayed(starttls));
        let credential = purpose.ahead.filter(|_| self.greeted.lock().is_some());
        let said = credential.is_some_and(|credential| login.start_ahead(&self.capabilities.load(), credential));
        // Beneath TLS, once that stands.
        let at_once = said && self.config.tls == TlsMode::None;
        let words = if at_once { login.poll_transmit() } else { Bytes::new() };
        (login, words)
    }
}

impl Unauthenticated {
    /// Somebody has logged in on it, whose session goes through from now on.
    #[must_use]
    pub fn into_relayed(mut self, visit: &Visit) -> Relayed {
        self.permit.keep(visit.residence());
        self.state.set(ConnectionState::Relayed);
        Relayed {
            stream: self.stream,
            input: self.input.freeze(),
            offered: self.login.capabilities().after_login().into(),
            held: (self.state, self.permit),
        }
    }
}
