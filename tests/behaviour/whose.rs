//! Whose credential a session's commands run with: its own, or one that may share with it, as long as its own is
//! accepted.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imapool::config::{PerCredential, PoolMode};
use imapool::metrics::RetireReason;
use imapool::upstream::backend::Service;
use tokio::sync::watch;

use crate::support::{Client, Conn, Gate, Harness, Scripted, until};

const OFFERED: &str = "IMAP4rev1 LITERAL+ SASL-IR ENABLE IDLE UNSELECT ID AUTH=PLAIN AUTH=XOAUTH2 AUTH=OAUTHBEARER";

/// A backend that says with which password or token a connection was logged in, wherever it says something.
pub(crate) struct Teller {
    pub(crate) backend: Scripted,
    books: Arc<Mutex<Books>>,
    hang_up: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Books {
    /// Passwords and tokens that are accepted now.
    good: HashSet<String>,
    /// Logins that were accepted, of each.
    logins: HashMap<String, usize>,
    refused: usize,
    /// Connections that are open, of each.
    open: HashMap<String, usize>,
    /// Connections that were logged in and are closed.
    closed: usize,
    /// Connections that there may be, in all; 0: any number.
    allowed: usize,
    /// LOGOUT is not answered.
    silent: bool,
}

impl Teller {
    pub(crate) async fn start<'s>(good: impl IntoIterator<Item = &'s str>) -> Self {
        let books = Arc::new(Mutex::new(Books::default()));
        books.lock().unwrap().good = good.into_iter().map(str::to_owned).collect();
        let hang_up = Arc::new(watch::Sender::new(()));
        let (ours, hung_up) = (Arc::clone(&books), Arc::clone(&hang_up));
        let backend = Scripted::raw(move |conn: Conn| {
            let (books, mut hung_up) = (Arc::clone(&ours), hung_up.subscribe());
            async move {
                tokio::select! {
                    () = serve(conn, books) => {}
                    _ = hung_up.changed() => {}
                }
            }
        })
        .await;
        Self { backend, books, hang_up }
    }

    /// Closes all connections.
    pub(crate) async fn hang_up(&self) {
        let before = self.all_logins();
        self.hang_up.send_replace(());
        until("all is closed", || self.books.lock().unwrap().closed >= before).await;
    }

    pub(crate) fn accept(&self, secret: &str) {
        self.books.lock().unwrap().good.insert(secret.to_owned());
    }

    /// Has logins refused for want of room, beyond so many connections.
    pub(crate) fn allow(&self, connections: usize) {
        self.books.lock().unwrap().allowed = connections;
    }

    /// Has LOGOUT no answer.
    fn say_no_goodbye(&self) {
        self.books.lock().unwrap().silent = true;
    }

    pub(crate) fn all_open(&self) -> usize {
        self.books.lock().unwrap().open.values().sum()
    }

    pub(crate) fn refuse(&self, secret: &str) {
        self.books.lock().unwrap().good.remove(secret);
    }

    pub(crate) fn logins(&self, secret: &str) -> usize {
        self.books.lock().unwrap().logins.get(secret).copied().unwrap_or(0)
    }

    pub(crate) fn all_logins(&self) -> usize {
        self.books.lock().unwrap().logins.values().sum()
    }

    pub(crate) fn refused(&self) -> usize {
        self.books.lock().unwrap().refused
    }

    pub(crate) fn open(&self, secret: &str) -> usize {
        self.books.lock().unwrap().open.get(secret).copied().unwrap_or(0)
    }
}

async fn serve(mut conn: Conn, books: Arc<Mutex<Books>>) {
    conn.send(format!("* OK [CAPABILITY {OFFERED}] ready\r\n")).await;
    while let Some(command) = conn.command().await {
        let tag = conn.tag.clone();
        let Some(secret) = secret_of(&command) else {
            conn.send(format!("* CAPABILITY {OFFERED}\r\n{tag} OK done\r\n")).await;
            continue;
        };
        let number = {
            let mut books = books.lock().unwrap();
            let is_full = books.allowed > 0 && books.open.values().sum::<usize>() >= books.allowed;
            if books.good.contains(&secret) && is_full {
                None
            } else if books.good.contains(&secret) {
                *books.logins.entry(secret.clone()).or_default() += 1;
                *books.open.entry(secret.clone()).or_default() += 1;
                Some(books.logins.values().sum::<usize>())
            } else {
                books.refused += 1;
                Some(0)
            }
        };
        let number = match number {
            Some(0) => {
                conn.send(format!("{tag} NO [AUTHENTICATIONFAILED] no\r\n")).await;
                continue;
            }
            Some(number) => number,
            None => {
                conn.send(format!("{tag} NO [LIMIT] Too many connections\r\n")).await;
                continue;
            }
        };
        conn.send(format!("{tag} OK [CAPABILITY {OFFERED} for-{secret}] in\r\n")).await;
        let whose = format!("by={secret} on={number}");
        let open = Open { books, secret };
        return tell(&mut conn, &whose, &open.books).await;
    }
}

/// A connection that is logged in.
struct Open {
    books: Arc<Mutex<Books>>,
    secret: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut books = self.books.lock().unwrap();
        *books.open.get_mut(&self.secret).unwrap() -= 1;
        books.closed += 1;
    }
}

/// Of a login.
fn secret_of(command: &str) -> Option<String> {
    if let Some(arguments) = command.strip_prefix("LOGIN ") {
        return Some(arguments.rsplit(' ').next()?.trim_matches('"').to_owned());
    }
    let response = command.strip_prefix("AUTHENTICATE ")?.split(' ').nth(1)?;
    let response = String::from_utf8(STANDARD.decode(response).ok()?).ok()?;
    response.split('\u{1}').find_map(|field| field.strip_prefix("auth=Bearer ")).map(str::to_owned)
}

async fn tell(conn: &mut Conn, whose: &str, books: &Mutex<Books>) {
    while let Some(command) = conn.command().await {
        let tag = conn.tag.clone();
        match command.split(' ').next().unwrap() {
            "SELECT" | "EXAMINE" => {
                let told = "* 0 EXISTS\r\n* OK [UIDVALIDITY 7] valid\r\n* OK [UIDNEXT 1] next";
                conn.send(format!("{told}\r\n{tag} OK [READ-WRITE] {whose}\r\n")).await;
            }
            "STATUS" => conn.send(format!("* STATUS INBOX (UIDNEXT 1 UIDVALIDITY 7)\r\n{tag} OK {whose}\r\n")).await,
            "IDLE" => {
                conn.send("+ idling\r\n").await;
                if conn.line().await.is_none() {
                    return;
                }
                conn.send(format!("{tag} OK {whose}\r\n")).await;
            }
            "LOGOUT" if books.lock().unwrap().silent => return conn.gone().await,
            "LOGOUT" => return conn.send(format!("* BYE bye\r\n{tag} OK bye\r\n")).await,
            _ => conn.send(format!("{tag} OK {whose}\r\n")).await,
        }
    }
}

pub(crate) fn token(user: &str, token: &str) -> String {
    format!("AUTHENTICATE XOAUTH2 {}", STANDARD.encode(format!("user={user}\u{1}auth=Bearer {token}\u{1}\u{1}")))
}

/// A client that is let in.
pub(crate) async fn enter(harness: &Harness, login: &str) -> Client {
    let mut client = harness.client().await;
    client.play(&format!("C: l {login}\nS: l OK…")).await;
    client
}

/// The same, and it selects INBOX.
async fn in_inbox(harness: &Harness, login: &str) -> Client {
    let mut client = enter(harness, login).await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    client
}

/// What `imapool ctl retire` does.
fn retire(harness: &Harness) {
    for account in harness.proxy().pools().accounts() {
        account.retire_all(RetireReason::Operator);
    }
}

/// What a command's reply says of its connection: whose, and which; `None`: the session has ended.
pub(crate) async fn whose(client: &mut Client, command: &str) -> Option<(String, u32)> {
    client.try_send(format!("w {command}\r\n")).await;
    let mut last = String::new();
    while let Some(line) = client.try_line().await {
        last = line;
        if last.starts_with("w ") {
            break;
        }
    }
    let (_, told) = last.split_once("by=")?;
    let (secret, number) = told.split_once(" on=").unwrap();
    Some((secret.to_owned(), number.parse().unwrap()))
}

async fn secret(client: &mut Client, command: &str) -> String {
    whose(client, command).await.expect("the session goes on").0
}

async fn both_modes(teller: &Teller, mode: PoolMode) -> Harness {
    Harness::start(teller.backend.address, |config| config.pool.mode = mode).await
}

const MODES: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];

/// A connection is dialed with the credential of whose session needs it, and not with the newest that anybody showed.
#[tokio::test]
async fn a_dial_uses_the_credential_of_who_needs_it() {
    for mode in MODES {
        let teller = Teller::start(["one", "two"]).await;
        let harness = both_modes(&teller, mode).await;
        let mut first = enter(&harness, "LOGIN u8 one").await;
        let mut second = enter(&harness, "LOGIN u8 two").await;
        // Both connections that were opened so far are in use then, or one is, and the other was replaced.
        first.play("C: a SELECT one\nS~ a OK…").await;
        second.play("C: a SELECT two\nS~ a OK…").await;
        let before = teller.logins("one");
        let mut third = enter(&harness, "LOGIN u8 one").await;
        third.play("C: a SELECT three\nS~ a OK…").await;
        assert_eq!(secret(&mut third, "NOOP").await, "one", "{mode:?}");
        assert_eq!(teller.logins("one"), before + 1, "{mode:?}");
        drop((first, second, third));
        harness.finish().await;
    }
}

/// Two people with tokens for one shared mailbox may differ in rights: they share nothing, neither a connection nor a
/// hub nor what is offered to them. The expired token of one ends no session of the other's.
#[tokio::test]
async fn tokens_share_nothing() {
    for mode in MODES {
        let teller = Teller::start(["ann", "bob"]).await;
        let harness = both_modes(&teller, mode).await;
        let mut sessions = Vec::new();
        for round in 0..3 {
            for person in ["ann", "bob"] {
                let mut client = harness.client().await;
                let login = client.command(&format!("l {}", token("shared", person))).await.concat();
                assert!(login.contains("OK"), "{login}");
                let offered = client.command("c CAPABILITY").await.concat();
                assert!(offered.contains(&format!("for-{person}")), "{mode:?} {offered}");
                assert_eq!(secret(&mut client, "LIST \"\" x").await, person, "{mode:?}");
                client.play("C: a SELECT INBOX\nS~ a OK…").await;
                assert_eq!(secret(&mut client, "NOOP").await, person, "{mode:?}");
                if round < 2 {
                    sessions.push((client, person));
                }
            }
        }
        teller.refuse("ann");
        retire(&harness);
        // Whoever is to be given a connection is looked at.
        let mut late = harness.client().await;
        let login = format!("C: l {}\nS: l NO [AUTHENTICATIONFAILED]…", token("shared", "ann"));
        late.play(&login).await;
        for (client, person) in &mut sessions {
            let told = whose(client, "NOOP").await;
            if *person == "bob" {
                assert_eq!(told.expect("it goes on").0, "bob", "{mode:?}");
            } else if mode == PoolMode::Multiplex {
                assert_eq!(told, None, "{mode:?}");
            }
        }
        drop((sessions, late));
        harness.finish().await;
    }
}

/// CVE-2025-2291 and its like, for who is in already: with a password that was changed, a session gets nothing more
/// once `auth.cache_ttl` is over, whoever else of the account is let in, and whatever connection rests there.
#[tokio::test]
async fn a_session_does_not_outlive_its_password() {
    for command in ["LIST \"\" x", "SELECT INBOX", "NOOP"] {
        let teller = Teller::start(["old", "new"]).await;
        let ttl = Duration::from_millis(400);
        // With "session", a session's own connection is not cut.
        let harness = Harness::start(teller.backend.address, |config| {
            config.auth.cache_ttl = ttl;
            config.pool.mode = PoolMode::Multiplex;
        })
        .await;
        let mut old = enter(&harness, "LOGIN u8 old").await;
        let mut new = enter(&harness, "LOGIN u8 new").await;
        if command == "NOOP" {
            // In one hub.
            old.play("C: a SELECT INBOX\nS~ a OK…").await;
            new.play("C: a SELECT INBOX\nS~ a OK…").await;
        }
        assert!(whose(&mut old, command).await.is_some());
        teller.refuse("old");
        let start = std::time::Instant::now();
        let mut served = 0;
        while whose(&mut old, command).await.is_some() {
            assert!(whose(&mut new, command).await.is_some(), "the others go on");
            served += 1;
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{command}: {served} answers with a password that was changed"
            );
        }
        assert!(whose(&mut new, command).await.is_some(), "{command}: the others go on");
        assert_eq!(teller.open("old"), 0, "{command}");
        drop((old, new));
        harness.finish().await;
    }
}

/// The same for a session that had not asked for anything yet when its password was changed.
#[tokio::test]
async fn what_rests_is_for_nobody_whose_password_was_changed() {
    let teller = Teller::start(["old", "new"]).await;
    let ttl = Duration::from_millis(50);
    let harness = Harness::by_session(teller.backend.address, |config| config.auth.cache_ttl = ttl).await;
    let mut old = enter(&harness, "LOGIN u8 old").await;
    teller.refuse("old");
    let start = std::time::Instant::now();
    until("the time is over", || start.elapsed() > ttl).await;
    let mut new = enter(&harness, "LOGIN u8 new").await;
    old.play("C: a LIST \"\" x\nS: a NO [AUTHENTICATIONFAILED]…\nS: * BYE…\nS.").await;
    assert_eq!(secret(&mut new, "LIST \"\" x").await, "new");
    drop((old, new));
    harness.finish().await;
}

/// After `ctl retire`, nobody joins or gets what is older, and who is in goes on unnoticed on another connection.
#[tokio::test]
async fn after_retire_hubs_change_connections_unnoticed() {
    for idling in [false, true] {
        let teller = Teller::start(["one", "two"]).await;
        let harness = both_modes(&teller, PoolMode::Multiplex).await;
        let mut first = in_inbox(&harness, "LOGIN u8 one").await;
        let (_, before) = whose(&mut first, "NOOP").await.unwrap();
        if idling {
            first.play("C: i IDLE\nS: + …").await;
            until("IDLE", || teller.backend.received().contains("IDLE")).await;
        }
        retire(&harness);
        let mut second = in_inbox(&harness, "LOGIN u8 two").await;
        let (_, after) = whose(&mut second, "NOOP").await.unwrap();
        assert!(after > before, "the connection of before the retirement");
        if idling {
            first.play("C: DONE\nS: i OK…").await;
        }
        assert_eq!(whose(&mut first, "NOOP").await.unwrap().1, after, "the same hub");
        until("the older connection has ended", || harness.metric("imapool_upstream_retired_total", "operator") >= 1)
            .await;
        drop((first, second));
        harness.finish().await;
    }
}

/// Where the backend takes no further connection while the retired one is still logging out, that is waited for.
#[tokio::test]
async fn what_is_retired_makes_room_by_its_end() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let teller = Teller::start(["one"]).await;
        let harness = both_modes(&teller, mode).await;
        let mut first = enter(&harness, "LOGIN u8 one").await;
        first.play("C: a SELECT INBOX\nS~ a OK…\nC: b UNSELECT\nS~ b OK…").await;
        if mode == PoolMode::Session {
            first.play("C: z LOGOUT\nS~ z OK…").await;
            harness.at_rest(1).await;
        }
        teller.allow(1);
        teller.say_no_goodbye();
        retire(&harness);
        let second = in_inbox(&harness, "LOGIN u8 one").await;
        assert_eq!((teller.all_open(), teller.all_logins()), (1, 2));
        drop((first, second));
        harness.finish().await;
    }
}

/// A refusal lets those go who were let in with that credential, IDLE or not; the others of the hub go on.
#[tokio::test]
async fn a_refused_password_ends_the_sessions_that_had_it() {
    let teller = Teller::start(["one", "two"]).await;
    let harness = both_modes(&teller, PoolMode::Multiplex).await;
    let mut first = in_inbox(&harness, "LOGIN u8 one").await;
    let mut second = in_inbox(&harness, "LOGIN u8 two").await;
    let mut idler = in_inbox(&harness, "LOGIN u8 one").await;
    idler.play("C: i IDLE\nS: + …").await;
    teller.refuse("one");
    retire(&harness);
    // One of them asks for something: what comes of it is all the others' of that credential.
    first.play("C: b NOOP\nS: b NO [AUTHENTICATIONFAILED]…\nS: * BYE…\nS.").await;
    idler.play("S: i NO [AUTHENTICATIONFAILED]…\nS: * BYE…\nS.").await;
    assert_eq!(secret(&mut second, "NOOP").await, "two");
    assert_eq!(teller.open("one"), 0);
    assert_eq!(teller.refused(), 1, "asked once for all");
    drop((first, second, idler));
    harness.finish().await;
}

/// That both were asked about a moment ago, after a retirement, is no reason not to ask again after the next one.
#[tokio::test]
async fn a_second_retirement_is_as_good_as_the_first() {
    let teller = Teller::start(["one", "two"]).await;
    let harness = both_modes(&teller, PoolMode::Multiplex).await;
    let mut first = in_inbox(&harness, "LOGIN u8 one").await;
    let mut second = in_inbox(&harness, "LOGIN u8 two").await;
    retire(&harness);
    for client in [&mut first, &mut second] {
        whose(client, "NOOP").await.expect("the session goes on");
    }
    teller.refuse("one");
    retire(&harness);
    assert_eq!(secret(&mut second, "NOOP").await, "two");
    first.play("C: b NOOP\nS: b NO [AUTHENTICATIONFAILED]…\nS: * BYE…\nS.").await;
    drop((first, second));
    harness.finish().await;
}

/// A login that the backend is just judging when the account is retired is judged by what held before that: it lets in
/// whoever asked, and is remembered by nobody. So it is when there was no such account yet.
#[tokio::test]
async fn a_retirement_reaches_logins_that_are_under_way() {
    for (mode, known) in MODES.into_iter().flat_map(|mode| [true, false].map(|known| (mode, known))) {
        let (gate, proof) = Gate::pair();
        let changed = Arc::new(AtomicBool::new(false));
        let is_changed = Arc::clone(&changed);
        let backend = Scripted::raw(move |mut conn: Conn| {
            let (proof, is_changed) = (proof.clone(), Arc::clone(&is_changed));
            async move {
                conn.send("* OK ready\r\n").await;
                let mut old = false;
                while let Some(command) = conn.command().await {
                    old |= command.contains("old");
                    match command.split(' ').next().unwrap() {
                        "LOGIN" if old && is_changed.load(Ordering::SeqCst) => {
                            conn.play("S: TAG NO [AUTHENTICATIONFAILED] no").await;
                            continue;
                        }
                        "LOGOUT" => return,
                        // What proves the login takes its time.
                        "STATUS" if old => proof.passed().await,
                        "CAPABILITY" => conn.play("S: * CAPABILITY IMAP4rev1").await,
                        _ => {}
                    }
                    conn.play("S: TAG OK done").await;
                }
            }
        })
        .await;
        let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
        if known {
            drop(enter(&harness, "LOGIN u8 good").await);
        }
        let mut late = harness.client().await;
        late.send("a LOGIN u8 old\r\n").await;
        let proofs = 1 + usize::from(known);
        until("the proof", || backend.received().matches("STATUS").count() == proofs).await;
        changed.store(true, Ordering::SeqCst);
        harness.proxy().pools().retiring();
        retire(&harness);
        gate.open();
        late.play("S: a OK…").await;
        let mut again = harness.client().await;
        again.play("C: a LOGIN u8 old\nS: a NO [AUTHENTICATIONFAILED]…").await;
        drop((late, again));
        harness.finish().await;
    }
}

/// A hub whose connection is lost dials with a credential that a member was let in with, and not with what came last.
#[tokio::test]
async fn a_hub_dials_with_what_its_members_were_let_in_with() {
    let teller = Teller::start(["one", "two"]).await;
    let harness = both_modes(&teller, PoolMode::Multiplex).await;
    let mut first = in_inbox(&harness, "LOGIN u8 one").await;
    // The newest that anybody shows.
    let mut second = enter(&harness, "LOGIN u8 two").await;
    second.play("C: a LOGOUT\nS~ a OK…").await;
    teller.refuse("two");
    for _ in 0..3 {
        teller.hang_up().await;
        assert_eq!(secret(&mut first, "NOOP").await, "one");
    }
    drop((first, second));
    harness.finish().await;
}

/// A member whose credential was refused leaves when a connection is dialed with it; the others of the hub go on with
/// their own.
#[tokio::test]
async fn a_hub_goes_on_with_those_whose_credential_stands() {
    let teller = Teller::start(["one", "two"]).await;
    let harness = both_modes(&teller, PoolMode::Multiplex).await;
    let mut first = in_inbox(&harness, "LOGIN u8 one").await;
    let mut second = in_inbox(&harness, "LOGIN u8 two").await;
    teller.refuse("one");
    teller.hang_up().await;
    // The connection is opened for the one who asks.
    first.play("C: b NOOP\nS: b NO [AUTHENTICATIONFAILED]…\nS: * BYE…\nS.").await;
    assert_eq!(secret(&mut second, "NOOP").await, "two");
    drop((first, second));
    harness.finish().await;
}

/// More passwords than an account remembers: each session's own is remembered with it.
#[tokio::test]
async fn a_ninth_password_is_not_asked_about_again_and_again() {
    let passwords: Vec<String> = (0..12).map(|number| format!("app{number}")).collect();
    let teller = Teller::start(passwords.iter().map(String::as_str)).await;
    let harness = both_modes(&teller, PoolMode::Multiplex).await;
    let mut clients = Vec::new();
    for password in &passwords {
        clients.push(enter(&harness, &format!("LOGIN u8 {password}")).await);
    }
    for _ in 0..5 {
        for client in &mut clients {
            assert!(whose(client, "LIST \"\" x").await.is_some());
        }
    }
    assert!(teller.all_logins() <= passwords.len() + 4, "{} logins", teller.all_logins());
    drop(clients);
    harness.finish().await;
}

/// With `cache_ttl = "0s"` the backend is asked at each login, and a session's own login counts for that session.
#[tokio::test]
async fn without_a_memory_a_session_stands_for_its_own_login() {
    let teller = Teller::start(["one"]).await;
    let harness = Harness::start(teller.backend.address, |config| config.auth.cache_ttl = Duration::ZERO).await;
    let mut client = enter(&harness, "LOGIN u8 one").await;
    for _ in 0..10 {
        assert!(whose(&mut client, "LIST \"\" x").await.is_some());
    }
    assert_eq!(teller.all_logins(), 1);
    drop(client);
    harness.finish().await;
}

/// What cannot be judged now is no refusal: the session hears NO where it needs a connection, and goes on in its
/// mailbox.
#[tokio::test]
async fn what_cannot_be_found_out_now_ends_no_session() {
    let teller = Teller::start(["one"]).await;
    let ttl = Duration::from_millis(50);
    let harness = Harness::start(teller.backend.address, |config| {
        config.auth.cache_ttl = ttl;
        config.pool.mode = PoolMode::Multiplex;
        config.pool.checkout_timeout = Duration::from_millis(300);
        config.pool.per_credential = PerCredential::Never;
    })
    .await;
    let mut client = enter(&harness, "LOGIN u8 one").await;
    let backends = harness.proxy().pools().backends();
    backends[0].set_service(Service::Paused);
    let start = std::time::Instant::now();
    until("the time is over", || start.elapsed() > ttl).await;
    client.play("C: a LIST \"\" x\nS: a NO [UNAVAILABLE]…").await;
    client.play("C: b SELECT INBOX\nS: b NO [UNAVAILABLE]…").await;
    backends[0].set_service(Service::Running);
    assert_eq!(secret(&mut client, "LIST \"\" x").await, "one");
    // In a mailbox, that of another one fails, which leaves the first.
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    backends[0].set_service(Service::Paused);
    let start = std::time::Instant::now();
    until("the time is over", || start.elapsed() > ttl).await;
    client.play("C: b NOOP\nS~ b OK…\nC: c SELECT two\nS~ c NO [UNAVAILABLE]…").await;
    backends[0].set_service(Service::Running);
    client.play("C: d FETCH 1 (UID)\nS~ d BAD…").await;
    client.play("C: e SELECT two\nS~ e OK…").await;
    assert_eq!(secret(&mut client, "NOOP").await, "one");
    drop(client);
    harness.finish().await;
}

/// A backend that allows the account just the connection that a session is in a mailbox with: it is asked again all
/// the same.
#[tokio::test]
async fn whoever_has_the_only_connection_can_be_verified() {
    let teller = Teller::start(["one"]).await;
    teller.allow(1);
    let ttl = Duration::from_millis(200);
    let harness = Harness::start(teller.backend.address, |config| {
        config.auth.cache_ttl = ttl;
        config.pool.mode = PoolMode::Multiplex;
    })
    .await;
    let mut client = in_inbox(&harness, "LOGIN u8 one").await;
    while teller.logins("one") < 5 {
        assert_eq!(secret(&mut client, "NOOP").await, "one");
        assert_eq!(secret(&mut client, "LIST \"\" x").await, "one");
    }
    drop(client);
    harness.finish().await;
}
