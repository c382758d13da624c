//! Messages that are gone, of which a member has not been told yet. It may ask for them as if they were there (RFC
//! 2180 section 4, RFC 9051 section 7.5.1): what is known of them, it is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::{Machine, MemberId, Told};
use crate::imap::command::{Command, Name};
use crate::imap::decided::{Search, esearch_all};
use crate::imap::effects::only_uid_and_flags;
use crate::imap::ranges::Ranges;
use crate::imap::untagged::Reply;
use crate::mailbox::log::Cursor;

/// Messages whose last flags are kept, and that are told of in reply to one command.
const MAX: usize = 512;

/// The last flags of messages that are gone, by UID.
#[derive(Debug, Clone, Default)]
pub(super) struct Departed {
    flags: BTreeMap<u32, Bytes>,
}

impl Departed {
    fn keep(&mut self, uid: u32, flags: Bytes) {
        self.flags.insert(uid, flags);
        if self.flags.len() > MAX {
            self.flags.pop_first();
        }
    }
}

/// What a member is answered here.
#[derive(Debug, Default)]
pub(super) enum Answer {
    /// Nothing: it has what the backend says.
    #[default]
    Nothing,
    /// FETCH replies, beside the backend's.
    Beside(Bytes),
    /// An ESEARCH, in place of the backend's.
    Result(Bytes),
    /// A SEARCH that finds these, in place of the backend's.
    Numbers(Ranges),
}

impl Answer {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// By the backend's result: to whom speaks IMAP4rev2 it is an ESEARCH.
    pub(super) fn takes_the_form_of(&mut self, result: Reply, tag: &[u8]) {
        if let (Self::Numbers(found), Reply::Esearch) = (&*self, result) {
            *self = Self::Result(esearch_all(tag, found));
        }
    }

    /// The backend's result does not count.
    pub(super) fn replaces(&self) -> bool {
        matches!(self, Self::Result(_) | Self::Numbers(_))
    }
}

impl Machine {
    /// These messages, with these UIDs in the same order, are about to be forgotten.
    pub(super) fn depart(&mut self, numbers: &Ranges, uids: &Ranges) {
        let lags = |cursor| self.log.has_news(cursor);
        if !self.departed.flags.is_empty() && !self.members.values().filter_map(|member| member.cursor).any(lags) {
            self.departed = Departed::default();
        }
        if uids.len() != numbers.len() {
            return;
        }
        // Of more, none is kept longer than until the next.
        for (number, uid) in numbers.iter().zip(uids.iter()).take(MAX) {
            if let Some(flags) = self.shadow.flags(number).cloned() {
                self.departed.keep(uid, flags);
            }
        }
    }

    /// What a command by number is answered of messages that are gone.
    pub(super) fn answer(&self, id: MemberId, command: &Command) -> Answer {
        let cursor = self.members.get(&id).and_then(|member| member.cursor);
        let Some(cursor) = cursor.filter(|cursor| self.log.withholds(*cursor)) else { return Answer::Nothing };
        let answer = match command.name {
            Name::Fetch => self.fetches(cursor, command),
            Name::Search => self.finds(cursor, command),
            _ => None,
        };
        answer.unwrap_or_default()
    }

    /// Nothing is said of one of which not all is known that was asked.
    fn fetches(&self, cursor: Cursor, command: &Command) -> Option<Answer> {
        let (uid_asked, flags_asked) = only_uid_and_flags(command)?;
        let named = super::jobs::named(command, self.log.numbering(cursor).known());
        let mut out = BytesMut::new();
        for (own, uid) in self.log.departed(cursor, &named).take(MAX) {
            let mut items = Vec::new();
            if flags_asked {
                let Some(flags) = self.departed.flags.get(&uid) else { continue };
                items.push(format!("FLAGS ({})", String::from_utf8_lossy(flags)));
            }
            if uid_asked {
                items.push(format!("UID {uid}"));
            }
            let _ = write!(out, "* {own} FETCH ({})\r\n", items.join(" "));
        }
        (!out.is_empty()).then(|| Answer::Beside(out.freeze()))
    }

    /// All that the member counts is found, where it can be known without looking at messages.
    fn finds(&self, cursor: Cursor, command: &Command) -> Option<Answer> {
        let search = Search::parse(command)?;
        let numbering = self.log.numbering(cursor);
        let (common, mut last_uid) = (numbering.common(), 0);
        if search.asks_uids() {
            let gone = self.log.vanished(cursor).filter(|_| self.uids.len() >= common)?;
            last_uid = gone.last().max(self.uids.nth(common)).unwrap_or(0);
        }
        let by_uid = |uids: &Ranges| {
            let mut numbers = self.log.numbers_of_vanished(cursor, uids);
            for span in self.uids.intersection(uids).spans() {
                let there = self.uids.rank(*span.start()) + 1..=self.uids.upto(*span.end());
                numbering.back_range(there).for_each(|own| numbers.insert_range(own));
            }
            numbers
        };
        let found = search.find(numbering.known(), last_uid, by_uid)?;
        Some(search.esearch(&found).map_or_else(|| Answer::Numbers(found), Answer::Result))
    }

    pub(super) fn tell_answer(&mut self, id: MemberId, answer: Answer) {
        let Some(member) = self.members.get_mut(&id) else { return };
        match answer {
            Answer::Nothing => {}
            Answer::Beside(text) | Answer::Result(text) => member.out.push_back(Told::Data(text)),
            Answer::Numbers(found) => member.out.push_search(found),
        }
    }
}
