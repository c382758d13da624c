//! mutt in a terminal (tmux): read, flag, delete, save.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{SERVERS, Way, Ways, fill};
use crate::accounts::password_of;
use crate::process::wait_until;
use crate::server::Kind;

/// How long mutt may take to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutt_shows_and_does_the_same() {
    for kind in SERVERS {
        mutt_shows_and_does_the_same_in_front_of(kind).await;
    }
}

async fn mutt_shows_and_does_the_same_in_front_of(kind: Kind) {
    let Some(ways) = Ways::start(kind, &["tmux", "mutt"]).await else { return };
    let mut results = Vec::new();
    for way in ways.both() {
        fill(&mut ways.login(&way).await, 1..8).await;
        let screens = tokio::task::block_in_place(|| read_flag_delete_save(&way));
        let kept = std::fs::read_to_string(way.folder.join("saved")).expect("mutt saved a message");
        let saved: Vec<String> =
            kept.lines().filter(|line| line.starts_with("Message-ID")).map(str::to_owned).collect();
        results.push((screens, saved, ways.contents(&way, "INBOX").await));
    }
    assert_eq!(results[0].0, results[1].0);
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0].1, ["Message-ID: <5@example.org>"]);
    assert!(!results[0].2.contains("<3@example.org>") && results[0].2.contains("\\Flagged"), "{}", results[0].2);
    ways.proxy.finish();
}

/// The screens seen on the way.
fn read_flag_delete_save(way: &Way) -> String {
    let terminal = Terminal::start(way);
    let mut screens = String::new();
    let mut step = |keys: &[&str], until: &str| {
        terminal.press(keys);
        let screen = terminal.screen_with(until);
        let _ = writeln!(screens, "{keys:?}\n{screen}");
    };
    step(&[], "Msgs:7");
    step(&["1", "Enter", "Enter"], "body of 1");
    step(&["q"], "Msgs:7");
    step(&["2", "Enter", "F"], "Flag:1");
    step(&["3", "Enter", "d"], "Del:1");
    step(&["5", "Enter", "s"], "Save to mailbox");
    step(&["C-a", "C-k"], "Save to mailbox");
    terminal.press(&["-l", way.folder.join("saved").to_str().expect("ASCII")]);
    step(&["Enter"], "Del:2");
    step(&["$"], "Msgs:5");
    terminal.press(&["q"]);
    terminal.wait_for_end();
    screens
}

/// A terminal with mutt in it, in a tmux server of its own. Dropping it ends both.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn start(way: &Way) -> Self {
        let config = way.folder.join("muttrc");
        let text = format!(
            "set folder=imap://{user}@127.0.0.1:{port}/\nset spoolfile=+INBOX\nset imap_pass={password}\n\
             set ssl_starttls=no\nset ssl_force_tls=no\nset header_cache=\"\"\nset confirmappend=no\nset delete=yes\n\
             set quit=yes\nset move=no\nset mail_check=60\nset sort=date\nset record=\"\"\nset confirmcreate=no\n\
             set sleep_time=0\nset mbox_type=mbox\nset beep=no\nset resolve=no\nset pager_stop=yes\n\
             set status_format=\" Msgs:%m Flag:%F Del:%d \"\nset index_format=\"%C %Z %s\"\nset wait_key=no\n",
            user = way.user,
            port = way.port,
            password = password_of(way.user),
        );
        std::fs::write(&config, text).expect("our folder");
        let terminal = Self { socket: way.folder.join("tmux") };
        let config = config.to_str().expect("ASCII");
        let run = ["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "-e"];
        let home = format!("HOME={}", way.folder.display());
        terminal.tmux(&[&run[..], &[&home, "mutt", "-n", "-F", config]].concat());
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("tmux");
        let output = command
            .env("LC_ALL", "C.UTF-8")
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .expect("tmux is here");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn press(&self, keys: &[&str]) {
        if !keys.is_empty() {
            self.tmux(&[&["send-keys"], keys].concat());
        }
    }

    /// The screen as soon as it contains the text and has come to rest.
    fn screen_with(&self, wanted: &str) -> String {
        let mut before = String::new();
        let found = wait_until(PATIENCE, || {
            let (_, screen) = self.tmux(&["capture-pane", "-p"]);
            let rests = screen == before && screen.contains(wanted);
            before.clone_from(&screen);
            rests.then_some(screen)
        });
        let screen = found.unwrap_or_else(|| panic!("mutt does not show {wanted:?}:\n{before}"));
        // Its last line tells what it does at the moment.
        screen.trim_end().lines().take(29).collect::<Vec<_>>().join("\n")
    }

    fn wait_for_end(&self) {
        let end = wait_until(PATIENCE, || (!self.tmux(&["has-session"]).0).then_some(()));
        assert!(end.is_some(), "mutt does not end:\n{}", self.tmux(&["capture-pane", "-p"]).1);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
