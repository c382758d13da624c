//! Many short sessions through the pool: none fails, none sees another's mail, and the server sees few connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::accounts::{Accounts, password_of};
use crate::client::{Client, Reply};
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};

const ACCOUNTS: usize = 50;
const AT_ONCE: usize = 16;
const SESSIONS: usize = 10_000;
const MAX_PER_ACCOUNT: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sessions_in_front_of_dovecot() {
    ten_thousand_sessions(Kind::Dovecot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sessions_in_front_of_cyrus() {
    ten_thousand_sessions(Kind::Cyrus).await;
}

async fn ten_thousand_sessions(kind: Kind) {
    let options = Options { reuse: false, ..Options::new(Accounts::numbered("u", ACCOUNTS)) };
    let Some(server) = Server::start(kind, &options).await else { return };
    for n in 0..ACCOUNTS {
        put_marker(server.address, &account(n)).await;
    }
    let proxy =
        Proxy::start(&server, &Settings { max_per_account: MAX_PER_ACCOUNT, spare: 0, ..Settings::default() }).await;
    let most = (ACCOUNTS * MAX_PER_ACCOUNT) as u64;

    run_sessions(proxy.address, SESSIONS / 2).await;
    let cold = proxy.metrics().await.dials();
    assert!((1..=most).contains(&cold), "{cold} dials for {ACCOUNTS} accounts");

    // Which sessions of one account meet is up to chance; now every account has all the connections it may have.
    fill_pool(proxy.address).await;
    let warm = proxy.metrics().await.dials();
    assert!(warm <= most, "{warm} dials for {ACCOUNTS} accounts");

    run_sessions(proxy.address, SESSIONS / 2).await;
    let end = proxy.metrics().await.dials();
    assert_eq!(end, warm, "dials of a warm pool");
    proxy.finish();
}

fn account(n: usize) -> String {
    format!("u{}", n % ACCOUNTS)
}

/// What only this account's message says.
fn marker(user: &str) -> String {
    format!("<marker-of-{user}@example.org>")
}

async fn put_marker(address: SocketAddr, user: &str) {
    let mut client = Client::login(address, user, &password_of(user)).await.expect("direct login");
    let message = format!("Subject: of {user}\r\nMessage-ID: {}\r\n\r\nHello {user}\r\n", marker(user));
    client.append("INBOX", "", &message).await.expect("APPEND").ok();
    client.logout().await.expect("LOGOUT");
}

/// Runs `count` sessions, [`AT_ONCE`] at a time, over all accounts in turn.
async fn run_sessions(address: SocketAddr, count: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let next = next.clone();
        workers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    break;
                }
                session(address, &account(n)).await;
            }
        });
    }
    while let Some(end) = workers.join_next().await {
        end.expect("no session fails");
    }
}

async fn session(address: SocketAddr, user: &str) {
    let mut client = Client::login(address, user, &password_of(user)).await.expect("LOGIN");
    let selected = client.command("SELECT INBOX").await.expect("SELECT").ok();
    assert!(selected.to_string().contains("* 1 EXISTS"), "{selected}");
    let fetched = client.command("FETCH 1 BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]").await.expect("FETCH").ok();
    assert_own(&fetched, user);
    client.logout().await.expect("LOGOUT");
}

fn assert_own(fetched: &Reply, user: &str) {
    let text = fetched.to_string();
    assert!(text.contains(&marker(user)), "{user} wants its marker: {text}");
    assert_eq!(text.matches("marker-of-").count(), 1, "{user} sees one marker: {text}");
}

/// Holds as many sessions of every account at once as it may have connections.
async fn fill_pool(address: SocketAddr) {
    for n in 0..ACCOUNTS {
        let user = account(n);
        let mut held = Vec::new();
        for _ in 0..MAX_PER_ACCOUNT {
            let mut client = Client::login(address, &user, &password_of(&user)).await.expect("LOGIN");
            client.command("SELECT INBOX").await.expect("SELECT").ok();
            held.push(client);
        }
        for client in held {
            client.logout().await.expect("LOGOUT");
        }
    }
}
