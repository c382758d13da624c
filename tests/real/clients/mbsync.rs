//! mbsync (isync): two-way synchronisation of 1,000 messages with a Maildir, then of changes on both sides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{SERVERS, Way, Ways, fill, finish, message};
use crate::accounts::password_of;
use crate::server::Kind;

const MESSAGES: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mbsync_brings_about_the_same() {
    for kind in SERVERS {
        mbsync_brings_about_the_same_in_front_of(kind).await;
    }
}

async fn mbsync_brings_about_the_same_in_front_of(kind: Kind) {
    let Some(ways) = Ways::start(kind, &["mbsync"]).await else { return };
    let mut results = Vec::new();
    for way in ways.both() {
        let mut client = ways.login(&way).await;
        fill(&mut client, 0..MESSAGES).await;
        sync(&way);
        let first = local_messages(&way);
        assert_eq!(first.len(), MESSAGES, "{} way: all were fetched", way.user);

        client.command("SELECT INBOX").await.expect("SELECT").ok();
        client.command("STORE 1:20 +FLAGS (\\Seen \\Flagged)").await.expect("STORE").ok();
        client.command("STORE 21:30 +FLAGS (\\Deleted)").await.expect("STORE").ok();
        client.command("EXPUNGE").await.expect("EXPUNGE").ok();
        fill(&mut client, 2000..2020).await;
        change_locally(&way, &first);
        sync(&way);
        let second = local_messages(&way);
        sync(&way);
        assert_eq!(second, local_messages(&way), "{} way: nothing is left to do", way.user);
        client.logout().await.expect("LOGOUT");
        results.push((first, second, ways.contents(&way, "INBOX").await));
    }
    assert_eq!(results[0].1.len(), MESSAGES - 10 + 20 - 10 + 5);
    assert!(results[0] == results[1], "direct: {:?}\npooled: {:?}", results[0].1, results[1].1);
    ways.proxy.finish();
}

fn sync(way: &Way) {
    let maildir = way.folder.join("mail");
    std::fs::create_dir_all(&maildir).expect("our folder");
    let config = way.folder.join("mbsyncrc");
    let (state, mail) = (way.folder.join("state-"), maildir.join("inbox"));
    let text = format!(
        "IMAPAccount test\nHost 127.0.0.1\nPort {port}\nUser {user}\nPass {password}\nSSLType None\n\
         AuthMechs LOGIN\n\nIMAPStore far\nAccount test\n\n\
         MaildirStore near\nPath {maildir}/\nInbox {mail}\n\n\
         Channel all\nFar :far:\nNear :near:\nCreate Both\nExpunge Both\nSync All\nSyncState {state}\n",
        port = way.port,
        user = way.user,
        password = password_of(way.user),
        maildir = maildir.display(),
        mail = mail.display(),
        state = state.display(),
    );
    std::fs::write(&config, text).expect("our folder");
    let mut command = Command::new("mbsync");
    command.arg("-c").arg(&config).arg("all").env("HOME", &way.folder);
    let output = tokio::task::block_in_place(|| finish(&mut command, &way.folder.join("shown")));
    assert!(output.status.success(), "{} way: {}", way.user, String::from_utf8_lossy(&output.stdout));
}

fn message_files(way: &Way) -> Vec<PathBuf> {
    let inbox = way.folder.join("mail/inbox");
    let entries = ["cur", "new"].into_iter().flat_map(|sub| std::fs::read_dir(inbox.join(sub)).expect("a Maildir"));
    entries.map(|entry| entry.expect("readable").path()).collect()
}

fn message_id(file: &Path) -> String {
    let text = std::fs::read_to_string(file).expect("a message");
    let line = text.lines().find(|line| line.starts_with("Message-ID: ")).expect("every message has one");
    line["Message-ID: ".len()..].to_owned()
}

/// Flags by Message-ID.
fn local_messages(way: &Way) -> BTreeMap<String, String> {
    let files = message_files(way);
    files.iter().map(|file| (message_id(file), flags(file))).collect()
}

fn flags(file: &Path) -> String {
    let name = file.file_name().and_then(|name| name.to_str()).expect("an ASCII name");
    name.rsplit_once(":2,").map_or("", |(_, flags)| flags).to_owned()
}

/// Ten messages are gone, ten are seen, five are new.
fn change_locally(way: &Way, known: &BTreeMap<String, String>) {
    assert!(known.contains_key("<100@example.org>"));
    for file in message_files(way) {
        let id = message_id(&file);
        let number: usize = id.trim_matches(['<', '>']).split('@').next().and_then(|n| n.parse().ok()).expect("ours");
        if (100..110).contains(&number) {
            std::fs::remove_file(&file).expect("ours");
        } else if (200..210).contains(&number) {
            let name = file.file_name().and_then(|name| name.to_str()).expect("ASCII");
            let plain = name.split(":2,").next().expect("a first part");
            let seen = way.folder.join("mail/inbox/cur").join(format!("{plain}:2,S"));
            std::fs::rename(&file, seen).expect("ours");
        }
    }
    for n in 3000..3005 {
        let file = way.folder.join(format!("mail/inbox/new/{n}.test"));
        std::fs::write(file, message(n).replace("\r\n", "\n")).expect("ours");
    }
}
