//! Groups of equal backends: checks, failover, weights by hand, evacuation.

use std::fs;
use std::time::Duration;

use imapool::routing::{Evacuation, HandError};
use imapool::upstream::backend::Service;
use imapool_demo_server::{Options, Passwords, Server};

use crate::support::{Client, until};
use crate::town::{NAMES, Town};

const GROUP: &str = "a: group = \"mail\"\nb: group = \"mail\"\nc: group = \"mail\"\n[routing]\ndefault = \"mail\"\n[[group]]\nname = \"mail\"\n";

/// A member is down after two checks, and up after one.
fn group(more: &str) -> String {
    format!("{GROUP}check = {{ interval = \"100ms\", failures = 2, successes = 1 }}\n{more}\n")
}

async fn idler(town: &Town, user: &str) -> Client {
    let mut client = town.harness.login(user).await;
    client.play("C: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …").await;
    client
}

/// What a check says of a server.
async fn health(town: &Town, place: usize, wanted: &str) {
    let health = || {
        let table = town.harness.proxy().router().table();
        table.weights().nth(place).and_then(|(backend, _)| backend.checked())
    };
    until(&format!("{} to be {wanted}", NAMES[place]), || health() == Some(wanted)).await;
}

async fn unavailable(town: &Town, user: &str) {
    let mut client = town.harness.client().await;
    client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l NO [UNAVAILABLE] …")).await;
}

#[tokio::test]
async fn accounts_of_a_server_that_is_down_wait_for_it_unless_failover_is_wished() {
    let mut town = Town::new(&group(""), &[]).await;
    let user = town.users_of(&[1], 1)[0][0].clone();
    assert_eq!(town.goes(&user).await, "b");
    let stopped = town.stop(1).await;
    health(&town, 1, "down").await;
    let another = town.users_of(&[1], 2)[0][1].clone();
    unavailable(&town, &another).await;
    assert!(town.homes(&another).is_empty());
    assert_eq!(town.harness.metric("imapool_backend_healthy", "backend=\"b\""), 0);
    assert_eq!(town.harness.metric("imapool_backend_weight", "backend=\"b\""), 100, "its accounts are its own");
    town.start(1, stopped).await;
    health(&town, 1, "up").await;
    town.harness.logged(&["down, as its checks say", "backend=\"b\""]).await;
    town.harness.logged(&["up again, as its checks say", "backend=\"b\""]).await;
    assert_eq!(town.goes(&another).await, "b");
    assert_eq!(town.harness.metric("imapool_backend_healthy", "backend=\"b\""), 1);
    town.finish().await;
}

#[tokio::test]
async fn with_failover_they_go_to_others_and_come_home_when_they_have_no_session() {
    let mut town = Town::new(&group("failover_after = \"0s\"\nstay = \"0s\""), &[]).await;
    let users = town.users_of(&[0, 1, 2], 4);
    let mut elsewhere = Vec::new();
    for (place, users) in users.iter().enumerate() {
        assert_eq!(town.goes(&users[0]).await, NAMES[place]);
    }
    let mut untouched = idler(&town, &users[0][0]).await;
    let stopped = town.stop(1).await;
    health(&town, 1, "down").await;
    for user in &users[1] {
        let mut client = town.harness.login(user).await;
        let place = town.place(&mut client).await;
        assert_ne!(place, "b");
        assert_eq!(town.homes(user), [place], "at one server");
        elsewhere.push((client, place));
    }
    let places: Vec<_> = elsewhere.iter().map(|(_, place)| *place).collect();
    assert!(["a", "c"].iter().all(|place| places.contains(place)), "spread over both: {places:?}");
    town.start(1, stopped).await;
    health(&town, 1, "up").await;
    // Who has sessions stays; who has none goes home.
    let (mut stays, place) = elsewhere.remove(0);
    assert_eq!(town.goes(&users[1][0]).await, place);
    drop(elsewhere);
    town.harness.sessions(2).await;
    for user in &users[1][1..] {
        assert_eq!(town.goes(user).await, "b");
        assert_eq!(town.homes(user), ["b"]);
    }
    stays.play("C: n NOOP\nS~ n OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
    assert_eq!(town.goes(&users[1][0]).await, "b");
    untouched.play("C: DONE\nS: i OK…").await;
    drop(untouched);
    town.finish().await;
}

/// One that has sessions at a server that is lost: the next login moves it, and they hear BYE.
#[tokio::test]
async fn sessions_at_a_lost_server_give_way_to_logins_elsewhere() {
    let mut town = Town::new(&group("failover_after = \"0s\""), &[]).await;
    let user = town.users_of(&[2], 1)[0][0].clone();
    let mut before = town.harness.login(&user).await;
    assert_eq!(town.place(&mut before).await, "c");
    let _stopped = town.stop(2).await;
    health(&town, 2, "down").await;
    assert_ne!(town.goes(&user).await, "c");
    assert!(before.rest().await.contains("* BYE"));
    town.finish().await;
}

/// All are down: nobody goes anywhere, and each finds its own again.
#[tokio::test]
async fn when_all_are_down_each_waits_for_its_own() {
    let mut town = Town::new(&group("failover_after = \"0s\""), &[]).await;
    let users = town.users_of(&[0, 1, 2], 1);
    let mut stopped = Vec::new();
    for place in 0..3 {
        stopped.push(town.stop(place).await);
        health(&town, place, "down").await;
    }
    unavailable(&town, &users[0][0]).await;
    for (place, options) in stopped.into_iter().enumerate() {
        town.start(place, options).await;
        health(&town, place, "up").await;
    }
    for (place, users) in users.iter().enumerate() {
        assert_eq!(town.goes(&users[0]).await, NAMES[place]);
    }
    town.finish().await;
}

/// It greets, and lets nobody in.
#[tokio::test]
async fn a_test_account_that_is_refused_takes_a_server_out() {
    let check =
        "{ interval = \"100ms\", failures = 2, successes = 1, user = \"probe\", password_file = \"FOLDER/password\" }";
    let routes = format!("{GROUP}failover_after = \"0s\"\ncheck = {check}\n");
    let town = Town::new(&routes, &[("password", "pw-probe\n")]).await;
    let user = town.users_of(&[0], 1)[0][0].clone();
    health(&town, 0, "up").await;
    until("a login of the test account", || town.servers[0].counters().logins > 0).await;
    town.servers[0].set_passwords(Passwords::list([("nobody", "x")]));
    health(&town, 0, "down").await;
    town.harness.logged(&["down, as its checks say", "the test account is refused"]).await;
    assert_ne!(town.goes(&user).await, "a");
    town.servers[0].set_passwords(Passwords::prefixed());
    health(&town, 0, "up").await;
    assert!(!town.harness.log.text().contains("pw-probe"));
    // What cannot be checked is taken for what it was.
    fs::remove_file(town.path("password")).unwrap();
    town.harness.logged(&["a check by a test account cannot be made", "password"]).await;
    assert_eq!(town.harness.metric("imapool_backend_healthy", "backend=\"a\""), 1);
    town.finish().await;
}

/// A server that takes connections and says nothing is down, and no check waits for another.
#[tokio::test]
async fn a_server_that_hangs_is_down() {
    let mut town = Town::new(&group("failover_after = \"0s\""), &[]).await;
    let user = town.users_of(&[1], 1)[0][0].clone();
    health(&town, 1, "up").await;
    let options = town.stop(1).await;
    let silent = tokio::net::TcpListener::bind(options.addresses[0]).await.unwrap();
    health(&town, 1, "down").await;
    assert_ne!(town.goes(&user).await, "b");
    drop(silent);
    town.start(1, options).await;
    health(&town, 1, "up").await;
    town.finish().await;
}

/// What one check waits for in vain is no reason to think ill of the server for longer than that check may take.
#[tokio::test]
async fn a_check_that_hangs_fails_once() {
    let mut town = Town::new(&group(""), &[]).await;
    let options = town.stop(1).await;
    health(&town, 1, "down").await;
    let front = tokio::net::TcpListener::bind(options.addresses[0]).await.unwrap();
    let server = Server::start(Options::default()).await.unwrap();
    let address = server.address();
    let serves = tokio::spawn(async move {
        let (_hung, _) = front.accept().await.unwrap();
        loop {
            let (mut client, _) = front.accept().await.unwrap();
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(address).await.unwrap();
                // However it ends.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    health(&town, 1, "up").await;
    serves.abort();
    town.finish().await;
}

#[tokio::test]
async fn weights_by_hand_hold_for_new_accounts_and_over_a_reload() {
    let town = Town::new(&group(""), &[]).await;
    let users = town.users_of(&[0, 1, 2], 3);
    let mut stays = idler(&town, &users[0][0]).await;
    let router = town.harness.proxy().router();
    router.weigh("a", Some(0)).unwrap();
    assert_ne!(town.goes(&users[0][1]).await, "a");
    assert_eq!(town.goes(&users[0][0]).await, "a", "it has a session");
    town.reload(&group("stay = \"1m\"")).await;
    assert_ne!(town.goes(&users[0][2]).await, "a");
    assert_eq!(town.harness.metric("imapool_backend_weight", "backend=\"a\""), 0);
    assert_eq!((town.goes(&users[1][0]).await, town.goes(&users[2][0]).await), ("b", "c"), "theirs");
    router.weigh("a", None).unwrap();
    assert_eq!(town.harness.metric("imapool_backend_weight", "backend=\"a\""), 100);
    assert!(matches!(router.weigh("d", None), Err(HandError::Backend(_))));
    town.reload("[routing]\ndefault = \"a\"").await;
    assert!(matches!(router.weigh("a", Some(1)), Err(HandError::Alone(_))));
    stays.play("C: DONE\nS: i OK…").await;
    drop(stays);
    town.finish().await;
}

#[tokio::test]
async fn an_evacuated_server_is_left_by_its_accounts_alone() {
    let routes = format!("[[route]]\nusers = [\"fixed\"]\nto = \"b\"\n{}", group("stay = \"15m\""));
    let town = Town::new(&routes.replace("[routing]", "[routing]\nmoves_file = \"FOLDER/moves\""), &[]).await;
    let users = town.users_of(&[0, 1], 30);
    let (mut leaving, mut fixed) = (Vec::new(), idler(&town, "fixed").await);
    for user in &users[1] {
        leaving.push(idler(&town, user).await);
    }
    let mut untouched = idler(&town, &users[0][0]).await;
    let router = town.harness.proxy().router();
    assert_eq!(router.evacuate("b").unwrap(), Evacuation { leaving: 30, bound: 1 });
    for client in &mut leaving {
        client.play("S: * BYE…\nS.").await;
    }
    for user in &users[1] {
        assert_ne!(town.goes(user).await, "b", "not even as it was there a moment ago");
        assert_eq!(town.homes(user).len(), 1);
    }
    for client in [&mut fixed, &mut untouched] {
        client.play("C: DONE\nS: i OK…").await;
    }
    drop((fixed, untouched));
    town.harness.proxy().pools().serve(b"a", Service::Paused);
    assert!(matches!(router.evacuate("c"), Err(HandError::Nowhere(_))), "a is paused, and b empty");
    town.harness.proxy().pools().serve(b"a", Service::Running);
    router.weigh("a", Some(0)).unwrap();
    assert!(matches!(router.evacuate("c"), Err(HandError::Nowhere(_))));
    router.weigh("a", None).unwrap();
    assert!(router.evacuate("c").is_ok());
    town.finish().await;
}

/// Who drains a server of a group with failover has others take its accounts.
#[tokio::test]
async fn a_drained_server_is_served_by_others_where_failover_is_wished() {
    for (more, wanted) in [("failover_after = \"30s\"", true), ("", false)] {
        let town = Town::with(
            &group(more),
            &[],
            |_, options| options,
            |config| {
                config.pool.checkout_timeout = Duration::from_millis(300);
            },
        )
        .await;
        let user = town.users_of(&[1], 1)[0][0].clone();
        let backend = town.harness.proxy().pools().serve(b"b", Service::Drained).unwrap();
        town.harness.proxy().pools().drain_backend(&backend);
        if wanted {
            assert_ne!(town.goes(&user).await, "b");
        } else {
            unavailable(&town, &user).await;
        }
        town.harness.proxy().pools().serve(b"b", Service::Running);
        town.finish().await;
    }
}

/// Where the first does not answer, the next is tried.
#[tokio::test]
async fn a_backend_with_several_addresses_is_reached_by_any() {
    let other = Server::start(Options::default()).await.unwrap();
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let routes =
        format!("a: fallback_addresses = [\"{nobody}\", \"no.such.host.invalid:143\", \"{}\"]", other.address());
    let mut town = Town::new(&routes, &[]).await;
    assert_eq!(town.goes("anna").await, "a");
    assert_eq!(other.counters().logins, 0, "the first will do");
    let _stopped = town.stop(0).await;
    town.harness.visit("bert").await;
    assert_eq!(other.counters().logins, 1);
    town.finish().await;
}
