//! A hub: all sessions that have one mailbox selected, and the one upstream connection that they share. No sockets, no
//! tasks, no clock.
//!
//! One command runs upstream at a time. What the backend says belongs to that command, or is news: then it goes into
//! the [`Log`](super::log::Log), from which each member is told when it may be. A member is at the head of the log for
//! nearly every command; only a command during which it may not hear of an EXPUNGE that it has not heard of has its
//! message numbers mapped.
//!
//! The connection can be taken away at any time ([`Machine::handle_lost`], [`Action::Disconnect`]). On the next the
//! mailbox is selected anew, and what differs from what the members know becomes news for them (`resume.rs`).

mod ahead;
mod changes;
mod commands;
mod departed;
mod done;
mod fetched;
mod fresh;
mod idle;
mod jobs;
mod joining;
mod levels;
mod lost;
mod members;
mod outgoing;
mod recent;
mod replies;
mod resume;
mod selection;
mod tagged;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use self::ahead::Ahead;
use self::fresh::Fresh;
use self::jobs::{Finishing, Job};
use self::joining::Joining;
use self::outgoing::Outgoing;
use self::replies::Incoming;
use self::resume::Recovery;
use self::view::View;
use super::enabled::Enabled;
use super::log::LogError;
pub use super::log::MemberId;
use super::plan::Plan;
use crate::imap::command::Command;
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::session::machine::Remnant;
use crate::upstream::manners::Manners;

/// Quiet before IDLE begins upstream, so that a burst of commands does not end and begin it each time.
const BEFORE_IDLE: Duration = Duration::from_millis(50);
/// Quiet before the messages' UIDs are asked for, which a later resume needs.
const BEFORE_CENSUS: Duration = Duration::from_millis(500);
/// Who idles hears nothing while another's command runs: not for longer than this, where there is a connection more.
const NEWS: Duration = Duration::from_secs(10);
/// IDLE is begun anew after this; servers end it after 30 minutes (RFC 2177 section 3).
const IDLE_RENEWAL: Duration = Duration::from_secs(25 * 60);
/// A hub whose members have commands keeps its connection for as long, even when others wait for one.
const QUANTUM: Duration = Duration::from_millis(100);
/// What a server answers at once is waited for so long: a server that does nothing at all must not hold a mailbox for
/// `backend.reply_timeout`.
const SOON: Duration = Duration::from_secs(60);
/// What imapool may ask in a row while members wait: twice as much as an honest backend ever takes.
const MAX_OWN: u32 = 100;
/// The longest pause before another connection is tried when they are all lost at once.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What a backend can do, and how patient members are.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// IDLE (RFC 2177).
    pub idle: bool,
    /// ESEARCH (RFC 4731).
    pub esearch: bool,
    /// IMAP4rev1: SELECT says which message is the first without \\Seen.
    pub unseen: bool,
    /// CONDSTORE or QRESYNC (RFC 7162).
    pub condstore: bool,
    /// NOOP this often on a connection where nothing happens.
    pub keepalive: Duration,
    /// `pool.share_patience`
    pub patience: Duration,
    /// So long a server may say nothing to what imapool asks of its own accord while members wait.
    pub silence: Duration,
    /// A hub without a connection whose members idle asks for one after this.
    pub parked: Duration,
}

/// What the task has to do.
#[derive(Debug)]
pub enum Action {
    /// Get a connection, then [`Machine::handle_connected`] or [`Machine::handle_unconnected`].
    Connect,
    /// Run this on the connection.
    Run(Box<Request>),
    /// Send this now, behind what was sent: [`Action::Run`] follows when what is sent before it is answered.
    Ahead(Command),
    /// Send `DONE`.
    EndIdle,
    /// Give the connection back.
    Disconnect,
    /// Close the connection, then [`Machine::handle_lost`]: what the backend says makes no sense.
    Abandon(Nonsense),
    /// The others wait for this member's command: see whether they can have a further connection ([`Machine::fork`]).
    Overloaded(MemberId),
    /// The mailbox that these select is not the hub's any more, which has another name now, or is gone: to a new hub
    /// with them ([`Machine::eject`]).
    Elsewhere(Vec<MemberId>),
    /// This member needs a connection of its own: [`Machine::fork`] with only it.
    Split(MemberId),
    /// The connection is this member's from now on; it is the last one, and has been told so.
    HandOver(MemberId),
}

/// Why nothing can be known of a mailbox by a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Nonsense {
    /// What is said contradicts what was said before.
    #[error(transparent)]
    Contradiction(#[from] LogError),
    /// VANISHED (RFC 7162 section 3.2.10.2) that is too long, or of messages that nobody knows.
    #[error("VANISHED that makes no sense")]
    Vanished,
    /// A number that no message can have, or no mailbox.
    #[error("a number out of range")]
    OutOfRange,
    /// More happens at once than can be kept.
    #[error("more news than can be")]
    TooMuch,
    /// A message with this number has another UID, by what was said before (RFC 9051 section 2.3.1.1).
    #[error("UID {1} for message {0}")]
    OtherUid(u32, u32),
    /// Neither IDLE nor DONE was answered in time, nor what any server answers at once.
    #[error("no answer in time")]
    Unanswered,
    /// A SELECT is answered without EXISTS.
    #[error("no word of how many messages there are")]
    Uncounted,
    /// Each answer gives reason to ask again.
    #[error("no end of what is to be asked")]
    Endless,
}

/// What is worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// A member's command got its turn after this time. `connected`: all the while the mailbox was selected.
    Waited {
        /// Since it was given.
        waited: Duration,
        /// It waited for other commands only.
        connected: bool,
    },
    /// The mailbox was selected anew.
    Resumed {
        /// Something had changed.
        changed: bool,
    },
    /// The mailbox could not be gone on with.
    Ended {
        /// What the members are told.
        why: &'static [u8],
        /// UIDs that were known, of so many messages, and times that they were asked for in vain.
        known: u32,
        /// See `known`.
        exists: u32,
        /// See `known`.
        counts: u8,
    },
    /// The connection was wanted elsewhere.
    Parked,
}

/// What a member is told.
#[derive(Debug)]
pub enum Told {
    /// Replies, or parts of them.
    Data(Bytes),
    /// `+ …`
    Continue(Bytes),
    /// Part of the tagged reply, without its tag; of what was told so, [`Told::Done`] has nothing.
    Tagged(Bytes),
    /// What came before it, the tagged reply without its tag, and whether the mailbox is still selected.
    Done(Bytes, Bytes, bool),
    /// It is no longer a member: the mailbox cannot be gone on with. The text of the BYE.
    Bye(Bytes),
    /// It is no longer a member: its reply was cut within a line or literal.
    Cut,
    /// Its command could not be run, for want of a connection; if it was no SELECT, the mailbox is still selected.
    Unconnected,
    /// It is no longer a member: the backend has refused its credential.
    Revoked,
    /// It is no longer a member: the connection is its own, and the command is still to be run there.
    Yours(Box<Request>),
}

/// Its place in the log says what it has been told of the mailbox; it has none before its SELECT is answered.
#[derive(Debug, Default)]
struct Member {
    /// What it has switched on, and is told.
    enabled: Enabled,
    /// By the command that runs.
    switching: bool,
    /// In IDLE: hears of everything at once.
    idling: bool,
    /// Its command, while that waits.
    waiting: Option<Box<Request>>,
    /// What becomes of that, if it was asked already.
    plan: Option<Plan>,
    /// Since when it waits, and whether for other commands only.
    since: Option<Instant>,
    connected: bool,
    attempts: u8,
    /// It is told what it missed, piece by piece, before its command gets its turn.
    catching_up: bool,
    /// Of one whose silent STORE waits or runs: messages whose flags it was told since it gave that, by its own
    /// numbers. It takes the last that it hears for what its STORE has made of them.
    told: Option<Ranges>,
    /// Messages that it was told are recent, by UID.
    recent: Ranges,
    /// The tagged reply to its SELECT, while it is told what has changed since it knew the mailbox.
    selecting: Option<Bytes>,
    /// The mod-sequence up to which it was told everything, as far as the backend has said.
    complete: Option<u64>,
    out: Outgoing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// `retry_at`: when to ask for a connection.
    Down {
        retry_at: Instant,
    },
    Connecting,
    /// `open`: the mailbox is selected on it, and all members' views follow it.
    Up {
        open: bool,
    },
    /// What was said on it makes no sense. It is to be closed, and nothing that it says counts any more.
    Broken,
}

/// Why a connection is to be given up between two commands; the last is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GiveUp {
    /// It is wanted elsewhere: as soon as the members have had something of it.
    Wanted,
    /// It is as old as it may become, and another takes its place: if somebody waits, one is served first, or all of
    /// the next one's life might go by with selecting the mailbox, too.
    Aged,
    /// It is retired, and another takes its place: nobody is served on it any more.
    Retired,
}

/// How a connection has been used so far, and whether it is to be given up.
#[derive(Debug)]
struct Hold {
    since: Instant,
    /// A member's command has run on it.
    served: bool,
    give_up: Option<GiveUp>,
}

impl Hold {
    fn since(now: Instant) -> Self {
        Self { since: now, served: false, give_up: None }
    }
}

/// Times in a row that something was of no use.
#[derive(Debug, Default)]
struct InVain {
    /// The UIDs did not fit the number of messages.
    counts: u8,
    /// Something was asked, beside what members ask.
    asked: u32,
    /// A connection was lost before it had served anybody.
    losses: u32,
    /// NOOP was refused.
    polls: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    /// What the backend was found to refuse.
    manners: Arc<Manners>,
    /// `r` or `w`, and the name ([`crate::imap::command::Command::selected_mailbox`]).
    key: Bytes,
    /// A member has written the name within its line, and not as a literal: so does the hub.
    in_line: bool,
    view: View,
    /// In boxes: most hubs have one, and a node of the tree has room for eleven.
    members: BTreeMap<MemberId, Box<Member>>,
    /// What may be on, on the connection.
    on: Enabled,
    /// The one member needs a connection of its own, with nothing on but what it has switched on.
    pub apart: bool,
    /// Those with a command that waits.
    queue: VecDeque<MemberId>,
    link: Link,
    job: Option<Job>,
    joining: Joining,
    incoming: Incoming,
    actions: VecDeque<Action>,
    stats: Vec<Stat>,
    now: Instant,
    /// Since when nothing happened upstream, and since when the job runs.
    quiet_since: Instant,
    job_since: Instant,
    /// When the backend last said something to it.
    heard_at: Instant,
    /// When to say again that members wait for a command.
    overload_at: Instant,
    /// When the owner of the job last took something of its reply.
    taken_at: Instant,
    /// Of the connection that is there.
    hold: Hold,
    recovery: Recovery,
    /// The mailbox as it is to be found, before the members' views follow it again: on a new connection, or because
    /// messages are gone of which only the UIDs are known, and not the numbers.
    fresh: Option<Box<Fresh>>,
    ahead: Ahead,
    /// Waits for that.
    finishing: Option<Finishing>,
    in_vain: InVain,
    /// The mailbox was selected anew for those who wait to join.
    anew: bool,
    /// The next connection is to another server, and was not compared yet.
    elsewhere: bool,
}

impl Machine {
    /// A hub for the mailbox of `key` ([`crate::imap::command::Command::selected_mailbox`]), without members.
    #[must_use]
    pub fn new(key: Bytes, settings: Settings, manners: Arc<Manners>, now: Instant) -> Self {
        Self {
            settings,
            manners,
            key,
            in_line: false,
            view: View::default(),
            members: BTreeMap::new(),
            on: Enabled::Nothing,
            apart: false,
            queue: VecDeque::new(),
            link: Link::Down { retry_at: now },
            job: None,
            joining: Joining::default(),
            incoming: Incoming::default(),
            actions: VecDeque::new(),
            stats: Vec::new(),
            now,
            quiet_since: now,
            job_since: now,
            heard_at: now,
            overload_at: now,
            taken_at: now,
            hold: Hold::since(now),
            recovery: Recovery::UpToDate,
            fresh: None,
            ahead: Ahead::default(),
            finishing: None,
            in_vain: InVain::default(),
            anew: false,
            elsewhere: false,
        }
    }

    /// Nobody is left.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members, in no order.
    pub fn members(&self) -> impl Iterator<Item = MemberId> {
        self.members.keys().copied()
    }

    /// Whether its SELECT is not answered yet: it knows nothing of the mailbox.
    pub fn is_joining(&self, id: MemberId) -> bool {
        self.has_member(id) && !self.view.log.has(id)
    }

    /// Whether it is still one.
    pub fn has_member(&self, id: MemberId) -> bool {
        self.members.contains_key(&id)
    }

    /// Since when no member's command ran or waited; `None`: one does, or there is no connection.
    pub fn resting_since(&self) -> Option<Instant> {
        let busy = !self.queue.is_empty() || !matches!(self.job, None | Some(Job::Idle(_)));
        (matches!(self.link, Link::Up { .. }) && !busy).then_some(self.quiet_since)
    }

    /// What is left behind upstream when the connection is given up now.
    pub fn remnant(&self) -> Option<Remnant> {
        match self.job.as_ref()? {
            Job::Idle(idle) if idle.ended.is_none() => Some(Remnant::Idle { accepted: idle.accepted }),
            _ => Some(Remnant::Reply),
        }
    }

    /// A connection is there, on which so much may be on; what is selected on it does not matter.
    pub fn handle_connected(&mut self, on: Enabled) {
        self.on = on;
        self.link = Link::Up { open: false };
        self.incoming = Incoming { astray: self.incoming.astray, ..Incoming::default() };
        (self.recovery, self.fresh) = (Recovery::UpToDate, None);
        self.ahead = Ahead::default();
        self.hold = Hold::since(self.now);
        self.quiet_since = self.now;
    }

    /// None could be had: whoever waits is told so, and it is tried again `after` a while.
    pub fn handle_unconnected(&mut self, after: Duration) {
        self.link = Link::Down { retry_at: self.now + after };
        self.finish();
        while let Some(id) = self.queue.pop_front() {
            self.members.get_mut(&id).into_iter().for_each(|member| member.give_up());
        }
    }

    /// The backend does not switch on what some who are about to join have switched on: they are told so. False: nobody
    /// is, but all may go on with less.
    pub fn handle_unfit(&mut self) -> bool {
        let (most, waiting) = (self.needed(), self.queue.len());
        let (members, log) = (&mut self.members, &self.view.log);
        self.queue.retain(|id| {
            let asks = |member: &&mut Box<Member>| member.enabled == most && !log.has(*id);
            let Some(member) = members.get_mut(id).filter(asks) else { return true };
            member.give_up();
            member.enabled = Enabled::Nothing;
            false
        });
        let told = self.queue.len() < waiting;
        if told {
            self.handle_refused();
        }
        told
    }

    /// The account is at another server from now on, which can do this: call it before [`Machine::handle_connected`].
    /// That the mailbox is the same there is not taken from its numbers, but found out message by message.
    pub fn handle_moved(&mut self, settings: Settings) {
        self.settings = settings;
        self.elsewhere = true;
        match self.needed().has_modseqs() {
            true if !settings.condstore => self.handle_less(),
            true => {}
            false => self.view.shadow.settle(0, 0),
        }
    }

    /// The server that the account is at by now does not switch on what members have switched on.
    pub fn handle_less(&mut self) {
        self.bye_all(b"[UNAVAILABLE] The mail server does not know what this session has switched on");
    }

    /// Whoever has waited for so long, for a connection or while something else runs on it, is told that there is none.
    pub fn handle_busy(&mut self, most: Duration) {
        let (now, members) = (self.now, &mut self.members);
        let mut goes_on = |id: &MemberId| {
            let Some(member) = members.get_mut(id) else { return false };
            let goes_on = member.since.is_none_or(|since| now.saturating_duration_since(since) < most);
            if !goes_on {
                member.give_up();
            }
            goes_on
        };
        self.queue.retain(&mut goes_on);
        self.joining.ids.retain(&mut goes_on);
        let finishing = self.finishing_since().filter(|_| !self.is_asking());
        if finishing.is_some_and(|since| now.saturating_duration_since(since) >= most) {
            self.finish();
        }
    }

    /// Since when somebody whose command is over waits for what it has brought about to be known.
    pub(super) fn finishing_since(&self) -> Option<Instant> {
        self.members.get(&self.finishing.as_ref()?.running.id)?.since
    }

    /// Since when one waits whose command does not run: the first in the queue, who joins, or whose command is over.
    pub fn waiting_since(&self) -> Option<Instant> {
        let waiting = self.queue.front().into_iter().chain(self.joining.ids.first());
        let waiting = waiting.filter_map(|id| self.members.get(id)?.since);
        waiting.chain(self.finishing_since().filter(|_| !self.is_asking())).min()
    }

    /// What somebody waits for is being asked; if it is not answered, the connection is given up.
    fn is_asking(&self) -> bool {
        self.job.as_ref().is_some_and(Job::is_question)
    }

    /// The backend no longer accepts the credential that a connection was to be opened with: another may do.
    pub fn handle_refused(&mut self) {
        self.link = Link::Down { retry_at: self.now };
    }

    /// The backend no longer accepts these members' credentials. Whatever they wait for, they are told so and are
    /// members no more; not to be called of one whose command runs.
    pub fn handle_revoked(&mut self, ids: &[MemberId]) {
        for id in ids {
            if !self.has_to_leave(*id) {
                self.dismiss(*id, Told::Revoked);
            }
        }
    }

    /// The connection is given up between two commands, as soon as that can be done.
    pub fn handle_give_up(&mut self, why: GiveUp) {
        if matches!(self.link, Link::Up { .. }) {
            self.hold.give_up = self.hold.give_up.max(Some(why));
        }
    }

    /// The members: first those with a command that waits, then all, in no order.
    pub fn by_need(&self) -> impl Iterator<Item = MemberId> {
        self.queue.iter().copied().chain(self.members.keys().copied())
    }

    /// What time it is. Call it before each other input, and before [`Machine::poll_action`].
    pub fn handle_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// When to call [`Machine::poll_action`] again at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.link, &self.job) {
            (Link::Connecting | Link::Broken, _) => None,
            (Link::Down { retry_at }, _) => self.wants_connection().then_some(retry_at),
            (Link::Up { .. }, Some(Job::Idle(idle))) => Some(self.idle_deadline(idle)),
            (Link::Up { .. }, Some(Job::Member(_) | Job::Close { .. })) => Some(self.overloads_at()),
            (Link::Up { .. }, Some(job)) => self.gives_up_at(job),
            (Link::Up { .. }, None) if self.wants_census() => Some(self.quiet_since + BEFORE_CENSUS),
            (Link::Up { .. }, None) if self.wants_idle() => Some(self.quiet_since + BEFORE_IDLE),
            (Link::Up { .. }, None) if self.hold.give_up == Some(GiveUp::Wanted) => Some(self.hold.since + QUANTUM),
            (Link::Up { .. }, None) => Some(self.quiet_since + self.before_poll()),
        }
    }

    /// What the task has to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.actions.is_empty() {
            self.proceed();
        }
        self.actions.pop_front()
    }

    /// What was worth counting since it was last asked. Ask after [`Machine::poll_action`].
    pub fn take_stats(&mut self) -> Vec<Stat> {
        std::mem::take(&mut self.stats)
    }

    /// Events kept for members that may not hear of them yet.
    pub fn lag(&self) -> usize {
        self.view.log.kept()
    }

    /// Whether more of the backend's octets can be taken: not while the member whose reply they are is slow.
    pub fn wants_data(&self) -> bool {
        self.owner().and_then(|owner| self.members.get(&owner)).is_none_or(|owner| owner.out.is_empty())
    }

    /// Whether a member has left whose command runs, and the mailbox can be gone on with on another connection.
    pub fn reads_for_nobody(&self) -> bool {
        let Some(Job::Member(running)) = &self.job else { return false };
        !self.members.contains_key(&running.id) && self.is_resumable()
    }

    /// How long ago that member was told something of its reply.
    pub fn since_taken(&self) -> Duration {
        self.now.saturating_duration_since(self.taken_at)
    }

    /// Whether anybody waits for the connection, or idles.
    pub fn wants_connection(&self) -> bool {
        !self.queue.is_empty() || self.has_idlers() || self.finishing.is_some()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.key.first() == Some(&b'r')
    }

    /// Gives back what somebody selects the mailbox with who is to do so in another hub, and is no member of this one
    /// any more.
    pub fn eject(&mut self, id: MemberId) -> Option<Box<Request>> {
        let run = self.members.get_mut(&id)?.waiting.take();
        self.handle_leave(id);
        run
    }

    /// A new hub with these members, which goes on from what this one knows, on another connection. `None`: it is not
    /// known which messages there are. The members are no longer this one's.
    pub fn fork(&mut self, ids: &[MemberId]) -> Option<Self> {
        if self.view.selection.is_none() || !self.is_resumable() {
            return None;
        }
        let mut other = Self::new(self.key.clone(), self.settings, Arc::clone(&self.manners), self.now);
        other.in_line = self.in_line;
        other.elsewhere = self.elsewhere;
        other.view = self.view.clone();
        other.view.delayed |= std::mem::take(&mut other.view.delays);
        for id in ids {
            if let Some(member) = self.members.remove(id) {
                self.view.log.leave(*id);
                other.members.insert(*id, member);
            }
        }
        self.members.keys().for_each(|id| other.view.log.leave(*id));
        let (theirs, ours) = self.queue.drain(..).partition(|id| other.members.contains_key(id));
        (other.queue, self.queue) = (theirs, ours);
        Some(other)
    }
}
