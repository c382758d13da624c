//! A backend that a reload changes, takes away or brings back: whatever sessions are at, nobody gets a connection to
//! the old server any more, and those who share one go on at the new server, or are told that they cannot.

use std::net::SocketAddr;

use imapool::config::{Backend, Config, PoolMode};
use imapool::demo::server::{Options, Server};

use crate::api::World;
use crate::http::post;
use crate::support::{Client, Conn, Gate, Harness, Scripted, soon, until};

async fn server() -> Server {
    Server::start(Options::default()).await.unwrap()
}

/// Has the proxy go by what `change` makes of its configuration; gives what is announced.
pub(crate) async fn reload(harness: &Harness, change: impl FnOnce(&mut Config)) -> String {
    let mut config = (*harness.proxy().config()).clone();
    change(&mut config);
    let changes = harness.proxy().reload(config).await.unwrap();
    changes.iter().map(|change| format!("{change}\n")).collect()
}

fn at(address: SocketAddr) -> impl FnOnce(&mut Config) {
    move |config| config.backends[0].port = address.port()
}

/// A server that says yes to everything, with one mailbox of this UIDVALIDITY and UIDs from 11 on.
async fn with_mailbox(uid_validity: u32, messages: u32) -> Scripted {
    Scripted::start(move |mut conn: Conn| async move {
        while let Some(command) = conn.command().await {
            let tag = conn.tag.clone();
            let uids: Vec<_> = (11..11 + messages).map(|uid| uid.to_string()).collect();
            let next = 11 + messages;
            let said = match command.split(' ').next().unwrap() {
                "SELECT" => format!(
                    "* {messages} EXISTS\r\n* OK [UIDVALIDITY {uid_validity}] valid\r\n* OK [UIDNEXT {next}] next\r\n"
                ),
                "UID" => format!("* SEARCH {}\r\n", uids.join(" ")),
                "STATUS" => format!("* STATUS INBOX (UIDNEXT {next} UIDVALIDITY {uid_validity})\r\n"),
                "LOGOUT" => "* BYE bye\r\n".to_owned(),
                "IDLE" => {
                    conn.send("+ idling\r\n").await;
                    if conn.line().await.is_none() {
                        return;
                    }
                    String::new()
                }
                _ => String::new(),
            };
            conn.send(format!("{said}{tag} OK done\r\n")).await;
            if command == "LOGOUT" {
                return;
            }
        }
    })
    .await
}

/// At rest, in IDLE, outside of any mailbox, pinned; and who logs in after it.
#[tokio::test]
async fn sessions_go_on_at_the_new_server() {
    let old = server().await;
    let (address, new) = (old.address(), server().await);
    let world = World::before(address, old, |_| {}).await;
    let (harness, old) = (&world.harness, &world.server);
    let [mut rests, mut idles, mut outside] =
        [harness.login("u1").await, harness.login("u1").await, harness.login("u1").await];
    rests.play("C: a SELECT INBOX\nS~ a OK…").await;
    idles.play("C: a SELECT INBOX\nS~ a OK…\nC: b IDLE\nS: + …").await;
    let mut pinned = harness.login("u2").await;
    pinned.play("C: a SELECT INBOX\nS~ a OK…\nC: b XYZZY\nS: b BAD…").await;
    harness.visit("visitor").await;
    reload(harness, at(new.address())).await;
    // All but the one that a session has for itself.
    soon("the old server is left", old.wait_open(|open| open == 1)).await;
    assert_eq!(old.open_of("u2"), 1);
    let rows = world.rows("connections").await;
    let retiring: Vec<_> = rows.iter().filter(|row| row["state"] == "retiring").map(|row| &row["user"]).collect();
    assert_eq!(retiring, ["u2"], "{rows:?}");
    let before = old.counters();
    rests.play("C: c FETCH 1 (FLAGS)\nS~ c OK…").await;
    outside.play("C: a STATUS INBOX (MESSAGES)\nS~ a OK…").await;
    idles.play("C: DONE\nS~ b OK…\nC: c FETCH 1 (FLAGS)\nS~ c OK…").await;
    harness.visit("visitor").await;
    harness.visit("late").await;
    assert!(new.counters().logins >= 3 && new.open_of("u1") >= 1, "{:?}", new.counters());
    assert_eq!((old.counters().logins, old.counters().commands), (before.logins, before.commands));
    pinned.play("C: c FETCH 1 (FLAGS)\nS~ c OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    soon("the old server is left", old.wait_open(|open| open == 0)).await;
    harness.visit("u2").await;
    assert_eq!(new.open_of("u2"), 1);
    drop((rests, idles, outside, pinned));
    world.harness.finish().await;
}

/// With `"session"`, who has a connection keeps it, as after `ctl retire`; it is listed, and an administrator's words
/// reach it.
#[tokio::test]
async fn a_connection_to_the_old_server_is_within_reach_until_it_ends() {
    for verb in ["accounts/u1/close", "backends/mail/drain"] {
        let world = World::by_session().await;
        let new = server().await;
        let mut client = world.harness.login("u1").await;
        client.play("C: a SELECT INBOX\nS~ a OK…").await;
        reload(&world.harness, at(new.address())).await;
        client.play("C: b FETCH 1 (FLAGS)\nS~ b OK…").await;
        let row = &world.rows("connections").await[0];
        assert_eq!((&row["user"], &row["state"], &row["sessions"]), (&"u1".into(), &"retiring".into(), &1.into()));
        let told = post(world.admin, &format!("/api/{verb}")).await.json();
        assert_eq!(told["sessions"], 1, "{told}");
        client.play("S: * BYE…\nS.").await;
        soon("the old server is left", world.server.wait_open(|open| open == 0)).await;
        assert_eq!(world.rows("connections").await.len(), 0);
        drop(client);
        world.harness.finish().await;
    }
}

/// What was paused or drained stays so.
#[tokio::test]
async fn what_an_administrator_said_of_a_backend_outlasts_its_change() {
    let world = World::new().await;
    let new = server().await;
    let mut client = world.harness.login("u1").await;
    post(world.admin, "/api/backends/mail/pause").await;
    client.send("a SELECT INBOX\r\n").await;
    reload(&world.harness, at(new.address())).await;
    assert_eq!(world.rows("backends").await[0]["service"], "paused");
    post(world.admin, "/api/backends/mail/resume").await;
    client.play("S~ a OK…").await;
    assert_eq!((new.open_of("u1"), world.server.open()), (1, 0));
    drop(client);
    world.harness.finish().await;
}

/// The same mailbox there: members go on. Another: they hear BYE, before they hear anything of it.
#[tokio::test]
async fn a_mailbox_is_compared_with_the_one_at_the_new_server() {
    for (validity, messages, goes_on) in [(7, 3, true), (7, 2, true), (8, 3, false)] {
        let (old, new) = (with_mailbox(7, 3).await, with_mailbox(validity, messages).await);
        let harness = Harness::start(old.address, |_| {}).await;
        let [mut first, mut second] = [harness.login("u1").await, harness.login("u1").await];
        for client in [&mut first, &mut second] {
            client.play("C: a SELECT INBOX\nS~ a OK…").await;
        }
        until("it knows the UIDs, and is in nothing", || old.received().contains("UID SEARCH")).await;
        second.play("C: b IDLE\nS: + …").await;
        reload(&harness, at(new.address)).await;
        until("the old server is left", || old.open() == 0).await;
        first.send("c NOOP\r\n").await;
        match (goes_on, messages) {
            (true, 3) => first.play("S: c OK…").await,
            (true, _) => first.play("S: * 3 EXPUNGE\nS: c OK…").await,
            (false, _) => {
                first.play("S~ * BYE…\nS.").await;
                second.play("S~ * BYE…\nS.").await;
            }
        }
        if goes_on {
            second.play("C: DONE\nS~ b OK…\nC: z LOGOUT\nS~ z OK…\nS.").await;
            first.play("C: z LOGOUT\nS~ z OK…\nS.").await;
        }
        harness.finish().await;
    }
}

/// A command that runs has its reply from the old server; then the mailbox goes on at the new one.
#[tokio::test]
async fn a_running_command_is_answered_by_the_server_that_has_it() {
    let (gate, held) = Gate::pair();
    let old = Scripted::start(move |mut conn: Conn| {
        let held = held.clone();
        async move {
            while let Some(command) = conn.command().await {
                if command.starts_with("SELECT") {
                    conn.play("S: * 3 EXISTS\nS: * OK [UIDVALIDITY 7] valid\nS: * OK [UIDNEXT 14] next").await;
                } else if command.starts_with("FETCH") {
                    conn.play("S: * 1 FETCH (FLAGS (\\Seen))").await;
                    held.passed().await;
                    conn.play("S: * 2 FETCH (FLAGS ())").await;
                }
                conn.play("S: TAG OK done").await;
            }
        }
    })
    .await;
    let new = with_mailbox(7, 3).await;
    let harness = Harness::start(old.address, |_| {}).await;
    let mut client = harness.login("u1").await;
    client.play("C: a SELECT INBOX\nS~ a OK…\nC: b FETCH 1:2 (FLAGS)\nS: * 1 FETCH…").await;
    reload(&harness, at(new.address)).await;
    gate.open();
    client.play("S: * 2 FETCH…\nS: b OK…").await;
    until("the old server is left", || old.open() == 0).await;
    client.play("C: c FETCH 1 (FLAGS)\nS~ c OK…\nC: z LOGOUT\nS~ z OK…\nS.").await;
    assert!(new.received().contains("FETCH 1"));
    drop(client);
    harness.finish().await;
}

/// What the old server holds up, at its greeting, at a login, or at a further connection of an account that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Greeting,
    Login,
    Further,
}

/// Who waits for the old server is served by the new one; what the old one says after that is nothing to anybody.
#[tokio::test]
async fn a_dial_or_login_that_is_under_way_joins_nothing() {
    for held_up in [Held::Greeting, Held::Login, Held::Further] {
        let (gate, held) = Gate::pair();
        let old = Scripted::raw(move |mut conn: Conn| {
            let held = held.clone();
            async move {
                // The first is another account's, the second that of this one's first session.
                let before = if held_up == Held::Further { 2 } else { 1 };
                let is_held = conn.number > before;
                if is_held && held_up == Held::Greeting {
                    held.passed().await;
                }
                conn.send("* OK [CAPABILITY IMAP4rev1] ready\r\n").await;
                if !conn.read_login("IMAP4rev1").await {
                    return;
                }
                if is_held {
                    held.passed().await;
                }
                conn.send(format!("{} OK in\r\n", conn.tag)).await;
                conn.serve().await;
            }
        })
        .await;
        let new = server().await;
        let harness = Harness::by_session(old.address, |config| config.pool.max_per_account = 3).await;
        harness.visit("u0").await;
        let (mut first, mut waits) = (harness.client().await, harness.client().await);
        if held_up == Held::Further {
            first.play("C: a LOGIN u1 pw-u1\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
            waits.play("C: a LOGIN u1 pw-u1\nS: a OK…\nC: b STATUS INBOX (UIDNEXT)").await;
        } else {
            waits.send("a LOGIN u1 pw-u1\r\n").await;
        }
        let logins = match held_up {
            Held::Greeting => 0,
            Held::Login => 1,
            Held::Further => 2,
        };
        until("it is under way", || {
            old.received().matches("pw-u1").count() == logins && old.open() == logins.max(1) + 1
        })
        .await;
        reload(&harness, at(new.address())).await;
        waits.play(if held_up == Held::Further { "S~ b OK…" } else { "S: a OK…" }).await;
        assert_eq!(new.open_of("u1"), 1, "{held_up:?}");
        gate.open();
        let left = usize::from(held_up == Held::Further);
        until("the old server is left", || old.open() == left).await;
        waits.play("C: c SELECT INBOX\nS~ c OK…").await;
        drop((first, waits));
        until("all of the old server is left", || old.open() == 0).await;
        harness.finish().await;
    }
}

#[tokio::test]
async fn two_reloads_at_once_end_with_one_of_them_whole() {
    let [first, second, third] = [server().await, server().await, server().await];
    let harness = Harness::start(first.address(), |_| {}).await;
    let mut client = harness.login("u1").await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    for _ in 0..5 {
        tokio::join!(
            reload(&harness, at(second.address())),
            reload(&harness, at(third.address())),
            client.play("C: b FETCH 1 (FLAGS)\nS~ b OK…"),
        );
        let (current, other) = match harness.proxy().config().backends[0].port {
            port if port == second.address().port() => (&second, &third),
            _ => (&third, &second),
        };
        client.play("C: c FETCH 1 (FLAGS)\nS~ c OK…").await;
        soon("only one is used", other.wait_open(|open| open == 0)).await;
        assert_eq!((current.open_of("u1"), first.open()), (1, 0));
        reload(&harness, at(first.address())).await;
        client.play("C: c FETCH 1 (FLAGS)\nS~ c OK…").await;
        soon("only the first is used", current.wait_open(|open| open == 0)).await;
    }
    drop(client);
    harness.finish().await;
}

/// A hub that has no connection at the moment of the reload asks the new server for one.
#[tokio::test]
async fn a_parked_mailbox_wakes_at_the_new_server() {
    let (old, new) = (server().await, server().await);
    let harness = Harness::start(old.address(), |config| config.pool.max_per_account = 1).await;
    let mut parked = harness.login("u1").await;
    parked.play("C: a CREATE Other\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    let mut other = harness.login("u1").await;
    other.play("C: a SELECT Other\nS~ a OK…\nC: b IDLE\nS: + …").await;
    until("one is parked", || harness.metric("imapool_hubs", "state=\"parked\"") == 1).await;
    reload(&harness, at(new.address())).await;
    soon("the old server is left", old.wait_open(|open| open == 0)).await;
    parked.play("C: c FETCH 1 (FLAGS)\nS~ c OK…").await;
    assert_eq!(new.open_of("u1"), 1);
    // There is no such mailbox at the new server.
    other.play("S~ * BYE…\nS.").await;
    drop((parked, other));
    harness.finish().await;
}

/// The only sessions there are those of what was once the default.
#[tokio::test]
async fn sessions_of_a_backend_that_is_taken_away_are_told_and_one_that_comes_back_is_new() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let (first, second) = (server().await, server().await);
        let harness = Harness::start(first.address(), |config| config.pool.mode = mode).await;
        let backend = |name: &str, server: &Server| Backend {
            name: name.into(),
            ..Backend::new("127.0.0.1", server.address().port())
        };
        let (mail, other) = (backend("mail", &first), backend("other", &second));
        reload(&harness, |config| config.backends.push(other.clone())).await;
        let [mut rests, mut outside] = [harness.login("u1").await, harness.login("u2").await];
        rests.play("C: a SELECT INBOX\nS~ a OK…").await;
        let greeted = harness.client().await;
        let told = reload(&harness, |config| config.backends = vec![other.clone()]).await;
        assert!(told.contains("- backend \"mail\"") && told.contains("(its sessions are closed)"), "{told}");
        for client in [&mut rests, &mut outside] {
            client.play("S: * BYE [UNAVAILABLE]…\nS.").await;
        }
        soon("it is left", first.wait_open(|open| open == 0)).await;
        let mut greeted: Client = greeted;
        greeted.play("C: a LOGIN u1 pw-u1\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…\nC: z LOGOUT\nS~ z OK…\nS.").await;
        assert_eq!(second.open_of("u1"), 1);
        reload(&harness, |config| config.backends = vec![mail.clone(), other.clone()]).await;
        harness.visit("u1").await;
        // Nobody's mail is at two servers at once.
        until("the other is left", || (first.open_of("u1"), second.open_of("u1")) == (1, 0)).await;
        assert_eq!(first.counters().logins, 3);
        drop((rests, outside, greeted));
        harness.finish().await;
    }
}

/// It is known by its address, which is what changes.
#[tokio::test]
async fn a_backend_without_a_name_of_its_own_may_move() {
    let (old, new) = (server().await, server().await);
    let named = |server: &Server| {
        let name = format!("127.0.0.1:{}", server.address().port());
        Backend { name, ..Backend::new("127.0.0.1", server.address().port()) }
    };
    let harness = Harness::start(old.address(), |config| config.backends = vec![named(&old)]).await;
    let mut client = harness.login("u1").await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    let told = reload(&harness, |config| config.backends = vec![named(&new)]).await;
    assert!(told.contains("(connections are retired and opened anew)"), "{told}");
    soon("the old server is left", old.wait_open(|open| open == 0)).await;
    client.play("C: b FETCH 1 (FLAGS)\nS~ b OK…").await;
    assert_eq!(new.open_of("u1"), 1);
    drop(client);
    harness.finish().await;
}

/// Accounts that nobody logs in to any more, as tokens are kept apart from now on: who is there is within reach.
#[tokio::test]
async fn sessions_of_forgotten_accounts_are_within_reach() {
    let world = World::by_session().await;
    let mut client = world.harness.login("u1").await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    reload(&world.harness, |config| config.pool.per_credential = imapool::config::PerCredential::Always).await;
    let rows = world.rows("accounts").await;
    assert_eq!((rows.len(), &rows[0]["sessions"]), (1, &1.into()), "{rows:?}");
    assert_eq!(post(world.admin, "/api/accounts/u1/retire").await.json()["connections"], 1);
    let drained = post(world.admin, "/api/backends/mail/drain").await.json();
    assert_eq!(drained["sessions"], 1, "{drained}");
    client.play("S: * BYE…\nS.").await;
    soon("nothing is left", world.server.wait_open(|open| open == 0)).await;
    drop(client);
    world.harness.finish().await;
}
