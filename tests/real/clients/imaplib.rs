//! Python's imaplib.

use std::process::Command;

use super::{SERVERS, Ways, fill, finish};
use crate::accounts::password_of;
use crate::server::Kind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imaplib_is_told_the_same() {
    for kind in SERVERS {
        imaplib_is_told_the_same_in_front_of(kind).await;
    }
}

async fn imaplib_is_told_the_same_in_front_of(kind: Kind) {
    let Some(ways) = Ways::start(kind, &["python3"]).await else { return };
    let mut shown = Vec::new();
    for way in ways.both() {
        fill(&mut ways.login(&way).await, 0..5).await;
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("imaplib_session.py"), &way.port.to_string()]);
        command.args([way.user, &password_of(way.user)]);
        let output = tokio::task::block_in_place(|| finish(&mut command, &way.folder.join("shown")));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{} way: {text}", way.user);
        shown.push((comparable(&text), ways.contents(&way, "INBOX").await));
    }
    for (direct, pooled) in shown[0].0.lines().zip(shown[1].0.lines()) {
        assert_eq!(direct, pooled);
    }
    assert_eq!(shown[0], shown[1]);
    ways.proxy.finish();
}

/// A mailbox's own name for itself is another each time (RFC 8474); a hub leaves a mailbox by itself.
fn comparable(text: &str) -> String {
    let id = regex::Regex::new(r"MAILBOXID \([^)]*\)").expect("a constant");
    id.replace_all(text, "MAILBOXID")
        .replace("Unselect completed.", "Completed")
        .replace("Close completed.", "Completed")
}
