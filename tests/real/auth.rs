//! Credentials and limits of a real server, seen through imapool.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::accounts::{Accounts, password_of};
use crate::client::{Client, Reply};
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_password_then_the_right_one_dovecot() {
    wrong_password_then_the_right_one(Kind::Dovecot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_password_then_the_right_one_cyrus() {
    wrong_password_then_the_right_one(Kind::Cyrus).await;
}

async fn try_login(address: SocketAddr, user: &str, password: &str) -> Reply {
    let mut client = Client::connect(address).await.expect("a greeting");
    client.command(&format!("LOGIN {user} {password}")).await.expect("a reply")
}

/// On one connection and on two, before and after the right one was seen: the wrong one is
/// refused, the right one is let in, and a session that is in stays in.
async fn wrong_password_then_the_right_one(kind: Kind) {
    let Some(server) = Server::start(kind, &Options::new(Accounts::numbered("u", 3))).await else { return };
    let proxy = Proxy::start(&server, &Settings::default()).await;
    for n in 0..3 {
        let user = format!("u{n}");
        let mut client = Client::connect(proxy.address).await.expect("a greeting");
        let refused = client.command(&format!("LOGIN {user} wrong")).await.expect("a reply");
        assert_refused(kind, &refused);
        client.command(&format!("LOGIN {user} {}", password_of(&user))).await.expect("a reply").ok();
        client.command("SELECT INBOX").await.expect("a reply").ok();

        for wrong in ["wrong", &password_of("u9"), "PW-u0", "\"\""] {
            let refused = try_login(proxy.address, &user, wrong).await;
            assert_refused(kind, &refused);
        }
        client.command("FETCH 1:* FLAGS").await.expect("a reply");
        client.command("NOOP").await.expect("a session that is in").ok();
        try_login(proxy.address, &user, &password_of(&user)).await.ok();
        client.logout().await.expect("LOGOUT");
    }
    proxy.finish();
}

/// Dovecot says it in a code, Cyrus only in words; what matters is that it does not look like an outage.
fn assert_refused(kind: Kind, reply: &Reply) {
    let coded = reply.tagged.starts_with("NO [AUTHENTICATIONFAILED]");
    let plain = reply.tagged.starts_with("NO ") && !reply.tagged.contains('[');
    assert!(coded || (plain && kind == Kind::Cyrus), "{reply}");
}

/// The server allows 2 connections of one user and address, imapool is told 4. Sessions come all the same: some wait,
/// none fails, and nobody is told that a right password was wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_limit_below_ours_fails_no_session() {
    let mut options = Options::new(Accounts::numbered("u", 2));
    options.max_userip_connections = 2;
    let Some(server) = Server::start(Kind::Dovecot, &options).await else { return };
    let proxy = Proxy::start(&server, &Settings { max_per_account: 4, ..Settings::default() }).await;
    let mut sessions = JoinSet::new();
    for n in 0..8 {
        let address = proxy.address;
        sessions.spawn(async move {
            for _ in 0..25 {
                short_session(address, &format!("u{}", n % 2)).await;
            }
        });
    }
    let all = async {
        while let Some(end) = sessions.join_next().await {
            end.expect("no session fails")
        }
    };
    timeout(Duration::from_secs(60), all).await.expect("no session waits for ever");
    proxy.finish();
}

async fn short_session(address: SocketAddr, user: &str) {
    let mut client = Client::connect(address).await.expect("a greeting");
    for command in [&format!("LOGIN {user} {}", password_of(user)), "SELECT INBOX", "NOOP", "LOGOUT"] {
        let reply = client.command(command).await.expect("a reply");
        assert!(!reply.to_string().contains("AUTHENTICATIONFAILED"), "{user} has the right password: {reply}");
        reply.ok();
    }
}
