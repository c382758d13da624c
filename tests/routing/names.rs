//! Several names that lead to one account at its server: it is one account, whichever is used.

use std::fs;

use imapool::config::PoolMode;

use crate::support::{Client, LIMIT};
use crate::town::Town;

const BOTH: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];
const FILE: &str = "[routing]\nmoves_file = \"FOLDER/moves\"\n[[route]]\nfile = \"FOLDER/users.map\"\n";
const GROUP: &str = "[[group]]\nname = \"mail\"\na: group = \"mail\"\nb: group = \"mail\"\nc: group = \"mail\"\n";

async fn town(mode: PoolMode, routes: &str, map: &str) -> Town {
    Town::with(routes, &[("users.map", map)], |_, options| options, |config| config.pool.mode = mode).await
}

/// A session of `bert`, by any of his names.
async fn login(town: &Town, name: &str) -> Client {
    let mut client = town.harness.client().await;
    client.play(&format!("C: l LOGIN {name} pw-bert\nS: l OK…\nC: s SELECT INBOX\nS~ s OK…")).await;
    client
}

/// The member of a group is picked by whom it is at the server, not by what the client calls it.
#[tokio::test]
async fn names_that_lead_to_one_account_lead_to_one_server() {
    for mode in BOTH {
        let names: Vec<_> = (0..3).map(|number| format!("bert{number}")).collect();
        let map: String =
            names.iter().map(|name| format!("{name} mail bert\n")).chain(["bert mail\n".into()]).collect();
        let town = town(mode, &format!("{FILE}{GROUP}"), &map).await;
        let mut sessions = Vec::new();
        for name in names.iter().map(String::as_str).chain(["bert"]) {
            sessions.push(login(&town, name).await);
            assert_eq!(town.homes("bert").len(), 1, "{name}, {mode:?}");
        }
        drop(sessions);
        town.finish().await;
    }
}

/// Moved by any of its names, it goes with all of them, and still logs in by its own.
#[tokio::test]
async fn an_account_is_moved_whole_by_any_of_its_names() {
    for mode in BOTH {
        for by in ["alias", "bert"] {
            let town = town(mode, FILE, "alias b bert\nbert b\n").await;
            let mut sessions = [login(&town, "bert").await, login(&town, "alias").await];
            assert_eq!(town.homes("bert"), ["b"]);
            let router = town.harness.proxy().router();
            assert!(router.move_account(by.as_bytes(), Some("c"), LIMIT).await.unwrap(), "{by}, {mode:?}");
            for session in &mut sessions {
                assert!(session.rest().await.contains("* BYE"));
            }
            let _after = [login(&town, "alias").await, login(&town, "bert").await];
            assert_eq!(town.homes("bert"), ["c"], "{by}, {mode:?}");
            assert!(fs::read_to_string(town.path("moves")).unwrap().lines().any(|line| line == "bert c"));
            drop((sessions, _after));
            town.finish().await;
        }
    }
}

/// Before anybody has logged in by it, what an operator calls an account is what a file says of it.
#[tokio::test]
async fn a_name_that_nobody_has_used_yet_is_moved_as_what_it_logs_in_by() {
    let town = Town::new(FILE, &[("users.map", "alias b bert\n")]).await;
    let router = town.harness.proxy().router();
    assert!(router.move_account(b"alias", Some("c"), LIMIT).await.unwrap());
    let session = login(&town, "alias").await;
    assert_eq!(town.homes("bert"), ["c"]);
    drop(session);
    assert!(router.move_account(b"alias", None, LIMIT).await.unwrap());
    let session = login(&town, "alias").await;
    assert_eq!(town.homes("bert"), ["b"]);
    drop(session);
    town.finish().await;
}

/// Two names of one account that routes lead to two servers: never at both.
#[tokio::test]
async fn routes_that_disagree_on_an_account_do_not_split_it() {
    for mode in BOTH {
        let town = town(mode, FILE, "alias b bert\nbert c\n").await;
        let mut first = login(&town, "alias").await;
        let mut second = town.harness.client().await;
        second.play("C: l LOGIN bert pw-bert\nS: l NO [UNAVAILABLE] …").await;
        first.play("C: n NOOP\nS: n OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        second.play("C: l LOGIN bert pw-bert\nS: l OK…").await;
        assert_eq!(town.homes("bert"), ["c"], "{mode:?}");
        drop(second);
        town.finish().await;
    }
}
