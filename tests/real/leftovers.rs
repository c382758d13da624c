//! Real servers take the literal of a command they do not understand for further commands. What they then say
//! unasked must not reach the next session of the account.

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};

/// Each makes Dovecot or Cyrus (or both) run `x1` as a command, or leaves it waiting in the middle of one.
const HOSTILE: [&str; 8] = [
    "a1 NONSENSE {22+}\r\nx1 LIST \"\" *\r\nx2 NOOP\r\n",
    "a1 APPEND INBOX (\\Seen {22+}\r\nx1 LIST \"\" *\r\nx2 NOOP\r\n",
    "a1 LIST \"\" ~{22+}\r\nx1 LIST \"\" *\r\nx2 NOOP\r\n",
    "a1 LIST \"\" {}\r\n",
    "a1 APPEND INBOX {1000+}\r\nonly the beginning",
    "a1 SELECT INBOX\r\na2 FETCH 1:* BODY.PEEK[]\r\na3 SEARCH ALL\r\na4 LIST \"\" *\r\n",
    "a1 SELECT INBOX\r\na2 IDLE\r\n",
    "a1 STATUS \"an open quote {5+}\r\nx1 NOOP\r\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_for_the_next_session_dovecot() {
    nothing_is_left_for_the_next_session(Kind::Dovecot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_for_the_next_session_cyrus() {
    nothing_is_left_for_the_next_session(Kind::Cyrus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_newer_ones() {
    for kind in [Kind::Dovecot24, Kind::Cyrus310, Kind::Courier] {
        nothing_is_left_for_the_next_session(kind).await;
    }
}

async fn nothing_is_left_for_the_next_session(kind: Kind) {
    let Some(server) = Server::start(kind, &Options::new(Accounts::numbered("u", 1))).await else { return };
    let proxy = Proxy::start(&server, &Settings { max_per_account: 1, ..Settings::default() }).await;
    let password = password_of("u0");
    for hostile in HOSTILE {
        for read_first in [false, true] {
            let mut rude = Client::login(proxy.address, "u0", &password).await.expect("LOGIN");
            rude.send(hostile.as_bytes()).await.expect("sent");
            if read_first {
                // Some reply may or may not come; what matters is that the connection got so far.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(200), rude.response()).await;
            }
            drop(rude);
            let mut next = Client::login(proxy.address, "u0", &password).await.expect("LOGIN");
            for _ in 0..3 {
                let status = next.command("STATUS INBOX (MESSAGES)").await.expect("a reply").ok();
                // Courier quotes the name.
                let told = String::from_utf8_lossy(&status.untagged).replace('"', "");
                assert_eq!(told, "* STATUS INBOX (MESSAGES 0)\r\n", "after {hostile:?}");
            }
            next.logout().await.expect("LOGOUT");
        }
    }
    proxy.finish();
}
