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
        if let Some(gone) = self.fresh().map(|fresh| std::mem::take(&mut fresh.gone)) {
            self.view.gone.insert_all(&gone);
        }
        self.recovery = Recovery::UpToDate;
        self.lose_ahead();
        self.view.delayed |= std::mem::take(&mut self.view.delays);
        self.actions.clear();
        match &self.finishing {
            // The next connection tells what it has removed.
            Some(finishing) if finishing.removes() => {
                let member = self.members.get_mut(&finishing.running.id);
                member.into_iter().for_each(|member| member.since = self.now);
            }
            _ => self.finish(),
        }
        match self.job.take() {
            Some(Job::Open { member, run, .. }) => {
                let reply = loss.reply(run.command.name);
                if loss.cut && passing {
                    self.tell(member, Told::Cut);
                } else if let Err(_run) = self.run_again(loss, member, run) {
                    self.done_with(member, tagged(reply), false);
                }
            }
            Some(Job::Idle(idle)) => self.idle_lost(&idle),
            Some(Job::Member(command)) if !self.has_to_leave(command.id) => {
                let (id, reply) = (command.id, loss.reply(command.run.command.name));
                // What was not told is not known to the client.
                let loss = Loss { unanswered: !command.answered, ..loss.clone() };
                if loss.cut && passing {
                    self.tell(id, Told::Cut);
                } else if let Err(_run) = self.run_again(&loss, id, command.run) {
                    self.done_with(id, tagged(reply), true);
                }
            }
            // After NO, it has the mailbox selected still.
            Some(Job::Close { member, .. }) if !self.has_to_leave(member) => {
                self.done_with(member, tagged(loss.reply(Name::Close)), true);
            }
            Some(mut job) => {
                let joining = job.joining().map(std::mem::take);
                joining.into_iter().for_each(|joining| self.join_later(joining));
            }
            None => {}
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

    /// A member's command is the next to run on another connection; if it may not be, it is given back.
    fn run_again(&mut self, loss: &Loss, id: MemberId, run: Box<Request>) -> Result<(), Box<Request>> {
        let Some(member) = self.members.get_mut(&id) else { return Err(run) };
        if !loss.allows_another(run.command.name) || member.attempts + 1 >= MAX_ATTEMPTS {
            return Err(run);
        }
        member.attempts += 1;
        // It has waited for nothing yet: its command ran.
        member.since = self.now;
        member.waiting = Some(run);
        self.queue.push_front(id);
        Ok(())
    }
}

/// As the rest of a tagged reply.
fn tagged(reply: &str) -> Bytes {
    format!(" {reply}\r\n").into()
}
