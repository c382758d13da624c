//! An operator is obeyed: each action and each kind of reload, whatever a session is at, in both modes. What was
//! announced is what happened, seen at the server.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imapool::config::{Backend, ListenAddr, Listener, PoolMode, TlsMode};
use imapool::demo::server::{Options, Server};

use crate::api::World;
use crate::frozen::of_three_messages;
use crate::http::post;
use crate::load::connect;
use crate::moved::reload;
use crate::process::Imapool;
use crate::support::backend::CAPABILITIES;
use crate::support::tls::Certificates;
use crate::support::{Client, Conn, Gate, Scripted, soon, until};

/// A server of mailboxes of three messages each. A FETCH of `1:2` stops in its middle until the gate is open.
struct Stand {
    scripted: Scripted,
    state: Arc<State>,
    gate: Gate,
}

#[derive(Default)]
struct State {
    refuses: AtomicBool,
    logins: AtomicUsize,
    /// By the order of their logins.
    open: Mutex<BTreeSet<usize>>,
}

impl Stand {
    async fn start(certificates: Option<&Certificates>) -> Self {
        let (state, (gate, held)) = (Arc::<State>::default(), Gate::pair());
        let (ours, acceptor) = (Arc::clone(&state), certificates.map(Certificates::acceptor));
        let scripted = Scripted::raw(move |mut conn: Conn| {
            let (state, held, acceptor) = (Arc::clone(&ours), held.clone(), acceptor.clone());
            async move {
                if let Some(acceptor) = acceptor {
                    conn = conn.secure(&acceptor).await;
                }
                conn.send(format!("* OK [CAPABILITY {CAPABILITIES}] ready\r\n")).await;
                while conn.read_login(CAPABILITIES).await {
                    if state.refuses.load(Ordering::Relaxed) {
                        conn.play("S: TAG NO [AUTHENTICATIONFAILED] no").await;
                        continue;
                    }
                    conn.play(&format!("S: TAG OK [CAPABILITY {CAPABILITIES}] in")).await;
                    if conn.prove().await {
                        let number = state.logins.fetch_add(1, Ordering::Relaxed) + 1;
                        state.open.lock().unwrap().insert(number);
                        serve(&mut conn, &held).await;
                        state.open.lock().unwrap().remove(&number);
                    }
                    return;
                }
            }
        })
        .await;
        Self { scripted, state, gate }
    }

    fn logins(&self) -> usize {
        self.state.logins.load(Ordering::Relaxed)
    }

    fn has(&self, connection: usize) -> bool {
        self.state.open.lock().unwrap().contains(&connection)
    }
}

async fn serve(conn: &mut Conn, held: &Gate) {
    while let Some(command) = conn.command().await {
        let said = match command.split(' ').next().unwrap() {
            "LOGOUT" => return conn.play("S: * BYE bye\nS: TAG OK bye").await,
            "IDLE" => {
                if !conn.idle().await {
                    return;
                }
                ""
            }
            "FETCH" if command.starts_with("FETCH 1:2") => {
                conn.play("S: * 1 FETCH (BODY[] {3}\nS- abc").await;
                held.passed().await;
                "S: )\nS: * 2 FETCH (BODY[] {3}\nS: abc)"
            }
            "FETCH" => "S: * 1 FETCH (FLAGS ())",
            "XYZZY" => {
                conn.play("S: TAG BAD what").await;
                continue;
            }
            _ => of_three_messages(&command),
        };
        conn.play(said).await;
        conn.play("S: TAG OK done").await;
    }
}

/// What a session is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Idle,
    Fetch,
    Rest,
    /// With `"session"`, where nothing is parked: outside of a mailbox, the connection of its login at rest.
    Parked,
    Pinned,
}

const ALL: [At; 5] = [At::Idle, At::Fetch, At::Rest, At::Parked, At::Pinned];

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Retire,
    Drain,
    PauseAndResume,
    Close,
    /// The server no longer accepts the password, and the account is retired.
    Revoke,
    Changed,
    Tls,
    Removed,
    MaxPerAccount,
    Mode,
    Listener,
    ListenerGone,
    MaxLifetime,
}

/// What comes of it for the session, and for the connection that it was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// Nothing: it goes on, on the same connection.
    Nothing,
    /// It goes on, and has the connection for itself to its end, when that is closed.
    KeepsIt,
    /// The connection is closed, and the session goes on, on another one to the server that there is now.
    Anew,
    /// The connection is closed, and the session is told to go.
    Bye,
    /// The session is told to go; its connection can be used by others.
    ByeAlone,
    /// The connection is closed; the session is told to go when it next asks for something.
    ByeWhenAsking,
}

fn comes(does: Does, at: At, mode: PoolMode) -> Comes {
    let has_its_own = at == At::Pinned || mode == PoolMode::Session && at != At::Parked;
    let holds_none = mode == PoolMode::Session && at == At::Parked;
    match does {
        Does::Retire | Does::Changed | Does::Tls if has_its_own => Comes::KeepsIt,
        Does::Retire | Does::Changed | Does::Tls => Comes::Anew,
        Does::Drain if holds_none => Comes::Anew,
        Does::Drain | Does::Removed => Comes::Bye,
        // What is not known to imapool leaves it in a state that nobody shall meet.
        Does::Close if at == At::Pinned => Comes::Bye,
        Does::Close => Comes::ByeAlone,
        Does::Revoke if has_its_own => Comes::KeepsIt,
        Does::Revoke if at == At::Idle => Comes::Bye,
        Does::Revoke => Comes::ByeWhenAsking,
        _ => Comes::Nothing,
    }
}

struct Scene {
    world: World,
    stand: Stand,
    /// Where a reload moves the backend.
    new: Stand,
    certificates: Option<Certificates>,
    client: Client,
    /// Has the connection while the session in question is parked.
    other: Option<Client>,
    at: At,
    mode: PoolMode,
}

impl Scene {
    async fn set(does: Does, at: At, mode: PoolMode) -> Self {
        let certificates = (does == Does::Tls).then(Certificates::new);
        let (stand, new) = (Stand::start(None).await, Stand::start(certificates.as_ref()).await);
        let unused = Server::start(Options::default()).await.unwrap();
        let last = if does == Does::Tls { &stand } else { &new };
        let last = Backend { name: "last".into(), ..Backend::new("127.0.0.1", last.scripted.address.port()) };
        let world = World::before(stand.scripted.address, unused, |config| {
            config.pool.mode = mode;
            config.pool.max_per_account = 1;
            config.backends.push(last);
        })
        .await;
        let mut client = world.harness.login("u1").await;
        let mut other = None;
        match (at, mode) {
            (At::Parked, PoolMode::Session) => {}
            (At::Parked, PoolMode::Multiplex) => {
                client.play("C: a SELECT INBOX\nS~ a OK…").await;
                let mut beside = world.harness.login("u1").await;
                beside.play("C: a SELECT Other\nS~ a OK…\nC: i IDLE\nS~ + …").await;
                until("parked", || world.harness.metric("imapool_hubs", "state=\"parked\"") == 1).await;
                other = Some(beside);
            }
            (At::Idle, _) => client.play("C: a SELECT INBOX\nS~ a OK…\nC: i IDLE\nS~ + …").await,
            (At::Fetch, _) => {
                client.play("C: a SELECT INBOX\nS~ a OK…\nC: f FETCH 1:2 (BODY[])\nS~ * 1 FETCH (BODY[] {3}").await;
            }
            (At::Rest, _) => client.play("C: a SELECT INBOX\nS~ a OK…").await,
            (At::Pinned, _) => client.play("C: a SELECT INBOX\nS~ a OK…\nC: b XYZZY\nS~ b BAD…").await,
        }
        assert_eq!(stand.logins(), 1);
        Self { world, stand, new, certificates, client, other, at, mode }
    }

    /// Does it; gives what was announced.
    async fn act(&self, does: Does) -> String {
        let (harness, admin) = (&self.world.harness, self.world.admin);
        let port = self.new.scripted.address.port();
        match does {
            Does::Retire => post(admin, "/api/accounts/u1/retire").await.body,
            Does::Drain => post(admin, "/api/backends/mail/drain").await.body,
            Does::PauseAndResume => {
                post(admin, "/api/backends/mail/pause").await.body
                    + &post(admin, "/api/backends/mail/resume").await.body
            }
            Does::Close => post(admin, "/api/sessions/close?account=u1").await.body,
            Does::Revoke => {
                self.stand.state.refuses.store(true, Ordering::Relaxed);
                post(admin, "/api/accounts/u1/retire").await.body
            }
            Does::Changed => reload(harness, |config| config.backends[0].port = port).await,
            Does::Tls => {
                reload(harness, |config| {
                    config.backends[0].port = port;
                    self.certificates.as_ref().unwrap().secure_backend(&mut config.backends[0], TlsMode::Implicit);
                })
                .await
            }
            Does::Removed => reload(harness, |config| drop(config.backends.remove(0))).await,
            Does::MaxPerAccount => reload(harness, |config| config.pool.max_per_account = 2).await,
            Does::Mode => {
                let other = [PoolMode::Multiplex, PoolMode::Session].into_iter().find(|mode| *mode != self.mode);
                reload(harness, |config| config.pool.mode = other.unwrap()).await
            }
            Does::Listener => reload(harness, |config| config.listeners[0].reset_on_client_close ^= true).await,
            Does::ListenerGone => {
                let other = Listener::new(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
                reload(harness, |config| config.listeners = vec![Listener { name: "other".into(), ..other }]).await
            }
            Does::MaxLifetime => reload(harness, |config| config.pool.max_lifetime = Duration::from_secs(7)).await,
        }
    }

    /// What it should announce.
    fn announced(&self, does: Does) -> &'static [&'static str] {
        let in_its_mailbox = if self.other.is_some() { 2 } else { 1 };
        let holds_none = self.mode == PoolMode::Session && self.at == At::Parked;
        match does {
            Does::Retire | Does::Revoke => &["\"connections\":1"],
            Does::Drain if holds_none => &["\"drained\"", "\"sessions\":0"],
            Does::Drain if in_its_mailbox == 2 => &["\"drained\"", "\"sessions\":2"],
            Does::Drain => &["\"drained\"", "\"sessions\":1"],
            Does::PauseAndResume => &["\"paused\"", "\"running\"", "\"connections\":1"],
            Does::Close if in_its_mailbox == 2 => &["\"sessions\":2"],
            Does::Close => &["\"sessions\":1"],
            Does::Changed | Does::Tls => &["backend \"mail\".port", "(connections are retired and opened anew)"],
            Does::Removed => &["- backend \"mail\"", "(its sessions are closed)"],
            Does::MaxPerAccount => &["pool.max_per_account: 1 -> 2", "(at once)"],
            Does::Mode => &["pool.mode", "(for new sessions)"],
            Does::Listener => &["reset_on_client_close", "(for new sessions)"],
            Does::ListenerGone => &["- listener \"webmail\"", "(no new sessions there; those that are open go on)"],
            Does::MaxLifetime => &["pool.max_lifetime", "(for new connections)"],
        }
    }

    /// A command that ran is answered in full, whatever comes then.
    async fn complete(&mut self) {
        self.stand.gate.open();
        if self.at == At::Fetch {
            self.client.play("S: abc)\nS: * 2 FETCH (BODY[] {3}\nS: abc)\nS~ f OK…").await;
        }
    }

    async fn goes_on(&mut self) {
        if self.at == At::Idle {
            self.client.play("C: DONE\nS~ i OK…").await;
        }
        self.client.play(&format!("C: c {}\nS~ c OK…", self.command())).await;
    }

    /// One that needs the server.
    fn command(&self) -> &'static str {
        let holds_none = self.mode == PoolMode::Session && self.at == At::Parked;
        if holds_none { "SELECT INBOX" } else { "FETCH 1 (FLAGS)" }
    }

    async fn is_left(&self, what: &str) {
        until(what, || !self.stand.has(1)).await;
    }

    /// Whether it comes so.
    async fn see(mut self, does: Does) {
        let what = format!("{does:?} at {:?}, {:?}", self.at, self.mode);
        println!("{what}");
        let told = self.act(does).await;
        for part in self.announced(does) {
            assert!(told.contains(part), "{what}: {told}");
        }
        self.complete().await;
        let moves = matches!(does, Does::Changed | Does::Tls);
        match comes(does, self.at, self.mode) {
            Comes::Nothing => {
                self.goes_on().await;
                let more = usize::from(does == Does::MaxPerAccount && self.other.is_some());
                assert!(self.stand.has(1) && self.stand.logins() == 1 + more, "{what}: {}", self.stand.logins());
            }
            Comes::KeepsIt => {
                self.goes_on().await;
                assert!(self.stand.has(1) && self.stand.logins() == 1 && self.new.logins() == 0, "{what}");
                self.client.play("C: z LOGOUT\nS~ z OK…\nS.").await;
                self.is_left(&what).await;
            }
            Comes::Anew => {
                self.is_left(&what).await;
                if does == Does::Drain {
                    post(self.world.admin, "/api/backends/mail/resume").await;
                }
                self.goes_on().await;
                let wanted = if moves { (1, 1) } else { (2, 0) };
                assert_eq!((self.stand.logins(), self.new.logins()), wanted, "{what}");
            }
            Comes::Bye => {
                self.client.play("S~ * BYE…\nS.").await;
                self.is_left(&what).await;
                assert_eq!((self.stand.logins(), self.new.logins()), (1, 0), "{what}");
            }
            Comes::ByeAlone => {
                self.client.play("S~ * BYE…\nS.").await;
                self.world.harness.visit("u1").await;
                assert_eq!((self.stand.has(1), self.stand.logins()), (true, 1), "{what}");
            }
            Comes::ByeWhenAsking => {
                self.is_left(&what).await;
                self.client.play(&format!("C: c {}\nS~ * BYE…", self.command())).await;
                assert_eq!(self.stand.logins(), 1, "{what}");
            }
        }
        drop((self.client, self.other));
        self.world.harness.finish().await;
    }
}

async fn in_both_modes(does: &[Does]) {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        for (does, at) in does.iter().flat_map(|does| ALL.map(|at| (*does, at))) {
            Scene::set(does, at, mode).await.see(does).await;
        }
    }
}

#[tokio::test]
async fn retire_and_revoke() {
    in_both_modes(&[Does::Retire, Does::Revoke]).await;
}

#[tokio::test]
async fn drain_pause_resume_and_close() {
    in_both_modes(&[Does::Drain, Does::PauseAndResume, Does::Close]).await;
}

#[tokio::test]
async fn another_backend() {
    in_both_modes(&[Does::Changed, Does::Tls, Does::Removed]).await;
}

#[tokio::test]
async fn what_concerns_no_connection_that_is_there() {
    let does = [Does::MaxPerAccount, Does::Mode, Does::Listener, Does::ListenerGone, Does::MaxLifetime];
    in_both_modes(&does).await;
}

/// A thousand sessions that share fifty connections: once the drain has answered, none of these is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_shared_sessions_are_drained() {
    let server = Server::start(Options::default()).await.unwrap();
    let imapool = Imapool::start(server.address(), "[pool]\nspare = 0\n").await;
    let mut clients = Vec::new();
    for number in 0..1000 {
        let mut client = connect(imapool.address(), None).await;
        let (user, idle) = (number % 50, if number % 3 == 0 { "\nC: b IDLE\nS~ + …" } else { "" });
        client.play(&format!("C: l LOGIN u{user} pw-u{user}\nS~ l OK…\nC: a SELECT INBOX\nS~ a OK…{idle}")).await;
        clients.push(client);
    }
    assert_eq!(server.open(), 50);
    let drained = imapool.run(&["ctl", "drain", "main", "--wait", "5s"]);
    assert_eq!(server.open(), 0, "{drained:?}");
    let told = String::from_utf8_lossy(&drained.stdout);
    assert!(
        drained.status.success() && told.contains("1000 sessions were closed, no connection is open"),
        "{drained:?}"
    );
    for client in &mut clients {
        soon("BYE", client.play("S~ * BYE…\nS.")).await;
    }
}
