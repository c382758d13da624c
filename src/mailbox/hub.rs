//! The task of a hub: moves commands, replies and news between its members, the [`Machine`] and an upstream connection.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tracing::{debug, info, warn};

use self::dividing::Further;
use self::remains::Remains;
use super::enabled::{EnableSet, Enabled};
use super::line::{self, Join, Membership, ToHub};
pub use super::line::{FromHub, Member};
use super::machine::{Action, GiveUp, Machine, MemberId, Settings, Stat, Told};
use super::registry::{Entrance, Registry, Status};
use crate::auth::Authenticator;
use crate::imap::command::Command;
use crate::imap::request::Request;
use crate::metrics::{CheckoutResult, HubGuard, HubState, ResumeResult, RetireReason, WaitCause};
use crate::pool::{Account, CheckoutError, Grant, Lease, Pass, Want};
use crate::ports::Yielding;
use crate::session::machine::Remnant;
use crate::session::registry::Record;
use crate::upstream::connection::{FromUpstream, Input};
use crate::upstream::loss::Loss;

mod dividing;
mod remains;

/// A reply of which nothing is read for so many times `pool.checkout_timeout` is given up if others wait. The kernel
/// takes megabytes ahead for a client on a fast network, and of one that is slow but steady no progress is seen
/// meanwhile.
const STANDSTILL: u32 = 6;
/// A hub that could get no connection tries again after this, while members idle.
const RETRY: Duration = Duration::from_secs(2);
/// A hub whose connection went to another asks for one after this, while members idle.
const PARKED: Duration = Duration::from_secs(5);
/// A server that says nothing for so long while members wait is left, however soon these give up.
const SILENCE: Duration = Duration::from_secs(10);

/// A hub is looked at after this for the first time, though perhaps in vain: most are gone by then, and have set no
/// timer but this one.
const FIRST_LOOK: Duration = Duration::from_millis(500);

static NEXT_MEMBER: AtomicU64 = AtomicU64::new(0);

impl Member {
    /// Joins the hub of the mailbox that `run` selects, or opens one: of those of its kind, as by `enabled`. The reply
    /// to that command is the first thing heard. `auth` is asked when no member's credential is known to be good any
    /// more.
    #[must_use]
    pub fn join(
        auth: &Arc<Authenticator>,
        pass: &Pass,
        key: Bytes,
        enabled: EnableSet,
        run: Box<Request>,
        record: &Arc<Record>,
    ) -> Self {
        let (member, line) = line::pair(key.clone());
        record.joins(member.watch());
        let place = Membership { line, grant: pass.grant().clone(), record: Arc::clone(record) };
        let join = Join { run, enabled: enabled.enabled, place, since: Instant::now() };
        let kind = enabled.kind();
        if let Some((join, entrance)) = Registry::of(pass.account()).join(pass.account(), &key, kind, join) {
            let machine = machine(pass.account(), key.clone(), kind);
            let mut hub = Hub::new(auth, pass.account(), key, kind, machine, entrance);
            hub.admit(join);
            tokio::spawn(hub.run());
        }
        member
    }
}

type Checkout = Pin<Box<dyn Future<Output = Result<Lease, CheckoutError>> + Send>>;

struct Hub {
    auth: Arc<Authenticator>,
    account: Arc<Account>,
    /// The account's generation when it was last looked at.
    generation: u64,
    /// Index of the backend that it was connected to, or was to be.
    backend: usize,
    key: Bytes,
    kind: EnableSet,
    machine: Machine,
    members: BTreeMap<MemberId, Membership>,
    joins: mpsc::Receiver<Join>,
    status: Arc<Status>,
    lease: Option<Lease>,
    /// When the connection is as old as it may become, until the machine knows.
    expires: Option<Instant>,
    checkout: Option<Checkout>,
    /// `DONE` is to be sent.
    ending_idle: bool,
    /// To be sent behind that.
    ahead: Vec<Command>,
    /// The connection is given up for somebody who waits.
    yielding: Option<Yielding>,
    /// Of a member that has left.
    remains: Option<Remains>,
    /// For the others, while a member's command keeps them waiting.
    further: Further,
    /// Of the member that is told that it is its own.
    handed_over: Option<Box<Lease>>,
    unconnected: CheckoutError,
    counted: HubGuard,
}

impl Hub {
    fn new(
        auth: &Arc<Authenticator>,
        account: &Arc<Account>,
        key: Bytes,
        kind: EnableSet,
        machine: Machine,
        (joins, status): Entrance,
    ) -> Box<Self> {
        Box::new(Self {
            auth: Arc::clone(auth),
            account: Arc::clone(account),
            generation: account.generation(),
            backend: account.key().backend,
            key,
            kind,
            machine,
            members: BTreeMap::new(),
            joins,
            status,
            lease: None,
            expires: None,
            checkout: None,
            ending_idle: false,
            ahead: Vec::new(),
            yielding: None,
            remains: None,
            further: Further::default(),
            handed_over: None,
            unconnected: CheckoutError::Unavailable,
            counted: HubGuard::new(Arc::clone(&account.backend().metrics().hubs)),
        })
    }

    fn admit(&mut self, join: Join) {
        let id = NEXT_MEMBER.fetch_add(1, Ordering::Relaxed);
        self.take_in(id, join.place);
        self.machine.handle_join(id, join.run, join.enabled);
    }

    /// One that its machine knows of, or is about to.
    fn take_in(&mut self, id: MemberId, place: Membership) {
        place.line.moves_to(&self.status);
        self.members.insert(id, place);
    }

    async fn run(mut self: Box<Self>) {
        let mut timer = pin!(tokio::time::sleep(FIRST_LOOK));
        let status = Arc::clone(&self.status);
        let mut wanted = pin!(status.sharer.wanted());
        loop {
            self.look_at_account();
            if self.lease.is_some() && self.yielding.is_none() {
                self.yielding = self.account.sharers.claim();
                if self.yielding.is_some() {
                    self.machine.handle_give_up(GiveUp::Wanted);
                }
            }
            while let Some(action) = self.machine.poll_action() {
                self.act(action);
            }
            self.count();
            self.publish();
            if self.machine.is_empty() && Registry::of(&self.account).remove(&mut self.joins) {
                break;
            }
            poll_fn(|cx| {
                let now = Instant::now();
                self.machine.handle_time(now.into_std());
                self.hear_who_waits(now);
                if self.gives_up_remains(now) {
                    return Poll::Ready(());
                }
                // That somebody waits for a connection is looked at above.
                if wanted.as_mut().poll(cx).is_ready() {
                    wanted.set(status.sharer.wanted());
                    return Poll::Ready(());
                }
                self.poll(timer.as_mut(), cx)
            })
            .await;
        }
        self.end().await;
    }

    /// What was retired, or is too old, is given up between two commands, and whose credential was refused since
    /// hears that: not in the middle of a reply.
    fn look_at_account(&mut self) {
        let aged = self.expires.take_if(|at| *at <= Instant::now()).map(|_| GiveUp::Aged);
        let retired = self.lease.as_ref().is_some_and(Lease::is_outdated).then_some(GiveUp::Retired);
        if let Some(why) = retired.or(aged) {
            self.machine.handle_give_up(why);
        }
        let generation = self.account.generation();
        if generation == self.generation {
            return;
        }
        let owner = self.machine.owner();
        let (later, now): (Vec<_>, Vec<_>) = self.refused().into_iter().partition(|id| Some(*id) == owner);
        self.machine.handle_revoked(&now);
        if later.is_empty() {
            self.generation = generation;
        }
    }

    /// The members whose credential the backend has refused.
    fn refused(&self) -> Vec<MemberId> {
        let refused = self.members.iter().filter(|(_, place)| place.grant.is_refused());
        refused.map(|(id, _)| *id).collect()
    }

    /// With whose credential a connection is opened: of those who wait for one, or of anybody, whose own stands; if
    /// nobody's does, it is verified.
    fn whose(&self) -> Option<&Grant> {
        let grants = || self.machine.by_need().filter_map(|id| self.members.get(&id)).map(|place| &place.grant);
        let now = Instant::now();
        grants().find(|grant| self.auth.pass(grant, None, now).is_some()).or_else(|| grants().next())
    }

    fn connect(&mut self) {
        // A new hub may have been given one.
        self.checkout = self.checkout.take().or_else(|| self.checkout());
        if self.checkout.is_none() {
            self.machine.handle_unconnected(RETRY);
        }
    }

    /// A connection that does for all members; `None`: nobody is there to open it for.
    fn checkout(&self) -> Option<Checkout> {
        let grant = self.whose()?.clone();
        let (auth, mailbox) = (Arc::clone(&self.auth), Some(self.key.clone()));
        let (needed, shares) = (self.machine.needed(), !self.machine.apart);
        // CONDSTORE comes by SELECT, where it is not on yet.
        let (sticky, or_sticky) = match needed {
            Enabled::Condstore => (self.kind.sticky(), Some(self.kind.with(needed).sticky())),
            _ => (self.kind.with(needed).sticky(), None),
        };
        Some(Box::pin(async move {
            let pass = auth.renew(&grant, None).await?;
            let stays = pass.account().stays();
            let sticky = Arc::new(sticky);
            Want { pass, mailbox, sticky, or_sticky, lends: false, shares, stays, client: None }.checkout().await
        }))
    }

    fn count(&mut self) {
        for stat in self.machine.take_stats() {
            let metrics = self.counted.metrics();
            match stat {
                Stat::Waited { waited, connected } => {
                    let cause = if connected { WaitCause::Command } else { WaitCause::Connection };
                    metrics.wait.get(cause).observe(waited);
                }
                Stat::Resumed { changed } => {
                    let result = if changed { ResumeResult::Changed } else { ResumeResult::Same };
                    metrics.resumes.get(result).inc();
                }
                Stat::Ended { why, known, exists, counts } => {
                    let (user, why) = (self.account.name(), why.escape_ascii());
                    info!(user, %why, known, exists, counts, "the sessions of a mailbox are ended");
                    metrics.resumes.get(ResumeResult::Lost).inc();
                }
                Stat::Parked => drop(metrics.parks.inc()),
            }
        }
        let state = if self.lease.is_some() { HubState::Connected } else { HubState::Parked };
        self.counted.set(state, self.members.len(), self.machine.lag());
    }

    fn publish(&self) {
        self.status.members.store(self.members.len(), Ordering::Relaxed);
        let resting = self.machine.resting_since().filter(|_| self.yielding.is_none());
        self.status.sharer.rests(resting.map(Instant::from_std));
        let connection = self.lease.as_ref().map_or(0, |lease| lease.shared().id);
        self.status.connection.store(connection, Ordering::Relaxed);
        self.status.owner.store(self.owner().map_or(0, |place| place.record.id), Ordering::Relaxed);
    }

    /// The member whose command runs.
    fn owner(&self) -> Option<&Membership> {
        self.machine.owner().and_then(|owner| self.members.get(&owner))
    }

    /// A command is about to run: that was on this connection, its session will say.
    fn note_owner(&self) {
        if let Some((place, lease)) = self.owner().zip(self.lease.as_ref()) {
            place.record.ran_on(lease.shared().id);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect => self.connect(),
            Action::Run(run) => {
                self.note_owner();
                self.send_ahead();
                let ran = self.lease.as_mut().is_some_and(|lease| lease.run(run).is_ok());
                if !ran {
                    self.lost(&Loss::before_anything());
                }
            }
            Action::EndIdle => self.ending_idle = true,
            Action::Ahead(command) => self.ahead.push(command),
            Action::Disconnect => {
                debug!(members = self.members.len(), "hub parked");
                self.lease = None;
                self.yielding = None;
            }
            Action::Abandon(error) => {
                warn!(user = self.account.name(), %error, "a backend makes no sense: its connection is closed");
                self.break_off(RetireReason::ProtocolError);
            }
            Action::Overloaded(owner) => self.overloaded(owner),
            Action::Elsewhere(ids) => self.send_elsewhere(&ids, None),
            Action::Split(id) => drop(self.fork(&[id], None)),
            Action::HandOver(_) => {
                self.handed_over = self.lease.take().map(Box::new);
                self.handed_over.iter_mut().for_each(|lease| lease.divide_replies(false));
                self.yielding = None;
            }
        }
    }

    fn send_ahead(&mut self) {
        if let Some(lease) = &mut self.lease {
            self.ahead.drain(..).for_each(|command| lease.run_ahead(command));
        }
    }

    /// How long a member may wait, whatever for.
    fn patience(&self) -> Duration {
        self.account.config().checkout_timeout
    }

    /// Whoever has waited for longer than that hears so: behind another's command, or behind what the hub asks of its
    /// own accord, to which a server may not answer at all.
    fn hear_who_waits(&mut self, now: Instant) {
        if self.loses_patience_at().is_some_and(|at| at <= now) {
            self.unconnected = CheckoutError::Timeout;
            self.machine.handle_busy(self.patience());
        }
    }

    fn loses_patience_at(&self) -> Option<Instant> {
        self.machine.waiting_since().map(|since| Instant::from_std(since) + self.patience())
    }

    /// Ends the connection in the middle of something.
    fn break_off(&mut self, why: RetireReason) {
        if let Some(lease) = self.lease.take() {
            lease.retire(why);
        }
        self.lost(&Loss { cut: true, ..Loss::default() });
    }

    fn lost(&mut self, loss: &Loss) {
        self.lease = None;
        self.yielding = None;
        self.ending_idle = false;
        self.ahead.clear();
        self.machine.handle_lost(loss);
    }

    /// Ready when something was done.
    fn poll(&mut self, timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        let mut progress = self.poll_members(cx);
        while let Poll::Ready(Some(join)) = self.joins.poll_recv(cx) {
            self.account.backend().metrics().checkout(CheckoutResult::Joined, join.since.elapsed());
            self.admit(join);
            progress = true;
        }
        progress |= self.poll_upstream(cx);
        progress |= self.poll_further(cx);
        if progress {
            return Poll::Ready(());
        }
        self.poll_timer(timer, cx)
    }

    fn poll_timer(&self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.machine.poll_timeout().map(Instant::from_std);
        let deadline =
            deadline.into_iter().chain(self.loses_patience_at()).chain(self.expires).chain(self.remains_until()).min();
        let Some(deadline) = deadline else { return Poll::Pending };
        // To be woken too early costs less than to set it anew with each command.
        let set = timer.deadline();
        if set > deadline || timer.is_elapsed() {
            timer.as_mut().reset(deadline);
        }
        timer.poll(cx)
    }

    fn poll_members(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut gone = Vec::new();
        for (id, Membership { line, record, .. }) in &self.members {
            while let Poll::Ready(request) = line.poll_request(cx) {
                progress = true;
                match request {
                    Some(ToHub::Run(run)) => self.machine.handle_command(*id, run),
                    Some(ToHub::EndIdle) => self.machine.handle_octets(*id),
                    None => {
                        gone.push(*id);
                        break;
                    }
                }
            }
            while self.machine.has_news(*id) && line.poll_room(cx).is_ready() {
                progress = true;
                let Some(told) = self.machine.poll_member(*id) else { break };
                if let (Told::Done(..), Some(lease)) = (&told, &self.lease) {
                    record.ran_on(lease.shared().id);
                }
                let event = match told {
                    Told::Data(data) => FromHub::Data(data),
                    Told::Continue(line) => FromHub::Continue(line),
                    Told::Tagged(octets) => FromHub::Tagged(octets),
                    Told::Done(data, rest, selected) => FromHub::Done(data, rest, selected),
                    Told::Bye(text) => FromHub::Bye(text),
                    Told::Cut => FromHub::Cut,
                    Told::Unconnected => FromHub::Unconnected(self.unconnected),
                    Told::Revoked => FromHub::Unconnected(CheckoutError::Refused),
                    Told::Yours(run) => match self.handed_over.take() {
                        Some(lease) => FromHub::Yours(lease, run),
                        None => FromHub::Lost,
                    },
                };
                line.tell(event);
            }
        }
        for id in gone {
            self.machine.handle_leave(id);
        }
        let machine = &self.machine;
        self.members.retain(|id, _| machine.has_member(*id));
        progress
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(checkout) = &mut self.checkout
            && let Poll::Ready(result) = checkout.as_mut().poll(cx)
        {
            self.checkout = None;
            self.checked_out(result);
            return true;
        }
        if let Some(lease) = self.lease.as_mut().filter(|_| self.ending_idle)
            && lease.poll_ready(cx).is_ready()
        {
            lease.send(Input::Octets(Bytes::from_static(b"DONE\r\n")));
            self.ending_idle = false;
        }
        if !self.ending_idle {
            self.send_ahead();
        }
        let Some(lease) = &mut self.lease else { return false };
        // Each part that waits somewhere on the way is memory for as long as a client is slow.
        let owner = self.machine.owner().and_then(|owner| self.members.get(&owner));
        if !self.machine.wants_data() || owner.is_some_and(|place| place.line.poll_hungry(cx).is_pending()) {
            lease.poll_held(cx);
            return false;
        }
        let Poll::Ready(event) = lease.poll_event(cx) else { return false };
        match event {
            FromUpstream::Data(data) => {
                self.machine.handle_data(&data);
                self.count_remains(data.len());
            }
            FromUpstream::Continue(_) => self.machine.handle_continue(),
            FromUpstream::Tagged(octets) => self.machine.handle_tagged(octets),
            FromUpstream::Done(data, rest, selected) => self.machine.handle_done(&data, rest, selected),
            FromUpstream::Checked => {}
            FromUpstream::Lost(loss) => self.lost(&loss),
        }
        true
    }

    fn checked_out(&mut self, result: Result<Lease, CheckoutError>) {
        match result {
            Ok(mut lease) => {
                lease.divide_replies(true);
                self.expires = lease.expires_at();
                self.follow_account();
                let on = Enabled::of(&lease.shared().facts().sticky);
                self.lease = Some(lease);
                self.unconnected = CheckoutError::Unavailable;
                self.machine.handle_connected(on);
            }
            Err(error) => {
                debug!(user = self.account.name(), %error, "no upstream connection for a hub");
                let is_refused = error == CheckoutError::Refused;
                // That is said only to those whose own credential it was.
                self.unconnected = if is_refused { CheckoutError::Unavailable } else { error };
                let refused = self.refused();
                if error == CheckoutError::Unfit && self.machine.handle_unfit() {
                    return;
                }
                if error == CheckoutError::Unfit && self.account.key().backend != self.backend {
                    self.machine.handle_less();
                }
                if refused.is_empty() && !is_refused {
                    self.machine.handle_unconnected(RETRY);
                } else {
                    // The others may have better ones. Whose it was may have left meanwhile.
                    self.machine.handle_refused();
                    self.machine.handle_revoked(&refused);
                }
            }
        }
    }

    /// The account may have moved: what the connection leads to is another server then, which may do other things.
    fn follow_account(&mut self) {
        let backend = self.account.key().backend;
        if std::mem::replace(&mut self.backend, backend) != backend {
            self.machine.handle_moved(settings(&self.account, self.kind));
            self.counted = HubGuard::new(Arc::clone(&self.account.backend().metrics().hubs));
        }
    }

    async fn end(mut self: Box<Self>) {
        self.status.sharer.rests(None);
        let Some(lease) = self.lease.take() else { return };
        match self.machine.remnant() {
            None => drop(lease),
            // In a box: it is large, and most hubs leave nothing.
            Some(_) if self.ending_idle => Box::pin(lease.drain(Remnant::Idle { accepted: true })).await,
            Some(remnant) => Box::pin(lease.drain(remnant)).await,
        }
    }
}

fn machine(account: &Account, key: Bytes, kind: EnableSet) -> Machine {
    Machine::new(key, settings(account, kind), Arc::clone(&account.manners), Instant::now().into_std())
}

fn settings(account: &Account, all: EnableSet) -> Settings {
    let (config, offered) = (account.config(), account.capabilities());
    Settings {
        idle: offered.has("IDLE"),
        esearch: offered.has("ESEARCH") || offered.has("IMAP4rev2"),
        unseen: offered.has("IMAP4rev1") && !(all.rev2 && offered.has("IMAP4rev2")),
        condstore: offered.has("CONDSTORE") || offered.has("QRESYNC"),
        keepalive: config.keepalive,
        patience: config.share_patience,
        silence: config.checkout_timeout.max(SILENCE),
        parked: PARKED,
    }
}
