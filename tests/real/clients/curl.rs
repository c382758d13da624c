//! curl: list, fetch, search, append.

use std::process::Command;

use super::{SERVERS, Way, Ways, fill, finish};
use crate::accounts::password_of;
use crate::server::Kind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_shows_the_same() {
    for kind in SERVERS {
        curl_shows_the_same_in_front_of(kind).await;
    }
}

async fn curl_shows_the_same_in_front_of(kind: Kind) {
    let Some(ways) = Ways::start(kind, &["curl"]).await else { return };
    let mut shown = Vec::new();
    for way in ways.both() {
        fill(&mut ways.login(&way).await, 0..5).await;
        let text = tokio::task::block_in_place(|| all_requests(&way));
        shown.push((text, ways.contents(&way, "INBOX").await, ways.contents(&way, "Sent").await));
    }
    assert!(shown[0].0.contains("body of 1"), "{}", shown[0].0);
    assert_eq!(shown[0], shown[1]);
    ways.proxy.finish();
}

fn all_requests(way: &Way) -> String {
    let letter = way.folder.join("letter");
    std::fs::write(&letter, super::message(77)).expect("our folder");
    let requests: [&[&str]; 9] = [
        &["/"],
        &["/INBOX;MAILINDEX=2"],
        &["/INBOX;UID=3/;SECTION=TEXT"],
        &["/INBOX?SUBJECT%20message"],
        &["/INBOX", "-X", "FETCH 1:* (FLAGS UID)"],
        &["/INBOX", "-X", "STORE 1 +FLAGS (\\Flagged)"],
        &["/Sent", "-T", letter.to_str().expect("our own name")],
        &["/Sent;MAILINDEX=1"],
        &["/NoSuchMailbox;MAILINDEX=1"],
    ];
    let mut shown = String::new();
    for request in requests {
        let (path, rest) = request.split_first().expect("a path");
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--user"]);
        command.arg(format!("{}:{}", way.user, password_of(way.user)));
        command.arg(format!("imap://127.0.0.1:{}{path}", way.port)).args(rest);
        let output = finish(&mut command, &way.folder.join("shown"));
        shown +=
            &format!("{path} {rest:?} -> {:?}\n{}\n", output.status.code(), String::from_utf8_lossy(&output.stdout))
                .replace(way.user, "USER");
    }
    shown
}
