//! The same conversation, directly and through imapool: the same replies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
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
    through_the_proxy(Kind::Dovecot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_in_front_of_cyrus() {
    through_the_proxy(Kind::Cyrus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_in_front_of_dovecot_24() {
    through_the_proxy(Kind::Dovecot24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_in_front_of_cyrus_310() {
    through_the_proxy(Kind::Cyrus310).await;
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

/// In both modes at once: what the server itself says is asked for once.
async fn through_the_proxy(kind: Kind) {
    let Some(server) = start(kind, conversation::all(kind).len()).await else { return };
    let proxies = [start_proxy(&server, "multiplex").await, start_proxy(&server, "session").await];
    let [shared, pooled] = proxies.each_ref().map(|proxy| proxy.address);
    let sides =
        [Side::direct(&server), Side { name: "shared", address: shared }, Side { name: "pooled", address: pooled }];
    let report = compare_all(kind, sides).await;
    let logs = proxies.each_ref().map(Proxy::log);
    assert!(report.is_empty(), "{report}\n{}", logs.join("\n"));
    proxies.into_iter().for_each(Proxy::finish);
}

async fn start_proxy(server: &Server, mode: &'static str) -> Proxy {
    Proxy::start(server, &Settings { mode, ..Settings::default() }).await
}

async fn at_random(kind: Kind, mode: &'static str) {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let (seed, count) = (number("IMAPOOL_RANDOM_SEED").unwrap_or(1), number("IMAPOOL_RANDOM").unwrap_or(20));
    // Cyrus tells of \Recent after a silent STORE, which is why a hub takes the reply for the STORE's.
    let talks = random::conversations(seed, count, (kind, mode) != (Kind::Cyrus, "multiplex"));
    let Some(server) = start(kind, talks.len()).await else { return };
    let report = if mode == "direct" {
        compare_each(&Arc::new(talks), Side::direct_twice(&server)).await
    } else {
        let proxy = start_proxy(&server, mode).await;
        let sides = [Side::direct(&server), Side { name: "pooled", address: proxy.address }];
        let report = compare_each(&Arc::new(talks), sides).await;
        assert!(report.is_empty(), "{report}");
        proxy.finish();
        report
    };
    assert!(report.is_empty(), "{report}");
}

async fn direct_twice(kind: Kind) {
    let Some(server) = start(kind, conversation::all(kind).len()).await else { return };
    let report = compare_all(kind, Side::direct_twice(&server)).await;
    assert!(report.is_empty(), "{report}");
}

/// Where a conversation is held, with accounts of its own. The first side is the server itself.
#[derive(Debug, Clone, Copy)]
struct Side {
    /// One of [`NAMES`].
    name: &'static str,
    address: SocketAddr,
}

/// Part of the accounts' names, which are equally long.
const NAMES: [&str; 4] = ["direct", "second", "shared", "pooled"];

impl Side {
    fn direct(server: &Server) -> Self {
        Self { name: "direct", address: server.address }
    }

    fn direct_twice(server: &Server) -> [Self; 2] {
        [Self::direct(server), Self { name: "second", address: server.address }]
    }

    fn user(self, index: usize) -> String {
        user(index, self.name)
    }
}

fn user(index: usize, side: &str) -> String {
    format!("talk{index:03}{side}")
}

/// A server on which every conversation has an account for each side, and all of them together one more.
async fn start(kind: Kind, conversations: usize) -> Option<Server> {
    let accounts = Accounts::default();
    for index in 0..=conversations {
        for user in NAMES.map(|name| user(index, name)) {
            accounts.set(&user, &password_of(&user));
        }
    }
    // Cyrus 3.10 tells in IDLE of what was done just before, by chance, where no sync takes its time.
    let in_memory = kind != Kind::Cyrus310;
    // As it is by default, what a process has learned of a mailbox is not in what the next says.
    Server::start(kind, &Options { reuse: false, in_memory, ..Options::new(accounts) }).await
}

/// All differences, as text.
async fn compare_all<const N: usize>(kind: Kind, sides: [Side; N]) -> String {
    let conversations = Arc::new(conversation::all(kind));
    let names: BTreeSet<&str> = conversations.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), conversations.len(), "names are unique");
    assert!(conversations.len() >= 60);
    compare_each(&conversations, sides).await + &in_sequence(&conversations, sides).await
}

async fn compare_each<const N: usize>(conversations: &Arc<Vec<Conversation>>, sides: [Side; N]) -> String {
    let mut report = String::new();
    let mut running: JoinSet<String> = JoinSet::new();
    for index in 0..conversations.len() {
        if running.len() == AT_ONCE {
            report += &running.join_next().await.expect("some run").expect("no panic");
        }
        let conversations = conversations.clone();
        running.spawn(async move { twice(&conversations[index], index, sides).await });
    }
    while let Some(part) = running.join_next().await {
        report += &part.expect("no panic");
    }
    report
}

/// Once in front of a cold pool, and again on the same accounts in front of a warm one.
async fn twice<const N: usize>(conversation: &Conversation, index: usize, sides: [Side; N]) -> String {
    prepare_accounts(index, sides).await;
    let mut report = String::new();
    for pool in ["cold", "warm"] {
        report += &once(conversation, pool, index, sides).await;
    }
    report
}

/// All, one after another on one account: what one leaves behind, the next would see.
async fn in_sequence<const N: usize>(conversations: &[Conversation], sides: [Side; N]) -> String {
    let index = conversations.len();
    prepare_accounts(index, sides).await;
    let mut report = String::new();
    for conversation in conversations {
        report += &once(conversation, "in sequence", index, sides).await;
    }
    report
}

async fn prepare_accounts<const N: usize>(index: usize, sides: [Side; N]) {
    for side in sides {
        prepare_account(sides[0].address, &side.user(index)).await.expect("a fresh account");
    }
}

async fn once<const N: usize>(conversation: &Conversation, how: &str, index: usize, sides: [Side; N]) -> String {
    let recent_counts = how != "in sequence" && !conversation.has_third_party();
    let said = sides.map(|side| async move {
        run(conversation, &side.user(index), side.address, sides[0].address, recent_counts).await
    });
    let transcripts: Vec<Transcript> = join_all(said).await;
    show(&conversation.name, &transcripts[0]);
    let name = format!("{} ({how})", conversation.name);
    let others = sides.iter().zip(&transcripts).skip(1);
    let differences = others
        .filter_map(|(side, said)| Some(format!("-- {}\n{}", side.name, difference(&name, &transcripts[0], said)?)));
    differences.collect()
}

/// With `IMAPOOL_SHOW=1`, what the server itself says.
fn show(name: &str, direct: &Transcript) {
    if std::env::var_os("IMAPOOL_SHOW").is_some() {
        println!("== {name}\n{}", direct.lines.join("\n"));
    }
}
