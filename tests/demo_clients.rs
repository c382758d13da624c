//! The demo's load, and real clients (where they are installed) with the in-memory IMAP server.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use imapool::demo::load::{self, Ending, Load, SessionError};
use imapool::demo::server::{Event, Fault, Options, Server};
use indicatif::ProgressBar;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(10);

async fn server(options: Options) -> Server {
    Server::start(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_counts_what_fails_and_who_is_refused() {
    // Every third session of the load is refused at LOGIN, one more is cut off.
    let faults = Arc::new(|event: &Event<'_>| match (event.verb, event.conn) {
        ("LOGIN", conn) if conn % 3 == 0 => Fault::Tagged("NO [UNAVAILABLE] later".into()),
        ("FETCH", 1) => Fault::CloseMidReply(20),
        _ => Fault::None,
    });
    let server = server(Options { faults: Some(faults), ..Options::default() }).await;
    let time_limit = Duration::from_secs(20);
    let load = Load {
        address: server.address(),
        sessions: 60,
        accounts: 7,
        concurrency: 4,
        ending: Ending::Logout,
        rate: None,
        ports: None,
        time_limit,
    };
    let outcome = timeout(WAIT, load::run(load, &ProgressBar::hidden())).await.unwrap();
    assert_eq!(outcome.durations.len(), 39);
    let failures: Vec<_> = outcome.failures.into_iter().collect();
    assert_eq!(failures, [(SessionError::Lost, 1), (SessionError::Refused, 20)]);
    assert_eq!(server.counters().accepted, 60);
}

/// Runs a real client and returns its output; `None`, and a word on stderr, where it is not installed.
async fn real_client(program: &str, arguments: &[String], input: &str) -> Option<String> {
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var("IMAPOOL_REQUIRE_REAL").is_err(), "{program}: {error}");
            // Past the test harness, which would swallow it.
            let mut stderr = std::io::stderr();
            writeln!(stderr, "SKIPPED: {program} is not installed").unwrap();
            return None;
        }
    };
    // A client that reads no input may be gone already.
    let _gone = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("in time").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn python_imaplib() {
    let server = server(Options::default()).await;
    let script = r#"
import imaplib, sys, time
m = imaplib.IMAP4("127.0.0.1", int(sys.argv[1]), timeout=10)
m.login("ann", "pw-ann")
def ok(r):
    assert r[0] == "OK", r
    return r[1]
assert ok(m.select("INBOX")) == [b"10"]
assert len(ok(m.list())) == 6, m.list()
ok(m.create("Work"))
date = imaplib.Time2Internaldate(time.time())
ok(m.append("Work", "(\\Seen)", date, b"Subject: hi\r\n\r\nbody\r\n"))
assert ok(m.search(None, "SUBJECT", '"message 3"')) == [b"3"]
data = ok(m.fetch("1:3", "(FLAGS BODY.PEEK[HEADER])"))
assert b"Subject: [ann] INBOX message 1" in data[0][1]
assert b"multipart/alternative" in ok(m.fetch("4", "(RFC822)"))[0][1]
ok(m.store("2", "+FLAGS", r"(\Deleted)"))
assert ok(m.expunge()) == [b"2"]
ok(m.copy("1", "Work"))
assert ok(m.status("Work", "(MESSAGES)")) == [b'"Work" (MESSAGES 2)']
assert ok(m.uid("FETCH", "1:*", "(ENVELOPE BODYSTRUCTURE INTERNALDATE)"))
ok(m.rename("Work", "Done")); ok(m.delete("Done"))
ok(m.close())
assert m.logout()[0] == "BYE"
a = imaplib.IMAP4("127.0.0.1", int(sys.argv[1]), timeout=10)
assert a.authenticate("PLAIN", lambda c: b"\0bob\0pw-bob")[0] == "OK"
a.logout()
print("done")
"#;
    let arguments = ["-".to_owned(), server.address().port().to_string()];
    if let Some(output) = real_client("python3", &arguments, script).await {
        assert_eq!(output.trim(), "done");
        assert_eq!(server.counters().bad, 0);
    }
}

#[tokio::test]
async fn curl() {
    let server = server(Options::default()).await;
    let base = format!("imap://127.0.0.1:{}", server.address().port());
    let curl = async |path: &str, more: &[&str], input: &str| {
        let mut arguments = vec!["-sS".to_owned(), "-m".into(), "20".into(), "-u".into(), "ann:pw-ann".into()];
        arguments.push(format!("{base}{path}"));
        arguments.extend(more.iter().map(|a| (*a).to_owned()));
        real_client("curl", &arguments, input).await
    };
    let Some(message) = curl("/INBOX;MAILINDEX=3", &[], "").await else { return };
    assert!(message.contains("Subject: [ann] INBOX message 3\r\n"), "{message}");
    let list = curl("/", &[], "").await.unwrap();
    assert!(list.contains("\"Archive/2024\""), "{list}");
    let new = "Subject: from curl\r\n\r\nhello\r\n";
    let file = std::env::temp_dir().join(format!("imapool-demo-{}.eml", std::process::id()));
    std::fs::write(&file, new).unwrap();
    let sent = curl("/Drafts", &["-T", file.to_str().unwrap()], "").await;
    std::fs::remove_file(&file).unwrap();
    sent.unwrap();
    assert_eq!(server.messages("ann", "Drafts").unwrap()[0].octets, new);
    let found = curl("/INBOX?SUBJECT%20%22message%205%22", &[], "").await.unwrap();
    assert_eq!(found.trim(), "* SEARCH 5");
    assert_eq!(server.counters().bad, 0);
}

#[tokio::test]
async fn mbsync_both_ways() {
    let server = server(Options::default()).await;
    let folder = std::env::temp_dir().join(format!("imapool-mbsync-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("mail")).unwrap();
    let (path, port) = (folder.display(), server.address().port());
    let config = format!(
        "IMAPAccount a\nHost 127.0.0.1\nPort {port}\nUser ann\nPass pw-ann\nSSLType None\nAuthMechs LOGIN\n\n\
         IMAPStore far\nAccount a\n\nMaildirStore near\nPath {path}/mail/\nInbox {path}/mail/INBOX\nSubFolders Verbatim\n\n\
         Channel c\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nSyncState {path}/state-\n"
    );
    std::fs::write(folder.join("mbsyncrc"), config).unwrap();
    let arguments = ["-c".to_owned(), folder.join("mbsyncrc").display().to_string(), "-a".into()];
    let files = |mailbox: &str, sub: &str| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder.join("mail").join(mailbox).join(sub)).unwrap();
        entries.map(|e| e.unwrap().path()).collect()
    };
    if real_client("mbsync", &arguments, "").await.is_some() {
        assert_eq!(files("INBOX", "new").len() + files("INBOX", "cur").len(), 10);
        assert_eq!(files("Archive/2024", "new").len() + files("Archive/2024", "cur").len(), 3);
        // A message more and one less at the near side, one more at the far side.
        std::fs::write(folder.join("mail/INBOX/new/1.local"), "Subject: local\n\nhello\n").unwrap();
        let gone = files("INBOX", "new").into_iter().find(|f| !f.ends_with("1.local")).unwrap();
        std::fs::remove_file(gone).unwrap();
        server.deliver("ann", "INBOX", "Subject: far\r\n\r\n").unwrap();
        real_client("mbsync", &arguments, "").await.unwrap();
        assert_eq!(files("INBOX", "new").len() + files("INBOX", "cur").len(), 11);
        let messages = server.messages("ann", "INBOX").unwrap();
        assert_eq!(messages.len(), 11);
        let holds = |text: &[u8]| messages.iter().any(|m| m.octets.windows(text.len()).any(|w| w == text));
        assert!(holds(b"Subject: local\r\n") && holds(b"Subject: far\r\n"));
        assert_eq!(server.counters().bad, 0);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
