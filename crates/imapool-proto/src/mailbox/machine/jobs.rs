//! What runs upstream, and what runs next.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::departed::Answer;
use super::idle::Idle;
use super::resume::{Fresh, Recovery};
use super::selection::Selection;
use super::{
    Action, BEFORE_CENSUS, BEFORE_IDLE, GiveUp, Link, MAX_OWN, MAX_PAUSE, Machine, MemberId, Nonsense, QUANTUM, SOON,
    Stat, Told,
};
use crate::imap::command::{Command, Name, Segment, quoted, quoted_8bit};
use crate::imap::effects::{fetch_effects, loud};
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::imap::rewrite::{Outcome, is_uid, rewrite};
use crate::imap::sequence::SequenceSet;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::log::Replay;
use crate::mailbox::plan::{Plan, Shape, keeps_numbers, may_name_messages, plan};
use crate::upstream::loss::{Loss, MAX_ATTEMPTS};

/// The one command upstream.
#[derive(Debug)]
pub(super) enum Job {
    /// Sent ahead, and not wanted any more; after it, this.
    Skip { then: Option<Box<(Job, Box<Request>)>> },
    /// The first SELECT, of this member.
    Open { member: MemberId, run: Box<Request>, selection: Selection },
    /// The SELECT of a hub that has members already.
    Reselect { selection: Selection, parameter: &'static str },
    /// Asks for the UIDs of the messages; `fresh`: to find out what happened while there was no connection.
    Census { by: By, fresh: Option<Fresh> },
    /// Asks what no news tell, for those who join.
    Status { joining: Joining, text: BytesMut },
    /// Asks whether there is a mailbox of this name, of which STATUS says nothing.
    Exists { joining: Joining, found: bool },
    /// Looks for the first message without \Seen.
    Unseen { joining: Joining, first: Option<u32> },
    /// Asks for all news, so that those who join see the mailbox as it is.
    Refresh(Joining),
    /// Asks for flags that may have changed while there was no connection.
    Recheck,
    /// NOOP, to be kept.
    KeepAlive,
    /// For all members in IDLE.
    Idle(Idle),
    /// The EXPUNGE of a member that closes the mailbox; of one that is alone there, its CLOSE.
    Close { member: MemberId, alone: bool },
    /// A member's command.
    Member(Box<Running>),
}

impl Job {
    /// Once it is done, the backend withholds nothing.
    pub(super) fn tells_all(&self) -> bool {
        match self {
            Self::Member(running) => !running.shape.keeps_numbers,
            Self::Open { .. } | Self::Refresh(_) | Self::KeepAlive | Self::Idle(_) => true,
            _ => false,
        }
    }

    /// Those who join by it.
    pub(super) fn joining(&mut self) -> Option<&mut Joining> {
        match self {
            Self::Status { joining, .. }
            | Self::Exists { joining, .. }
            | Self::Unseen { joining, .. }
            | Self::Refresh(joining) => Some(joining),
            Self::Skip { then: Some(then) } => then.0.joining(),
            _ => None,
        }
    }

    /// See [`Job::joining`].
    pub(super) fn joins(&self) -> Option<&Joining> {
        match self {
            Self::Status { joining, .. }
            | Self::Exists { joining, .. }
            | Self::Unseen { joining, .. }
            | Self::Refresh(joining) => Some(joining),
            Self::Skip { then: Some(then) } => then.0.joins(),
            _ => None,
        }
    }

    /// It is imapool's own, and tells something of messages that are there.
    pub(super) fn is_question(&self) -> bool {
        !matches!(
            self,
            Self::Open { .. } | Self::Reselect { .. } | Self::Member(_) | Self::Close { .. } | Self::Idle(_)
        )
    }

    /// The backend has nothing to look for.
    pub(super) fn is_soon_answered(&self) -> bool {
        matches!(
            self,
            Self::Status { .. } | Self::Exists { .. } | Self::Refresh(_) | Self::Skip { .. } | Self::KeepAlive
        )
    }
}

/// How UIDs are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// UID SEARCH, with RETURN or without.
    Search { returns: bool },
    /// `FETCH n:* (UID)`
    Fetch,
    /// NOOP: the backend has yet to tell what is gone.
    Noop,
}

/// Those who join, and what is to be said in reply to their SELECT.
#[derive(Debug, Default)]
pub(super) struct Joining {
    pub(super) ids: Vec<MemberId>,
    pub(super) uid_next: Option<u32>,
    /// Messages whose UIDs were not known before that was asked for.
    pub(super) unknown: u32,
    /// How often the UIDs of those that have come since were asked for.
    pub(super) counts: u8,
    /// The UID of the first message without \Seen.
    pub(super) unseen: Option<u32>,
    /// HIGHESTMODSEQ (RFC 7162 section 3.1.2.1).
    pub(super) modseq: Option<u64>,
}

impl Joining {
    /// What runs is NOOP, which tells first what has vanished. FETCH may not: the mod-sequences that it tells are
    /// higher, perhaps, than that of a VANISHED that is still to come (Cyrus).
    pub(super) fn asks_for_news(&self) -> bool {
        self.counts == 0
    }
}

/// A member's command that is over, but for its tagged reply: what has vanished meanwhile comes first, once it is known
/// which messages that are.
#[derive(Debug)]
pub(super) struct Finishing {
    pub(super) running: Box<Running>,
    pub(super) rest: Bytes,
    pub(super) ok: bool,
}

impl Finishing {
    /// What it has removed is part of its reply.
    fn removes(&self) -> bool {
        matches!(self.running.run.command.name, Name::Expunge | Name::Move | Name::Replace)
    }
}

/// A member's command that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) id: MemberId,
    /// To run it anew.
    pub(super) run: Box<Request>,
    pub(super) shape: Shape,
    /// How the member is told of news meanwhile.
    pub(super) replay: Replay,
    /// Its numbers are not the backend's.
    pub(super) mapped: bool,
    /// What it is answered here, once the backend says OK.
    pub(super) answer: Answer,
    /// The messages that a silent STORE names.
    pub(super) silent: Option<Ranges>,
    /// Something of the reply has gone to the member.
    pub(super) answered: bool,
}

impl Machine {
    /// The member whose replies the backend's words are.
    #[must_use]
    pub fn owner(&self) -> Option<MemberId> {
        match self.job.as_ref()? {
            Job::Open { member, .. } => Some(*member),
            Job::Member(command) => Some(command.id),
            _ => None,
        }
    }

    /// Finds out what is to be done now.
    pub(super) fn proceed(&mut self) {
        match (self.link, &self.job) {
            (Link::Down { retry_at }, _) if self.wants_connection() && self.now >= retry_at => {
                self.link = Link::Connecting;
                self.actions.push_back(Action::Connect);
            }
            (Link::Up { .. }, Some(_)) => self.interrupt(),
            (Link::Up { open }, None) => self.next(open),
            _ => {}
        }
    }

    pub(super) fn is_selecting(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|member| member.selecting.is_some())
    }

    fn interrupt(&mut self) {
        match &mut self.job {
            Some(Job::Idle(_)) => self.interrupt_idle(),
            Some(Job::Member(_) | Job::Close { .. }) => self.say_who_keeps_others_waiting(),
            None => {}
            Some(_) => self.give_up_waiting(),
        }
    }

    fn say_who_keeps_others_waiting(&mut self) {
        let id = match &self.job {
            Some(Job::Member(running)) => running.id,
            Some(Job::Close { member, .. }) => *member,
            _ => return,
        };
        if !self.queue.is_empty() && self.now >= self.overload_at {
            self.overload_at = self.now + self.settings.patience;
            self.actions.push_back(Action::Overloaded(id));
        }
    }

    /// By when a server that does not answer is left: what any server answers at once, or what keeps members waiting.
    pub(super) fn gives_up_at(&self, job: &Job) -> Option<Instant> {
        let soon = job.is_soon_answered().then(|| self.job_since + SOON);
        let waiting = || self.waiting_since().into_iter().chain(self.finishing_since()).min();
        let asked = if job.is_question() { waiting() } else { None };
        let asked = asked.map(|since| since.max(self.heard_at) + self.settings.silence);
        let ahead = self.was_sent_ahead().then(|| self.job_since + self.settings.silence);
        soon.into_iter().chain(asked).chain(ahead).min()
    }

    fn give_up_waiting(&mut self) {
        if self.job.as_ref().and_then(|job| self.gives_up_at(job)).is_some_and(|at| self.now >= at) {
            if matches!(self.job, Some(Job::Census { .. })) {
                let now = self.now;
                self.manners.learn(|known| known.census.failed(now));
            }
            self.note_unanswered();
            self.broken(Nonsense::Unanswered);
        }
    }

    fn next(&mut self, open: bool) {
        while self.job.is_none() && self.link == (Link::Up { open }) && self.actions.is_empty() {
            if self.skip_what_is_void() {
                return;
            }
            if self.in_vain.asked >= MAX_OWN {
                self.asks_in_vain();
                continue;
            }
            if open && self.finishing.is_some() && !self.recovery.lacks_flags() {
                self.finish();
            }
            if self.is_given_up(open) {
                return self.give_up(open);
            }
            if self.lacks(open) {
                self.raise(open);
                continue;
            }
            if !open {
                self.in_vain.counts = 0;
                return self.open();
            }
            if matches!(self.recovery, Recovery::Modseqs | Recovery::Flags(_)) && self.ask_for_flags() {
                return;
            }
            if self.finishing.is_some() {
                continue;
            }
            let Some(id) = self.queue.pop_front() else { return self.leisure() };
            if self.needs_census(id) {
                self.queue.push_front(id);
                return self.ask_for_new_uids();
            }
            self.serve(id);
        }
    }

    /// The connection is to be given up, and may be now.
    fn is_given_up(&self, open: bool) -> bool {
        let looks_for_strays = self.recovery.looks_for_strays();
        match self.hold.give_up {
            None => false,
            Some(GiveUp::Retired) => !looks_for_strays,
            Some(GiveUp::Aged) => !looks_for_strays && (self.hold.served || self.queue.is_empty()),
            Some(GiveUp::Wanted) if !self.wants_connection() => !looks_for_strays,
            // The members have been told what there is, and, if they ask for something, one was served at least,
            // however long it took to select the mailbox anew.
            Some(GiveUp::Wanted) => {
                let up_to_date = open && !self.recovery.lacks_flags();
                let served = || self.hold.served && self.now >= self.hold.since + QUANTUM;
                up_to_date && (self.queue.is_empty() || served())
            }
        }
    }

    /// Gives the connection up, if it can be told afterwards what has changed meanwhile.
    fn give_up(&mut self, open: bool) {
        if open && self.wants_census() {
            return self.ask_for_uids(None);
        }
        let mut retry_at = self.now;
        if self.hold.give_up == Some(GiveUp::Wanted) {
            self.stats.push(Stat::Parked);
            if self.queue.is_empty() {
                retry_at += self.settings.parked;
            }
        }
        self.disconnect(retry_at);
    }

    /// Gives the connection back and asks for one at that time, or as soon as a member wants something.
    pub(super) fn disconnect(&mut self, retry_at: Instant) {
        self.hold.give_up = None;
        self.link = Link::Down { retry_at };
        self.actions.push_back(Action::Disconnect);
    }

    /// Members wait while imapool asks questions of its own, and no answer ends that: first without the UIDs, then
    /// without this connection.
    fn asks_in_vain(&mut self) {
        self.in_vain.asked = 0;
        let (now, counts) = (self.now, self.manners.known().census.allows(self.now));
        if counts {
            self.manners.learn(|known| known.census.refused(now));
        } else {
            self.broken(Nonsense::Endless);
        }
    }

    /// With nothing else to do.
    fn leisure(&mut self) {
        self.anew = false;
        if !self.wants_census() {
            self.in_vain.asked = 0;
        }
        if self.wants_census() {
            if self.now >= self.quiet_since + BEFORE_CENSUS {
                self.ask_for_uids(None);
            }
        } else if self.wants_idle() {
            if self.now >= self.quiet_since + BEFORE_IDLE {
                self.begin_idle();
            }
        } else if self.now >= self.quiet_since + self.before_poll() {
            self.begin(Job::KeepAlive, Request::own(Name::Noop, "NOOP"));
        }
    }

    pub(super) fn begin(&mut self, job: Job, run: Box<Request>) {
        let Some(job) = self.is_next(job, &run) else { return };
        self.hold.served |= matches!(job, Job::Open { .. } | Job::Refresh(_) | Job::Close { .. } | Job::Member(_));
        match job {
            Job::Open { .. } | Job::Close { .. } | Job::Member(_) => self.in_vain.asked = 0,
            // Goes on with the messages that follow.
            Job::Recheck if matches!(self.recovery, Recovery::Flags(from) if from > 1) => {}
            _ => self.in_vain.asked += 1,
        }
        self.job = Some(job);
        self.incoming.astray = false;
        self.job_since = self.now;
        self.heard_at = self.now;
        self.overload_at = self.now + self.settings.patience;
        self.taken_at = self.now;
        self.actions.push_back(Action::Run(run));
    }

    /// Selects the mailbox on a connection.
    pub(super) fn open(&mut self) {
        if self.recovery.looks_for_strays()
            && let Recovery::Strays(fresh) = std::mem::take(&mut self.recovery)
        {
            return self.ask_for_uids(Some(*fresh));
        }
        if self.members.values().any(|member| member.cursor.is_some()) {
            let name = if self.is_read_only() { Name::Examine } else { Name::Select };
            let parameter = self.parameter(self.needed());
            let run = self.with_mailbox(name, parameter);
            return self.begin(Job::Reselect { selection: Selection::default(), parameter }, run);
        }
        // Nobody knows anything of the mailbox.
        let Some(id) = self.queue.pop_front() else { return };
        let Some(run) = self.members.get_mut(&id).and_then(|member| member.waiting.take()) else { return };
        // What else it wants to know is asked for apart from that, as for those who join.
        let sent = match self.enabled(id) {
            Enabled::Nothing => run.clone(),
            enabled => {
                let parameter = self.parameter(enabled);
                self.with_mailbox(run.command.name, parameter)
            }
        };
        self.begin(Job::Open { member: id, run, selection: Selection::default() }, sent);
    }

    /// What SELECT says, so that so much is on: of QRESYNC, that was enabled before.
    fn parameter(&mut self, enabled: Enabled) -> &'static str {
        if enabled != Enabled::Condstore || self.on == Enabled::Qresync || !self.may_ask_for_condstore() {
            return "";
        }
        self.on = Enabled::Condstore;
        enabled.parameter()
    }

    /// A command of our own about the mailbox.
    pub(super) fn with_mailbox(&self, name: Name, tail: &'static str) -> Box<Request> {
        let mailbox = self.key.slice(1..);
        let verb = if name == Name::List { "LIST \"\" ".into() } else { format!("{} ", name.as_str()) };
        let in_line = || quoted_8bit(&mailbox).filter(|_| self.in_line);
        let segments = match quoted(&mailbox).or_else(in_line) {
            Some(quoted) => {
                let text = [verb.as_bytes(), &quoted, tail.as_bytes()].concat().into();
                vec![Segment { text, literal: None }]
            }
            None => vec![
                Segment { text: verb.into(), literal: Some((mailbox, false)) },
                Segment { text: Bytes::from_static(tail.as_bytes()), literal: None },
            ],
        };
        Request::new(Command { tag: Bytes::new(), name, segments }, None)
    }

    /// A member's turn has come.
    fn serve(&mut self, id: MemberId) {
        if !self.is_caught_up(id) {
            return;
        }
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(run) = member.waiting.take() else { return };
        let plan = member.plan.take().unwrap_or_else(|| plan(&run, self.settings.condstore));
        if member.cursor.is_some() {
            let waited = self.now.saturating_duration_since(member.since);
            self.stats.push(Stat::Waited { waited, connected: member.connected });
        } else {
            member.waiting = Some(run);
            if self.members.values().any(|member| member.cursor.is_some()) {
                return self.admit(id);
            }
            // The others have left meanwhile.
            self.queue.push_front(id);
            self.link = Link::Up { open: false };
            return self.open();
        }
        if self.on == Enabled::Qresync && self.enabled(id) < Enabled::Qresync && run.modseqs().vanished {
            return self.done(id, b" BAD QRESYNC is not enabled.\r\n");
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

    /// All who wait to join do so together.
    fn admit(&mut self, first: MemberId) {
        if self.wants_census() {
            self.queue.push_front(first);
            return self.ask_for_uids(None);
        }
        let joins = |id: &MemberId| self.is_joining(*id) && self.is_asked_for(*id);
        let (mut ids, others): (Vec<_>, Vec<_>) = self.queue.iter().copied().partition(joins);
        self.queue = others.into();
        ids.insert(0, first);
        let joining =
            Joining { ids, unknown: self.view.exists().saturating_sub(self.view.uids.len()), ..Joining::default() };
        if !self.manners.known().status.allows(self.now) {
            return self.admit_without_status(joining);
        }
        let run = self.ask_status();
        self.begin(Job::Status { joining, text: BytesMut::new() }, run);
        self.ask_ahead_of_status();
    }

    pub(super) fn ask_status(&self) -> Box<Request> {
        let items = if self.has_modseqs() { " (UIDNEXT UIDVALIDITY HIGHESTMODSEQ)" } else { " (UIDNEXT UIDVALIDITY)" };
        self.with_mailbox(Name::Status, items)
    }

    /// Runs a member's command, with its message numbers made the backend's.
    fn run(&mut self, id: MemberId, run: Box<Request>, shape: Shape) {
        let Some(cursor) = self.members.get(&id).and_then(|member| member.cursor) else { return };
        let modseqs = run.modseqs();
        if modseqs.asked {
            self.switches_on(id);
        }
        let replay = if shape.keeps_numbers { Replay::KeepNumbers } else { Replay::All };
        // Numbers mean what they did when the command was given; of new messages the client may hear first.
        if shape.keeps_numbers {
            self.replay(id, replay);
        }
        let numbering = self.view.log.numbering(cursor);
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
                return self.done(id, ALL_GONE);
            }
            // All or nothing (RFC 9051 section 6.4.7).
            Outcome::Rewritten { .. } | Outcome::AllGone | Outcome::Unmappable(_) => return self.done(id, GONE),
            Outcome::Malformed => return self.done(id, b" BAD Malformed message numbers.\r\n"),
        };
        // Told of what is gone by now, the client's numbers are the backend's; a second attempt goes on from there.
        let again = if shape.keeps_numbers { run } else { run.in_words(command.clone()) };
        // Which of them a conditional one has changed is not known: so all that is said is passed on.
        let silent = shape.store.as_ref().filter(|store| store.silent);
        let command = silent.and_then(|_| loud(&command)).or_else(|| answer.asks(&command)).unwrap_or(command);
        let command = self.without_recent(id, command);
        let silent = silent.filter(|store| !store.conditional).map(|_| self.named(&command, shape.uid));
        let mapped = shape.keeps_numbers && self.view.log.withholds(cursor);
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
    fn needs_census(&self, id: MemberId) -> bool {
        if !self.wants_census() {
            return false;
        }
        let changed = self.view.selection.as_ref().is_some_and(|selection| selection.changed);
        let soon_over = !changed && self.now < self.hold.since + BEFORE_CENSUS;
        let run = self.members.get(&id).and_then(|member| member.waiting.as_ref());
        if self.needed() == Enabled::Qresync {
            // VANISHED speaks of UIDs. For those who hear EXPUNGE, numbers are found when something has vanished.
            return run.is_some_and(|run| !self.tells_uids(run));
        }
        !soon_over && run.is_some_and(|run| !self.tells_uids(run) && (self.view.touched || self.touches(&run.command)))
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
        let last = self.view.uids.last().filter(|_| self.view.uids.len() == self.view.exists());
        named(command, if uid { last.unwrap_or(u32::MAX) } else { self.view.exists() })
    }

    /// A member needs a connection of its own.
    fn pin(&mut self, id: MemberId, run: Box<Request>) {
        let Some(cursor) = self.members.get(&id).and_then(|member| member.cursor) else { return };
        self.apart = self.members.len() == 1 && self.on > self.enabled(id);
        if self.apart && self.is_resumable() {
            // What is on for others would be told it.
            if let Some(member) = self.members.get_mut(&id) {
                member.waiting = Some(run);
                self.queue.push_front(id);
            }
            return self.disconnect(self.now);
        }
        if self.members.len() == 1 && !self.apart {
            // Nobody is told of an EXPUNGE within the reply to these (RFC 9051 section 7.5.1): commands behind them may
            // name messages by the numbers of before.
            let quiet = keeps_numbers(&run.command);
            let moved = (quiet || may_name_messages(&run.command)) && !self.view.log.numbering(cursor).is_identity();
            self.replay(id, if quiet { Replay::KeepNumbers } else { Replay::All });
            if self.has_to_leave(id) {
                return;
            }
            if moved {
                // Which of its numbers mean messages is not known.
                return self.done(id, GONE);
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.out.push_back(Told::Yours(run));
            }
            self.hold.give_up = None;
            self.link = Link::Down { retry_at: self.now };
            return self.actions.push_back(Action::HandOver(id));
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.waiting = Some(run);
            self.queue.push_front(id);
        }
        if self.is_resumable() && self.members.len() > 1 {
            self.actions.push_back(Action::Split(id));
        } else if self.wants_census() {
            self.ask_for_uids(None);
        } else {
            self.queue.pop_front();
            self.done(id, b" NO [UNAVAILABLE] No connection can be had for this command.\r\n");
        }
    }

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

    pub(super) fn tell(&mut self, id: MemberId, told: Told) {
        if let Some(member) = self.members.get_mut(&id) {
            member.out.push_back(told);
        }
    }
}

pub(super) fn named(command: &Command, star: u32) -> Ranges {
    let set = command.arguments().word().and_then(|set| SequenceSet::parse(set).ok());
    set.map_or_else(Ranges::new, |set| set.resolve(star))
}

pub(super) const GONE: &[u8] = b" NO [EXPUNGEISSUED] Some of the requested messages no longer exist.\r\n";
const ALL_GONE: &[u8] = b" OK Completed.\r\n";

/// As the rest of a tagged reply.
fn tagged(reply: &str) -> Bytes {
    format!(" {reply}\r\n").into()
}
