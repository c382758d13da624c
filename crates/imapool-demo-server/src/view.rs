//! What one session knows of its selected mailbox, and how it learns the news (RFC 3501 sections 5.2 and 7.4.1).

use super::parse::SequenceSet;
use super::reply::{Reply, uid_set};
use super::store::{Mailbox, MailboxId, Message};

/// In what words a session is told the news.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Telling {
    /// Flags come with MODSEQ.
    pub(super) condstore: bool,
    /// VANISHED instead of EXPUNGE, and flags with UID.
    pub(super) qresync: bool,
}

/// A selected mailbox as its client sees it: message number `n` is `entries[n - 1]`.
#[derive(Debug)]
pub(super) struct View {
    pub(super) mailbox: MailboxId,
    pub(super) read_only: bool,
    /// No message is \Recent, on a server that does not know the flag.
    no_recent: bool,
    entries: Vec<Entry>,
    /// The largest UID the client knows; later ones are new.
    known: u32,
    /// The mailbox's counter when nothing was left to tell.
    told: u64,
}

/// A message as the client knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) uid: u32,
    pub(super) recent: bool,
    /// The counter of the flags the client knows.
    pub(super) told: u64,
}

impl View {
    /// Selects: the client is about to be told the mailbox's state as it is now.
    pub(super) fn new(id: MailboxId, mailbox: &mut Mailbox, read_only: bool, no_recent: bool) -> Self {
        let mut view = Self { mailbox: id, read_only, no_recent, entries: Vec::new(), known: 0, told: 0 };
        view.take_new(mailbox);
        view.told = mailbox.changed;
        view
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn recent(&self) -> usize {
        self.entries.iter().filter(|e| e.recent).count()
    }

    /// Adds the messages the client does not know; says whether there were any.
    fn take_new(&mut self, mailbox: &mut Mailbox) -> bool {
        let first = mailbox.messages().partition_point(|m| m.uid <= self.known);
        let new = &mailbox.messages()[first..];
        let recent_from = if self.no_recent { u32::MAX } else { mailbox.recent_from };
        self.entries.extend(new.iter().map(|m| Entry { uid: m.uid, recent: m.uid >= recent_from, told: m.changed }));
        let Some(last) = new.last() else { return false };
        self.known = last.uid;
        if !self.read_only {
            mailbox.recent_from = mailbox.recent_from.max(last.uid + 1);
        }
        true
    }

    /// The message numbers a set names, by number or by UID, ascending; those the client does not know are left out.
    pub(super) fn resolve(&self, set: &SequenceSet, by_uid: bool) -> Vec<u32> {
        let largest = if by_uid { self.entries.last().map_or(0, |e| e.uid) } else { self.len() };
        let mut named = vec![false; self.entries.len()];
        for (first, last) in set.ranges(largest) {
            let (from, to) = if by_uid {
                (self.entries.partition_point(|e| e.uid < first), self.entries.partition_point(|e| e.uid <= last))
            } else {
                ((first.max(1) - 1) as usize, last as usize)
            };
            let to = to.min(named.len());
            named[from.min(to)..to].fill(true);
        }
        (1..=self.len()).filter(|n| named[*n as usize - 1]).collect()
    }

    /// Whether the set names a number beyond the last message (RFC 3501 section 9: an error).
    pub(super) fn out_of_range(&self, set: &SequenceSet) -> bool {
        let largest = self.len();
        set.ranges(largest).any(|(first, last)| last > largest || first == 0)
    }

    /// The entry of a message number.
    pub(super) fn entry(&self, number: u32) -> Option<Entry> {
        self.entries.get((number as usize).checked_sub(1)?).copied()
    }

    /// The client now knows the message's flags.
    pub(super) fn mark_told(&mut self, number: u32, message: &Message) {
        if let Some(entry) = (number as usize).checked_sub(1).and_then(|at| self.entries.get_mut(at)) {
            entry.told = message.changed;
        }
    }

    /// Tells the news: EXPUNGE where it may be said now, flags, EXISTS. Says whether there was any.
    pub(super) fn tell(&mut self, mailbox: &mut Mailbox, may_expunge: bool, telling: Telling, out: &mut Reply) -> bool {
        if self.told == mailbox.changed {
            return false;
        }
        let mut news = false;
        let mut all_told = true;
        let mut vanished = Vec::new();
        for at in (0..self.entries.len()).rev() {
            let uid = self.entries[at].uid;
            let Some(message) = mailbox.message(uid) else {
                if may_expunge {
                    self.entries.remove(at);
                    if telling.qresync {
                        vanished.push(uid);
                    } else {
                        out.untagged(&format!("{} EXPUNGE", at + 1));
                    }
                    news = true;
                }
                all_told &= may_expunge;
                continue;
            };
            if message.changed > self.entries[at].told {
                self.entries[at].told = message.changed;
                out.untagged(&flags_line(at as u32 + 1, message, self.entries[at].recent, telling));
                news = true;
            }
        }
        if !vanished.is_empty() {
            vanished.reverse();
            out.untagged(&format!("VANISHED {}", uid_set(&vanished)));
        }
        if self.take_new(mailbox) {
            out.untagged(&format!("{} EXISTS", self.entries.len()));
            out.untagged(&format!("{} RECENT", self.recent()));
            news = true;
        }
        if all_told {
            self.told = mailbox.changed;
        }
        news
    }
}

/// `3 FETCH (UID 7 MODSEQ (12) FLAGS (\Seen))`: flags that changed without this session's doing.
fn flags_line(number: u32, message: &Message, recent: bool, telling: Telling) -> String {
    let uid = if telling.qresync { format!("UID {} ", message.uid) } else { String::new() };
    let modseq = if telling.condstore { format!("MODSEQ ({}) ", message.changed) } else { String::new() };
    format!("{number} FETCH ({uid}{modseq}FLAGS {})", flag_list(message, recent))
}

/// `(\Seen \Recent)`
pub(super) fn flag_list(message: &Message, recent: bool) -> String {
    let mut flags: Vec<&str> = message.flags.iter().map(String::as_str).collect();
    if recent {
        flags.push("\\Recent");
    }
    format!("({})", flags.join(" "))
}
