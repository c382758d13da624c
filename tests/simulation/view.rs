//! What one session knows of the mailbox it has selected, from what it was told; and what it must not be told.

use std::collections::BTreeSet;

use crate::reply::{Piece, numbers};
use crate::truth::{Identity, Truth};

/// A message, as far as the session knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) uid: Option<u32>,
    pub(crate) flags: Option<BTreeSet<String>>,
    /// Of the command by which it was last told of.
    pub(crate) told: u64,
}

/// The commands that must not be interrupted by EXPUNGE (RFC 3501 section 7.4.1).
pub(crate) const NUMBERED: [&str; 3] = ["FETCH", "STORE", "SEARCH"];

/// A selected mailbox.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) user: String,
    pub(crate) mailbox: String,
    pub(crate) read_only: bool,
    /// SELECT has not been answered.
    pub(crate) opening: bool,
    pub(crate) messages: Vec<Message>,
    pub(crate) recent: u32,
    pub(crate) uidvalidity: Option<u32>,
    pub(crate) highest: u64,
    /// Switched on by the session.
    pub(crate) condstore: bool,
    pub(crate) qresync: bool,
}

impl View {
    pub(crate) fn new(user: &str, mailbox: &str, read_only: bool) -> Self {
        Self {
            user: user.to_owned(),
            mailbox: mailbox.to_owned(),
            read_only,
            opening: true,
            messages: Vec::new(),
            recent: 0,
            uidvalidity: None,
            highest: 0,
            condstore: false,
            qresync: false,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.messages.len()).expect("few")
    }

    /// The UIDs it knows.
    pub(crate) fn uids(&self) -> BTreeSet<u32> {
        self.messages.iter().filter_map(|message| message.uid).collect()
    }

    /// `* n WORD …`; `running`: the command that runs.
    pub(crate) fn numbered(&mut self, n: u32, word: &str, rest: &[Piece], running: &Running, truth: &mut Truth) {
        match word {
            "EXISTS" => {
                assert!(n >= self.len() || self.opening, "EXISTS {n} after {}", self.len());
                self.messages.resize(n as usize, Message::default());
            }
            "RECENT" => {
                assert!(n <= self.len(), "RECENT {n} of {}", self.len());
                self.recent = n;
            }
            "EXPUNGE" => {
                assert!(!self.qresync, "EXPUNGE in place of VANISHED");
                assert!(running.verb.is_some(), "EXPUNGE while no command runs");
                assert!(!NUMBERED.contains(&running.verb.as_deref().unwrap_or_default()), "EXPUNGE during {running:?}");
                assert!(n >= 1 && n <= self.len(), "EXPUNGE {n} of {}", self.len());
                let gone = self.messages.remove(n as usize - 1);
                truth.gone(&self.user, &self.mailbox, self.read_only, gone.uid);
            }
            "FETCH" => {
                assert!(n >= 1 && n <= self.len(), "FETCH {n} of {}", self.len());
                self.fetched(n, rest[0].list(), running, truth);
            }
            _ => panic!("{n} {word}"),
        }
    }

    fn fetched(&mut self, n: u32, items: &[Piece], running: &Running, truth: &mut Truth) {
        let message = &mut self.messages[n as usize - 1];
        message.told = running.number;
        let mut identity = None;
        for pair in items.chunks(2) {
            let [name, value] = pair else { panic!("half a pair: {items:?}") };
            match name.word().to_ascii_uppercase().as_str() {
                "UID" => {
                    let uid = value.number();
                    assert!(message.uid.is_none_or(|known| known == uid), "{n} has UID {:?} and {uid}", message.uid);
                    message.uid = Some(uid);
                }
                "FLAGS" => message.flags = Some(value.list().iter().map(|flag| flag.word().to_owned()).collect()),
                "MODSEQ" => assert!(self.condstore, "MODSEQ for a session that has not asked for it"),
                body if body.starts_with("BODY[") => identity = Some(Identity::of(value.octets())),
                _ => {}
            }
        }
        let uid = message.uid;
        if let Some(flags) = message.flags.as_ref().filter(|_| items.iter().any(|item| *item == word("FLAGS"))) {
            truth.flags(&self.user, &self.mailbox, uid, flags);
        }
        if let Some(identity) = identity {
            truth.body(&self.user, &self.mailbox, uid, &identity);
        }
        let known: Vec<_> = self.messages.iter().filter_map(|message| message.uid).collect();
        assert!(known.is_sorted_by(|a, b| a < b), "UIDs out of order: {known:?}");
    }

    /// `* VANISHED …`
    pub(crate) fn vanished(&mut self, rest: &[Piece], running: &Running, truth: &mut Truth) {
        assert!(self.qresync, "VANISHED for a session that has not asked for it");
        let earlier = matches!(&rest[0], Piece::List(_));
        for uid in numbers(rest[rest.len() - 1].word()) {
            let place = self.messages.iter().position(|message| message.uid == Some(uid));
            // One whose UID it was not told yet lies behind all smaller ones that it knows.
            let unknown = || {
                let start = self.messages.iter().rposition(|message| message.uid.is_some_and(|known| known < uid));
                let start = start.map_or(0, |place| place + 1);
                self.messages.get(start).is_some_and(|message| message.uid.is_none()).then_some(start)
            };
            let place = place.or_else(unknown);
            if let Some(place) = place.filter(|_| !earlier) {
                assert!(running.verb.is_some(), "VANISHED while no command runs");
                self.messages.remove(place);
            }
            truth.gone(&self.user, &self.mailbox, self.read_only, Some(uid));
        }
    }
}

fn word(word: &str) -> Piece {
    Piece::Word(word.to_owned())
}

/// The command that runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    pub(crate) verb: Option<String>,
    pub(crate) number: u64,
}
