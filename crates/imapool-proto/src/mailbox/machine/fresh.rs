//! The mailbox as it is found on a new connection, or after messages have vanished whose numbers are not known.

use super::Nonsense;
use super::replies::UNANNOUNCED;
use super::selection::Selection;
use crate::imap::ranges::Ranges;
use crate::mailbox::log::LogError;

/// Octets of the news between a list of UIDs and the end of the command that asked for it.
const MAX_AFTER: usize = 16 * 1024 * 1024;

/// The mailbox as it is found on a new connection, before the members' views follow it.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub(super) selection: Selection,
    pub(super) exists: u32,
    /// The UIDs, once they were seen to fit.
    pub(super) uids: Option<Ranges>,
    /// The UIDs that were told one by one, from the first message on.
    pub(super) told: Ranges,
    /// The UIDs of messages that went before that.
    pub(super) gone: Ranges,
    /// The members' views have followed the mailbox on this connection: nothing else has gone.
    pub(super) followed: bool,
    /// So many have to be told.
    pub(super) asked: u32,
    /// What happened after that.
    pub(super) after: Vec<After>,
    /// What it takes.
    pub(super) octets: usize,
}

#[derive(Debug)]
pub(super) enum After {
    Exists(u32),
    Expunge(u32),
    Vanished(Ranges),
}

impl Fresh {
    pub(super) fn new(selection: Selection, exists: u32) -> Box<Self> {
        Box::new(Self { selection, exists, asked: exists, ..Self::default() })
    }

    /// What the backend says of it.
    pub(super) fn hears(&mut self, event: After) -> Result<(), Nonsense> {
        match event {
            event if self.uids.is_some() => return self.happens(event),
            After::Exists(count) if count < self.exists => return Err(LogError::Shrunk(self.exists, count).into()),
            After::Exists(count) => self.exists = count,
            After::Expunge(number) if number.saturating_sub(self.exists) > UNANNOUNCED => {
                return Err(LogError::NoSuchMessage(number, self.exists).into());
            }
            After::Expunge(number) => {
                self.exists = self.exists.max(number) - 1;
                // Which of those that were told is not known.
                self.asked = u32::MAX;
            }
            // Each was there, and is gone once.
            After::Vanished(uids) if !self.gone.intersection(&uids).is_empty() => return Err(Nonsense::Vanished),
            After::Vanished(uids) => {
                self.exists = self.exists.checked_sub(uids.len()).ok_or(Nonsense::Vanished)?;
                self.gone.insert_all(&uids);
                self.asked = u32::MAX;
            }
        }
        Ok(())
    }

    fn happens(&mut self, event: After) -> Result<(), Nonsense> {
        self.octets += size_of::<After>();
        if let After::Vanished(uids) = &event {
            self.octets += uids.octets();
        }
        self.after.push(event);
        if self.octets > MAX_AFTER { Err(Nonsense::TooMuch) } else { Ok(()) }
    }

    pub(super) fn told(&mut self, number: u32, uid: u32) {
        if number - 1 == self.told.len() && self.told.last().is_none_or(|last| last < uid) {
            self.told.insert(uid);
        }
    }

    /// The number that a message had before these vanished.
    pub(super) fn number_before(&self, number: u32, uid: u32) -> u32 {
        number + self.gone.rank(uid)
    }

    /// The UIDs, once the reply is over, and what happened after that. One by one cannot miscount: the backend may
    /// not tell of EXPUNGE meanwhile, and who comes is told later.
    pub(super) fn found(&mut self) -> Option<Ranges> {
        if self.uids.is_none() && self.told.len() >= self.asked.max(1) && self.told.len() <= self.exists {
            if self.told.len() < self.exists {
                self.after.push(After::Exists(self.exists));
            }
            return Some(std::mem::take(&mut self.told));
        }
        // An empty mailbox may have no list at all.
        self.uids.take().or((self.exists == 0).then(Ranges::new))
    }

    pub(super) fn counted(&mut self, uids: Ranges) {
        if self.uids.is_none() && uids.len() == self.exists {
            self.uids = Some(uids);
        }
    }
}
