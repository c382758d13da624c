//! Messages that are gone, of which a member has not been told yet. It may ask for them as if they were there (RFC
//! 2180 section 4, RFC 9051 section 7.5.1): what is known of them, it is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::{Machine, MemberId, Told};
use crate::imap::command::{Command, Name};
use crate::imap::effects::only_uid_and_flags;
use crate::imap::ranges::Ranges;

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

    /// What a FETCH by number is answered of those that are gone: nothing of one of which not all is known that was
    /// asked.
    pub(super) fn answers_for_departed(&self, id: MemberId, command: &Command) -> Bytes {
        let asked = || only_uid_and_flags(command).filter(|_| command.name == Name::Fetch);
        let cursor = self.members.get(&id).and_then(|member| member.cursor);
        let cursor = cursor.filter(|cursor| self.log.withholds(*cursor));
        let Some((cursor, (uid_asked, flags_asked))) = cursor.and_then(|cursor| Some((cursor, asked()?))) else {
            return Bytes::new();
        };
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
        out.freeze()
    }

    pub(super) fn tell_departed(&mut self, id: MemberId, answers: Bytes) {
        if !answers.is_empty() {
            self.tell(id, Told::Data(answers));
        }
    }
}
