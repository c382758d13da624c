//! Programs that people use, each run twice in front of each server: straight, and through imapool. What they show
//! and what they leave on the server must be the same.

mod curl;
mod imaplib;
mod mbsync;
mod mutt;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::process::{find_program, skip, wait_until};
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server, scratch_folder};

/// In front of which they run.
const SERVERS: [Kind; 3] = [Kind::Dovecot, Kind::Dovecot24, Kind::Cyrus310];

/// How long a program may run.
const LIMIT: Duration = Duration::from_secs(90);

/// Two ways to the same server, with an account of its own for each; user names equally long.
struct Ways {
    server: Server,
    proxy: Proxy,
    folder: tempfile::TempDir,
}

/// One of the two ways.
struct Way {
    user: &'static str,
    port: u16,
    /// Where the program's files go.
    folder: PathBuf,
}

impl Ways {
    /// `None` (after saying so) if a program or the server is missing.
    async fn start(kind: Kind, programs: &[&str]) -> Option<Self> {
        for program in programs {
            if find_program(program).is_none() {
                skip(program);
                return None;
            }
        }
        let accounts = Accounts::default();
        for user in ["direct", "pooled"] {
            accounts.set(user, &password_of(user));
        }
        let server = Server::start(kind, &Options::new(accounts)).await?;
        let proxy = Proxy::start(&server, &Settings::default()).await;
        Some(Self { server, proxy, folder: scratch_folder() })
    }

    fn both(&self) -> [Way; 2] {
        let way = |user: &'static str, port| {
            let folder = self.folder.path().join(user);
            std::fs::create_dir_all(&folder).expect("our folder");
            Way { user, port, folder }
        };
        [way("direct", self.server.address.port()), way("pooled", self.proxy.address.port())]
    }

    /// Straight to the server, whichever way the account's program goes.
    async fn login(&self, way: &Way) -> Client {
        Client::login(self.server.address, way.user, &password_of(way.user)).await.expect("LOGIN")
    }

    /// What is in a mailbox: number, flags, size and Message-ID of each message.
    async fn contents(&self, way: &Way, mailbox: &str) -> String {
        let mut client = self.login(way).await;
        client.command(&format!("EXAMINE {mailbox}")).await.expect("EXAMINE").ok();
        let items = "FETCH 1:* (FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])";
        let reply = client.command(items).await.expect("FETCH");
        let text = String::from_utf8_lossy(&reply.untagged).replace("\\Recent ", "").replace(" \\Recent", "");
        text.replace("\\Recent", "")
    }
}

/// Runs a program to its end within [`LIMIT`].
fn finish(command: &mut Command, log: &Path) -> Output {
    let out = std::fs::File::create(log).expect("our folder");
    let err = out.try_clone().expect("a file");
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("a program that exists");
    let status = wait_until(LIMIT, || child.try_wait().expect("our child"));
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} does not end: {}", std::fs::read_to_string(log).unwrap_or_default());
    };
    Output { status, stdout: std::fs::read(log).expect("our file"), stderr: Vec::new() }
}

/// A message of which nothing depends on when or by whom it was written.
fn message(n: usize) -> String {
    format!(
        "From: Ann <ann@example.org>\r\nTo: Bob <bob@example.org>\r\nSubject: message {n}\r\n\
         Date: Mon, 01 Jan 2024 10:{:02}:{:02} +0000\r\nMessage-ID: <{n}@example.org>\r\n\r\nbody of {n}\r\n{}",
        n / 60 % 60,
        n % 60,
        "a line of text\r\n".repeat(n % 40),
    )
}

/// Puts messages into INBOX, straight on the server.
async fn fill(client: &mut Client, numbers: std::ops::Range<usize>) {
    for n in numbers {
        client.append("INBOX", "\"01-Jan-2024 10:00:00 +0000\" ", &message(n)).await.expect("APPEND").ok();
    }
}
