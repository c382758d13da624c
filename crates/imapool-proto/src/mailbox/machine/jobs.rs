//! What runs upstream, and what runs next.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::departed::Answer;
use super::idle::Idle;
use super::resume::Recovery;
use super::selection::Selection;
use super::{
    Action, BEFORE_CENSUS, BEFORE_IDLE, GiveUp, Link, MAX_OWN, Machine, MemberId, NEWS, Nonsense, QUANTUM, SOON, Stat,
    Told,
};
use crate::imap::command::{Command, Name, Segment, quoted, quoted_8bit};
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::log::Replay;
use crate::mailbox::plan::Shape;

/// The one command upstream.
#[derive(Debug)]
pub(super) enum Job {
    /// Sent ahead, and not wanted any more; after it, this.
    Skip { then: Option<Box<(Job, Box<Request>)>> },
    /// The first SELECT, of this member.
    Open { member: MemberId, run: Box<Request>, selection: Selection },
    /// The SELECT of a hub that has members already.
    Reselect { selection: Selection, parameter: &'static str },
    /// Asks for the UIDs of the messages; `fresh`: to find out how the mailbox is that is to be gone on with.
    Census { by: By, fresh: bool },
    /// Asks what no news tell, for those who join.
    Status { text: BytesMut },
    /// Asks whether there is a mailbox of this name, of which STATUS says nothing.
    Exists { found: bool },
    /// Looks for the first message without \Seen.
    Unseen,
    /// Asks for all news, so that those who join see the mailbox as it is.
    Refresh,
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
            Self::Open { .. } | Self::Refresh | Self::KeepAlive | Self::Idle(_) => true,
            _ => false,
        }
    }

    /// What the SELECT that runs has said so far.
    pub(super) fn selection(&mut self) -> Option<&mut Selection> {
        match self {
            Self::Open { selection, .. } | Self::Reselect { selection, .. } => Some(selection),
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
        matches!(self, Self::Status { .. } | Self::Exists { .. } | Self::Refresh | Self::Skip { .. } | Self::KeepAlive)
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
    pub(super) fn removes(&self) -> bool {
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
            (Link::Up { .. }, None) => self.next(),
            _ => {}
        }
    }

    pub(super) fn is_selecting(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|member| member.selecting.is_some())
    }

    fn interrupt(&mut self) {
        let over = self.poll_timeout().is_some_and(|at| self.now >= at);
        match &self.job {
            Some(Job::Idle(_)) => self.interrupt_idle(over),
            Some(Job::Member(_) | Job::Close { .. }) if over => {
                self.overload_at = self.now + self.settings.patience;
                self.actions.extend(self.kept_waiting_by().map(Action::Overloaded));
            }
            Some(_) if over => self.give_up_waiting(),
            _ => {}
        }
    }

    /// The member for whose command others wait, or wait for news in IDLE.
    pub fn kept_waiting_by(&self) -> Option<MemberId> {
        let id = match &self.job {
            Some(Job::Member(running)) => running.id,
            Some(Job::Close { member, .. }) => *member,
            _ => return None,
        };
        (!self.queue.is_empty() || self.has_idlers()).then_some(id)
    }

    /// When others have waited long enough for a member's command: for their turn, or, in IDLE, for news.
    pub(super) fn overloads_at(&self) -> Instant {
        if self.queue.is_empty() { self.overload_at.max(self.job_since + NEWS) } else { self.overload_at }
    }

    /// By when a server that does not answer is left: what any server answers at once, or what keeps members waiting.
    pub(super) fn gives_up_at(&self, job: &Job) -> Option<Instant> {
        let soon = job.is_soon_answered().then(|| self.job_since + SOON);
        let waiting = || self.waiting_since().into_iter().chain(self.finishing_since()).min();
        let asked = if job.is_question() { waiting() } else { None };
        let asked = asked.map(|since| since.max(self.heard_at) + self.settings.silence);
        // There may be servers that forget what comes before they have answered.
        let ahead = self.ahead.runs.then(|| self.job_since + self.settings.silence);
        soon.into_iter().chain(asked).chain(ahead).min()
    }

    fn give_up_waiting(&mut self) {
        if matches!(self.job, Some(Job::Census { .. })) {
            self.manners.learn(|known| known.census.failed(self.now));
        }
        if std::mem::take(&mut self.ahead.runs) {
            self.manners.learn(|known| known.ahead.refused(self.now));
        }
        self.broken(Nonsense::Unanswered);
    }

    fn next(&mut self) {
        while let (Link::Up { open }, None, true) = (self.link, &self.job, self.actions.is_empty()) {
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
        let knows_all = self.fresh.is_none();
        match self.hold.give_up {
            None => false,
            Some(GiveUp::Retired) => knows_all,
            Some(GiveUp::Aged) => knows_all && (self.hold.served || self.queue.is_empty()),
            Some(GiveUp::Wanted) if !self.wants_connection() => knows_all,
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
            return self.ask_for_uids();
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
        if self.manners.known().census.allows(self.now) {
            self.manners.learn(|known| known.census.refused(self.now));
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
                self.ask_for_uids();
            }
        } else if self.wants_idle() {
            if self.now >= self.quiet_since + BEFORE_IDLE {
                self.begin(Job::Idle(Idle::default()), Request::own(Name::Idle, "IDLE"));
            }
        } else if self.now >= self.quiet_since + self.before_poll() {
            self.begin(Job::KeepAlive, Request::own(Name::Noop, "NOOP"));
        }
    }

    pub(super) fn begin(&mut self, job: Job, run: Box<Request>) {
        // Only once what was sent ahead is answered, unless this was.
        match self.ahead.sent.front() {
            Some(sent) if sent.command != run.command => return self.skip(Some(Box::new((job, run)))),
            sent => self.ahead.runs = sent.is_some(),
        }
        self.ahead.sent.pop_front();
        self.hold.served |= matches!(job, Job::Open { .. } | Job::Refresh | Job::Close { .. } | Job::Member(_));
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
        if self.fresh.is_some() {
            return self.ask_for_uids();
        }
        if self.has_joined() {
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
        " (CONDSTORE)"
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

    pub(super) fn tell(&mut self, id: MemberId, told: Told) {
        if let Some(member) = self.members.get_mut(&id) {
            member.out.push_back(told);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;

    use super::*;
    use crate::imap::command::parse_head;
    use crate::imap::untagged::{Divider, Replies};
    use crate::mailbox::machine::Settings;

    fn command(line: &'static str) -> Box<Request> {
        let name = parse_head(format!("t {line}").as_bytes()).unwrap().name;
        let segments = vec![Segment { text: Bytes::from_static(line.as_bytes()), literal: None }];
        Request::new(Command { tag: Bytes::from_static(b"t"), name, segments }, None)
    }

    /// Everything is answered but a FETCH. Gives what the hub wishes besides.
    fn proceed(machine: &mut Machine, now: Instant) -> Vec<Action> {
        let mut wishes = Vec::new();
        machine.handle_time(now);
        while let Some(action) = machine.poll_action() {
            let Action::Run(run) = action else {
                match action {
                    Action::Connect => machine.handle_connected(Enabled::Nothing),
                    Action::EndIdle => machine.handle_done(&Replies::default(), " OK idled\r\n".into(), true),
                    Action::Ahead(_) => {}
                    action => wishes.push(action),
                }
                continue;
            };
            let untagged = match run.command.name {
                Name::Fetch => continue,
                Name::Idle => {
                    machine.handle_continue();
                    continue;
                }
                Name::Select => "* 1 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 9] n\r\n",
                Name::Status => "* STATUS INBOX (UIDNEXT 9 UIDVALIDITY 7)\r\n",
                Name::Uid | Name::Search => "* SEARCH 8\r\n",
                _ => "",
            };
            machine.handle_data(&Divider::default().divide(&mut BytesMut::from(untagged)));
            machine.handle_done(&Replies::default(), " OK done\r\n".into(), true);
        }
        for id in [1, 2] {
            while machine.has_news(id) && machine.poll_member(id).is_some() {}
        }
        wishes
    }

    /// One reads a message slowly, for as long as it likes; nobody waits for a turn, and another one idles or not.
    #[test]
    fn who_idles_is_not_kept_from_news_for_long() {
        for idles in [true, false] {
            let second = Duration::from_secs(1);
            let settings = Settings {
                idle: true,
                esearch: false,
                unseen: true,
                condstore: false,
                keepalive: 600 * second,
                patience: second / 5,
                silence: 10 * second,
                parked: 5 * second,
            };
            let mut now = Instant::now();
            let mut machine = Machine::new(Bytes::from_static(b"wINBOX"), settings, std::sync::Arc::default(), now);
            for id in [1, 2] {
                machine.handle_join(id, command("SELECT INBOX"), Enabled::Nothing);
                let wishes = proceed(&mut machine, now);
                assert!(wishes.is_empty(), "{wishes:?}");
            }
            if idles {
                machine.handle_command(2, command("IDLE"));
                proceed(&mut machine, now);
            }
            now += second;
            proceed(&mut machine, now);
            machine.handle_command(1, command("FETCH 1 BODY[]"));
            assert!(proceed(&mut machine, now).is_empty());
            assert_eq!(machine.owner(), Some(1));
            now += NEWS - second;
            assert!(proceed(&mut machine, now).is_empty());
            assert_eq!(machine.poll_timeout(), Some(now + second));
            now += second;
            let wishes = proceed(&mut machine, now);
            assert_eq!(matches!(wishes[..], [Action::Overloaded(1)]), idles, "{wishes:?}");
            assert!(idles || wishes.is_empty(), "{wishes:?}");
            assert_eq!(machine.poll_timeout(), Some(now + settings.patience));
        }
    }
}
