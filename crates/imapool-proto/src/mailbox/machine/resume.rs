//! The ends of what runs upstream, and how a hub goes on with another connection.

use bytes::Bytes;

use super::fresh::{After, Fresh};
use super::jobs::{By, Job};
use super::selection::Selection;
use super::{Link, Machine, Nonsense, Stat};
use crate::imap::command::Name;
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::imap::response::StatusReply;
use crate::mailbox::enabled::Enabled;

/// Times that UIDs are asked for when they do not fit the number of messages.
const MAX_COUNTS: u8 = 40;
/// After so many times, one by one.
pub(super) const COUNTS: u8 = 4;
/// After so many times, SELECT counts anew.
const RESELECT: u8 = 8;
/// Octets of the numbers in one command of ours.
const MAX_SET: usize = 4000;
/// Messages whose UIDs are asked for one by one.
pub(super) const FEW: u32 = 200;

/// What is to be found out before members are served as if nothing had happened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    #[default]
    UpToDate,
    /// Flags were told without their mod-sequence, which is to be asked for.
    Modseqs,
    /// From this number on, flags may have changed while there was no connection.
    Flags(u32),
}

impl Recovery {
    pub(super) fn lacks_flags(self) -> bool {
        matches!(self, Self::Flags(_))
    }
}

impl Machine {
    /// Whether members can go on with another connection, whatever has changed in the mailbox by then: it is known
    /// which messages they know.
    pub(super) fn is_resumable(&self) -> bool {
        // With QRESYNC, they will be told the UIDs of what is gone.
        self.view.knows_all() || !self.view.touched && !self.tells_vanished()
    }

    /// The UIDs of all messages would be good to know.
    pub(super) fn wants_census(&self) -> bool {
        self.is_open()
            && !self.view.knows_all()
            && self.in_vain.counts < MAX_COUNTS
            && self.manners.known().census.allows(self.now)
            && self.has_joined()
    }

    /// The same, before a member's command: if it can be, in a way in which the backend may not tell of EXPUNGE
    /// (RFC 9051 section 7.5.1), so that the numbers in that command stay what they are.
    pub(super) fn ask_for_new_uids(&mut self) {
        if self.in_vain.counts == 0 && self.view.unknown() <= FEW {
            self.ask_one_by_one();
        } else {
            self.ask_for_uids();
        }
    }

    fn ask_one_by_one(&mut self) {
        let fresh = self.fresh.is_some();
        let run = if fresh { Request::own(Name::Fetch, "FETCH 1:* (UID)") } else { self.view.fetch_new_uids() };
        self.begin(Job::Census { by: By::Fetch, fresh }, run);
    }

    /// Whether SEARCH may be asked for its result in this form (RFC 4731).
    pub(super) fn returns(&self) -> bool {
        self.settings.esearch && self.manners.known().esearch.allows(self.now)
    }

    /// Whether UID SEARCH is a way to ask for UIDs.
    pub(super) fn note_search(&mut self, by: By, ok: bool) {
        self.manners.learn(|known| match by {
            By::Search { returns: true } if ok => known.esearch.works(),
            By::Search { returns: true } => known.esearch.refused(self.now),
            By::Search { returns: false } if ok => known.search.works(),
            By::Search { returns: false } => known.search.refused(self.now),
            By::Fetch | By::Noop => {}
        });
    }

    /// Whether there is a way at all. Once all were tried for long, there is a pause.
    pub(super) fn note_census(&mut self) {
        if self.view.knows_all() {
            self.in_vain.counts = 0;
            return self.manners.learn(|known| known.census.works());
        }
        self.in_vain.counts = self.in_vain.counts.saturating_add(1);
        if self.in_vain.counts >= MAX_COUNTS {
            self.manners.learn(|known| known.census.failed(self.now));
        }
    }

    /// Asks for the UIDs that are not known; of the mailbox as it is to be found, for all.
    pub(super) fn ask_for_uids(&mut self) {
        let fresh = self.fresh.is_some();
        if self.in_vain.counts % 2 == 1 {
            // Cyrus leaves out of UID SEARCH what is gone, and says so only when asked for news.
            return self.begin(Job::Census { by: By::Noop, fresh }, Request::own(Name::Noop, "NOOP"));
        }
        let exists = self.fresh.as_ref().map_or(self.view.exists(), |fresh| fresh.exists);
        let searches = self.manners.known().search.allows(self.now);
        if exists > 0 && (self.in_vain.counts >= COUNTS || !searches) {
            // One by one cannot miscount, however many come and go meanwhile.
            return self.ask_one_by_one();
        }
        let known = if fresh { 0 } else { self.view.uids.len() };
        let returns = self.returns();
        let by = By::Search { returns };
        let returns = if returns { "RETURN (ALL) " } else { "" };
        // By number: Cyrus finds messages of which it has not told yet, in the place of those that are gone.
        let set = if exists > known { format!("{}:{exists}", known + 1) } else { "ALL".into() };
        let run = Request::own(Name::Search, format!("UID SEARCH {returns}{set}"));
        self.begin(Job::Census { by, fresh }, run);
    }

    pub(super) fn reselected(&mut self, selection: Selection, parameter: &'static str, ok: bool) {
        let Some(known) = &self.view.selection else { return };
        if !ok && passes(&selection.rest) {
            return self.selected_later(&selection.rest);
        }
        if !ok && !parameter.is_empty() {
            // It may be the parameter that is refused; the others have not asked for it.
            self.manners.learn(|known| known.condstore.refused(self.now));
            self.on = Enabled::Nothing;
            return self.open();
        }
        if !ok {
            // The parameter was not what is wrong.
            self.manners.learn(|known| known.condstore.works());
            return self.bye_all(b"The mailbox can no longer be selected");
        }
        if !selection.is_counted && self.view.exists() > 0 {
            // That all have gone is believed only of a server that says so (RFC 9051 section 6.3.2).
            return self.broken(Nonsense::Uncounted);
        }
        // The next message may get the UID of another one that members know (RFC 9051 section 2.3.1.1). Of a server
        // that only lost a connection this is not asked: some count otherwise.
        let last = self.view.uids.last().unwrap_or(0).max(self.view.last_gone);
        let (before, now) = (known.uid_next.unwrap_or(0).max(last.saturating_add(1)), selection.uid_next);
        let reuses_uids = self.elsewhere && now.is_some_and(|now| now < before);
        // By mod-sequences, which only ever grow (RFC 7162 section 3.1), nothing can be compared then.
        let (now, before) = (selection.highest_modseq, self.view.shadow.settled());
        let went_back = now.zip(before).is_some_and(|(now, before)| now < before);
        if known.validity != selection.validity
            || access(known) != access(&selection)
            || reuses_uids
            || went_back && self.needed().has_modseqs()
        {
            return self.bye_all(OTHER);
        }
        if went_back {
            self.view.shadow.settle(0, 0);
        }
        let same = !self.elsewhere
            && !known.changed
            && known.exists == selection.exists
            && known.uid_next.is_some()
            && known.uid_next == selection.uid_next;
        if same || selection.exists == 0 && self.view.exists() == 0 {
            self.view.go_on_with(selection);
            self.stats.push(Stat::Resumed { changed: false });
            return self.resumed();
        }
        let exists = selection.exists;
        self.fresh = Some(Fresh::new(selection, exists));
        self.ask_for_uids();
    }

    /// The backend cannot select the mailbox just now: whoever waits hears that in its words, and it is tried again.
    fn selected_later(&mut self, refusal: &Bytes) {
        self.finish();
        for id in std::mem::take(&mut self.queue) {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.waiting = None;
            self.done(id, refusal.clone(), self.view.log.has(id));
        }
        self.disconnect(self.now + self.settings.parked);
    }

    /// What differs from what the members know is news for them.
    pub(super) fn recounted(&mut self, ok: bool) {
        let Some(mut fresh) = self.fresh.take() else { return };
        let Some(uids) = fresh.found().filter(|_| ok) else {
            // One by one, it is refused when a message is gone of which the backend has not told yet: it will.
            self.in_vain.counts = self.in_vain.counts.saturating_add(1);
            if self.in_vain.counts >= MAX_COUNTS {
                return self.bye_all(b"[UNAVAILABLE] Connection to the mail server lost");
            }
            if self.in_vain.counts.is_multiple_of(RESELECT) && self.is_resumable() {
                return self.open();
            }
            let (gone, followed) = (std::mem::take(&mut fresh.gone), fresh.followed);
            let again = Fresh { gone, followed, ..*Fresh::new(fresh.selection, fresh.exists) };
            self.fresh = Some(Box::new(again));
            return self.ask_for_uids();
        };
        self.in_vain.counts = 0;
        if fresh.followed {
            self.view.place_strays(&uids, &fresh.gone);
        } else {
            self.view.gone.insert_all(&fresh.gone);
        }
        if self.view.uids.len() < self.view.exists() {
            self.view.place_older(&uids);
        }
        if !self.is_resumable() {
            return self.bye_all(b"[UNAVAILABLE] Connection to the mail server lost");
        }
        let came = uids.difference(&self.view.uids);
        if came.first().is_some_and(|first| self.view.uids.last().is_some_and(|last| first < last)) {
            // UIDs only ever grow (RFC 9051 section 2.3.1.1).
            return self.bye_all(OTHER);
        }
        self.view.go_on_with(fresh.selection);
        self.link = Link::Up { open: true };
        self.loses_uids(&self.view.uids.difference(&uids));
        if self.view.exists() > uids.len() {
            // Of the last ones nobody knows more than that they are there: any will do.
            self.loses(&Ranges::from_runs(vec![(uids.len() + 1, self.view.exists())]));
        } else {
            self.counts(uids.len());
        }
        self.view.uids = uids;
        let exists = self.view.exists();
        if let Some(selection) = &mut self.view.selection {
            (selection.exists, selection.changed) = (exists, false);
        }
        for event in fresh.after {
            match event {
                After::Exists(count) => self.exists(count),
                After::Expunge(number) => self.expunged(number),
                After::Vanished(uids) => self.vanished(&uids),
            }
        }
        if !self.is_open() {
            // There was a contradiction, or some are gone whose numbers are to be found out.
            return;
        }
        self.stats.push(Stat::Resumed { changed: true });
        self.resumed();
    }

    fn resumed(&mut self) {
        self.link = Link::Up { open: true };
        self.elsewhere = false;
        self.view.delayed = false;
        self.view.gone = Ranges::new();
        self.recovery = Recovery::Flags(1);
    }

    /// Asks for the flags that members know; false: there are none to ask for.
    pub(super) fn ask_for_flags(&mut self) -> bool {
        if let Some(since) = self.view.shadow.settled().filter(|_| self.recovery.lacks_flags() && self.has_modseqs()) {
            // What members know from another time is not in the shadow.
            self.recovery = Recovery::UpToDate;
            let text = format!("FETCH 1:* (FLAGS) (CHANGEDSINCE {since})");
            if self.view.exists() > 0 {
                self.begin(Job::Recheck, Request::own(Name::Fetch, text));
            }
            return self.view.exists() > 0;
        }
        let (set, next) = match self.recovery {
            // Members may know the flags of any message.
            Recovery::Flags(_) if self.view.shadow.forgot && self.view.exists() > 0 => ("1:*".to_owned(), None),
            Recovery::Flags(from) => some_runs(self.view.shadow.known(from)),
            _ => some_runs(self.view.shadow.owed(1)),
        };
        self.recovery = next.map_or(Recovery::UpToDate, Recovery::Flags);
        if set.is_empty() {
            return false;
        }
        let items = if self.has_modseqs() { "FLAGS MODSEQ" } else { "FLAGS" };
        self.begin(Job::Recheck, Request::own(Name::Fetch, format!("FETCH {set} ({items})")));
        true
    }
}

const OTHER: &[u8] = b"The mailbox is no longer what it was";

/// Whether a refusal says that it may be otherwise later (RFC 5530 section 3).
fn passes(refusal: &[u8]) -> bool {
    let codes = ["UNAVAILABLE", "SERVERBUG", "INUSE", "LIMIT"];
    StatusReply::parse(refusal).is_some_and(|reply| codes.iter().any(|code| reply.has_code(code)))
}

/// READ-WRITE or READ-ONLY.
fn access(selection: &Selection) -> Option<bool> {
    let reply = StatusReply::parse(&selection.rest)?;
    reply.code.map(|_| reply.has_code("READ-ONLY"))
}

/// These numbers, which ascend, as a set that is not much longer than it may be, and the first that is left.
fn some_runs(numbers: impl Iterator<Item = u32>) -> (String, Option<u32>) {
    let (mut set, mut run) = (String::new(), None);
    let push = |set: &mut String, (first, last): (u32, u32)| {
        let comma = if set.is_empty() { "" } else { "," };
        set.push_str(&format!("{comma}{first}:{last}"));
    };
    for number in numbers {
        match &mut run {
            Some((_, last)) if number - 1 == *last => *last = number,
            Some(whole) => {
                push(&mut set, std::mem::replace(whole, (number, number)));
                if set.len() > MAX_SET {
                    return (set, Some(number));
                }
            }
            None => run = Some((number, number)),
        }
    }
    run.into_iter().for_each(|run| push(&mut set, run));
    (set, None)
}
