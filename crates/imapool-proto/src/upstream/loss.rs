//! What becomes of a command whose connection is lost: one rule for all who run commands.

use bytes::Bytes;

use crate::imap::command::Name;

/// Times that a command is run, each time on another connection, before its client hears that it cannot be.
pub const MAX_ATTEMPTS: u8 = 3;

/// The tagged reply, without its tag, when a command was not carried out, or changes nothing.
pub const LOST: &str = "NO [UNAVAILABLE] Connection to the mail server lost.";
const UNKNOWN: &str =
    "NO [UNAVAILABLE] Connection to the mail server lost; whether the command was carried out is unknown.";
const NO_GO_AHEAD: &str =
    "NO [UNAVAILABLE] The mail server did not ask for the literal: it may not understand the command.";

/// How a connection was lost, for whoever used it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    /// No octet of the command in flight was sent: it can be run elsewhere.
    pub unsent: bool,
    /// No octet of its reply had come.
    pub unanswered: bool,
    /// The backend did not ask for a literal that was announced to it: to send the command again is of no use.
    pub unasked: bool,
    /// A line or a literal was cut: nothing sensible can be said to the client any more.
    pub cut: bool,
    /// What the backend said with its BYE.
    pub bye: Option<Bytes>,
}

impl Loss {
    /// The connection was gone before anything was sent.
    #[must_use]
    pub fn before_anything() -> Self {
        Self { unsent: true, unanswered: true, ..Self::default() }
    }

    /// Whether the command that was in flight may be run on another connection: what may have been done is not done
    /// again, and nothing is said twice.
    pub fn allows_another(&self, name: Name) -> bool {
        self.unsent || self.unanswered && name.repeatable() && !self.unasked
    }

    /// The tagged reply to it, without its tag (RFC 5530 section 3: UNAVAILABLE).
    #[must_use]
    pub fn reply(&self, name: Name) -> &'static str {
        if self.unasked {
            NO_GO_AHEAD
        } else if !self.unsent && !name.repeatable() {
            UNKNOWN
        } else {
            LOST
        }
    }
}
