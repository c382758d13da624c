//! How a mailbox is joined: by who comes first, and by those who find others there.

use bytes::{Bytes, BytesMut};

use super::jobs::Job;
use super::recent::Recent;
use super::resume::{COUNTS, FEW, Recovery};
use super::selection::Selection;
use super::view::View;
use super::{Action, Link, Machine, MemberId, Told};
use crate::imap::command::{Name, unquote};
use crate::imap::fetch_items::mod_sequence;
use crate::imap::request::Request;
use crate::imap::response::StatusReply;
use crate::mailbox::enabled::Parameters;
use crate::mailbox::log::Log;

/// Those who join, and what is to be said in reply to their SELECT.
#[derive(Debug, Default)]
pub(super) struct Joining {
    pub(super) ids: Vec<MemberId>,
    pub(super) uid_next: Option<u32>,
    /// Messages whose UIDs were not known before that was asked for.
    pub(super) unknown: u32,
    /// How often the UIDs of those that have come since were asked for.
    pub(super) counts: u8,
    /// The UID of the first message without \Seen.
    pub(super) unseen: Option<u32>,
    /// HIGHESTMODSEQ (RFC 7162 section 3.1.2.1).
    pub(super) modseq: Option<u64>,
}

impl Joining {
    /// What runs is NOOP, which tells first what has vanished. FETCH may not: the mod-sequences that it tells are
    /// higher, perhaps, than that of a VANISHED that is still to come (Cyrus).
    pub(super) fn asks_for_news(&self) -> bool {
        self.counts == 0
    }
}

impl Machine {
    /// All who wait to join do so together.
    pub(super) fn admit(&mut self, first: MemberId) {
        if self.wants_census() {
            self.queue.push_front(first);
            return self.ask_for_uids();
        }
        let joins = |id: &MemberId| self.is_joining(*id) && self.is_asked_for(*id);
        let (mut ids, others): (Vec<_>, Vec<_>) = self.queue.iter().copied().partition(joins);
        self.queue = others.into();
        ids.insert(0, first);
        self.joining = Joining { ids, unknown: self.view.unknown(), ..Joining::default() };
        if !self.manners.known().status.allows(self.now) {
            return self.admit_without_status();
        }
        let run = self.ask_status();
        self.begin(Job::Status { text: BytesMut::new() }, run);
        self.ask_ahead_of_status();
    }

    pub(super) fn opened(&mut self, member: MemberId, run: &Request, selection: Selection, rest: Bytes, ok: bool) {
        if !ok {
            return self.done(member, rest, false);
        }
        let uid_next = selection.uid_next;
        self.view = View {
            log: Log::new(selection.exists, selection.recent.unwrap_or(0)),
            selection: Some(Selection { rest: rest.clone(), ..selection }),
            recent: Recent { claimed: std::mem::take(&mut self.view.recent.claimed), ..Recent::default() },
            ..View::default()
        };
        self.recovery = Recovery::UpToDate;
        self.link = Link::Up { open: true };
        self.view.settle();
        self.welcome(member, run, uid_next, Bytes::new(), rest);
    }

    /// The mailbox is selected for this member: it is told so, and before that, if it asks (RFC 7162 section 3.2.5),
    /// what has changed since it knew the mailbox.
    fn welcome(&mut self, id: MemberId, run: &Request, uid_next: Option<u32>, reply: Bytes, rest: Bytes) {
        let catch_up = self.catch_up(run, uid_next);
        let complete = self.view.selection.as_ref().and_then(|selection| selection.highest_modseq);
        let Some(member) = self.members.get_mut(&id) else { return };
        self.view.log.join(id);
        member.complete = complete;
        let Some(catch_up) = catch_up else { return member.out.push_back(Told::Done(reply, rest, true)) };
        if !reply.is_empty() {
            member.out.push_back(Told::Data(reply));
        }
        member.selecting = Some(rest);
        self.goes_first(id, catch_up);
    }

    /// The command that tells just what a SELECT with the parameter QRESYNC does (RFC 7162 section 3.2.6).
    fn catch_up(&self, select: &Request, uid_next: Option<u32>) -> Option<Box<Request>> {
        let resync = Parameters::of(&select.command)?.resync?;
        let validity = self.view.selection.as_ref()?.validity;
        // Not `1:*`: what was behind the last message has vanished, too.
        let last = uid_next.map_or("*".into(), |next| next.saturating_sub(1).max(1).to_string());
        let uids = resync.uids.unwrap_or_else(|| "1:*".into()).replace('*', &last);
        let text = format!("UID FETCH {uids} (FLAGS) (CHANGEDSINCE {} VANISHED)", resync.modseq);
        (self.has_modseqs() && validity == Some(resync.validity)).then(|| Request::own(Name::Fetch, text))
    }

    pub(super) fn ask_status(&self) -> Box<Request> {
        let items = if self.has_modseqs() { " (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)" } else { " (UIDNEXT UIDVALIDITY)" };
        self.with_mailbox(Name::Status, items)
    }

    /// What STATUS said of the mailbox of this name, for those who join; `None`: that there is none.
    pub(super) fn told_status(&mut self, rest: &[u8], text: Option<&BytesMut>) {
        if self.fresh.is_some() {
            return self.join_later();
        }
        let number = |word: &[u8]| text.and_then(|text| number_after(text, word));
        let small = |word: &[u8]| number(word).and_then(|number| u32::try_from(number).ok());
        let validity = small(b"UIDVALIDITY ");
        let known = self.view.selection.as_ref().and_then(|selection| selection.validity);
        let is_gone = || StatusReply::parse(rest).is_some_and(|reply| reply.has_code("NONEXISTENT"));
        if text.is_none() && is_gone() || known.is_some() && validity.is_some() && validity != known {
            // It was renamed or deleted under the members (RFC 2180 section 3): who selects it now means another one.
            return self.join_elsewhere();
        }
        self.joining.uid_next = small(b"UIDNEXT ");
        if self.joining.uid_next.is_none() {
            // It is gone, or may not be asked for while it is selected (RFC 3501 section 6.3.10).
            let run = self.with_mailbox(Name::List, "");
            return self.begin(Job::Exists { found: false }, run);
        }
        self.manners.learn(|known| known.status.works());
        self.joining.modseq = number(b"HIGHESTMODSEQ ").filter(|_| self.has_modseqs());
        self.look_for_unseen();
    }

    /// Without STATUS, what those who join are to be told is learned by selecting the mailbox anew; what that shows
    /// is news for the others.
    pub(super) fn admit_without_status(&mut self) {
        if !std::mem::take(&mut self.anew) {
            // If the others have left meanwhile, it is selected by one of those who wait.
            if !self.has_joined() || self.wants_census() {
                return self.join_later();
            }
            if !self.is_resumable() {
                return self.join_elsewhere();
            }
            self.anew = true;
            self.link = Link::Up { open: false };
            return self.join_later();
        }
        let Some(selection) = &self.view.selection else { return };
        let modseq = selection.highest_modseq.filter(|_| self.has_modseqs());
        (self.joining.uid_next, self.joining.modseq) = (selection.uid_next, modseq);
        self.look_for_unseen();
    }

    fn look_for_unseen(&mut self) {
        match self.ask_for_unseen() {
            Some(run) => self.begin(Job::Unseen, run),
            None => self.ask_for_news(),
        }
    }

    pub(super) fn ask_for_news(&mut self) {
        self.begin(Job::Refresh, Request::own(Name::Noop, "NOOP"));
    }

    /// Asks for the first message without \\Seen, if its number would be known then.
    pub(super) fn ask_for_unseen(&self) -> Option<Box<Request>> {
        let allowed = self.settings.unseen && self.manners.known().search.allows(self.now);
        (allowed && self.view.exists() > 0 && self.view.knows_all()).then(|| {
            let returns = if self.returns() { "RETURN (MIN) " } else { "" };
            Request::own(Name::Search, format!("UID SEARCH {returns}UNSEEN"))
        })
    }

    /// All who wait join now: what they are told is how the mailbox is at this moment.
    pub(super) fn refreshed(&mut self) {
        if self.fresh.is_some() {
            return self.join_later();
        }
        let unknown = self.view.unknown();
        if unknown > self.joining.unknown {
            // More have come since UIDNEXT was said, which is above the UIDs of all (RFC 9051 section 2.3.1.1).
            if unknown <= FEW && self.joining.counts < COUNTS {
                self.joining.counts += 1;
                let run = self.view.fetch_new_uids();
                return self.begin(Job::Refresh, run);
            }
            self.joining.uid_next = None;
        }
        let mut joining = std::mem::take(&mut self.joining);
        let after_last = self.view.uids.last().map(|last| last.saturating_add(1));
        joining.uid_next = joining.uid_next.map(|next| after_last.map_or(next, |after| after.max(next)));
        self.note_highest(joining.modseq);
        self.view.settle();
        let Some(selection) = &self.view.selection else { return };
        let there = joining.unseen.filter(|uid| self.view.knows_all() && self.view.uids.contains(*uid));
        let unseen = there.map(|uid| self.view.uids.rank(uid) + 1);
        let rest = selection.rest.clone();
        let reply = |modseq| selection.reply(self.view.exists(), &joining, modseq, unseen).freeze();
        let plain = reply(None);
        let with_modseq = if self.needed().has_modseqs() { reply(joining.modseq) } else { Bytes::new() };
        for id in &joining.ids {
            let waiting = self.members.get_mut(id).and_then(|member| member.waiting.take());
            if let Some(run) = waiting {
                let reply = if self.enabled(*id).has_modseqs() { &with_modseq } else { &plain };
                self.welcome(*id, &run, joining.uid_next, reply.clone(), rest.clone());
            }
        }
    }

    /// Those who were about to join are to find the mailbox of this name in another hub.
    pub(super) fn join_elsewhere(&mut self) {
        let ids = std::mem::take(&mut self.joining.ids);
        self.actions.push_back(Action::Elsewhere(ids));
    }

    /// Those who were about to join wait again.
    pub(super) fn join_later(&mut self) {
        for id in std::mem::take(&mut self.joining.ids).into_iter().rev() {
            if self.members.get(&id).is_some_and(|member| member.waiting.is_some()) {
                self.queue.push_front(id);
            }
        }
    }
}

/// The number that follows the last `word`: in a STATUS reply, the mailbox's name comes before all items, whatever it
/// holds.
fn number_after(text: &[u8], word: &[u8]) -> Option<u64> {
    let at = memchr::memmem::rfind(&text.to_ascii_uppercase(), word)?;
    let digits = &text[at + word.len()..];
    let end = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    mod_sequence(&digits[..end])
}

/// A STATUS reply (RFC 9051 section 7.3.4) about the mailbox of this name. Names that may be spelled in two ways, in
/// UTF-8 and in modified UTF-7 (RFC 3501 section 5.1.3), are taken for each other.
pub(super) fn is_status_of(line: &[u8], name: &[u8]) -> bool {
    const HEAD: &[u8] = b"* STATUS ";
    let Some(rest) = line.get(HEAD.len()..).filter(|_| line[..HEAD.len()].eq_ignore_ascii_case(HEAD)) else {
        return false;
    };
    let told = match rest.first() {
        Some(b'"') => unquote(&rest[1..]).map(|(told, _)| told),
        Some(b'{') => {
            // The line goes on behind the literal, with the space before the list.
            let literal = memchr::memchr(b'\n', rest).map(|end| &rest[end + 1..]);
            literal.and_then(|rest| Some(rest[..memchr::memmem::rfind(rest, b" (")?].to_vec()))
        }
        _ => rest.split(|octet| *octet == b' ').next().map(<[u8]>::to_vec),
    };
    let is_spelled_otherwise = |name: &[u8]| !name.is_ascii() || name.contains(&b'&');
    told.is_some_and(|told| {
        told == name
            || name == b"INBOX" && told.eq_ignore_ascii_case(name)
            || is_spelled_otherwise(name) && is_spelled_otherwise(&told)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_status_it_is() {
        for (line, name, is_it) in [
            ("* STATUS INBOX (UIDNEXT 5)\r\n", "INBOX", true),
            ("* status \"inbox\" (UIDNEXT 5)\r\n", "INBOX", true),
            ("* STATUS {5}\r\nInbox (UIDNEXT 5)\r\n", "INBOX", true),
            ("* STATUS \"a \\\"b\" (UIDNEXT 5)\r\n", "a \"b", true),
            ("* STATUS {6}\r\na (b c (UIDNEXT 5)\r\n", "a (b c", true),
            ("* STATUS \"Entw&APw-rfe\" (UIDNEXT 5)\r\n", "Entwürfe", true),
            ("* STATUS Other (UIDNEXT 5)\r\n", "INBOX", false),
            ("* STATUS inbox2 (UIDNEXT 5)\r\n", "INBOX", false),
            ("* STATUS BOX (UIDNEXT 5)\r\n", "box", false),
            ("* STATUS\r\n", "INBOX", false),
            ("* OK STATUS INBOX (UIDNEXT 5)\r\n", "INBOX", false),
        ] {
            assert_eq!(is_status_of(line.as_bytes(), name.as_bytes()), is_it, "{line}");
        }
    }
}
