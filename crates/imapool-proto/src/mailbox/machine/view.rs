//! What is known of the mailbox, and what its members have still to hear of it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::recent::Recent;
use super::selection::Selection;
use crate::imap::command::Name;
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::log::Log;
use crate::mailbox::shadow::Shadow;

/// See the module. A hub that is divided goes on with a copy.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// What SELECT said; `None`: it was never answered.
    pub(super) selection: Option<Selection>,
    /// News, until all members have heard them.
    pub(super) log: Log,
    /// Of the first messages; of all when nothing was news since.
    pub(super) uids: Ranges,
    /// The last UID of those that were known, and are gone.
    pub(super) last_gone: u32,
    /// Messages that were said to be gone before the connection was lost, if it was not known which those are.
    pub(super) gone: Ranges,
    /// Members may know something of messages whose UIDs are not known here.
    pub(super) touched: bool,
    /// The flags that members know.
    pub(super) shadow: Shadow,
    /// The last flags of messages that are gone, by UID, for those who count them still.
    pub(super) departed: BTreeMap<u32, Bytes>,
    /// Who was told that a message is recent.
    pub(super) recent: Recent,
    /// The backend withholds that messages have vanished, and has said so during the command that runs, or before.
    pub(super) delays: bool,
    pub(super) delayed: bool,
}

impl View {
    pub(super) fn exists(&self) -> u32 {
        self.log.exists()
    }

    /// Of so many messages the UIDs are not known.
    pub(super) fn unknown(&self) -> u32 {
        self.exists().saturating_sub(self.uids.len())
    }

    /// The UIDs of all messages are known.
    pub(super) fn knows_all(&self) -> bool {
        self.uids.len() == self.exists()
    }

    /// The first so many of those that are larger than all UIDs that are known.
    pub(super) fn beyond(&self, uids: &Ranges, count: u32) -> Ranges {
        uids.above(self.uids.last().unwrap_or(0)).first_few(count)
    }

    pub(super) fn has_changed(&mut self) {
        if let Some(selection) = &mut self.selection {
            selection.changed = true;
        }
    }

    /// The mailbox has mod-sequences for whoever has switched on so much: not where the backend says that there are
    /// none (NOMODSEQ, RFC 7162 section 3.1.2.2), or, asked for CONDSTORE, does not say so much as the highest.
    pub(super) fn tells_modseqs(&self, enabled: Enabled) -> bool {
        let told = |it: &Selection| enabled == Enabled::Qresync || it.highest_modseq.is_some();
        enabled.has_modseqs() && self.selection.as_ref().is_some_and(|it| !it.without_modseqs && told(it))
    }

    /// What `*` is for a command by UID or by number, and up to where UIDs are known.
    pub(super) fn known(&self, uid: bool) -> (u32, u32) {
        if uid { (u32::MAX, self.uids.last().unwrap_or(0)) } else { (self.exists(), self.uids.len()) }
    }

    pub(super) fn fetch_new_uids(&self) -> Box<Request> {
        Request::own(Name::Fetch, format!("FETCH {}:* (UID)", self.uids.len().saturating_add(1)))
    }

    /// The mailbox is selected anew.
    pub(super) fn go_on_with(&mut self, selection: Selection) {
        let news = self.selection.as_ref().map(|known| selection.news_since(known));
        for line in news.into_iter().flatten() {
            self.log.handle_text(line, None);
        }
        self.selection = Some(selection);
    }

    /// The members were told of messages in the order of their UIDs: so the ones whose UIDs were not known are the
    /// first of those that are there and those that have gone.
    pub(super) fn place_strays(&mut self, there: &Ranges, gone: &Ranges) {
        if gone.is_empty() {
            return;
        }
        let mut all = there.clone();
        all.insert_all(gone);
        let strays = self.beyond(&all, self.unknown());
        self.uids.insert_all(&strays);
    }

    /// After a connection was lost: the messages whose UIDs were not known, if it is certain which UIDs they had. Those
    /// that are older than what has come since are there, or were said to be gone; if these are just as many as there
    /// were, they are the ones.
    pub(super) fn place_older(&mut self, there: &Ranges) {
        let next = self.selection.as_ref().filter(|it| !it.changed).and_then(|it| it.uid_next);
        let Some(last) = next.and_then(|next| next.checked_sub(1)).filter(|last| *last > 0) else { return };
        let mut older = self.uids.clone();
        there.within(1..=last).chain(self.gone.within(1..=last)).for_each(|run| older.insert_range(run));
        if older.len() == self.exists() {
            self.uids = older;
        }
    }

    /// All news are told, up to what the backend calls the highest mod-sequence.
    pub(super) fn settle(&mut self) {
        if let Some(modseq) = self.selection.as_ref().and_then(|selection| selection.highest_modseq) {
            self.shadow.settle(self.exists(), modseq);
        }
    }
}
