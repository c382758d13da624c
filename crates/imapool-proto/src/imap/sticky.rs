//! What a session leaves behind on a connection for good: what is ENABLEd, and CONDSTORE.

use std::collections::BTreeSet;

use super::command::{Command, Name};
use super::request::Request;

/// State that cannot be undone: the connection can only be handed to a session that wants just the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sticky {
    /// CONDSTORE is on, by whatever command (RFC 7162 section 3.1).
    pub condstore: bool,
    /// What else ENABLE was asked for (RFC 5161), in capitals.
    pub enabled: BTreeSet<Vec<u8>>,
}

impl Sticky {
    /// What this state becomes by a command, if that changes it.
    #[must_use]
    pub fn after(&self, request: &Request) -> Option<Self> {
        let mut after = self.clone();
        if request.command.name == Name::Enable {
            after = after.with(&Self::of_words(Self::asked_by(&request.command)));
        } else {
            after.condstore |= request.modseqs().mentioned;
        }
        (after != *self).then_some(after)
    }

    /// The words of an ENABLE, in capitals.
    #[must_use]
    pub fn asked_by(enable: &Command) -> BTreeSet<Vec<u8>> {
        words(&enable.segments[0].text, 1)
    }

    /// Whether what this word of ENABLE names is on.
    pub fn has(&self, word: &[u8]) -> bool {
        if word == b"CONDSTORE" { self.condstore } else { self.enabled.contains(word) }
    }

    /// What of it is on in the `other`, too.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        Self { condstore: self.condstore && other.condstore, enabled: &self.enabled & &other.enabled }
    }

    /// What is on by this `ENABLED` line, in words as ENABLE takes them.
    pub(crate) fn of_words(mut enabled: BTreeSet<Vec<u8>>) -> Self {
        // QRESYNC includes it (RFC 7162 section 3.2.3).
        let condstore = enabled.remove(&b"CONDSTORE"[..]) || enabled.contains(&b"QRESYNC"[..]);
        Self { condstore, enabled }
    }

    /// This and the other.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self { condstore: self.condstore || other.condstore, enabled: &self.enabled | &other.enabled }
    }

    /// Whether all of it is on in the `other`, too.
    pub fn is_within(&self, other: &Self) -> bool {
        self.condstore <= other.condstore && self.enabled.is_subset(&other.enabled)
    }

    /// Whether nobody can tell it from the `other` as long as no mailbox is selected: CONDSTORE and QRESYNC change
    /// only what is said of messages (RFC 7162 sections 3.1 and 3.2).
    #[must_use]
    pub fn shows_as(&self, other: &Self) -> bool {
        let shows = |word: &&Vec<u8>| &***word != b"QRESYNC";
        self.enabled.iter().filter(shows).eq(other.enabled.iter().filter(shows))
    }

    /// The command that brings a connection into this state, if it takes one: ENABLE, or, where the server does not
    /// know that, what else switches CONDSTORE on (RFC 7162 section 3.1).
    #[must_use]
    pub fn command(&self, has_enable: bool) -> Option<Box<Request>> {
        let condstore = self.condstore.then_some(&b"CONDSTORE"[..]);
        let words: Vec<&[u8]> = condstore.into_iter().chain(self.enabled.iter().map(Vec::as_slice)).collect();
        let (name, text) = if !has_enable && self.enabled.is_empty() {
            (Name::Status, b"STATUS INBOX (HIGHESTMODSEQ)".to_vec())
        } else {
            (Name::Enable, [b"ENABLE ", &words.join(&b' ')[..]].concat())
        };
        (!words.is_empty()).then(|| Request::own(name, text))
    }
}

/// The words of a text but the first so many, in capitals.
pub(crate) fn words(text: &[u8], but: usize) -> BTreeSet<Vec<u8>> {
    let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.skip(but).map(<[u8]>::to_ascii_uppercase).collect()
}
