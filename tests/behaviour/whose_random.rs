//! Random sessions, passwords that are changed, tokens, retirements and losses: no command ever runs with a
//! credential that its session may not have.

use std::time::Duration;

use imapool::config::{PerCredential, PoolMode};
use imapool::metrics::RetireReason;
use proptest::prelude::*;
use proptest::test_runner::Config as Cases;

use crate::support::{Client, Harness, soon};
use crate::whose::{Teller, enter, token, whose};

/// The first half are passwords, the second tokens: all of one user.
const SECRETS: [&str; 6] = ["pass0", "pass1", "pass2", "tok0", "tok1", "tok2"];
const SLOTS: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    Login(usize, usize),
    Run(usize, &'static str),
    Idle(usize),
    Leave(usize),
    Refuse(usize),
    Accept(usize),
    Retire,
    HangUp,
}

#[derive(Debug, Clone)]
struct Play {
    mode: PoolMode,
    apart: PerCredential,
    connections: usize,
    steps: Vec<Step>,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SLOTS, 0..SECRETS.len()).prop_map(|(slot, secret)| Step::Login(slot, secret)),
        12 => (0..SLOTS, prop::sample::select(&["NOOP", "LIST \"\" x", "SELECT one", "SELECT two"][..]))
            .prop_map(|(slot, command)| Step::Run(slot, command)),
        2 => (0..SLOTS).prop_map(Step::Idle),
        1 => (0..SLOTS).prop_map(Step::Leave),
        3 => (0..SECRETS.len()).prop_map(Step::Refuse),
        2 => (0..SECRETS.len()).prop_map(Step::Accept),
        4 => Just(Step::Retire),
        1 => Just(Step::HangUp),
    ]
}

fn play() -> impl Strategy<Value = Play> {
    let modes = prop::sample::select(&[PoolMode::Multiplex, PoolMode::Multiplex, PoolMode::Session][..]);
    let apart = prop::sample::select(&[PerCredential::Tokens, PerCredential::Always, PerCredential::Never][..]);
    (modes, apart, 1..4usize, prop::collection::vec(step(), 20..100)).prop_map(|(mode, apart, connections, steps)| {
        // Each session holds one.
        let connections = if mode == PoolMode::Session { SLOTS + 1 } else { connections };
        Play { mode, apart, connections, steps }
    })
}

struct Session {
    client: Client,
    secret: usize,
    /// Its credential was refused since: it may be ended.
    tainted: bool,
    selected: bool,
    /// With `pool.mode = "session"`: it has a connection of its own.
    connected: bool,
    idling: bool,
}

struct World {
    play: Play,
    teller: Teller,
    harness: Harness,
    sessions: [Option<Session>; SLOTS],
    good: [bool; SECRETS.len()],
    /// Was refused already when everything was retired, and has been ever since.
    dead: [bool; SECRETS.len()],
    /// Logins that the backend had seen when everything was last retired.
    retired_at: u32,
}

fn is_token(secret: usize) -> bool {
    secret >= SECRETS.len() / 2
}

impl World {
    async fn start(play: &Play) -> Self {
        let teller = Teller::start(SECRETS).await;
        let harness = Harness::start(teller.backend.address, |config| {
            config.pool.mode = play.mode;
            config.pool.per_credential = play.apart;
            config.pool.max_per_account = play.connections;
            config.auth.cache_ttl = Duration::from_secs(3600);
        })
        .await;
        let sessions = [const { None }; SLOTS];
        Self {
            play: play.clone(),
            teller,
            harness,
            sessions,
            good: [true; SECRETS.len()],
            dead: [false; SECRETS.len()],
            retired_at: 0,
        }
    }

    /// Whether a session may be served by a connection that was logged in so.
    fn may_share(&self, own: usize, theirs: usize) -> bool {
        let apart = match self.play.apart {
            PerCredential::Always => true,
            PerCredential::Tokens => is_token(own),
            PerCredential::Never => false,
        };
        own == theirs || !apart && is_token(own) == is_token(theirs)
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Login(slot, secret) if self.good[secret] => {
                self.sessions[slot] = None;
                let word = SECRETS[secret];
                let login = if is_token(secret) { token("u8", word) } else { format!("LOGIN u8 {word}") };
                let client = enter(&self.harness, &login).await;
                self.sessions[slot] =
                    Some(Session { client, secret, tainted: false, selected: false, connected: false, idling: false });
            }
            Step::Run(slot, command) => self.run(slot, command).await,
            Step::Idle(slot) => self.idle(slot).await,
            Step::Leave(slot) => self.sessions[slot] = None,
            Step::Refuse(secret) => {
                self.good[secret] = false;
                self.teller.refuse(SECRETS[secret]);
                for session in self.sessions.iter_mut().flatten() {
                    session.tainted |= session.secret == secret;
                }
            }
            Step::Accept(secret) => {
                self.good[secret] = true;
                self.dead[secret] = false;
                self.teller.accept(SECRETS[secret]);
            }
            Step::Retire => {
                for account in self.harness.proxy().pools().accounts() {
                    account.retire_all(RetireReason::Operator);
                }
                self.dead = self.good.map(|good| !good);
                self.retired_at = u32::try_from(self.teller.all_logins()).unwrap();
            }
            Step::HangUp => {
                self.teller.hang_up().await;
                // Whose mailbox is lost with its own connection has to leave.
                for session in self.sessions.iter_mut().flatten() {
                    session.tainted |= self.play.mode == PoolMode::Session && session.selected;
                    session.connected = false;
                }
            }
            Step::Login(..) => {}
        }
    }

    async fn run(&mut self, slot: usize, command: &str) {
        self.end_idle(slot).await;
        let Some(mut session) = self.sessions[slot].take() else { return };
        if command == "NOOP" && !session.selected {
            // imapool may answer it by itself in time to come.
            self.sessions[slot] = Some(session);
            return;
        }
        let before = session.connected;
        let told = whose(&mut session.client, command).await;
        let Some((secret, number)) = told else {
            assert!(session.tainted, "{command}: a session with a credential that was never refused is ended");
            return;
        };
        let theirs = SECRETS.iter().position(|known| *known == secret).unwrap();
        let own = session.secret;
        assert!(self.may_share(own, theirs), "{} is served with {secret}: {:?}", SECRETS[own], self.play);
        // What joins a mailbox is answered with what the first SELECT there said.
        let is_own_words = !command.starts_with("SELECT") || self.play.mode == PoolMode::Session;
        if is_own_words && !before {
            assert!(number > self.retired_at, "a connection of before the retirement: {:?}", self.play);
            assert!(!self.dead[own], "{} is refused, and served: {:?}", SECRETS[own], self.play);
        }
        session.connected = self.play.mode == PoolMode::Session;
        session.selected |= command.starts_with("SELECT");
        self.sessions[slot] = Some(session);
    }

    async fn idle(&mut self, slot: usize) {
        let Some(session) = self.sessions[slot].as_mut().filter(|session| session.selected && !session.idling) else {
            return;
        };
        session.client.try_send("i IDLE\r\n").await;
        match session.client.try_line().await {
            Some(line) if line.starts_with("+ ") => session.idling = true,
            other => {
                assert!(session.tainted, "{other:?}");
                self.sessions[slot] = None;
            }
        }
    }

    async fn end_idle(&mut self, slot: usize) {
        let Some(session) = self.sessions[slot].as_mut().filter(|session| session.idling) else { return };
        session.idling = false;
        session.client.try_send("DONE\r\n").await;
        while let Some(line) = session.client.try_line().await {
            if line.starts_with("i OK") {
                return;
            }
        }
        assert!(session.tainted, "ended in IDLE");
        self.sessions[slot] = None;
    }

    /// Whoever was never refused is served to the end, and nothing is left behind.
    async fn finish(mut self) {
        for slot in 0..SLOTS {
            self.run(slot, "LIST \"\" x").await;
        }
        self.sessions = [const { None }; SLOTS];
        self.harness.finish().await;
    }
}

proptest! {
    #![proptest_config(Cases { cases: 64, failure_persistence: None, max_shrink_iters: 8, ..Cases::default() })]

    #[test]
    fn no_command_runs_with_what_its_session_did_not_show(play in play()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::start(&play).await;
            for step in &play.steps {
                soon("a step", world.step(step)).await;
            }
            world.finish().await;
        });
    }
}
