//! What becomes of who works on a connection that is lost.

use std::time::Duration;

use bytes::Bytes;

use super::jobs::Job;
use super::resume::Recovery;
use super::{Link, MAX_PAUSE, Machine, MemberId, Told};
use crate::imap::command::Name;
use crate::imap::request::Request;
use crate::upstream::loss::{Loss, MAX_ATTEMPTS};

impl Machine {
    /// The connection is lost.
    pub fn handle_lost(&mut self, loss: &Loss) {
        let passing = self.incoming.reading.take().is_some_and(|reading| reading.is_passing())
            || self.incoming.tagged.take().is_some_and(|tagged| tagged.passes);
        self.pass_on();
        self.link = Link::Down { retry_at: self.now };
        self.hold.give_up = None;
        if let Some(fresh) = self.fresh.take() {
            self.view.gone.insert_all(&fresh.gone);
        }
        self.recovery = Recovery::UpToDate;
        self.lose_ahead();
        self.view.delayed |= std::mem::take(&mut self.view.delays);
        self.actions.clear();
        match &self.finishing {
            // The next connection tells what it has removed.
            Some(finishing) if finishing.removes() => {
                let member = self.members.get_mut(&finishing.running.id);
                member.into_iter().for_each(|member| member.since = Some(self.now));
            }
            _ => self.finish(),
        }
        let cut = loss.cut && passing;
        match self.job.take() {
            Some(Job::Open { member, run, .. }) => self.lost_command(member, run, loss, cut),
            Some(Job::Idle(idle)) => self.idle_over(&idle, true),
            Some(Job::Member(command)) if !self.has_to_leave(command.id) => {
                // What was not told is not known to the client.
                let loss = Loss { unanswered: !command.answered, ..loss.clone() };
                self.lost_command(command.id, command.run, &loss, cut);
            }
            // After NO, it has the mailbox selected still.
            Some(Job::Close { member, .. }) if !self.has_to_leave(member) => {
                self.done(member, tagged(loss.reply(Name::Close)), true);
            }
            _ => self.join_later(),
        }
        for member in self.members.values_mut() {
            member.connected = false;
        }
        self.in_vain.losses += 1;
        if self.in_vain.losses >= u32::from(MAX_ATTEMPTS) {
            // Not again and again without a pause: each costs a port.
            let pause = Duration::from_millis(25).saturating_mul(1 << self.in_vain.losses.min(8));
            self.handle_unconnected(pause.min(MAX_PAUSE));
        }
    }

    /// A member's command was running: it is the next to run on another connection, if it may be.
    fn lost_command(&mut self, id: MemberId, run: Box<Request>, loss: &Loss, cut: bool) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if cut {
            member.out.push_back(Told::Cut);
        } else if loss.allows_another(run.command.name) && member.attempts + 1 < MAX_ATTEMPTS {
            member.attempts += 1;
            // It has waited for nothing yet.
            member.since = Some(self.now);
            self.goes_first(id, run);
        } else {
            // After NO, whoever has the mailbox selected has it still.
            self.done(id, tagged(loss.reply(run.command.name)), self.view.log.has(id));
        }
    }
}

/// As the rest of a tagged reply.
fn tagged(reply: &str) -> Bytes {
    format!(" {reply}\r\n").into()
}
