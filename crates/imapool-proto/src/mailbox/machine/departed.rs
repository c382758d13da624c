//! Messages that are gone, of which a member has not been told yet. It may ask for them as if they were there (RFC
//! 2180 section 4, RFC 9051 section 7.5.1): what is known of them, it is told.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::jobs::Job;
use super::{Machine, MemberId, Nonsense, Told};
use crate::imap::command::{Command, Name};
use crate::imap::decided::{Facts, Search};
use crate::imap::effects::only_uid_and_flags;
use crate::imap::ranges::Ranges;
use crate::imap::sequence;
use crate::imap::untagged::Reply;
use crate::mailbox::log::places_of;

/// Messages whose last flags are kept, and that are told of in reply to one command.
const MAX: usize = 512;

/// What a member is answered here.
#[derive(Debug, Default)]
pub(super) enum Answer {
    /// Nothing: it has what the backend says.
    #[default]
    Nothing,
    /// FETCH replies, beside the backend's.
    Beside(Bytes),
    /// The result of a SEARCH.
    Search(Box<Found>),
    /// The same, told already.
    Told,
}

/// See [`Answer::Search`].
#[derive(Debug)]
pub(super) struct Found {
    search: Search,
    /// By the member's numbers, or UIDs if it asks for UIDs.
    found: Ranges,
    /// It is all that is found. Otherwise the backend's result is part of it.
    whole: bool,
    /// The backend's result is an ESEARCH, also where none was asked for.
    esearch: bool,
}

impl Answer {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// What the backend is asked instead, so that its result can be joined with what is known here.
    pub(super) fn asks(&self, command: &Command) -> Option<Command> {
        match self {
            Self::Search(found) if !found.whole => found.search.asking_for_all(command),
            _ => None,
        }
    }

    /// The backend's result does not go to the member as it is. What is to be read of it; by it, it is told in which
    /// form: to whom speaks IMAP4rev2 it is an ESEARCH.
    pub(super) fn replaces(&mut self, result: Reply) -> Option<sequence::Found> {
        match self {
            Self::Search(found) => {
                found.esearch = result == Reply::Esearch;
                Some(if found.esearch { sequence::Found::item(b"ALL") } else { sequence::Found::list() })
            }
            Self::Told => Some(sequence::Found::list()),
            _ => None,
        }
    }
}

impl Machine {
    /// These messages, with these UIDs in the same order, are about to be forgotten.
    pub(super) fn depart(&mut self, numbers: &Ranges, uids: &Ranges) {
        if !self.view.departed.is_empty() && !self.members().any(|id| self.view.log.has_news(id)) {
            self.view.departed.clear();
        }
        if uids.len() != numbers.len() {
            return;
        }
        // Of more, none is kept longer than until the next.
        for (number, uid) in numbers.iter().zip(uids.iter()).take(MAX) {
            if let Some(flags) = self.view.shadow.flags(number).cloned() {
                self.view.departed.insert(uid, flags);
            }
            if self.view.departed.len() > MAX {
                self.view.departed.pop_first();
            }
        }
    }

    /// What a command by number is answered of messages that are gone.
    pub(super) fn answer(&self, id: MemberId, command: &Command) -> Answer {
        let answer = match command.name {
            Name::Fetch if self.view.log.withholds(id) => self.fetches(id, command),
            Name::Search if self.view.log.withholds(id) => self.finds(id, command),
            _ => None,
        };
        answer.unwrap_or_default()
    }

    /// Nothing is said of one of which not all is known that was asked.
    fn fetches(&self, id: MemberId, command: &Command) -> Option<Answer> {
        let (uid_asked, flags_asked) = only_uid_and_flags(command)?;
        let named = super::commands::named(command, self.view.log.numbering(id).known());
        let mut out = BytesMut::new();
        for (own, uid) in self.view.log.departed(id, &named).into_iter().take(MAX) {
            let mut items = Vec::new();
            if flags_asked {
                let Some(flags) = self.view.departed.get(&uid) else { continue };
                items.push(format!("FLAGS ({})", String::from_utf8_lossy(flags)));
            }
            if uid_asked {
                items.push(format!("UID {uid}"));
            }
            let _ = write!(out, "* {own} FETCH ({})\r\n", items.join(" "));
        }
        (!out.is_empty()).then(|| Answer::Beside(out.freeze()))
    }

    /// Of what the member counts, all is found that can be known without looking at messages.
    fn finds(&self, id: MemberId, command: &Command) -> Option<Answer> {
        let search = Search::parse(command)?;
        let numbering = self.view.log.numbering(id);
        let (common, known) = (numbering.common(), numbering.known());
        let vanished = self.view.log.vanished(id);
        let all_uids = vanished.filter(|_| self.view.uids.len() >= common);
        let whole = search.is_decided() && !search.is_by_uid() && !(search.asks_uids() && all_uids.is_none());
        let last_uid = all_uids.and_then(|gone| gone.last().max(self.view.uids.nth(common))).unwrap_or(0);
        let by_uid = |uids: &Ranges| {
            vanished?;
            let mut numbers = self.view.log.numbers_of_vanished(id, uids);
            for there in places_of(&self.view.uids, uids).spans() {
                numbering.back_range(there).for_each(|own| numbers.insert_range(own));
            }
            Some(numbers)
        };
        let gone = self.view.log.departed(id, numbering.gone());
        let recent = self.members.get(&id).map(|member| &member.recent);
        let has_flag = |number: u32, flag: &[u8]| {
            let uid = *gone.get(&number)?;
            if flag == b"\\RECENT" {
                return recent.map(|recent| recent.contains(uid));
            }
            let flags = self.view.departed.get(&uid)?;
            Some(flags.split(|b| *b == b' ').any(|it| it.eq_ignore_ascii_case(flag)))
        };
        let among = if whole { Ranges::from_runs(vec![(1, known)]) } else { numbering.gone().clone() };
        let facts = Facts { known, last_uid, by_uid: &by_uid, has_flag: &has_flag };
        let found = search.find(&among, &facts)?;
        let found = if search.is_by_uid() {
            found.iter().filter_map(|number| gone.get(&number).copied()).collect()
        } else {
            found
        };
        (whole || !found.is_empty()).then(|| Answer::Search(Box::new(Found { search, found, whole, esearch: false })))
    }

    pub(super) fn tell_answer(&mut self, id: MemberId, answer: Answer) {
        let Some(member) = self.members.get_mut(&id) else { return };
        match answer {
            Answer::Nothing | Answer::Told => {}
            Answer::Beside(text) => member.out.push_back(Told::Data(text)),
            Answer::Search(found) => {
                let Found { search, found, esearch, .. } = *found;
                match search.esearch(&found) {
                    Some(reply) => member.out.push_back(Told::Data(reply)),
                    None if esearch => member.out.push_back(Told::Data(search.esearch_all(&found))),
                    None => member.out.push_search(found),
                }
            }
        }
    }

    /// The backend's result has come, with these: the member is told it, with what is known here.
    pub(super) fn tell_found(&mut self, theirs: Option<Ranges>) {
        let Some(Job::Member(running)) = &mut self.job else { return };
        let id = running.id;
        let mut answer = std::mem::replace(&mut running.answer, Answer::Told);
        if let Answer::Search(found) = &mut answer
            && !found.whole
        {
            let Some(theirs) = theirs else { return self.broken(Nonsense::TooMuch) };
            let numbering = self.view.log.numbering(id);
            match found.search.is_by_uid() {
                true => found.found.insert_all(&theirs),
                false => theirs.spans().for_each(|span| {
                    numbering.back_range(span).for_each(|own| found.found.insert_range(own));
                }),
            }
        }
        self.pass_on();
        self.tell_answer(id, answer);
    }
}
