//! A server that takes connections and octets, and answers nothing any more; and one that goes away while nobody
//! connects. Nobody waits for longer than the limits say, and the operator is told.

use std::time::Duration;

use imapool::config::PoolMode;
use tokio::sync::watch;

use crate::support::backend::CAPABILITIES;
use crate::support::{Client, Conn, Harness, Scripted, until};

/// Answers everything, until it is frozen.
struct Server {
    scripted: Scripted,
    frozen: watch::Sender<Option<&'static str>>,
}

impl Server {
    async fn start() -> Self {
        let (frozen, freezes) = watch::channel(None);
        let scripted = Scripted::raw(move |conn: Conn| serve(conn, freezes.clone())).await;
        Self { scripted, frozen }
    }

    /// From now on nothing is said to this command, nor to anything after it on its connection; `""`: to nothing at
    /// all, nor are new connections greeted.
    fn freeze(&self, command: &'static str) {
        self.frozen.send_replace(Some(command));
    }

    fn thaw(&self) {
        self.frozen.send_replace(None);
    }
}

/// What a server says of a mailbox of three messages (UIDs 11 to 13) before its OK to this command.
pub(crate) fn of_three_messages(command: &str) -> &'static str {
    match command.split(' ').next().unwrap_or_default() {
        "SELECT" => "S: * 3 EXISTS\nS: * OK [UIDVALIDITY 7] valid\nS: * OK [UIDNEXT 14] next",
        "UID" => "S: * SEARCH 11 12 13",
        "STATUS" => "S: * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)",
        _ => "",
    }
}

async fn serve(mut conn: Conn, mut frozen: watch::Receiver<Option<&'static str>>) {
    let mut answers = async |command: &str| {
        let over = |frozen: &Option<&'static str>| !frozen.is_some_and(|frozen| command.starts_with(frozen));
        drop(frozen.wait_for(over).await);
    };
    answers("").await;
    conn.send(format!("* OK [CAPABILITY {CAPABILITIES}] ready\r\n")).await;
    if !conn.read_login(CAPABILITIES).await {
        return;
    }
    answers("LOGIN").await;
    conn.play(&format!("S: TAG OK [CAPABILITY {CAPABILITIES}] in")).await;
    if !conn.prove().await {
        return;
    }
    while let Some(command) = conn.command().await {
        answers(&command).await;
        let said = match command.split(' ').next().unwrap() {
            "LOGOUT" => return conn.play("S: * BYE bye\nS: TAG OK bye").await,
            "IDLE" => {
                if !conn.idle().await {
                    return;
                }
                answers("DONE").await;
                ""
            }
            _ => of_three_messages(&command),
        };
        conn.play(said).await;
        conn.play("S: TAG OK done").await;
    }
}

const GONE: &str = "NO [UNAVAILABLE]…";

async fn started(server: &Server, mode: PoolMode, most: usize) -> Harness {
    Harness::start(server.scripted.address, |config| {
        config.pool.mode = mode;
        config.pool.max_per_account = most;
        config.pool.checkout_timeout = Duration::from_millis(300);
        // As by default: a command may run for so long.
        assert_eq!(config.backends[0].reply_timeout, Duration::from_secs(600));
    })
    .await
}

async fn in_inbox(harness: &Harness) -> Client {
    let mut client = harness.login("u1").await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    client
}

/// Behind another's command, with room for a further connection and without; behind what the hub asks of its own
/// accord, for one who joins and for another; behind the end of an IDLE.
#[tokio::test]
async fn who_waits_behind_a_command_that_hangs_waits_as_for_a_connection() {
    for most in [1, 4] {
        for frozen in ["FETCH", "STATUS", "NOOP", "DONE", "UID", ""] {
            let server = Server::start().await;
            let harness = started(&server, PoolMode::Multiplex, most).await;
            let (mut first, mut second) = (in_inbox(&harness).await, in_inbox(&harness).await);
            until("it is in nothing", || server.scripted.received().contains("UID SEARCH")).await;
            if frozen == "DONE" {
                second.play("C: i IDLE\nS~ + …").await;
                until("IDLE", || server.scripted.received().contains("IDLE")).await;
            }
            server.freeze(frozen);
            match frozen {
                "FETCH" | "" => second.send("f FETCH 1 (FLAGS)\r\n").await,
                "DONE" => {}
                // Who joins has the hub ask for news.
                _ => second.send("f SELECT INBOX\r\n").await,
            }
            if frozen != "DONE" {
                let asked =
                    || server.scripted.received().matches(if frozen.is_empty() { "FETCH" } else { frozen }).count();
                let before = if frozen == "FETCH" || frozen.is_empty() { 1 } else { 2 };
                until("it hangs", || asked() >= before || frozen == "UID").await;
            }
            // Where there is room, one gets a connection of its own, if that says something.
            first.send("g NOOP\r\n").await;
            let reply = first.until(|line| line.starts_with("g ")).await.pop().unwrap();
            assert!(reply.starts_with("g NO [UNAVAILABLE]") || reply.starts_with("g OK"), "{frozen} {most}: {reply}");
            let hangs = matches!(frozen, "" | "NOOP") || most == 1 && frozen == "FETCH";
            assert!(!hangs || reply.starts_with("g NO"), "{frozen} {most}: {reply}");
            server.thaw();
            drop((first, second));
            harness.finish().await;
        }
    }
}

/// Whose command hangs waits for `backend.reply_timeout`, unless the server greets nobody any more.
#[tokio::test]
async fn a_command_on_a_server_that_greets_nobody_is_given_up() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let server = Server::start().await;
        let harness = started(&server, mode, 4).await;
        let mut client = in_inbox(&harness).await;
        server.freeze("");
        client.send("f STORE 1 +FLAGS (\\Seen)\r\n").await;
        until("it hangs", || server.scripted.received().contains("STORE")).await;
        let mut others = harness.client().await;
        for _ in 0..3 {
            others.play(&format!("C: a LOGIN other pw-other\nS: a {GONE}")).await;
        }
        match mode {
            // The session is told, and goes on in its mailbox.
            PoolMode::Multiplex => client.play(&format!("S~ f {GONE}")).await,
            PoolMode::Session => client.play(&format!("S~ f {GONE}\nS: * BYE…\nS.")).await,
        }
        assert_eq!(harness.metric("imapool_upstream_retired_total", "timeout"), 1);
        server.thaw();
        until("it is back", || harness.metric("imapool_backend_up", "") == 1).await;
        if mode == PoolMode::Multiplex {
            client.play("C: g FETCH 1 (FLAGS)\nS~ g OK…").await;
        }
        drop((client, others));
        harness.finish().await;
    }
}

/// The same with nobody else there: that the command hangs has the backend looked at.
#[tokio::test]
async fn a_command_that_hangs_has_the_backend_looked_at() {
    let server = Server::start().await;
    let harness = started(&server, PoolMode::Multiplex, 4).await;
    let mut client = in_inbox(&harness).await;
    server.freeze("");
    client.play(&format!("C: f STORE 1 +FLAGS (\\Seen)\nS~ f {GONE}")).await;
    assert_eq!(harness.metric("imapool_backend_up", ""), 0);
    server.thaw();
    drop(client);
    harness.finish().await;
}

/// Who is to go, and whose command hangs, waits for a few seconds, and is told then that nobody knows what came of it.
#[tokio::test]
async fn a_session_that_is_closed_while_its_command_hangs_is_told_so() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        for pinned in [false, true] {
            let server = Server::start().await;
            let harness = started(&server, mode, 4).await;
            let mut client = in_inbox(&harness).await;
            if pinned {
                client.play("C: p XYZZY\nS~ p …").await;
            }
            server.freeze("STORE");
            client.send("f STORE 1 +FLAGS (\\Seen)\r\n").await;
            until("it hangs", || server.scripted.received().contains("STORE")).await;
            imapool::admin::act(harness.proxy(), "accounts/u1/close").await.unwrap();
            client.play(&format!("S: f {GONE}\nS: * BYE [UNAVAILABLE] Session closed…\nS.")).await;
            assert_eq!(harness.metric("imapool_commands_total", "command=\"store\",result=\"lost\""), 1, "{mode:?}");
            server.thaw();
            drop(client);
            harness.finish().await;
        }
    }
}

/// A server that is there may take its time over a command.
#[tokio::test]
async fn a_command_that_takes_long_on_a_server_that_is_there_is_left_alone() {
    let server = Server::start().await;
    let harness = started(&server, PoolMode::Multiplex, 4).await;
    let mut client = in_inbox(&harness).await;
    server.freeze("FETCH");
    client.send("f FETCH 1 (FLAGS)\r\n").await;
    let looked = || harness.metric("imapool_upstream_dials_total", "ok");
    let before = looked();
    until("it was looked at", || looked() > before).await;
    server.thaw();
    client.play("S~ f OK…").await;
    drop(client);
    harness.finish().await;
}

/// The backend's word is waited for no longer than a connection. When it comes later, it counts for who asks again.
#[tokio::test]
async fn a_login_waits_no_longer_than_for_a_connection() {
    let server = Server::start().await;
    let harness = started(&server, PoolMode::Multiplex, 4).await;
    server.freeze("LOGIN");
    let mut client = harness.client().await;
    client.play(&format!("C: a LOGIN u1 pw-u1\nS: a {GONE}\nC: b LOGIN u1 pw-u1\nS: b {GONE}")).await;
    server.thaw();
    client.play("C: c LOGIN u1 pw-u1\nS: c OK…\nC: d SELECT INBOX\nS~ d OK…").await;
    assert_eq!(server.scripted.logins(), 0);
    assert_eq!(server.scripted.received().matches("pw-u1").count(), 1, "one verification");
    drop(client);
    harness.finish().await;
}

/// Nobody connects, and those who are connected ask for nothing: it is noticed by the loss of what rests, or of what
/// idles, and by nothing but a look.
#[tokio::test]
async fn a_server_that_goes_away_is_noticed_while_nobody_connects() {
    for idles in [false, true] {
        let server = imapool::demo::server::Server::start(imapool::demo::server::Options::default()).await.unwrap();
        let harness = Harness::start(server.address(), |_| {}).await;
        let mut client = harness.login("u1").await;
        if idles {
            client.play("C: a SELECT INBOX\nS~ a OK…\nC: b IDLE\nS: + …").await;
        }
        assert_eq!(harness.metric("imapool_backend_up", ""), 1);
        let tried = || harness.metric("imapool_upstream_dials_total", "");
        let before = tried();
        server.stop().await;
        until("it is seen to be away", || harness.metric("imapool_backend_up", "") == 0).await;
        assert_eq!(harness.metric("imapool_ready", ""), 0);
        assert!(idles || tried() <= before + 3, "{} attempts", tried() - before);
        drop(client);
        harness.finish().await;
    }
}

/// Without any connection, it is looked at each minute.
#[tokio::test]
async fn a_server_that_goes_away_is_noticed_where_nothing_is_open() {
    let server = imapool::demo::server::Server::start(imapool::demo::server::Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.pool.idle_timeout = Duration::from_secs(1)).await;
    harness.visit("u1").await;
    until("nothing is open", || server.open() == 0).await;
    let dials = || harness.metric("imapool_upstream_dials_total", "");
    let before = dials();
    server.stop().await;
    tokio::time::pause();
    while harness.metric("imapool_backend_up", "") == 1 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        // The clock stands still; what is refused comes from the kernel, in real time.
        std::thread::sleep(Duration::from_millis(2));
    }
    tokio::time::resume();
    assert_eq!(dials() - before, 3, "one look, and two more to be sure");
    harness.finish().await;
}

/// Each backend is looked after by itself: one that hangs keeps nobody from seeing that another is back.
#[tokio::test]
async fn a_backend_that_hangs_holds_up_nothing_else() {
    let server = Server::start().await;
    server.freeze("");
    let place = tokio::net::TcpSocket::new_v4().unwrap();
    place.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let other = place.local_addr().unwrap();
    let harness = Harness::start(server.scripted.address, |config| {
        let backend = imapool::config::Backend::new("127.0.0.1", other.port());
        config.backends.push(imapool::config::Backend { name: "other".into(), ..backend });
    })
    .await;
    let (listener, behind) = (place.listen(16).unwrap(), Server::start().await);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut there = tokio::net::TcpStream::connect(behind.scripted.address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut there).await });
        }
    });
    until("the other is seen", || harness.metric("imapool_backend_up", "other") == 1).await;
    assert_eq!(harness.metric("imapool_upstream_dials_total", "backend=\"mail\""), 0, "the first hangs still");
    server.thaw();
    harness.finish().await;
}
