//! Which connection a session gets, and how long it waits for one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use deadpool::managed::Object;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::lease::Lease;
use super::seat::FillError;
use super::{Account, LIMIT_MEMORY, Pass};
use crate::imap::command::Name;
use crate::imap::request::Request;
use crate::imap::sticky::Sticky;
use crate::metrics::{CheckoutResult, RetireReason};
use crate::ports;
use crate::throttle::Standing;
use crate::upstream::backend::{Backend, Entry, OpenError, Service};
use crate::upstream::connection::{Connection, FromUpstream};
use crate::upstream::login::Outcome;
use crate::upstream::machine::Facts;

/// What a session needs of a connection.
#[derive(Debug, Clone)]
pub struct Want {
    /// Who may have one, and with which credential it is opened.
    pub pass: Pass,
    /// It would be good to have this mailbox selected already.
    pub mailbox: Option<Bytes>,
    /// The state that must be on it.
    pub sticky: Arc<Sticky>,
    /// No mailbox is selected while the session has it, so that more may be on that shows only in one.
    pub lends: bool,
    /// It is for a hub, which tells its members no more than they have switched on of CONDSTORE and QRESYNC: there may
    /// be more of that.
    pub shares: bool,
    /// Or this one, which the session's next command would bring about.
    pub or_sticky: Option<Sticky>,
    /// Mailboxes cannot be left on this backend: none but this may be selected.
    pub stays: bool,
    /// Whose session wants it.
    pub client: Option<IpAddr>,
}

/// A checkout that waits, and is counted at its end. Given up when its time was all but over, it counts as one that
/// timed out: whoever wanted the connection had begun to wait a moment earlier.
struct Waiting<'a> {
    account: &'a Account,
    start: Instant,
    patience: Duration,
    /// What has come of it; `None`: it was given up.
    result: Option<CheckoutResult>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.account.waiting.fetch_sub(1, Ordering::Relaxed);
        let waited = self.start.elapsed();
        let vain = (waited >= self.patience.mul_f64(0.9)).then_some(CheckoutResult::Timeout);
        if let Some(result) = self.result.or(vain) {
            self.account.backend().metrics().checkout(result, waited);
        }
    }
}

/// Why there is no connection for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// All of the account's connections, or all there may be, were in use for `pool.checkout_timeout`.
    #[error("no connection to the mail server became free in time")]
    Timeout,
    /// The backend takes no more connections of this account, and none is left of those it took.
    #[error("the mail server takes no more connections for this account")]
    Limit,
    /// The backend now refuses the credential it had accepted.
    #[error("the mail server no longer accepts this login")]
    Refused,
    /// Too many connections were opened for the account of late: none may be for now.
    #[error("too many connections were opened to the mail server of late, try again in a moment")]
    Delayed,
    /// The backend does not switch on what the session has switched on.
    #[error("the mail server refuses what this session has switched on")]
    Unfit,
    /// The backend cannot be reached, or opens no connection for this account.
    #[error("no connection to the mail server can be had at the moment")]
    Unavailable,
}

impl Want {
    /// A connection for a session, within `pool.checkout_timeout`.
    ///
    /// # Errors
    /// See [`CheckoutError`].
    pub async fn checkout(&self) -> Result<Lease, CheckoutError> {
        let account = self.pass.account();
        let start = Instant::now();
        let deadline = start + account.config.load().checkout_timeout;
        *account.last_used.lock() = start;
        if account.turns.semaphore().available_permits() == 0 {
            account.waits.fetch_add(1, Ordering::Relaxed);
        }
        account.waiting.fetch_add(1, Ordering::Relaxed);
        let mut waiting = Waiting { account, start, patience: deadline - start, result: None };
        let result = timeout_at(deadline, account.checkout_in_turn(self)).await.unwrap_or(Err(CheckoutError::Timeout));
        waiting.result = Some(match &result {
            Ok(lease) if lease.is_fresh() => CheckoutResult::Dialed,
            Ok(_) => CheckoutResult::Reused,
            Err(CheckoutError::Timeout) => CheckoutResult::Timeout,
            Err(CheckoutError::Limit) => CheckoutResult::Limit,
            Err(CheckoutError::Refused) => CheckoutResult::Refused,
            Err(CheckoutError::Delayed) => CheckoutResult::Delayed,
            Err(CheckoutError::Unavailable | CheckoutError::Unfit) => CheckoutResult::Unavailable,
        });
        result
    }

    /// Waits while the account moves to another backend.
    async fn settled(&self) {
        self.pass.grant().visit().residence().settled().await;
    }

    /// Whether the account moves to another backend.
    fn moves(&self) -> bool {
        self.pass.grant().visit().residence().is_moving()
    }
}

impl Account {
    /// A further connection.
    async fn dial(&self, backend: &Arc<Backend>, want: &Want) -> Result<Connection, FillError> {
        let entry = backend.enter(&self.queue).await.map_err(FillError::Open)?;
        self.dial_with(entry, backend, want).await
    }

    async fn dial_with(&self, entry: Entry, backend: &Arc<Backend>, want: &Want) -> Result<Connection, FillError> {
        self.room_for_a_socket().await;
        let credential = want.pass.grant().credential();
        // Not where it is not any more, nor from now on if it leaves: of a later generation than that by which it
        // does, the connection would stay.
        let gone = || FillError::Open(OpenError::Gone);
        let stay = want.pass.grant().visit().residence().stay();
        let stay = Arc::new(stay.filter(|stay| stay.backend() == backend.index).ok_or_else(gone)?);
        let generation = self.generation();
        let logged_in = backend.log_in(entry, credential, Standing::Proven, want.client);
        let judgement = stay.meanwhile(logged_in).await.ok_or_else(gone)?;
        let (mut connection, outcome) = judgement.result.map_err(FillError::Open)?;
        match outcome {
            Outcome::Refused(refusal) => {
                backend.keep(connection);
                Err(FillError::Refused(refusal))
            }
            _ => {
                connection.permit.keep(&stay);
                let (connection, capabilities) =
                    backend.authenticated(connection, generation, self.terms().idle_timeout, &self.manners);
                want.pass.account().opened(&connection);
                self.learn(capabilities);
                Ok(connection)
            }
        }
    }

    async fn checkout_in_turn(self: &Arc<Self>, want: &Want) -> Result<Lease, CheckoutError> {
        self.lift_limit(LIMIT_MEMORY);
        loop {
            want.settled().await;
            let backend = self.backend();
            backend.in_service().await;
            let places = self.turn().await;
            match self.seat(&backend, want, places).await {
                // Drained while it was opened: by then, nobody had it who could be told.
                Ok(Some(lease)) if self.backend().service() == Service::Drained => lease.retire(RetireReason::Operator),
                Ok(Some(lease)) if !lease.is_outdated() => return Ok(lease),
                // It was closed or retired just then, or did not answer: the next.
                Ok(_) => {}
                // Another server is in its place by now: what the old one says is nothing to it.
                Err(_) if !Arc::ptr_eq(&backend, &self.backend()) || want.moves() => {}
                Err(FillError::Refused(refusal)) => {
                    let certain = self.refused(&want.pass.grant().fingerprint(), &refusal);
                    return Err(if certain { CheckoutError::Refused } else { CheckoutError::Unavailable });
                }
                Err(FillError::Open(OpenError::Limit(text))) => {
                    if !self.lower_limit(&text) {
                        return Err(CheckoutError::Limit);
                    }
                }
                Err(FillError::Unfit) => return Err(CheckoutError::Unfit),
                Err(FillError::Open(OpenError::Gate(_))) => return Err(CheckoutError::Delayed),
                Err(FillError::Open(_)) => return Err(CheckoutError::Unavailable),
            }
        }
    }

    /// Waits until a further connection may be in use. Hubs that rest are asked for theirs meanwhile.
    async fn turn(&self) -> [OwnedSemaphorePermit; 2] {
        let turn = loop {
            let turn = take(self.turns.semaphore(), || self.sharers.wait()).await;
            // There were more of them once.
            match self.turns.withholds() {
                true => turn.forget(),
                false => break turn,
            }
        };
        [turn, take(&self.everywhere, || self.sharers.wait_anywhere()).await]
    }

    /// A connection that fits; `None`: try again. Whatever becomes of the wait, `places` are not free as long as a
    /// connection that was taken with them is open and in no seat.
    async fn seat(
        self: &Arc<Self>,
        backend: &Arc<Backend>,
        want: &Want,
        places: [OwnedSemaphorePermit; 2],
    ) -> Result<Option<Lease>, FillError> {
        let (object, resting) = loop {
            let object = self.seats.get().await.expect("nothing closes it, and empty seats cannot fail");
            let resting = object.0.lock().take();
            let Some(over) = resting.as_ref().filter(|resting| resting.is_over()) else { break (object, resting) };
            // Its socket may be open still. Without a turn for it, this is the last seat.
            let Some(turn) = self.turns.try_take() else { break (object, resting) };
            over.shared().keep_to_the_end(turn);
            self.note_leaving(over.shared());
            drop(Object::take(object));
        };
        let is_vacant = resting.as_ref().is_none_or(Connection::is_over);
        let mut lease = Lease::new(self, object, resting, places.map(Some));
        if is_vacant {
            lease.end_and_wait(RetireReason::Replaced).await;
            lease.fill(self.dial(backend, want).await?);
        }
        if !self.exchange(&mut lease, want) {
            return Ok(None);
        }
        if fitness(&lease.shared().facts(), want) == 0 && !self.make_fit(&mut lease, backend, want).await? {
            return Ok(None);
        }
        if self.doubts(&lease) && !lease.check().await {
            lease.retire(RetireReason::FailedCheck);
            return Ok(None);
        }
        Ok(Some(lease))
    }

    /// Has the lease, whose connection does not fit, go on with one that does: a further one, or this one if what is
    /// missing can be switched on, or one in its place. False: it was closed just then.
    async fn make_fit(
        self: &Arc<Self>,
        lease: &mut Lease,
        backend: &Arc<Backend>,
        want: &Want,
    ) -> Result<bool, FillError> {
        self.may_enable(want)?;
        let facts = lease.shared().facts();
        let raises = want.shares && can_raise(&facts, want) && !is_stuck(&facts, want);
        if raises {
            // What is switched on serves all hubs.
        } else if let Some(further) = self.further(backend, want).await {
            lease.change_seats(further);
        } else if !facts.sticky.is_within(&want.sticky) || is_stuck(&facts, want) {
            // Its place is this one: the account never has more. It stays if there may be no other for now.
            let entry = backend.enter(&self.queue).await.map_err(FillError::Open)?;
            lease.end_and_wait(RetireReason::Sticky).await;
            lease.fill(self.dial_with(entry, backend, want).await?);
        }
        if fitness(&lease.shared().facts(), want) > 0 {
            return Ok(true);
        }
        // A mailbox that is still selected is left before that (RFC 5161 section 3.1).
        self.enable(lease, &want.sticky).await
    }

    /// Whether a connection has to show that it is alive before it is used again. In an outage those at rest are not
    /// to be trusted, however fresh: whoever is given one that hangs, hangs.
    pub(super) fn doubts(&self, connection: &Connection) -> bool {
        let is_doubtful = |rested| rested > self.config.load().check_after || !self.backend().is_reachable();
        connection.rested_for().is_some_and(is_doubtful)
    }

    /// Whether what has to be switched on may be asked for: not what the backend has refused of late.
    fn may_enable(&self, want: &Want) -> Result<(), FillError> {
        let allowed = self.manners.known().enable.allows(Instant::now().into_std());
        if allowed || *want.sticky == Sticky::default() { Ok(()) } else { Err(FillError::Unfit) }
    }

    /// Switches on what a connection lacks of this. False: it was lost.
    async fn enable(&self, connection: &mut Connection, sticky: &Sticky) -> Result<bool, FillError> {
        let enable = sticky.command(self.offers("ENABLE")).ok_or(FillError::Unfit)?;
        let by_enable = enable.command.name == Name::Enable;
        let Some(answered_ok) = run(connection, enable).await else { return Ok(false) };
        let granted = if by_enable { sticky.is_within(&connection.shared().facts().granted) } else { answered_ok };
        let now = Instant::now().into_std();
        self.manners.learn(|known| if granted { known.enable.works() } else { known.enable.refused(now) });
        if granted { Ok(true) } else { Err(FillError::Unfit) }
    }

    /// A new connection, where there is room for one without waiting for who has one, with a turn: as long as the other
    /// is not at rest, both are in use. That there is a seat is not enough: one whose connection is not closed yet is
    /// free already.
    async fn further(self: &Arc<Self>, backend: &Arc<Backend>, want: &Want) -> Option<Lease> {
        let turn = self.turns.try_take()?;
        let seat = self.seat_at_once().await?;
        let resting = seat.0.lock().take();
        let is_vacant = resting.is_none();
        let mut lease = Lease::new(self, seat, resting, [Some(turn), None]);
        if is_vacant {
            lease.fill(self.dial(backend, want).await.ok()?);
        }
        // Else one came to rest meanwhile, or has ended there.
        let fits = lease.is_fresh() || !lease.is_over() && fitness(&lease.shared().facts(), want) > 0;
        fits.then_some(lease)
    }

    /// Exchanges `mine` for the connection at rest that fits best, if one fits better. False: the one at hand was
    /// closed just then.
    pub(super) fn exchange(&self, mine: &mut Connection, want: &Want) -> bool {
        let fit = fitness(&mine.shared().facts(), want);
        if fit == BEST_FIT || self.seats.status().available == 0 || !self.is_current(mine) {
            return true;
        }
        // Of several that fit as well, it is the first.
        let others = self.at_rest().into_iter().rev().map(|other| (fitness(&other.facts(), want), other.id));
        let Some((_, best)) = others.filter(|(other, _)| *other > fit).max_by_key(|(other, _)| *other) else {
            return true;
        };
        let generation = mine.shared().generation;
        // If mine cannot be put to rest, its seat finds out when it is next wanted.
        let _ = mine.release();
        self.change_places(mine, best);
        self.look_after(generation);
        // Somebody else may have taken the other: then it is mine still, and was at rest for a moment.
        mine.attach()
    }

    /// The backend takes no more connections: makes do with those there are, for a while. False: there are none.
    fn lower_limit(&self, text: &str) -> bool {
        let have = self.seats.status().size;
        if have == 0 {
            warn!(
                user = self.name(),
                backend = self.backend().config.name,
                text,
                "backend takes no connection of this account"
            );
            return false;
        }
        let mut limit = self.limit.lock();
        let (_, most) = limit.get_or_insert_with(|| (Instant::now(), have));
        *most = have.min(*most);
        self.resize_turns(*limit);
        drop(limit);
        warn!(
            user = self.name(),
            backend = self.backend().config.name,
            connections = have,
            text,
            "backend takes no further connection of this account; lower pool.max_per_account"
        );
        true
    }

    /// Forgets that the backend said so, if that was so long ago.
    pub(super) fn lift_limit(&self, after: Duration) {
        let mut limit = self.limit.lock();
        if limit.take_if(|(since, _)| since.elapsed() >= after).is_some() {
            self.resize_turns(*limit);
        }
    }

    /// Has as many turns as its terms and the backend's `limit`, which is locked, allow.
    pub(super) fn resize_turns(&self, limit: Option<(Instant, usize)>) {
        self.turns.resize(self.most_within(limit));
    }

    /// Connections that its terms and the backend's limit allow.
    pub(super) fn most(&self) -> usize {
        let limit = *self.limit.lock();
        self.most_within(limit)
    }

    fn most_within(&self, limit: Option<(Instant, usize)>) -> usize {
        let max = self.terms().max_per_account;
        limit.map_or(max, |(_, most)| most.min(max))
    }
}

/// The best that [`fitness`] knows.
const BEST_FIT: u8 = 3;

/// How well a connection suits; 0: not at all.
pub(super) fn fitness(facts: &Facts, want: &Want) -> u8 {
    if is_stuck(facts, want) {
        return 0;
    }
    if want.or_sticky.as_ref().is_some_and(|sticky| *sticky == *facts.sticky) {
        return 3;
    }
    if want.shares && *facts.sticky != *want.sticky && can_share(facts, want) {
        return if want.mailbox == facts.selected { 2 } else { 1 };
    }
    if *facts.sticky != *want.sticky {
        return u8::from(want.lends && facts.sticky.shows_as(&want.sticky));
    }
    let best = if want.or_sticky.is_some() { 2 } else { 3 };
    match (&want.mailbox, &facts.selected) {
        (None, None) => best,
        (Some(wanted), Some(selected)) if wanted == selected => best,
        _ => 1,
    }
}

/// Nothing is missing but CONDSTORE and QRESYNC, and nothing is on that is not wanted.
fn can_raise(facts: &Facts, want: &Want) -> bool {
    facts.sticky.is_within(&want.sticky) && facts.sticky.shows_as(&want.sticky)
}

/// All is on that is wanted, and what is besides can be left out by a hub.
fn can_share(facts: &Facts, want: &Want) -> bool {
    want.sticky.is_within(&facts.sticky) && facts.sticky.shows_as(&want.sticky)
}

/// Another mailbox is selected, and the backend was found to have no way to leave it.
fn is_stuck(facts: &Facts, want: &Want) -> bool {
    let name = |key: &Option<Bytes>| key.as_ref().map(|key| key.slice(1.min(key.len())..));
    want.stays && facts.selected.is_some() && name(&facts.selected) != name(&want.mailbox)
}

/// A permit. Where there is none at once, `ask` sees to it that somebody gives one up.
async fn take(permits: &Arc<Semaphore>, ask: impl FnOnce() -> ports::Waiting) -> OwnedSemaphorePermit {
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return permit;
    }
    let _waiting = ask();
    // Neither semaphore is ever closed.
    Arc::clone(permits).acquire_owned().await.expect("open semaphore")
}

/// Whether the command is answered OK; `None`: the connection was lost.
async fn run(connection: &mut Connection, request: Box<Request>) -> Option<bool> {
    connection.run(request).ok()?;
    loop {
        match connection.event().await {
            FromUpstream::Done(_, rest, _) => return Some(rest.starts_with(b" OK")),
            FromUpstream::Lost(_) => return None,
            _ => {}
        }
    }
}
