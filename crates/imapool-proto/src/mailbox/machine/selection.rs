//! What SELECT said, to be said again to those who join later.

use bytes::{BufMut as _, Bytes, BytesMut};
use memchr::memmem;

use super::joining::Joining;
use crate::imap::fetch_items::mod_sequence;
use crate::imap::response::{Status, StatusReply, trim_line_end};

/// Octets of a SELECT's lines that are kept.
const MAX_KEPT: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    /// FLAGS, PERMANENTFLAGS and all else that holds as long as the mailbox is selected.
    pub(super) lines: Vec<Bytes>,
    /// The tagged reply, without its tag.
    pub(super) rest: Bytes,
    pub(super) validity: Option<u32>,
    pub(super) uid_next: Option<u32>,
    pub(super) exists: u32,
    /// That was told.
    pub(super) is_counted: bool,
    pub(super) recent: Option<u32>,
    /// HIGHESTMODSEQ (RFC 7162 section 3.1.2.1), as it was told last: here, or later.
    pub(super) highest_modseq: Option<u64>,
    /// NOMODSEQ (RFC 7162 section 3.1.2.2).
    pub(super) without_modseqs: bool,
    /// Messages have come or gone since.
    pub(super) changed: bool,
}

impl Selection {
    /// Takes note of an untagged reply that is neither EXISTS nor RECENT: the whole line. Given also while the
    /// mailbox is selected (`selecting` is false then): keywords come into use. True: it says what was not known.
    pub(super) fn note(&mut self, line: &[u8], selecting: bool) -> bool {
        let Some(rest) = line.strip_prefix(b"* ") else { return false };
        let status = StatusReply::parse(rest);
        let text = match status {
            Some(StatusReply { status: Status::Ok, code: Some(code), .. }) => code,
            Some(_) => return false,
            None => rest,
        };
        let (kind, value) = text.split_at(first_word(text).len());
        let number = mod_sequence(value.trim_ascii());
        match (&kind.to_ascii_uppercase()[..], status.is_some()) {
            (b"UIDNEXT", true) => self.uid_next = number.and_then(|number| u32::try_from(number).ok()),
            (b"UIDVALIDITY", true) => {
                self.validity = number.and_then(|number| u32::try_from(number).ok());
                return self.keep(kind, line);
            }
            (b"FLAGS", _) | (b"PERMANENTFLAGS", true) => return self.keep(kind, line),
            (b"NOMODSEQ", true) => {
                self.without_modseqs = true;
                return self.keep(kind, line);
            }
            (b"HIGHESTMODSEQ", true) if selecting => self.highest_modseq = number,
            // Not true any more by the time that it would be said again, or not about the mailbox.
            (b"UNSEEN" | b"HIGHESTMODSEQ" | b"CLOSED" | b"ALERT" | b"INPROGRESS" | b"CAPABILITY", true) => {}
            // The mailbox's attributes (RFC 9051 section 6.3.2), unless its name is a literal.
            (b"LIST", false) if memmem::find(rest, b"}\r\n").is_none() => return selecting && self.keep(kind, line),
            (_, is_status) => return is_status && selecting && self.keep(kind, line),
        }
        false
    }

    /// What of it is news to those who know the mailbox as `known`: keywords that have come into use.
    pub(super) fn news_since(&self, known: &Self) -> Vec<Bytes> {
        let is_of_flags = |line: &&Bytes| {
            let kinds = [&b"* FLAGS "[..], b"* OK [PERMANENTFLAGS "];
            kinds.iter().any(|kind| line.get(..kind.len()).is_some_and(|head| head.eq_ignore_ascii_case(kind)))
        };
        self.lines.iter().filter(is_of_flags).filter(|line| !known.lines.contains(line)).cloned().collect()
    }

    /// EXPUNGE, before all is said. True: of a message that is there. What is said before EXISTS is about the mailbox
    /// that was selected earlier.
    pub(super) fn expunged(&mut self, number: u32) -> bool {
        let there = (1..=self.exists).contains(&number);
        self.exists -= u32::from(there);
        there
    }

    fn keep(&mut self, kind: &[u8], line: &[u8]) -> bool {
        let same = |known: &&mut Bytes| {
            let rest = known.strip_prefix(b"* OK [").or(known.strip_prefix(b"* ")).unwrap_or(known);
            rest.get(..kind.len()).is_some_and(|head| head.eq_ignore_ascii_case(kind))
        };
        let line = Bytes::copy_from_slice(line);
        if let Some(known) = self.lines.iter_mut().find(same) {
            let new = *known != line;
            *known = line;
            return new;
        }
        let fits = self.lines.iter().map(Bytes::len).sum::<usize>() + line.len() <= MAX_KEPT;
        if fits {
            self.lines.push(line);
        }
        fits
    }

    /// The reply to a SELECT by which somebody joins now, and is told this as the highest mod-sequence.
    pub(super) fn reply(&self, exists: u32, joining: &Joining, modseq: Option<u64>, unseen: Option<u32>) -> BytesMut {
        let mut out = BytesMut::new();
        for line in &self.lines {
            out.put_slice(trim_line_end(line));
            out.put_slice(b"\r\n");
        }
        out.put_slice(format!("* {exists} EXISTS\r\n").as_bytes());
        if self.recent.is_some() {
            // The one who was told first has them (RFC 3501 section 2.3.2).
            out.put_slice(b"* 0 RECENT\r\n");
        }
        if let Some(unseen) = unseen {
            out.put_slice(format!("* OK [UNSEEN {unseen}] First unseen message\r\n").as_bytes());
        }
        if let Some(modseq) = modseq.filter(|modseq| *modseq > 0) {
            out.put_slice(format!("* OK [HIGHESTMODSEQ {modseq}] Highest mod-sequence\r\n").as_bytes());
        }
        if let Some(uid_next) = joining.uid_next {
            out.put_slice(format!("* OK [UIDNEXT {uid_next}] Predicted next UID\r\n").as_bytes());
        }
        out
    }
}

fn first_word(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| matches!(b, b' ' | b'\r' | b'\n' | b']')).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_true_is_said_again() {
        let mut selection = Selection { recent: Some(1), ..Selection::default() };
        for line in [
            "* FLAGS (\\Seen)\r\n",
            "* LIST () \"/\" next\r\n",
            "* OK [PERMANENTFLAGS (\\Seen)] x\r\n",
            "* OK [UNSEEN 3] x\r\n",
            "* OK [UIDVALIDITY 77] x\r\n",
            "* OK [UIDNEXT 5] x\r\n",
            "* OK [HIGHESTMODSEQ 5] x\r\n",
            "* FLAGS (\\Seen new)\r\n",
            "* OK Still here\r\n",
        ] {
            selection.note(line.as_bytes(), line.contains("next"));
        }
        assert_eq!((selection.validity, selection.uid_next), (Some(77), Some(5)));
        assert_eq!(
            selection.reply(2, &Joining { uid_next: Some(9), ..Joining::default() }, Some(4), Some(2)),
            "* FLAGS (\\Seen new)\r\n* LIST () \"/\" next\r\n* OK [PERMANENTFLAGS (\\Seen)] x\r\n* OK [UIDVALIDITY 77] x\r\n\
             * 2 EXISTS\r\n* 0 RECENT\r\n* OK [UNSEEN 2] First unseen message\r\n\
             * OK [HIGHESTMODSEQ 4] Highest mod-sequence\r\n* OK [UIDNEXT 9] Predicted next UID\r\n"
        );
    }
}
