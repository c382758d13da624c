//! The same conversation, directly and through imapool: the same replies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::accounts::{Accounts, password_of};
use crate::compare::difference;
use crate::conversation::{self, Conversation};
use crate::proxy::{Proxy, Settings};
use crate::random;
use crate::runner::{Transcript, prepare_account, run};
use crate::server::{Kind, Options, Server};

/// Conversations run at once.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_in_front_of_dovecot() {
    through_the_proxy(Kind::Dovecot, "session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_in_front_of_cyrus() {
    through_the_proxy(Kind::Cyrus, "session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_multiplexed_in_front_of_dovecot() {
    through_the_proxy(Kind::Dovecot, "multiplex").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_multiplexed_in_front_of_cyrus() {
    through_the_proxy(Kind::Cyrus, "multiplex").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_in_front_of_dovecot_24() {
    through_the_proxy(Kind::Dovecot24, "session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_multiplexed_in_front_of_dovecot_24() {
    through_the_proxy(Kind::Dovecot24, "multiplex").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_in_front_of_cyrus_310() {
    through_the_proxy(Kind::Cyrus310, "session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_multiplexed_in_front_of_cyrus_310() {
    through_the_proxy(Kind::Cyrus310, "multiplex").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_at_random_in_front_of_dovecot() {
    at_random(Kind::Dovecot, "session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_at_random_in_front_of_cyrus() {
    at_random(Kind::Cyrus, "session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_at_random_multiplexed_in_front_of_dovecot() {
    at_random(Kind::Dovecot, "multiplex").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_at_random_multiplexed_in_front_of_cyrus() {
    at_random(Kind::Cyrus, "multiplex").await;
}

/// The check of the checker: a server is the same as itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "concerns the conversations, not the proxy: run it after changing them"]
async fn conversations_repeat_on_dovecot() {
    direct_twice(Kind::Dovecot).await;
}

/// As above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "concerns the conversations, not the proxy: run it after changing them"]
async fn conversations_repeat_on_cyrus() {
    direct_twice(Kind::Cyrus).await;
}

/// As above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "concerns the conversations, not the proxy: run it after changing them"]
async fn conversations_repeat_on_newer_ones() {
    direct_twice(Kind::Dovecot24).await;
    direct_twice(Kind::Cyrus310).await;
}

/// As above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "concerns the conversations, not the proxy: run it after changing them"]
async fn conversations_at_random_repeat() {
    at_random(Kind::Dovecot, "direct").await;
    at_random(Kind::Cyrus, "direct").await;
}

async fn through_the_proxy(kind: Kind, mode: &'static str) {
    let Some(server) = start(kind, conversation::all(kind).len()).await else { return };
    let proxy = Proxy::start(&server, &Settings { mode, ..Settings::default() }).await;
    let report = compare_all(kind, server.address, proxy.address).await;
    assert!(report.is_empty(), "{report}\n{}", proxy.log());
    proxy.finish();
}

async fn at_random(kind: Kind, mode: &'static str) {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let (seed, count) = (number("IMAPOOL_RANDOM_SEED").unwrap_or(1), number("IMAPOOL_RANDOM").unwrap_or(20));
    // Cyrus tells of \Recent after a silent STORE, which is why a hub takes the reply for the STORE's.
    let talks = random::conversations(seed, count, (kind, mode) != (Kind::Cyrus, "multiplex"));
    let Some(server) = start(kind, talks.len()).await else { return };
    let report = if mode == "direct" {
        compare_each(&Arc::new(talks), server.address, server.address).await
    } else {
        let proxy = Proxy::start(&server, &Settings { mode, ..Settings::default() }).await;
        let report = compare_each(&Arc::new(talks), server.address, proxy.address).await;
        assert!(report.is_empty(), "{report}");
        proxy.finish();
        report
    };
    assert!(report.is_empty(), "{report}");
}

async fn direct_twice(kind: Kind) {
    let Some(server) = start(kind, conversation::all(kind).len()).await else { return };
    let report = compare_all(kind, server.address, server.address).await;
    assert!(report.is_empty(), "{report}");
}

/// A server on which every conversation has a pair of accounts, and all of them together one more.
async fn start(kind: Kind, conversations: usize) -> Option<Server> {
    let accounts = Accounts::default();
    for index in 0..=conversations {
        for user in pair(index) {
            accounts.set(&user, &password_of(&user));
        }
    }
    // Cyrus 3.10 tells in IDLE of what was done just before, by chance, where no sync takes its time.
    let in_memory = kind != Kind::Cyrus310;
    Server::start(kind, &Options { in_memory, ..Options::new(accounts) }).await
}

/// Equal accounts, for the direct and the proxied side; their names are equally long.
fn pair(index: usize) -> [String; 2] {
    [format!("talk{index:03}direct"), format!("talk{index:03}pooled")]
}

/// All differences, as text.
async fn compare_all(kind: Kind, server: SocketAddr, proxy: SocketAddr) -> String {
    let conversations = Arc::new(conversation::all(kind));
    let names: BTreeSet<&str> = conversations.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), conversations.len(), "names are unique");
    assert!(conversations.len() >= 60);
    compare_each(&conversations, server, proxy).await + &in_sequence(&conversations, server, proxy).await
}

async fn compare_each(conversations: &Arc<Vec<Conversation>>, server: SocketAddr, proxy: SocketAddr) -> String {
    let mut report = String::new();
    let mut running: JoinSet<String> = JoinSet::new();
    for index in 0..conversations.len() {
        if running.len() == AT_ONCE {
            report += &running.join_next().await.expect("some run").expect("no panic");
        }
        let conversations = conversations.clone();
        running.spawn(async move { twice(&conversations[index], index, server, proxy).await });
    }
    while let Some(part) = running.join_next().await {
        report += &part.expect("no panic");
    }
    report
}

/// Once in front of a cold pool, and again on the same accounts in front of a warm one.
async fn twice(conversation: &Conversation, index: usize, server: SocketAddr, proxy: SocketAddr) -> String {
    let [direct, proxied] = pair(index);
    prepare_account(server, &direct).await.expect("a fresh account");
    prepare_account(server, &proxied).await.expect("a fresh account");
    let mut report = String::new();
    for pool in ["cold", "warm"] {
        report += &once(conversation, pool, [&direct, &proxied], server, proxy).await;
    }
    report
}

/// All, one after another on one account: what one leaves behind, the next would see.
async fn in_sequence(conversations: &[Conversation], server: SocketAddr, proxy: SocketAddr) -> String {
    let [direct, proxied] = pair(conversations.len());
    prepare_account(server, &direct).await.expect("a fresh account");
    prepare_account(server, &proxied).await.expect("a fresh account");
    let mut report = String::new();
    for conversation in conversations {
        report += &once(conversation, "in sequence", [&direct, &proxied], server, proxy).await;
    }
    report
}

async fn once(
    conversation: &Conversation,
    how: &str,
    [direct, proxied]: [&str; 2],
    server: SocketAddr,
    proxy: SocketAddr,
) -> String {
    let recent_counts = how != "in sequence" && !conversation.has_third_party();
    let (direct, proxied): (Transcript, Transcript) = tokio::join!(
        run(conversation, direct, server, server, recent_counts),
        run(conversation, proxied, proxy, server, recent_counts)
    );
    show(&conversation.name, &direct);
    difference(&format!("{} ({how})", conversation.name), &direct, &proxied).unwrap_or_default()
}

/// With `IMAPOOL_SHOW=1`, what the server itself says.
fn show(name: &str, direct: &Transcript) {
    if std::env::var_os("IMAPOOL_SHOW").is_some() {
        println!("== {name}\n{}", direct.lines.join("\n"));
    }
}
