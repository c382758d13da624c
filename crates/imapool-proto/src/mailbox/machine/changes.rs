//! What the backend says has become of the mailbox: how many messages there are, which have gone, and which UIDs they
//! have.

use std::fmt::Write as _;

use super::fresh::{After, Fresh};
use super::jobs::Job;
use super::resume::Recovery;
use super::{Link, Machine, Nonsense};
use crate::imap::command::Name;
use crate::imap::ranges::Ranges;
use crate::imap::sequence::Found;
use crate::mailbox::log::{Replay, members_at, places_of};

impl Machine {
    pub(super) fn exists(&mut self, count: u32) {
        if self.is_of_fresh(|| After::Exists(count)) {
            return;
        }
        if let Some(selection) = self.job.as_mut().and_then(Job::selection) {
            (selection.exists, selection.is_counted) = (count, true);
            let _ = write!(self.incoming.passed, "* {count} EXISTS\r\n");
        } else if self.is_open() {
            self.counts(count);
        }
    }

    /// What is said of the mailbox while it is being found out how that is. Where it cannot be so, nothing that follows
    /// counts.
    fn is_of_fresh(&mut self, event: impl FnOnce() -> After) -> bool {
        let heard = self.fresh.as_mut().map(|fresh| fresh.hears(event()));
        if let Some(Err(why)) = heard {
            self.broken(why);
        }
        heard.is_some()
    }

    pub(super) fn counts(&mut self, count: u32) {
        let before = self.view.exists();
        if let Err(error) = self.view.log.handle_exists(count) {
            return self.broken(error);
        }
        if count != before {
            self.in_vain.counts = 0;
            self.view.touched &= self.view.uids.len() != before;
            self.view.has_changed();
        }
        self.owner_hears();
    }

    pub(super) fn recent(&mut self, count: u32) {
        if let Some(selection) = self.job.as_mut().and_then(Job::selection) {
            selection.recent = Some(count);
            let _ = write!(self.incoming.passed, "* {count} RECENT\r\n");
        } else if self.is_open() {
            self.view.log.handle_recent(count);
            self.owner_hears();
        }
    }

    pub(super) fn expunged(&mut self, number: u32) {
        if self.is_of_fresh(|| After::Expunge(number)) {
            return;
        }
        if let Some(selection) = self.job.as_mut().and_then(Job::selection) {
            if selection.expunged(number) {
                let _ = write!(self.incoming.passed, "* {number} EXPUNGE\r\n");
            }
        } else if self.is_open() {
            self.announced(number);
            self.loses(&Ranges::from_iter([number]));
            self.owner_hears();
        }
    }

    /// These messages are gone, all at once.
    pub(super) fn loses(&mut self, numbers: &Ranges) {
        if numbers.is_empty() {
            return;
        }
        let uids = members_at(&self.view.uids, numbers);
        let told = if uids.len() == numbers.len() { uids.clone() } else { Ranges::new() };
        self.depart(numbers, &uids);
        if let Err(error) = self.view.log.handle_gone(numbers.clone(), told) {
            return self.broken(error);
        }
        self.view.uids.remove_all(&uids);
        self.view.last_gone = self.view.last_gone.max(uids.last().unwrap_or(0));
        self.view.shadow.expunge(numbers);
        self.view.recent.expunge(numbers);
        if let Recovery::Flags(from) = &mut self.recovery {
            *from -= numbers.rank(*from);
        }
        self.view.has_changed();
    }

    /// The messages with these UIDs are gone, all at once; others than those that are known do not matter.
    pub(super) fn loses_uids(&mut self, uids: &Ranges) {
        self.loses(&places_of(&self.view.uids, uids));
    }

    /// VANISHED (RFC 7162 section 3.2.10.2).
    pub(super) fn vanished(&mut self, uids: &Ranges) {
        if !self.is_of_fresh(|| After::Vanished(uids.clone())) && self.is_open() {
            self.vanishes(uids);
        }
    }

    pub(super) fn vanishes(&mut self, uids: &Ranges) {
        let unknown = self.view.exists().saturating_sub(self.view.uids.len());
        let new = self.view.beyond(uids, unknown);
        if new.len() == unknown {
            self.view.uids.insert_all(&new);
        } else if !new.is_empty() {
            return self.strays_are_gone(uids);
        }
        self.loses_uids(uids);
        self.owner_hears();
    }

    /// Which messages these are can be told once the UIDs of the others are known.
    fn strays_are_gone(&mut self, uids: &Ranges) {
        let needs_numbers = match &self.job {
            Some(Job::Member(running)) => {
                !running.shape.uid && matches!(running.run.command.name, Name::Fetch | Name::Store)
            }
            _ => false,
        };
        let Some(selection) = self.view.selection.clone().filter(|_| !needs_numbers) else {
            return self.broken(Nonsense::Vanished);
        };
        let mut fresh = Fresh::new(selection, self.view.exists());
        fresh.followed = true;
        if let Err(why) = fresh.hears(After::Vanished(uids.clone())) {
            return self.broken(why);
        }
        (self.recovery, self.fresh) = (Recovery::UpToDate, Some(fresh));
        self.link = Link::Up { open: false };
        self.in_vain.counts = 0;
    }

    /// The member whose command runs hears of news where they stand among its replies.
    fn owner_hears(&mut self) {
        let Some(Job::Member(running)) = &mut self.job else { return };
        let (id, replay) = (running.id, running.replay);
        let news = self.view.log.replay(id, replay);
        // What is long goes behind what was passed on before it.
        let mut text = std::mem::take(&mut self.incoming.passed);
        self.hear(id, news, &mut text);
        self.incoming.passed = text;
        let withholds = self.view.log.withholds(id);
        if let Some(Job::Member(running)) = &mut self.job {
            running.mapped = replay == Replay::KeepNumbers && withholds;
            running.answered |= self.members.get(&id).is_some_and(|member| !member.out.is_empty());
        }
    }

    /// A list of UIDs is complete: it counts if it fits the number of messages at this very place.
    pub(super) fn counted(&mut self, found: Option<Found>) {
        let Some(uids) = found.and_then(Found::finish) else { return };
        match (&self.job, &mut self.fresh) {
            (Some(Job::Unseen), _) => self.joining.unseen = self.joining.unseen.into_iter().chain(uids.first()).min(),
            (Some(Job::Census { fresh: true, .. }), Some(fresh)) => fresh.counted(uids),
            // Where there are strays, it will be asked for anew.
            (Some(Job::Census { .. }), None) => {
                let new = uids.above(self.view.uids.last().unwrap_or(0));
                if self.view.uids.len().checked_add(new.len()) == Some(self.view.exists()) {
                    self.view.uids.insert_all(&new);
                }
            }
            _ => {}
        }
    }
}
