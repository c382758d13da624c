//! What the backend says has become of the mailbox: how many messages there are, which have gone, and which UIDs they have.

use std::fmt::Write as _;

use super::jobs::Job;
use super::replies::parse_list;
use super::resume::Fresh;
use super::{Link, Machine, Nonsense};
use crate::imap::command::Name;
use crate::imap::ranges::Ranges;
use crate::mailbox::log::Replay;

impl Machine {
    pub(super) fn exists(&mut self, count: u32) {
        let open = self.is_open();
        match &mut self.job {
            Some(Job::Open { selection, .. }) => {
                selection.exists = count;
                let _ = write!(self.passed, "* {count} EXISTS\r\n");
            }
            Some(Job::Reselect { selection }) => selection.exists = count,
            Some(Job::Census { fresh: Some(fresh), .. }) => fresh.exists(count),
            _ if self.strays.is_some() => self.strays.iter_mut().for_each(|fresh| fresh.exists(count)),
            _ if open => self.counts(count),
            _ => {}
        }
    }

    pub(super) fn counts(&mut self, count: u32) {
        if count != self.exists {
            self.miscounted = 0;
            self.touched &= self.uids.len() != self.exists;
            self.has_changed();
        }
        self.exists = count;
        if let Err(error) = self.log.handle_exists(count) {
            return self.broken(error);
        }
        self.owner_hears();
    }

    pub(super) fn recent(&mut self, count: u32) {
        let open = self.is_open();
        match &mut self.job {
            Some(Job::Open { selection, .. }) => {
                selection.recent = Some(count);
                let _ = write!(self.passed, "* {count} RECENT\r\n");
            }
            Some(Job::Reselect { selection }) => selection.recent = Some(count),
            _ if open => {
                self.log.handle_recent(count);
                self.owner_hears();
            }
            _ => {}
        }
    }

    pub(super) fn expunged(&mut self, number: u32) {
        let open = self.is_open();
        match &mut self.job {
            Some(Job::Census { fresh: Some(fresh), .. }) => fresh.expunged(number),
            _ if open => {
                self.expunges(number);
                self.owner_hears();
            }
            _ => {}
        }
    }

    pub(super) fn expunges(&mut self, number: u32) {
        let uid = self.uids.nth(number);
        let told = match uid.filter(|_| self.tells_vanished()) {
            Some(uid) => self.log.handle_vanished(number, uid),
            None => self.log.handle_expunge(number),
        };
        if let Err(error) = told {
            return self.broken(error);
        }
        self.exists -= 1;
        if let Some(uid) = uid {
            self.uids.remove(uid);
        }
        self.shadow.expunge(number);
        if let Some(from) = self.recheck.as_mut().filter(|from| **from > number) {
            *from -= 1;
        }
        self.has_changed();
    }

    /// VANISHED (RFC 7162 section 3.2.10.2).
    pub(super) fn vanishes(&mut self, uids: &Ranges) {
        let unknown = self.exists.saturating_sub(self.uids.len());
        let new = self.beyond(uids, unknown);
        if new.len() == unknown {
            self.uids.insert_all(&new);
        } else if !new.is_empty() {
            return self.strays_are_gone(uids);
        }
        for span in self.uids.intersection(uids).spans().rev() {
            for uid in span.rev() {
                self.expunges(self.uids.rank(uid) + 1);
            }
        }
        self.owner_hears();
    }

    /// The first so many of those that are larger than all UIDs that are known.
    pub(super) fn beyond(&self, uids: &Ranges, count: u32) -> Ranges {
        let mut new = uids.clone();
        if let Some(last) = self.uids.last() {
            new.remove_range(1..=last);
        }
        new.iter().take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
    }

    /// Which messages these are can be told once the UIDs of the others are known.
    fn strays_are_gone(&mut self, uids: &Ranges) {
        let needs_numbers = match &self.job {
            Some(Job::Member(running)) => matches!(running.run.command.name, Name::Fetch | Name::Store),
            _ => false,
        };
        let Some(selection) = self.selection.clone().filter(|_| !needs_numbers) else {
            return self.broken(Nonsense::Vanished);
        };
        let mut fresh = Fresh::new(selection, self.exists);
        fresh.vanished(uids);
        self.strays = Some(Box::new(fresh));
        self.link = Link::Up { open: false };
        self.miscounted = 0;
    }

    fn has_changed(&mut self) {
        if let Some(selection) = &mut self.selection {
            selection.changed = true;
        }
    }

    /// The member whose command runs hears of news where they stand among its replies.
    fn owner_hears(&mut self) {
        let Some(Job::Member(running)) = &mut self.job else { return };
        let (id, replay) = (running.id, running.replay);
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(cursor) = member.cursor else { return };
        for news in self.log.replay(cursor, replay) {
            member.hears(&news);
            news.write(&mut self.passed);
        }
        running.mapped = replay == Replay::KeepNumbers && self.log.withholds(cursor);
    }

    /// A list of UIDs is complete: it counts if it fits the number of messages at this very place.
    pub(super) fn counted(&mut self) {
        let Some(Job::Census { list, fresh }) = &mut self.job else { return };
        let list = std::mem::take(list);
        let uids = parse_list(&list);
        match fresh {
            Some(fresh) => fresh.counted(&uids),
            // It will be asked for anew.
            None if self.strays.is_some() => {}
            None => {
                let last = self.uids.last().unwrap_or(0);
                let new: Vec<u32> = uids.iter().filter(|uid| *uid > last).collect();
                if u32::try_from(new.len()).is_ok_and(|new| self.uids.len() + new == self.exists) {
                    self.uids.extend(new);
                }
            }
        }
    }
}
