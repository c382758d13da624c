//! CAPABILITY is a promise: the backend's own list, before and after login, less what cannot be kept, told alike
//! everywhere.

use imapool::demo::server::{Capabilities, Options, Server};

use crate::support::{Client, Conn, Harness, Scripted};

fn words(line: &str) -> Vec<&str> {
    let start = line.find("CAPABILITY ").unwrap_or_else(|| panic!("{line}")) + "CAPABILITY ".len();
    line[start..].split(']').next().unwrap().split(' ').collect()
}

#[tokio::test]
async fn everywhere_the_same_list_and_after_login_the_real_one() {
    for (in_greeting, after_login) in [(true, true), (false, false), (true, false), (false, true)] {
        let capabilities = Capabilities { in_greeting, after_login, ..Capabilities::default() };
        let server = Server::start(Options { capabilities, ..Options::default() }).await.unwrap();
        let harness = Harness::start(server.address(), |_| {}).await;
        for _ in 0..2 {
            let mut client = Client::connect(harness.address).await;
            let greeting = client.line().await;
            let told = client.command("a CAPABILITY").await.remove(0);
            assert_eq!(words(&greeting), words(&told));
            assert!(words(&told).contains(&"AUTH=PLAIN") && !words(&told).contains(&"UIDPLUS"), "{told}");
            let reply = client.command("b LOGIN u8 pw-u8").await.remove(0);
            let told = client.command("c CAPABILITY").await.remove(0);
            assert_eq!(words(&reply), words(&told));
            assert!(words(&told).contains(&"UIDPLUS") && !told.contains("AUTH="), "{told}");
            client.play("C: d LIST \"\" INBOX\nS: * LIST…\nS: d OK…\nC: e LOGOUT\nS: * BYE…\nS: e OK…\nS.").await;
        }
        harness.finish().await;
    }
}

/// What a backend says of its capabilities later, for other ears, is not passed on.
#[tokio::test]
async fn later_lists_are_not_passed_on() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        conn.play("C: LIST \"\" x\nS: * CAPABILITY IMAP4rev1 X-EVIL\nS: * OK [CAPABILITY X-EVIL] news\nS: TAG OK [CAPABILITY X-EVIL] listed")
            .await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: a LIST \"\" x\nS: a OK listed").await;
    drop(client);
    harness.finish().await;
}

/// ID and NOOP need no backend, before login neither.
#[tokio::test]
async fn id_works_before_login() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let mut client = harness.client().await;
    client.play("C: a ID (\"name\" \"test\")\nS: * ID (\"name\" \"imapool\"…\nS: a OK…\nC: b NOOP\nS: b OK…\nC: c ID NIL\nS: * ID…\nS: c OK…").await;
    drop(client);
    assert_eq!(server.counters().logins, 0);
    harness.finish().await;
}
