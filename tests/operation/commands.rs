//! `imapool status`, `ctl`, `check --diff` and `top`, against a running imapool.

use std::fs;
use std::process::{Command, Output};

use imapool::demo::server::{Options, Server};
use nix::sys::signal::Signal;

use crate::load::{connect, login};
use crate::process::{Imapool, text};
use crate::support::{soon, until};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_moved_and_kicked() {
    let (old, new) =
        (Server::start(Options::default()).await.unwrap(), Server::start(Options::default()).await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let moves = folder.path().join("moves");
    let more =
        |file: &str| format!("[[backend]]\nname = \"new\"\naddress = \"{}\"\n[routing]\n{file}\n", new.address());
    let imapool = Imapool::start(old.address(), &more(&format!("moves_file = \"{}\"", moves.display()))).await;
    let mut client = connect(imapool.address(), None).await;
    client.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    assert_eq!(stdout(&imapool.run(&["ctl", "move", "U8", "new"])), "U8: goes to new\n");
    client.play("S: * BYE…\nS.").await;
    assert!(stdout(&imapool.run(&["route", "u8"])).starts_with("backend new\nby imapool ctl move, "));
    assert!(fs::read_to_string(&moves).unwrap().ends_with("\nu8 new\n"));
    let mut client = connect(imapool.address(), None).await;
    client.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    assert_eq!((old.open_of("u8"), new.open_of("u8")), (0, 1));
    let kept = ["main", "new"].map(|target| ["ctl", "move", "u8", target, "--keep-sessions"]);
    assert_eq!(stdout(&imapool.run(&kept[0])), "u8: goes to main; 1 sessions go on there\n");
    client.play("C: c FETCH 1 (UID)\nS~ c OK…").await;
    assert_eq!((old.open_of("u8"), new.open_of("u8")), (1, 0));
    assert_eq!(stdout(&imapool.run(&kept[1])), "u8: goes to new; 1 sessions go on there\n");
    assert!(refused(&imapool.run(&["ctl", "move", "u8", "--as-routed", "--keep-sessions"])).contains("cannot be used"));
    assert_eq!(stdout(&imapool.run(&["ctl", "kick", "u8"])), "u8: its sessions and connections are being closed\n");
    client.play("S: * BYE…\nS.").await;
    assert!(refused(&imapool.run(&["ctl", "kick", "nobody"])).contains("no such account"));
    assert!(refused(&imapool.run(&["ctl", "move", "u8", "nowhere"])).contains("no backend and no group"));
    assert_eq!(stdout(&imapool.run(&["ctl", "move", "u8", "--as-routed"])), "u8: goes to where the routes say\n");
    assert!(!fs::read_to_string(&moves).unwrap().contains("u8"));
    drop(imapool);
    let imapool = Imapool::start(old.address(), &more("")).await;
    assert!(refused(&imapool.run(&["ctl", "move", "u8", "new"])).contains("routing.moves_file is not set"));
}

/// By the name that its users know, and by the one that it is logged in by.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_found_by_either_of_its_names() {
    let server = Server::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map");
    fs::write(&map, "bert main u9\n").unwrap();
    let imapool = Imapool::start(server.address(), &format!("[[route]]\nfile = '{}'\n", map.display())).await;
    // Of this one's names nobody else is meant.
    let mut other = connect(imapool.address(), None).await;
    other.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    for name in ["bert", "BERT", "u9"] {
        let mut client = connect(imapool.address(), None).await;
        client.play("C: a LOGIN bert pw-u9\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
        assert!(stdout(&imapool.run(&["ctl", "trace", name])).starts_with("u9: "), "{name}");
        assert!(stdout(&imapool.run(&["ctl", "retire", name])).starts_with("u9: "), "{name}");
        let told = stdout(&imapool.run(&["ctl", "close", "--account", name]));
        assert_eq!(told, "u9: 1 sessions are being closed\n", "{name}");
        client.play("S: * BYE…\nS.").await;
        let mut client = connect(imapool.address(), None).await;
        client.play("C: a LOGIN bert pw-u9\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
        let told = stdout(&imapool.run(&["ctl", "kick", name]));
        assert!(told.ends_with(": its sessions and connections are being closed\n"), "{told}");
        client.play("S: * BYE…\nS.").await;
    }
    other.play("C: c NOOP\nS~ c OK…").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_how_it_is() {
    let server = Server::start(Options::default()).await.unwrap();
    let imapool = Imapool::start(server.address(), "").await;
    let mut client = connect(imapool.address(), None).await;
    client.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    let told = stdout(&imapool.run(&["status"]));
    for part in ["ready", "sessions     1 of 20000 open", "1 in use", "backend      main", "reachable"] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    let json: serde_json::Value = serde_json::from_str(&stdout(&imapool.run(&["status", "--json"]))).unwrap();
    assert_eq!(json["sessions"]["open"], 1);
    for (list, parts) in [
        ("hubs", ["HUB  USER  MAILBOX", "u8    INBOX"]),
        ("connections", ["CONNECTION  USER", "in use"]),
        ("sessions", ["MAILBOX", "INBOX"]),
        ("accounts", ["ACCOUNT", "u8"]),
        ("backends", ["BACKEND", "running"]),
    ] {
        let told = stdout(&imapool.run(&["status", "--list", list]));
        assert!(parts.iter().all(|part| told.contains(part)) && told.lines().count() == 2, "{list}\n{told}");
        let json: serde_json::Value =
            serde_json::from_str(&stdout(&imapool.run(&["status", "--list", list, "--json"]))).unwrap();
        assert_eq!(json["rows"].as_array().unwrap().len(), 1, "{list}");
    }
    // Not ready: said, and by the exit status.
    server.stop().await;
    drop(client);
    soon("the outage is seen", async {
        while imapool.run(&["status"]).status.code() != Some(1) {
            let mut client = connect(imapool.address(), None).await;
            client.play("C: a LOGIN other pw-other\nS: a NO [UNAVAILABLE]…").await;
        }
    })
    .await;
    let told = imapool.run(&["status"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("NOT REACHABLE"), "{told:?}");
    let nobody =
        Command::new(env!("CARGO_BIN_EXE_imapool")).args(["status", "--admin", "127.0.0.1:1"]).output().unwrap();
    assert!(refused(&nobody).contains("cannot be reached at 127.0.0.1:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_does_what_the_api_does() {
    let server = Server::start(Options::default()).await.unwrap();
    let imapool = Imapool::start(server.address(), "").await;
    let odd = "a/b \"c\"\u{fc}";
    let mut client = connect(imapool.address(), None).await;
    client.send(login(odd)).await;
    client.play("S: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    let session = {
        let json: serde_json::Value = serde_json::from_str(&stdout(&imapool.run(&["status", "--json"]))).unwrap();
        assert_eq!(json["accounts"]["busiest"][0]["user"], odd);
        "1"
    };
    for (arguments, said) in [
        (&["ctl", "trace", odd, "--for", "5m"][..], "traced into the log for 5m"),
        (&["ctl", "trace", odd, "--for", "2h"], "traced into the log for 1h"),
        (&["ctl", "trace", odd, "--for", "500ms"], "traced into the log for 1s"),
        (&["ctl", "trace", odd, "--for", "0s"], "no longer traced"),
        (&["ctl", "retire", odd], "1 connections retired"),
        (&["ctl", "pause", "main"], "main: paused"),
        (&["ctl", "resume", "main"], "main: running"),
        (&["ctl", "close", session], "session 1 is being closed"),
        (&["ctl", "retire", &odd.to_uppercase()], &format!("{odd}: ")),
        (&["ctl", "drain", "main"], "main: drained"),
        (&["ctl", "resume", "main"], "main: running"),
        (&["ctl", "reload"], "nothing has changed"),
    ] {
        let told = stdout(&imapool.run(arguments));
        assert!(told.contains(said), "{arguments:?}: {told}");
    }
    client.play("S: * BYE…\nS.").await;
    for (arguments, said) in [
        (&["ctl", "retire", "nobody"][..], "there is no such account"),
        (&["ctl", "close", "77"], "there is no such session"),
        (&["ctl", "close", "--client", "192.0.2.1"], "there is no such client with a session"),
        (&["ctl", "close", "--client", "web"], "\"web\" is no IP address"),
        (&["ctl", "close", "--listener", "third one"], "there is no such listener with a session"),
        (&["ctl", "pause", "nobody"], "there is no such backend"),
    ] {
        assert!(refused(&imapool.run(arguments)).contains(said), "{arguments:?}");
    }
    for whose in [["--account", "u8"], ["--client", "127.0.0.1"], ["--listener", "webmail"]] {
        let mut client = connect(imapool.address(), None).await;
        client.play("C: a LOGIN u8 pw-u8\nS: a OK…").await;
        let told = stdout(&imapool.run(&["ctl", "close", whose[0], whose[1]]));
        assert_eq!(told, format!("{}: 1 sessions are being closed\n", whose[1]));
        client.play("S: * BYE…\nS.").await;
        until("it is gone", || stdout(&imapool.run(&["status", "--list", "sessions"])).lines().count() < 3).await;
    }
    // Without the token, and with a wrong one.
    let socket = format!("unix:{}", imapool.folder.path().join("admin.sock").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
    command.args(["ctl", "--admin", &socket, "pause", "main"]).env_remove("IMAPOOL_ADMIN_TOKEN");
    assert!(refused(&command.output().unwrap()).contains("needs the admin token"));
    command.env("IMAPOOL_ADMIN_TOKEN", "wrong-wrong-wrong-wrong");
    assert!(refused(&command.output().unwrap()).contains("needs the admin token"));
    command.env("IMAPOOL_ADMIN_TOKEN", crate::http::TOKEN);
    assert!(stdout(&command.output().unwrap()).contains("paused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_and_ctl_reload_and_check_tells_before() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut imapool = Imapool::start(server.address(), "").await;
    let mut client = connect(imapool.address(), None).await;
    client.play("C: a LOGIN u8 pw-u8\nS: a OK…").await;
    assert!(stdout(&imapool.run(&["check", "--diff"])).contains("The same as imapool at unix:"));
    imapool.rewrite(server.address(), "[pool]\nmax_per_account = 9\n[log]\nformat = \"json\"\n");
    let told = stdout(&imapool.run(&["check", "--diff"]));
    assert!(told.contains("~ pool.max_per_account: 4 -> 9"), "{told}");
    assert!(told.contains("~ log.format: \"text\" -> \"json\"  (NEEDS A RESTART)"), "{told}");
    imapool.signal(Signal::SIGHUP);
    imapool.logged("configuration changed change=\"~ pool.max_per_account: 4 -> 9").await;
    imapool.logged("needs a restart").await;
    // A wrong file: told by line, by signal and by command.
    imapool.rewrite(server.address(), "[pool]\nmax_per_acount = 9\n");
    let wrong = refused(&imapool.run(&["ctl", "reload"]));
    // The command itself goes by the file, too.
    assert!(wrong.contains("imapool.toml:13:1: unknown key `pool.max_per_acount`"), "{wrong}");
    imapool.signal(Signal::SIGHUP);
    imapool.logged("cannot reload; the old configuration serves on: ").await;
    imapool.logged("imapool.toml:13:1: unknown key").await;
    let other = imapool.folder.path().join("other.toml");
    fs::write(&other, text(&imapool.folder, server.address(), "[pool]\nlinger = \"1s\"\n")).unwrap();
    imapool.rewrite(server.address(), "");
    let against = format!("--diff={}", other.display());
    assert!(stdout(&imapool.run(&["check", &against])).contains("~ pool.linger: \"1s\" -> \"30s\""));
    client.play("C: b SELECT INBOX\nS~ b OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    imapool.signal(Signal::SIGTERM);
    imapool.ended().await;
}

/// In a terminal of its own, by tmux: what is seen there, and what keys do.
#[tokio::test(flavor = "multi_thread")]
async fn top_lives_in_a_terminal() {
    if Command::new("tmux").arg("-V").output().is_err() {
        assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none(), "tmux is not installed");
        eprintln!("SKIPPED: tmux is not installed");
        return;
    }
    let server = Server::start(Options::default()).await.unwrap();
    let imapool = Imapool::start(server.address(), "").await;
    let mut clients = Vec::new();
    for (user, sessions) in [("few", 1), ("many", 3), ("odd \"name", 1)] {
        for _ in 0..sessions {
            let mut client = connect(imapool.address(), None).await;
            client.send(login(user)).await;
            client.play("S: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
            clients.push(client);
        }
    }
    let socket = imapool.folder.path().join("tmux.sock");
    let tmux = |arguments: &[&str]| {
        let output = Command::new("tmux").arg("-S").arg(&socket).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let config = imapool.folder.path().join("imapool.toml").display().to_string();
    tmux(&[
        "-f",
        "/dev/null",
        "new-session",
        "-d",
        "-x",
        "120",
        "-y",
        "30",
        "-s",
        "top",
        env!("CARGO_BIN_EXE_imapool"),
        "top",
        "--config",
        &config,
    ]);
    let seen = |parts: &[&str]| {
        let (tmux, parts) = (&tmux, parts.iter().map(ToString::to_string).collect::<Vec<_>>());
        async move {
            until(&format!("{parts:?} on the screen"), || {
                let screen = tmux(&["capture-pane", "-p", "-t", "top"]);
                parts.iter().all(|part| screen.contains(part))
            })
            .await;
        }
    };
    seen(&["5 sessions", "3 accounts, by sessions", "ACCOUNT", "upstream connections"]).await;
    let screen = tmux(&["capture-pane", "-p", "-t", "top"]);
    println!("{screen}");
    let line = |text: &str| {
        screen.lines().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text}\n{screen}"))
    };
    assert!(line("many") < line("few"), "{screen}");
    assert!(screen.contains("odd \"name"), "{screen}");
    tmux(&["send-keys", "-t", "top", "/", "f", "e", "w", "Enter"]);
    seen(&["1 accounts", "filter: few"]).await;
    tmux(&["send-keys", "-t", "top", "/", "BSpace", "BSpace", "BSpace", "Enter", "s"]);
    seen(&["3 accounts, by connections"]).await;
    tmux(&["send-keys", "-t", "top", "Tab"]);
    seen(&["5 sessions, by id", "CLIENT", "127.0.0.1:"]).await;
    println!("{}", tmux(&["capture-pane", "-p", "-t", "top"]));
    tmux(&["send-keys", "-t", "top", "Tab"]);
    seen(&["3 hubs, by age", "INBOX", "connected"]).await;
    tmux(&["send-keys", "-t", "top", "Tab"]);
    seen(&["3 connections, by age", "in use", "INBOX"]).await;
    tmux(&["send-keys", "-t", "top", "Tab"]);
    seen(&["backends", "running", "main"]).await;
    tmux(&["send-keys", "-t", "top", "q"]);
    until("the end of top", || tmux(&["list-sessions"]).is_empty()).await;
}
