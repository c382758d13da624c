//! Lets client sessions in: accepts, counts, prepares, and gives each session a task of its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use super::Inner;
use crate::config::{Limits, Live, TlsMode};
use crate::listener::{BoundListener, ClientAddr, ListenerContext, prepare};
use crate::metrics::{Metrics, SessionClose};
use crate::session::crowd::{Crowd, Place};
use crate::session::driver::{Context, Session};
use crate::stream::Stream;

/// Clients that are told at once that there are too many; others are just cut off.
const MAX_REFUSALS: usize = 256;

/// How long a client may take to complete TCP's handshake with a listener that is being handed over.
const HANDSHAKES: Duration = Duration::from_secs(1);

/// Those who gave way are told of in the log this often at most; each has its own line besides.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Lets in as many client sessions as there may be, in all and of one address.
#[derive(Debug)]
pub(super) struct Gate {
    crowd: Arc<Crowd>,
    /// `limits.sessions_per_address`
    most_of_address: AtomicUsize,
    /// Those who are told that there is no place, at once.
    refusals: Arc<Semaphore>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// When it was last told that somebody had to give way.
    told: Mutex<Option<Instant>>,
}

/// The right of one address to a further session.
struct Admission {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Gate {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            crowd: Crowd::new(limits),
            most_of_address: AtomicUsize::new(limits.sessions_per_address),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            addresses: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// Goes by other limits from now on; whoever has logged in stays.
    pub(super) fn apply(&self, limits: &Limits) {
        self.crowd.apply(limits);
        self.most_of_address.store(limits.sessions_per_address, Ordering::Relaxed);
    }

    fn place(&self) -> Option<Place> {
        let (place, gave_way) = self.crowd.enter();
        if gave_way > 0 {
            let mut told = self.told.lock();
            if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                *told = Some(Instant::now());
                let waiting = self.crowd.strangers();
                warn!(
                    waiting,
                    "too many connections that have not logged in; the oldest give way (limits.unauthenticated)"
                );
            }
        }
        place
    }

    fn admit(self: &Arc<Self>, client: ClientAddr) -> Option<Admission> {
        let most = self.most_of_address.load(Ordering::Relaxed);
        let address = client.ip().filter(|_| most > 0);
        if let Some(address) = address {
            let mut addresses = self.addresses.lock();
            let count = addresses.entry(address).or_default();
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        Some(Admission { gate: Arc::clone(self), address })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut addresses = self.gate.addresses.lock();
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// Accepts on one listener.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) inner: Arc<Inner>,
    /// For connections that come.
    pub(super) listener: Live<ListenerContext>,
    /// The listener is not wanted any more.
    pub(super) stop: CancellationToken,
}

impl Acceptor {
    /// `sessions`: held for as long as sessions begin here.
    pub(super) async fn serve(self, listener: BoundListener, sessions: TaskTrackerToken) {
        let mut held = sessions;
        while let Some((stream, peer)) = self.draining(listener.accept()).await {
            self.accepted(stream, peer);
        }
        if self.is_late() && !self.stop.is_cancelled() {
            // Others would take the accounts over if nobody were there, and commands still run. Each is told that it
            // is not the time for that.
            held = self.inner.late.token();
            while let Some((stream, peer)) = self.stop.run_until_cancelled(listener.accept()).await {
                self.accepted(stream, peer);
            }
        }
        if listener.hand_over() {
            // Handshakes that have begun end here.
            let ends = async {
                loop {
                    let (stream, peer) = listener.accept().await;
                    self.accepted(stream, peer);
                }
            };
            let _: Result<(), _> = timeout(HANDSHAKES, ends).await;
        }
        // Whoever has connected by now is served, or told; to be reset would look like a refusal.
        for (stream, peer) in listener.close().await {
            self.accepted(stream, peer);
        }
        drop(held);
    }

    /// What is awaited, unless the listener closes before, or the process ends.
    async fn draining<T>(&self, awaited: impl Future<Output = T>) -> Option<T> {
        let awaited = self.inner.drain.run_until_cancelled(awaited);
        self.stop.run_until_cancelled(awaited).await.flatten()
    }

    /// Whether sessions that come are told only that the process ends.
    fn is_late(&self) -> bool {
        let Inner { drain, router, .. } = &*self.inner;
        drain.is_cancelled() && router.is_for_replicas(&self.listener.load().config.name)
    }

    fn tasks(&self) -> &TaskTracker {
        if self.is_late() { &self.inner.late } else { &self.inner.sessions }
    }

    fn accepted(&self, stream: Stream, peer: ClientAddr) {
        let (context, listener) = (self.inner.context.load_full(), self.listener.load_full());
        match self.inner.gate.place() {
            Some(place) => {
                let counted = Counted::new(&context.metrics);
                let guest = Guest { stream, client: peer, context, listener, place, counted };
                if guest.listener.is_ready(peer) {
                    self.begin(guest);
                } else {
                    self.tasks().spawn(self.clone().welcome(guest));
                }
            }
            None => {
                turned_away(&context, &listener, peer, "limits.sessions");
                match Arc::clone(&self.inner.gate.refusals).try_acquire_owned() {
                    Ok(turn) if listener.config.tls != TlsMode::Implicit => {
                        self.tasks().spawn(async move {
                            refuse(stream).await;
                            drop(turn);
                        });
                    }
                    _ => stream.reset(),
                }
            }
        }
    }

    /// What comes before the first greeting.
    async fn welcome(self, guest: Guest) {
        let Guest { stream, client, context, listener, place, counted } = guest;
        let limit = context.limits.tls_handshake_timeout;
        let prepared = {
            let prepared = Box::pin(prepare(stream, client, &listener, limit));
            tokio::select! {
                biased;
                // Nothing can be said in the middle of a handshake.
                () = place.given_up() => {
                    info!(%client, listener = listener.config.name, "gave way before it was ready");
                    return context.metrics.sessions_closed.inc(SessionClose::GaveWay);
                }
                prepared = prepared => prepared,
            }
        };
        let accepted = match prepared {
            Ok(accepted) => accepted,
            Err(error) => {
                info!(%client, listener = listener.config.name, %error, "handshake failed");
                return context.metrics.sessions_closed.inc(SessionClose::HandshakeFailed);
            }
        };
        let (stream, client) = (accepted.stream, accepted.client);
        self.begin(Guest { stream, client, context, listener, place, counted });
    }

    /// Gives the session a task of its own size.
    fn begin(&self, guest: Guest) {
        let Guest { stream, client, context, listener, place, counted } = guest;
        let Some(admission) = self.inner.gate.admit(client) else {
            turned_away(&context, &listener, client, "limits.sessions_per_address");
            self.tasks().spawn(async move {
                refuse(stream).await;
                drop((place, counted));
            });
            return;
        };
        let numbers = context.metrics.listener(&listener.config.name);
        let enrolled = context.registry.enroll(client, &listener, numbers, (place, self.is_late()));
        let session = Session::new(stream, Arc::clone(&enrolled.record), context);
        let held = (enrolled, counted, admission);
        self.tasks().spawn(async move {
            session.run().await;
            drop(held);
        });
    }
}

fn turned_away(context: &Context, listener: &ListenerContext, client: ClientAddr, limit: &str) {
    warn!(%client, listener = listener.config.name, limit, "too many sessions");
    context.metrics.sessions_closed.inc(SessionClose::Limit);
}

/// Who has come, and is not a session yet.
struct Guest {
    stream: Stream,
    client: ClientAddr,
    context: Arc<Context>,
    listener: Arc<ListenerContext>,
    place: Place,
    counted: Counted,
}

/// A session in `imapool_client_sessions`.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.client_sessions.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.client_sessions.dec();
    }
}

/// Says why there is no session. A limit never looks like a wrong password.
async fn refuse(mut stream: Stream) {
    let say = stream.write_all(b"* BYE [LIMIT] Too many sessions; try again later.\r\n");
    if let Ok(Ok(())) = timeout(Duration::from_secs(1), say).await {
        stream.close(Duration::from_secs(1)).await;
    }
}
