//! The line between a session and its hub: what each tells the other, in one small allocation. There are thousands of
//! them, most at rest; a pair of channels takes ten times as much.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::enabled::Enabled;
use super::registry::Status;
use crate::imap::command::Command;
use crate::imap::request::Request;
use crate::pool::{CheckoutError, Grant, Lease};
use crate::session::registry::Record;

/// What a hub tells a member.
#[derive(Debug)]
pub enum FromHub {
    /// Replies, or parts of them, for the client as they are.
    Data(Bytes),
    /// `+ …`
    Continue(Bytes),
    /// Part of the tagged reply, without its tag; of what was told so, [`FromHub::Done`] has nothing.
    Tagged(Bytes),
    /// The last of the replies, the tagged reply without its tag, and whether the mailbox is selected now.
    Done(Bytes, Bytes, bool),
    /// The mailbox cannot be gone on with; the text of the BYE. Nothing else follows.
    Bye(Bytes),
    /// The reply was cut within a line or literal. Nothing else follows.
    Cut,
    /// There is no connection for the command, and why. If it was no SELECT, the mailbox is still selected.
    Unconnected(CheckoutError),
    /// From now on the session has the connection for itself, and its command is to be run there. Nothing else follows.
    Yours(Box<Lease>, Box<Request>),
    /// It took nothing of its reply for too long, while others waited for that. Nothing else follows.
    Stalled,
    /// The hub is gone.
    Lost,
}

/// What a member asks of its hub.
#[derive(Debug)]
pub(super) enum ToHub {
    Run(Box<Request>),
    /// `DONE`
    EndIdle,
}

#[derive(Debug, Default)]
struct State {
    run: Option<Box<Request>>,
    end_idle: bool,
    /// The hub's, for those who look at the session.
    status: Option<Arc<Status>>,
    /// One at a time: the hub waits until the session has taken it.
    event: Option<Box<FromHub>>,
    /// To be woken when there is something for them.
    hub: Option<Waker>,
    member: Option<Waker>,
    hub_wants_room: bool,
    hub_wants_hunger: bool,
    hub_gone: bool,
    member_gone: bool,
}

impl State {
    /// Who waits for an event is to be woken for it.
    fn is_hungry(&self) -> bool {
        self.event.is_none() && self.member.is_some()
    }
}

/// A session's place in a hub, and its end of the line. Dropping it leaves the hub.
#[derive(Debug)]
pub struct Member {
    /// The mailbox ([`Command::selected_mailbox`]).
    key: Bytes,
    state: Arc<Mutex<State>>,
}

/// For who looks at a session from outside: which hub it is in.
#[derive(Debug)]
pub(crate) struct Watch(Arc<Mutex<State>>);

impl Watch {
    /// Whether it is in a hub, or on its way there.
    pub(crate) fn is_member(&self) -> bool {
        !self.0.lock().member_gone
    }

    /// What may be known of its hub; `None`: it has not been let in yet, or has left, or the hub is gone.
    pub(crate) fn hub(&self) -> Option<Arc<Status>> {
        let state = self.0.lock();
        state.status.clone().filter(|_| !state.member_gone)
    }
}

/// The hub's end.
#[derive(Debug)]
pub(super) struct HubEnd(Arc<Mutex<State>>);

/// A session on its way into a hub.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) run: Box<Request>,
    pub(super) enabled: Enabled,
    pub(super) place: Membership,
    pub(super) since: Instant,
}

/// What a hub knows of a member.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) line: HubEnd,
    pub(super) grant: Grant,
    pub(super) record: Arc<Record>,
}

pub(super) fn pair(key: Bytes) -> (Member, HubEnd) {
    let state = Arc::new(Mutex::new(State::default()));
    (Member { key, state: Arc::clone(&state) }, HubEnd(state))
}

/// Changes the state, and wakes whom that concerns once the lock is released.
fn change<T>(state: &Mutex<State>, change: impl FnOnce(&mut State) -> (Option<Waker>, T)) -> T {
    let (waker, result) = change(&mut state.lock());
    if let Some(waker) = waker {
        waker.wake();
    }
    result
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

impl Member {
    /// Whether the first argument of the command is the hub's mailbox.
    pub fn is_named_by(&self, command: &Command) -> bool {
        let name = &self.key[1..];
        let inbox = name == b"INBOX";
        command.arguments().astring().is_some_and(|it| *it == *name || inbox && it.eq_ignore_ascii_case(name))
    }

    /// Runs a command of a session whose credential stands, one at a time. What comes of it is told by the next events.
    pub fn run(&self, run: Box<Request>) {
        change(&self.state, |state| {
            state.run = Some(run);
            (state.hub.take(), ())
        });
    }

    /// Ends IDLE, perhaps before the hub has seen it.
    pub fn end_idle(&self) {
        change(&self.state, |state| {
            state.end_idle = true;
            (state.hub.take(), ())
        });
    }

    /// For who looks at the session.
    pub(super) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.state))
    }

    /// The next event. [`FromHub::Lost`] when the hub is gone, and all it said was heard.
    pub fn poll_event(&self, cx: &Context<'_>) -> Poll<FromHub> {
        change(&self.state, |state| {
            let (event, concerns_hub) = match state.event.take() {
                Some(event) => (Poll::Ready(*event), std::mem::take(&mut state.hub_wants_room)),
                None if state.hub_gone => (Poll::Ready(FromHub::Lost), false),
                None => {
                    register(&mut state.member, cx);
                    (Poll::Pending, std::mem::take(&mut state.hub_wants_hunger))
                }
            };
            (if concerns_hub { state.hub.take() } else { None }, event)
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // What it has not heard may be a connection.
        drop(change(&self.state, |state| {
            state.member_gone = true;
            (state.hub.take(), state.event.take())
        }));
    }
}

impl HubEnd {
    /// `None`: the member has left.
    pub(super) fn poll_request(&self, cx: &Context<'_>) -> Poll<Option<ToHub>> {
        let mut state = self.0.lock();
        if let Some(run) = state.run.take() {
            return Poll::Ready(Some(ToHub::Run(run)));
        }
        if std::mem::take(&mut state.end_idle) {
            return Poll::Ready(Some(ToHub::EndIdle));
        }
        if state.member_gone {
            return Poll::Ready(None);
        }
        register(&mut state.hub, cx);
        Poll::Pending
    }

    /// Ready when an event can be told, or would be heard by nobody.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.event.is_none() || state.member_gone {
            return Poll::Ready(());
        }
        state.hub_wants_room = true;
        register(&mut state.hub, cx);
        Poll::Pending
    }

    /// Ready when the member waits for an event, with all it took on its way to the client, or has left.
    pub(super) fn poll_hungry(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.is_hungry() || state.member_gone {
            return Poll::Ready(());
        }
        state.hub_wants_hunger = true;
        register(&mut state.hub, cx);
        Poll::Pending
    }

    /// The member is in the hub of this status now.
    pub(super) fn moves_to(&self, status: &Arc<Status>) {
        self.0.lock().status = Some(Arc::clone(status));
    }

    /// The member waits for nothing: what it was told last is not all on its way to the client.
    pub(super) fn is_sated(&self) -> bool {
        !self.0.lock().is_hungry()
    }

    /// Call it when there is room, or to put it in the place of what the member has not taken.
    pub(super) fn tell(&self, event: FromHub) {
        change(&self.0, |state| {
            if !state.member_gone {
                state.event = Some(Box::new(event));
            }
            (state.member.take(), ())
        });
    }
}

impl Drop for HubEnd {
    fn drop(&mut self) {
        change(&self.0, |state| {
            state.hub_gone = true;
            state.status = None;
            (state.member.take(), ())
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use bytes::Bytes;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_event_at_a_time_and_the_last_word_is_heard() {
        let count = Arc::new(Count::default());
        let woken = || count.0.swap(0, Ordering::Relaxed);
        let waker = Arc::clone(&count).into();
        let cx = Context::from_waker(&waker);
        let (member, hub) = pair(Bytes::new());
        assert!(member.poll_event(&cx).is_pending() && hub.poll_room(&cx).is_ready());
        hub.tell(FromHub::Continue(Bytes::new()));
        assert_eq!(woken(), 1);
        assert!(hub.poll_room(&cx).is_pending());
        assert!(matches!(member.poll_event(&cx), Poll::Ready(FromHub::Continue(_))));
        assert_eq!(woken(), 1, "the hub waits for room");
        hub.tell(FromHub::Cut);
        drop(hub);
        assert!(matches!(member.poll_event(&cx), Poll::Ready(FromHub::Cut)));
        assert!(matches!(member.poll_event(&cx), Poll::Ready(FromHub::Lost)));
    }

    #[test]
    fn who_has_not_asked_again_is_not_hungry() {
        let count = Arc::new(Count::default());
        let woken = || count.0.swap(0, Ordering::Relaxed);
        let waker = Arc::clone(&count).into();
        let cx = Context::from_waker(&waker);
        let (member, hub) = pair(Bytes::new());
        assert!(hub.poll_hungry(&cx).is_pending() && hub.is_sated());
        assert!(member.poll_event(&cx).is_pending());
        assert_eq!(woken(), 1, "the hub waits for that");
        assert!(hub.poll_hungry(&cx).is_ready() && !hub.is_sated());
        hub.tell(FromHub::Continue(Bytes::new()));
        assert!(hub.poll_hungry(&cx).is_pending() && hub.is_sated());
        woken();
        assert!(member.poll_event(&cx).is_ready());
        assert!(hub.poll_hungry(&cx).is_pending() && hub.poll_room(&cx).is_ready(), "it has taken, and not asked");
        assert_eq!(woken(), 0);
        drop(member);
        assert_eq!(woken(), 1);
        assert!(hub.poll_hungry(&cx).is_ready());
    }

    #[test]
    fn requests_come_in_order_and_leaving_comes_last() {
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        let cx = Context::from_waker(&waker);
        let (member, hub) = pair(Bytes::new());
        assert!(hub.poll_request(&cx).is_pending());
        member.end_idle();
        drop(member);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(hub.poll_request(&cx), Poll::Ready(Some(ToHub::EndIdle))));
        assert!(matches!(hub.poll_request(&cx), Poll::Ready(None)));
        hub.tell(FromHub::Lost);
        assert!(hub.poll_room(&cx).is_ready(), "nobody hears it");
    }
}
