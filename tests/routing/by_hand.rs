//! Accounts that an operator moves.

use std::fs;
use std::time::Duration;

use imapool::routing::MoveError;

use crate::support::{LIMIT, until};
use crate::town::Town;

const ROUTES: &str = "[routing]\nmoves_file = \"FOLDER/moves\"\n[[route]]\nusers = [\"anna\"]\nto = \"b\"";

async fn moved(town: &Town, user: &str, to: Option<&str>) -> bool {
    town.harness.proxy().router().move_account(user.as_bytes(), to, LIMIT).await.unwrap()
}

/// The lines that say something.
fn kept(town: &Town) -> Vec<String> {
    let text = fs::read_to_string(town.path("moves")).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_moved_account_goes_where_it_was_moved_whatever_the_routes_say() {
    let town = Town::new(ROUTES, &[]).await;
    assert_eq!((town.goes("anna").await, town.goes("bert").await), ("b", "a"));
    let mut idler = town.harness.login("anna").await;
    idler.play("C: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …").await;
    assert!(moved(&town, "Anna", Some("c")).await);
    idler.play("S: * BYE…\nS.").await;
    assert_eq!((town.goes("anna").await, town.homes("anna")), ("c", vec!["c"]));
    assert_eq!(kept(&town), ["anna c"]);
    // Once more, and others beside it.
    for (user, to) in [("bert", "c"), ("anna", "a"), ("carla", "b")] {
        assert!(moved(&town, user, Some(to)).await);
    }
    assert_eq!(kept(&town), ["bert c", "anna a", "carla b"]);
    // A reload changes nothing of it, nor does what is wrong with it.
    town.reload(&format!("{ROUTES}\n[[route]]\nusers = [\"carla\"]\nto = \"a\"")).await;
    assert_eq!((town.goes("anna").await, town.goes("bert").await, town.goes("carla").await), ("a", "c", "b"));
    assert!(moved(&town, "anna", None).await);
    assert_eq!(town.goes("anna").await, "b", "as the routes say");
    assert_eq!(kept(&town), ["bert c", "carla b"]);
    town.finish().await;
}

/// What is written down outlasts the process, however that ends.
#[tokio::test]
async fn another_process_finds_who_was_moved() {
    let town = Town::new(ROUTES, &[("moves", "# by hand\nanna c\n\nBert  b  bert2\n")]).await;
    assert_eq!(town.goes("anna").await, "c");
    let mut client = town.harness.client().await;
    client.play("C: l LOGIN bert pw-bert2\nS: l OK…").await;
    assert_eq!((town.place(&mut client).await, town.homes("bert2")), ("b", vec!["b"]));
    assert!(moved(&town, "anna", Some("a")).await);
    assert_eq!(fs::read_to_string(town.path("moves")).unwrap(), "# by hand\n\nBert  b  bert2\nanna a\n");
    client.play("C: n NOOP\nS: n OK…").await;
    drop(client);
    town.finish().await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_done() {
    let town = Town::new(ROUTES, &[]).await;
    assert_eq!(town.goes("anna").await, "b");
    let router = town.harness.proxy().router();
    let refused = async |user: &str, to: &str| router.move_account(user.as_bytes(), Some(to), LIMIT).await.unwrap_err();
    assert!(matches!(refused("anna", "nowhere").await, MoveError::Target(_)));
    assert!(matches!(refused("", "c").await, MoveError::Name));
    assert!(matches!(refused("an na", "c").await, MoveError::Name));
    assert!(matches!(refused("#anna", "c").await, MoveError::Name));
    fs::create_dir(town.path("moves")).unwrap();
    assert!(matches!(refused("anna", "c").await, MoveError::Write { .. }));
    assert_eq!(town.goes("anna").await, "b");
    town.reload("[routing]\ndefault = \"a\"").await;
    assert!(matches!(refused("anna", "c").await, MoveError::NoFile));
    town.finish().await;
}

#[tokio::test]
async fn who_is_kicked_comes_again() {
    let town = Town::new(ROUTES, &[]).await;
    let (mut anna, mut bert) = (town.harness.login("anna").await, town.harness.login("bert").await);
    for client in [&mut anna, &mut bert] {
        client.play("C: s SELECT INBOX\nS~ s OK…").await;
    }
    let router = town.harness.proxy().router();
    assert!(router.kick(b"ANNA") && !router.kick(b"nobody"));
    anna.play("S: * BYE…\nS.").await;
    assert_eq!(town.goes("anna").await, "b");
    bert.play("C: n NOOP\nS: n OK…").await;
    drop(bert);
    town.finish().await;
}

/// A server that does not let go of a session: the other one does not serve before that is over.
#[tokio::test]
async fn nobody_is_served_elsewhere_before_the_old_server_is_left() {
    let slow = |place: usize, mut options: imapool_demo_server::Options| {
        if place == 1 {
            options.command_delay = Duration::from_millis(700);
        }
        options
    };
    let town = Town::with(ROUTES, &[], slow, |_| ()).await;
    let mut client = town.harness.login("anna").await;
    client.play("C: s SELECT INBOX\nS~ s OK…\nC: u UID FETCH 1 UID\nS~ u OK…").await;
    let before = town.servers[1].counters().commands;
    client.send("f FETCH 1 BODY[]\r\n").await;
    until("the command to be there", || town.servers[1].counters().commands > before).await;
    assert!(!town.harness.proxy().router().move_account(b"anna", Some("c"), Duration::ZERO).await.unwrap());
    // It waits for the command, whose reply is whole, and for LOGOUT.
    let (came, rest) = tokio::join!(town.goes("anna"), client.rest());
    assert_eq!((came, town.homes("anna")), ("c", vec!["c"]));
    assert!(rest.contains("f OK") && rest.contains("* BYE"), "{rest}");
    town.finish().await;
}
