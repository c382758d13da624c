//! A tagged reply that is too long to be had whole: COPYUID of many messages, say (RFC 4315 section 3). It goes to
//! the member whose command it ends as it comes, unless something has to be said in its place.

use bytes::Bytes;

use super::jobs::Job;
use super::{Link, Machine, Told};
use crate::imap::response::{Status, StatusReply};

/// Octets of it that are kept to judge it by.
const KEPT: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Tagged {
    start: Bytes,
    /// It goes to the member.
    pub(super) passes: bool,
}

impl Tagged {
    /// What is said in its place, and what it stands for here: the status, and a response code that is not long.
    pub(super) fn in_short(&self) -> Bytes {
        let Some(reply) = StatusReply::parse_start(&self.start) else { return Bytes::from_static(b" BAD\r\n") };
        let status = match reply.status {
            // Which messages were not changed is too much to be told (RFC 7162 section 3.1.3).
            Status::Ok if reply.has_code("MODIFIED") => "NO",
            Status::Ok => "OK",
            Status::No => "NO",
            _ => "BAD",
        };
        let code = StatusReply::parse(&self.start).and_then(|reply| reply.code).unwrap_or_default();
        let code = if code.is_empty() { Vec::new() } else { [b"[", code, b"] "].concat() };
        [b" ", status.as_bytes(), b" ", &code, b"The reply is too long to be shown.\r\n"].concat().into()
    }
}

impl Machine {
    /// Part of the tagged reply that [`Machine::handle_done`] will have nothing of, from the space after the tag on.
    pub fn handle_tagged(&mut self, octets: Bytes) {
        if self.link == Link::Broken {
            return;
        }
        if self.incoming.tagged.is_none() {
            let own_words = match &self.job {
                Some(Job::Member(running)) => {
                    !running.answer.is_nothing()
                        || running.mapped
                        || self.fresh.is_some()
                        || self.is_selecting(running.id)
                }
                _ => true,
            };
            let start = Bytes::copy_from_slice(&octets[..octets.len().min(KEPT)]);
            self.incoming.tagged = Some(Tagged { start, passes: !own_words });
            if let Some(owner) = self.owner().filter(|_| !own_words) {
                let caution = self.caution(owner);
                if !caution.is_empty() {
                    self.tell(owner, Told::Data(caution));
                }
            }
        }
        if let (Some(Tagged { passes: true, .. }), Some(owner)) = (&self.incoming.tagged, self.owner()) {
            self.tell(owner, Told::Tagged(octets));
        }
    }
}
