//! \Recent (RFC 3501 section 2.3.2): a message has it for one session, the first that is told.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Machine, MemberId};
use crate::imap::command::Command;
use crate::imap::ranges::Ranges;
use crate::imap::rewrite::not_recent;

/// Where the flags are in a FETCH.
const FLAGS: &[u8] = b"FLAGS (";

/// Messages kept without their UIDs. Of more than that, each session is told that they are recent.
const MAX_UNNAMED: usize = 1000;

/// Which messages were told with \Recent, and to whom.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    /// By UID.
    pub(super) claimed: Ranges,
    /// By message number, as long as the UID is not known.
    pub(super) unnamed: BTreeMap<u32, MemberId>,
}

impl Recent {
    /// These messages are gone.
    pub(super) fn expunge(&mut self, numbers: &Ranges) {
        let unnamed = std::mem::take(&mut self.unnamed).into_iter();
        let left = unnamed.filter(|(number, _)| !numbers.contains(*number));
        self.unnamed = left.map(|(number, id)| (number - numbers.rank(number), id)).collect();
    }
}

impl Machine {
    /// What is to be left out of the start of a FETCH of message `number` for this member: \Recent, unless it is the
    /// first to be told.
    pub(super) fn claim_recent(&mut self, id: MemberId, number: u32, octets: &[u8]) -> Range<usize> {
        let Some((from, to)) = recent(octets) else { return 0..0 };
        self.name_recent();
        let is_first = match self.view.uids.nth(number).zip(self.members.get_mut(&id)) {
            Some((uid, member)) => {
                if self.view.recent.claimed.insert(uid) {
                    member.recent.insert(uid);
                }
                member.recent.contains(uid)
            }
            None if self.view.recent.unnamed.len() < MAX_UNNAMED => {
                *self.view.recent.unnamed.entry(number).or_insert(id) == id
            }
            None => self.view.recent.unnamed.get(&number).is_none_or(|first| *first == id),
        };
        if is_first { 0..0 } else { from..to }
    }

    /// Messages whose UIDs are known by now, which are the first ones, are kept by these.
    fn name_recent(&mut self) {
        while let Some(entry) = self.view.recent.unnamed.first_entry()
            && let Some(uid) = self.view.uids.nth(*entry.key())
        {
            let member = self.members.get_mut(&entry.remove());
            if self.view.recent.claimed.insert(uid)
                && let Some(member) = member
            {
                member.recent.insert(uid);
            }
        }
    }

    /// A search of this member, to which what others were told to be recent is not.
    pub(super) fn without_recent(&mut self, id: MemberId, command: Command) -> Command {
        self.name_recent();
        let Some(member) = self.members.get(&id).filter(|_| !self.view.recent.claimed.is_empty()) else {
            return command;
        };
        let others = self.view.recent.claimed.difference(&member.recent).intersection(&self.view.uids);
        not_recent(&command, &others).unwrap_or(command)
    }
}

/// Where \Recent is among the flags, with a space.
fn recent(octets: &[u8]) -> Option<(usize, usize)> {
    let start = memchr::memmem::find(octets, FLAGS)? + FLAGS.len();
    let end = start + memchr::memchr(b')', &octets[start..])?;
    let mut from = start;
    for flag in octets[start..end].split(|b| *b == b' ') {
        let to = from + flag.len();
        if flag.eq_ignore_ascii_case(b"\\Recent") {
            return Some(if to < end { (from, to + 1) } else { (from - usize::from(from > start), to) });
        }
        from = to + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flag_is_taken_out() {
        for (before, after) in [
            (" (FLAGS (\\Recent) UID 7)\r\n", " (FLAGS () UID 7)\r\n"),
            (" (UID 7 FLAGS (\\recent \\Seen))\r\n", " (UID 7 FLAGS (\\Seen))\r\n"),
            (" (FLAGS (\\Seen \\Recent x))\r\n", " (FLAGS (\\Seen x))\r\n"),
            (" (FLAGS (\\Seen \\Recent))\r\n", " (FLAGS (\\Seen))\r\n"),
        ] {
            let (from, to) = recent(before.as_bytes()).unwrap();
            assert_eq!([&before[..from], &before[to..]].concat(), after);
        }
        for text in [" (FLAGS (\\Seen $Recent))\r\n", " (UID 7)\r\n", " (FLAGS (\\Rec", " (FLAGS ()) (\\Recent)"] {
            assert_eq!(recent(text.as_bytes()), None, "{text}");
        }
    }
}
