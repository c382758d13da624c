//! What the answer to a credential means.

use crate::imap::phrases::{self, Meaning};
use crate::imap::response::{Status, StatusReply, trim_line_end};

/// What a step ended in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend agreed to STARTTLS: do the handshake, forget what was read, then [`super::Login::handle_tls`].
    StartTls,
    /// Not authenticated, capabilities known: ready for [`super::Login::start`].
    Ready,
    /// Authenticated, and the session behind the login works.
    Accepted,
    /// The credential was refused.
    Refused(Refusal),
    /// Not the credential's fault: too many connections or logins. The backend's words.
    Limit(String),
    /// Not the credential's fault: the backend cannot judge now. The backend's words.
    Unavailable(String),
    /// The backend said OK to the credential, but no session is behind it; so nothing is proven. The backend's words.
    NotConnected(String),
}

/// A backend's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The tagged reply without tag and line end: `NO [AUTHENTICATIONFAILED] …`.
    pub reply: String,
    /// Base64 that explains why a token was refused (RFC 7628 section 3.2.2).
    pub challenge: Option<String>,
    /// It says by its response code that the credential is no longer good (RFC 5530 section 3), which words alone do
    /// not: many servers say just NO to whatever goes wrong.
    pub definite: bool,
}

impl Refusal {
    /// In the backend's own words.
    pub(super) fn verbatim(reply: &StatusReply<'_>, challenge: Option<String>) -> Self {
        let status = if reply.status == Status::Bad { "BAD" } else { "NO" };
        let code = match reply.code {
            Some(code) if reply.capabilities().is_none() => format!("[{}] ", printable(code)),
            _ => String::new(),
        };
        let definite = phrases::refuses_by_code(reply);
        Self { reply: format!("{status} {code}{}", printable(reply.text)), challenge, definite }
    }
}

/// What is the matter; `None`: it is the credential. BAD is no other answer than NO.
pub(super) fn trouble(meaning: Meaning, words: &str) -> Option<Outcome> {
    match meaning {
        Meaning::Limit => Some(Outcome::Limit(words.to_owned())),
        Meaning::Later | Meaning::NeedsId => Some(Outcome::Unavailable(words.to_owned())),
        Meaning::NotConnected => Some(Outcome::NotConnected(words.to_owned())),
        Meaning::Refused => None,
    }
}

/// A BYE after a credential.
#[derive(Debug)]
pub(super) struct Parting {
    pub(super) text: String,
    /// What it means if nothing follows it; `None`: it does not say.
    pub(super) outcome: Option<Outcome>,
}

impl Parting {
    /// `rest` is what follows the `*`.
    pub(super) fn new(rest: &[u8], text: String) -> Self {
        let meant = StatusReply::parse(rest).and_then(|reply| Some((phrases::meaning(&reply)?, reply)));
        let outcome = meant.map(|(meaning, reply)| {
            trouble(meaning, &text).unwrap_or_else(|| {
                let (reply, definite) = (format!("NO [AUTHENTICATIONFAILED] {text}"), phrases::refuses_by_code(&reply));
                Outcome::Refused(Refusal { reply, challenge: None, definite })
            })
        });
        Self { text, outcome }
    }
}

pub(super) fn text_of(rest: &[u8]) -> String {
    StatusReply::parse(rest).map_or_else(|| printable(rest), |reply| printable(reply.text))
}

/// For logs and replies: one line, bounded.
pub(super) fn printable(text: &[u8]) -> String {
    printable_up_to(text, 300)
}

/// One line of so many characters at most.
pub(super) fn printable_up_to(text: &[u8], characters: usize) -> String {
    String::from_utf8_lossy(trim_line_end(text)).chars().filter(|c| !c.is_control()).take(characters).collect()
}
