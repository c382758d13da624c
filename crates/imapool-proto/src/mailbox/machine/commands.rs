//! A member's command: what has to be known before it, what becomes of its message numbers, and where it runs.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::jobs::{Job, Running};
use super::{Action, BEFORE_CENSUS, Link, Machine, MemberId, Stat, Told};
use crate::imap::command::{Command, Name};
use crate::imap::effects::{fetch_effects, loud};
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::imap::rewrite::{Outcome, is_uid, rewrite};
use crate::imap::sequence::SequenceSet;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::log::Replay;
use crate::mailbox::plan::{Plan, Shape, keeps_numbers, may_name_messages, plan};

impl Machine {
    /// A member's turn has come.
    pub(super) fn serve(&mut self, id: MemberId) {
        if self.is_joining(id) {
            if self.has_joined() {
                return self.admit(id);
            }
            // The others have left meanwhile.
            self.queue.push_front(id);
            self.link = Link::Up { open: false };
            return;
        }
        if !self.is_caught_up(id) {
            return;
        }
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(run) = member.waiting.take() else { return };
        let plan = member.plan.take().unwrap_or_else(|| plan(&run, self.settings.condstore));
        let waited = member.since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
        self.stats.push(Stat::Waited { waited, connected: member.connected });
        if self.on == Enabled::Qresync && self.enabled(id) < Enabled::Qresync && run.modseqs().vanished {
            return self.done(id, " BAD QRESYNC is not enabled.\r\n", true);
        }
        match plan {
            Plan::Close if self.members.len() == 1 => self.begin(Job::Close { member: id, alone: true }, run),
            Plan::Close => self.begin(Job::Close { member: id, alone: false }, Request::own(Name::Expunge, "EXPUNGE")),
            Plan::Run(shape) => {
                // Nothing is gone from a mailbox before it is selected.
                let keeps_numbers = shape.keeps_numbers || self.is_selecting(id);
                self.run(id, run, Shape { keeps_numbers, ..shape });
            }
            _ => self.pin(id, run),
        }
    }

    /// Runs a member's command, with its message numbers made the backend's.
    fn run(&mut self, id: MemberId, run: Box<Request>, shape: Shape) {
        let modseqs = run.modseqs();
        if modseqs.asked {
            self.switches_on(id);
        }
        let replay = if shape.keeps_numbers { Replay::KeepNumbers } else { Replay::All };
        // Numbers mean what they did when the command was given; of new messages the client may hear first.
        if shape.keeps_numbers {
            self.replay(id, replay);
        }
        let numbering = self.view.log.numbering(id);
        let outcome = if shape.by_number && !numbering.is_identity() {
            rewrite(&run.command, &numbering)
        } else {
            Outcome::Unchanged
        };
        if !shape.keeps_numbers {
            self.replay(id, replay);
        }
        if self.has_to_leave(id) {
            return;
        }
        // Who counts them still may name them: nothing comes of it, and nothing is wrong (RFC 9051 section 7.5.1).
        let serves_rest = matches!(run.command.name, Name::Fetch | Name::Store);
        let answer = self.answer(id, &run.command);
        let command = match outcome {
            Outcome::Unchanged => run.command.clone(),
            Outcome::Rewritten { command, missing } if !missing || serves_rest => command,
            Outcome::AllGone if serves_rest => {
                self.tell_answer(id, answer);
                return self.done(id, " OK Completed.\r\n", true);
            }
            // All or nothing (RFC 9051 section 6.4.7).
            Outcome::Rewritten { .. } | Outcome::AllGone | Outcome::Unmappable => return self.done(id, GONE, true),
            Outcome::Malformed => return self.done(id, " BAD Malformed message numbers.\r\n", true),
        };
        // Told of what is gone by now, the client's numbers are the backend's; a second attempt goes on from there.
        let again = if shape.keeps_numbers { run } else { run.in_words(command.clone()) };
        // Which of them a conditional one has changed is not known: so all that is said is passed on.
        let silent = shape.store.as_ref().filter(|store| store.silent);
        let command = silent.and_then(|_| loud(&command)).or_else(|| answer.asks(&command)).unwrap_or(command);
        let command = self.without_recent(id, command);
        let silent = silent.filter(|store| !store.conditional).map(|_| self.named(&command, shape.uid));
        let mapped = shape.keeps_numbers && self.view.log.withholds(id);
        if modseqs.mentioned {
            self.on = self.on.max(Enabled::Condstore);
        }
        let run = again.in_words(command);
        let job = Running { id, run: again, shape, replay, mapped, answer, silent, answered: false };
        self.begin(Job::Member(Box::new(job)), run);
    }

    /// The UIDs have to be known before this member's command: after a loss the hub could not go on, once somebody
    /// knows more of a message than that it is there. As long as nothing is news since SELECT, UIDNEXT will do, if
    /// all is soon over.
    pub(super) fn needs_census(&self, id: MemberId) -> bool {
        let run = self.members.get(&id).and_then(|member| member.waiting.as_ref());
        let Some(run) = run.filter(|run| self.wants_census() && !self.tells_uids(run)) else { return false };
        let changed = self.view.selection.as_ref().is_some_and(|selection| selection.changed);
        let soon_over = !changed && self.now < self.hold.since + BEFORE_CENSUS;
        // VANISHED speaks of UIDs. For those who hear EXPUNGE, numbers are found when something has vanished.
        self.needed() == Enabled::Qresync || !soon_over && (self.view.touched || self.touches(&run.command))
    }

    /// Whether the reply tells all UIDs that are not known here, one by one.
    fn tells_uids(&self, request: &Request) -> bool {
        let command = &request.command;
        let (star, known) = self.view.known(is_uid(command));
        let next = known.saturating_add(1);
        let all = |span: RangeInclusive<u32>| span.contains(&next) && *span.end() >= star;
        // CHANGEDSINCE (RFC 7162 section 3.1.4.1) leaves some out.
        fetch_effects(command).uid && !request.modseqs().mentioned && named(command, star).spans().any(all)
    }

    /// Whether the reply may tell of messages whose UIDs are not known here.
    fn touches(&self, command: &Command) -> bool {
        let uid = is_uid(command);
        let (star, known) = self.view.known(uid);
        match command.name {
            Name::Search | Name::Sort | Name::Thread => !uid,
            Name::Fetch | Name::Store => named(command, star).last().is_some_and(|last| last > known),
            _ => false,
        }
    }

    /// The messages, by the backend's numbers or UIDs, that a command names; the last UID is `u32::MAX` while it is not
    /// known.
    fn named(&self, command: &Command, uid: bool) -> Ranges {
        let last = self.view.uids.last().filter(|_| self.view.knows_all());
        named(command, if uid { last.unwrap_or(u32::MAX) } else { self.view.exists() })
    }

    /// A member needs a connection of its own.
    fn pin(&mut self, id: MemberId, run: Box<Request>) {
        self.apart = self.members.len() == 1 && self.on > self.enabled(id);
        if self.apart && self.is_resumable() {
            // What is on for others would be told it.
            self.goes_first(id, run);
            return self.disconnect(self.now);
        }
        if self.members.len() == 1 && !self.apart {
            // Nobody is told of an EXPUNGE within the reply to these (RFC 9051 section 7.5.1): commands behind them may
            // name messages by the numbers of before.
            let quiet = keeps_numbers(&run.command);
            let moved = (quiet || may_name_messages(&run.command)) && !self.view.log.numbering(id).is_identity();
            self.replay(id, if quiet { Replay::KeepNumbers } else { Replay::All });
            if self.has_to_leave(id) {
                return;
            }
            if moved {
                // Which of its numbers mean messages is not known.
                return self.done(id, GONE, true);
            }
            self.tell(id, Told::Yours(run));
            self.hold.give_up = None;
            self.link = Link::Down { retry_at: self.now };
            return self.actions.push_back(Action::HandOver(id));
        }
        let splits = self.is_resumable() && self.members.len() > 1;
        if !splits && !self.wants_census() {
            return self.done(id, " NO [UNAVAILABLE] No connection can be had for this command.\r\n", true);
        }
        self.goes_first(id, run);
        match splits {
            true => self.actions.push_back(Action::Split(id)),
            false => self.ask_for_uids(),
        }
    }
}

pub(super) fn named(command: &Command, star: u32) -> Ranges {
    let set = command.arguments().word().and_then(|set| SequenceSet::parse(set).ok());
    set.map_or_else(Ranges::new, |set| set.resolve(star))
}

const GONE: &str = " NO [EXPUNGEISSUED] Some of the requested messages no longer exist.\r\n";
