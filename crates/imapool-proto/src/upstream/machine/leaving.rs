//! How a mailbox is left without expunging, for sure.
//!
//! UNSELECT does it (RFC 3691), where the backend knows that. Else EXAMINE of the same mailbox and CLOSE: what may
//! not be changed is not expunged (RFC 9051 section 6.4.1). So does the rest of a SELECT that failed, after which
//! nobody knows whether the mailbox before is still selected: an UNSELECT that is refused then would prove nothing. A
//! mailbox that was selected to be written is never closed.

use bytes::Bytes;

use super::{Event, InFlight, Machine, Own};
use crate::imap::command::{Command, Name, Segment, quoted};
use crate::imap::response::{Status, StatusReply};

/// What the command in flight is, of those that leave a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    Unselect,
    Examine,
    Close,
}

impl Machine {
    /// Begins to leave the mailbox that is selected, or may be.
    pub(super) fn leave(&mut self) {
        if self.has_unselect() && !self.uncertain && !self.manners.known().no_unselect {
            self.put_own(InFlight::Leaving(Leaving::Unselect), b"UNSELECT\r\n");
        } else {
            self.examine();
        }
    }

    fn has_unselect(&self) -> bool {
        self.capabilities.has("UNSELECT") || self.capabilities.has("IMAP4rev2")
    }

    /// Selects the same mailbox anew, so that it cannot be changed.
    fn examine(&mut self) {
        let Some(mailbox) = self.facts.selected.as_ref().filter(|key| key.len() > 1).map(|key| key.slice(1..)) else {
            return self.cannot_leave();
        };
        let segments = match quoted(&mailbox) {
            Some(name) => vec![Segment { text: [b"EXAMINE ", &name[..]].concat().into(), literal: None }],
            None => vec![
                Segment { text: Bytes::from_static(b"EXAMINE "), literal: Some((mailbox, false)) },
                Segment { text: Bytes::new(), literal: None },
            ],
        };
        self.begin(&Command { tag: Bytes::new(), name: Name::Examine, segments }, None);
        self.in_flight = Some(InFlight::Leaving(Leaving::Examine));
    }

    /// The reply to one of these commands.
    pub(super) fn left(&mut self, leaving: Leaving, reply: &StatusReply<'_>) {
        let ok = reply.status == Status::Ok;
        match leaving {
            Leaving::Unselect | Leaving::Close if ok => {
                if leaving == Leaving::Close && self.has_unselect() && !self.uncertain {
                    self.manners.learn(|known| known.no_unselect = true);
                }
                self.facts.selected = None;
                self.uncertain = false;
                self.events.push_back(Event::OwnDone(Own::Unselect, true));
            }
            Leaving::Unselect => self.examine(),
            Leaving::Examine if ok && reply.has_code("READ-ONLY") => {
                self.put_own(InFlight::Leaving(Leaving::Close), b"CLOSE\r\n");
            }
            _ => self.cannot_leave(),
        }
    }

    /// Whoever waits for that has to go elsewhere: of its command, nothing was sent.
    fn cannot_leave(&mut self) {
        self.events.push_back(Event::OwnDone(Own::Unselect, false));
    }
}
