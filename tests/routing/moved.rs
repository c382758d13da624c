//! How an account gets from one backend to another, and that it is never at two.

use std::fs;
use std::time::Duration;

use crate::support::{Client, LIMIT, until};
use crate::town::Town;

const FILE: &str = "[[route]]\nfile = \"FOLDER/users.map\"";

/// A client that idles, and has been told nothing.
async fn idler(town: &Town, user: &str) -> Client {
    let mut client = town.harness.login(user).await;
    client.play("C: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …").await;
    client
}

#[tokio::test]
async fn an_account_whose_line_changes_leaves_and_the_others_notice_nothing() {
    let town = Town::new(FILE, &[("users.map", "anna b\nbert b\n")]).await;
    let (mut anna, mut bert) = (idler(&town, "anna").await, idler(&town, "bert").await);
    assert_eq!((town.homes("anna"), town.homes("bert")), (vec!["b"], vec!["b"]));
    fs::write(town.path("users.map"), "# anna has moved\nanna c\nbert b\n").unwrap();
    anna.play("S: * BYE…\nS.").await;
    town.harness.logged(&["routes read again", "lines=2"]).await;
    assert_eq!(town.goes("anna").await, "c");
    assert_eq!(town.homes("anna"), ["c"]);
    bert.play("C: DONE\nS: i OK…\nC: n NOOP\nS: n OK…").await;
    assert_eq!(town.homes("bert"), ["b"]);
    assert!(town.harness.metric("imapool_upstream_retired_total", "moved") >= 1);
    drop(bert);
    town.finish().await;
}

/// They come at the same moment, with one password, for one login at the server: that is one account.
#[tokio::test]
async fn of_two_names_for_one_login_both_leave_by_the_line_of_either() {
    let slow = |_: usize, options| imapool_demo_server::Options { login_delay: Duration::from_millis(200), ..options };
    let town = Town::with(FILE, &[("users.map", "anna b u7\nbert b u7\n")], slow, |_| ()).await;
    let come = async |user: &str| {
        let mut client = town.harness.client().await;
        client
            .play(&format!("C: l LOGIN {user} pw-u7\nS: l OK…\nC: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …"))
            .await;
        client
    };
    let (mut anna, mut bert) = tokio::join!(come("anna"), come("bert"));
    fs::write(town.path("users.map"), "anna c u7\nbert c u7\n").unwrap();
    bert.play("S: * BYE…\nS.").await;
    anna.play("S: * BYE…\nS.").await;
    town.finish().await;
}

#[tokio::test]
async fn a_file_with_a_wrong_line_changes_nothing_and_is_named() {
    let town = Town::new(FILE, &[("users.map", "anna b\n")]).await;
    let mut anna = idler(&town, "anna").await;
    for (text, said) in [
        ("anna c\nbert nowhere\n", "users.map:2: there is no backend and no group"),
        ("anna", "users.map:1: it must have"),
    ] {
        fs::write(town.path("users.map"), text).unwrap();
        town.harness.logged(&["cannot take over changed routes; the old ones serve on", said]).await;
    }
    assert_eq!(town.goes("anna").await, "b");
    fs::remove_file(town.path("users.map")).unwrap();
    town.harness.logged(&["cannot take over changed routes", "No such file"]).await;
    assert_eq!(town.goes("anna").await, "b");
    fs::write(town.path("users.map"), "bert b\n").unwrap();
    anna.play("S: * BYE…\nS.").await;
    assert_eq!(town.goes("anna").await, "a", "the default");
    town.finish().await;
}

/// Somebody writes it in its place: it is not read before that is done.
#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    let town = Town::new(FILE, &[("users.map", "anna b\nbert b\n")]).await;
    let mut anna = idler(&town, "anna").await;
    let long: String = (0..2000).map(|number| format!("user{number} c\n")).collect();
    for turn in 0..20 {
        for text in ["", "bert b\n", &format!("{long}anna b\n# {turn}\nbert b\n")] {
            fs::write(town.path("users.map"), text).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    town.harness.logged(&["routes read again", "lines=2002"]).await;
    assert!(!town.harness.log.text().contains("lines=1 "), "half of it was read");
    fs::write(town.path("users.map"), "").unwrap();
    town.harness.logged(&["cannot take over changed routes", "it is empty"]).await;
    anna.play("C: DONE\nS: i OK…\nC: n NOOP\nS: n OK…").await;
    assert_eq!(town.homes("anna"), ["b"]);
    drop(anna);
    town.finish().await;
}

/// Under another name there is another account: who was let in under the first is sent away.
#[tokio::test]
async fn another_login_is_another_account() {
    let town = Town::new(FILE, &[("users.map", "anna b u1\n")]).await;
    let login = async |user: &str| {
        let mut client = town.harness.client().await;
        client.play(&format!("C: l LOGIN anna pw-{user}\nS: l OK…\nC: s SELECT INBOX\nS~ s OK…")).await;
        client
    };
    let mut first = login("u1").await;
    fs::write(town.path("users.map"), "anna b u2\n").unwrap();
    first.play("S: * BYE…\nS.").await;
    let second = login("u2").await;
    assert_eq!((town.homes("u1"), town.homes("u2")), (vec![], vec!["b"]));
    drop(second);
    town.finish().await;
}

#[tokio::test]
async fn other_routes_move_those_alone_whom_they_concern() {
    let town = Town::new("[[route]]\nusers = [\"anna\", \"bert\"]\nto = \"b\"", &[]).await;
    let (mut anna, mut bert, mut carla) =
        (idler(&town, "anna").await, idler(&town, "bert").await, idler(&town, "carla").await);
    let changes = town.reload("[[route]]\nusers = [\"bert\"]\nto = \"b\"\n[routing]\ndefault = \"a\"").await;
    assert_eq!(changes.len(), 2, "{changes:?}");
    anna.play("S: * BYE…\nS.").await;
    assert_eq!(town.goes("anna").await, "a");
    for client in [&mut bert, &mut carla] {
        client.play("C: DONE\nS: i OK…\nC: n NOOP\nS: n OK…").await;
    }
    assert_eq!((town.homes("anna"), town.homes("bert"), town.homes("carla")), (vec!["a"], vec!["b"], vec!["a"]));
    drop((bert, carla));
    town.finish().await;
}

/// Who asks in another way, perhaps without the password, sends nobody away.
#[tokio::test]
async fn an_account_in_use_is_not_moved_by_who_comes_another_way() {
    let routes = "[[route]]\nlisteners = [\"webmail\"]\nto = \"b\"";
    let inner = |config: &mut imapool::config::Config| {
        let address = config.listeners[0].address.clone();
        config
            .listeners
            .push(imapool::config::Listener { name: "inner".into(), ..imapool::config::Listener::new(address) });
    };
    let town = Town::with(routes, &[], |_, options| options, inner).await;
    let imapool::config::ListenAddr::Tcp(address) = town.harness.proxy().listener_addresses()[1].1 else {
        panic!("TCP")
    };
    let inside = async |password: &str| {
        let mut client = Client::connect(address).await;
        client.line().await;
        client.command(&format!("l LOGIN anna {password}")).await.pop().unwrap()
    };
    let mut anna = idler(&town, "anna").await;
    for password in ["wrong", "pw-anna"] {
        let said = inside(password).await;
        assert!(said.starts_with("l NO [UNAVAILABLE] The account is in use at another mail server"), "{said}");
    }
    anna.play("C: DONE\nS: i OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
    // What rests there is no reason to stay.
    town.harness.sessions(0).await;
    assert_eq!(town.homes("anna"), ["b"]);
    assert!(inside("wrong").await.starts_with("l NO [AUTHENTICATIONFAILED]"));
    assert!(inside("pw-anna").await.starts_with("l OK"));
    assert_eq!(town.homes("anna"), ["a"]);
    town.finish().await;
}

/// It has another name and another address: it is not the one that was in its place.
#[tokio::test]
async fn another_server_in_the_place_of_one_that_is_gone_is_another() {
    let town = Town::new("[[route]]\nusers = [\"anna\"]\nto = \"b\"", &[]).await;
    let (mut anna, mut bert) = (idler(&town, "anna").await, idler(&town, "bert").await);
    let mut config = imapool::config::Config::clone(&town.harness.proxy().config());
    let port = config.backends.pop().unwrap().port;
    config.backends[1] =
        imapool::config::Backend { name: "new".into(), ..imapool::config::Backend::new("127.0.0.1", port) };
    config.routes[0].to = Some("new".into());
    // The one that was there is gone, and so is what shared its place.
    town.harness.proxy().reload(config).await.unwrap();
    anna.play("S: * BYE…\nS.").await;
    assert_eq!(town.goes("anna").await, "c");
    bert.play("C: DONE\nS: i OK…").await;
    drop(bert);
    town.finish().await;
}

/// A name in the group, and one of its members that it goes to.
async fn member_of_pair(town: &Town) -> (String, &'static str, &'static str) {
    let user = "anna".to_owned();
    let place = town.goes(&user).await;
    let other = if place == "a" { "b" } else { "a" };
    (user, place, other)
}

fn pair(weights: [u32; 2], stay: &str) -> String {
    let [a, b] = weights;
    format!(
        "a: group = \"pair\"\na: weight = {a}\nb: group = \"pair\"\nb: weight = {b}\n[[group]]\nname = \"pair\"\nstay = \"{stay}\"\n[routing]\ndefault = \"pair\""
    )
}

#[tokio::test]
async fn weights_are_for_those_who_come_anew() {
    let town = Town::new(&pair([100, 100], "15m"), &[]).await;
    let (user, place, other) = member_of_pair(&town).await;
    let weights = if place == "a" { [0, 100] } else { [100, 0] };
    town.reload(&pair(weights, "15m")).await;
    // It has been there not long ago.
    assert_eq!(town.goes(&user).await, place);
    for number in 0..20 {
        assert_eq!(town.goes(&format!("new{number}")).await, other);
    }
    // While there is a session, the account stays, however short the time is after the last one.
    let mut idler = idler(&town, &user).await;
    town.reload(&pair(weights, "0s")).await;
    assert_eq!(town.goes(&user).await, place);
    idler.play("C: DONE\nS: i OK…").await;
    drop(idler);
    until("the account to be left", || town.harness.proxy().registry().all().is_empty()).await;
    assert_eq!(town.goes(&user).await, other);
    assert_eq!(town.homes(&user), [other]);
    town.reload(&pair([0, 0], "15m")).await;
    assert_eq!(town.goes(&user).await, other, "it is there");
    let mut client = town.harness.client().await;
    client.play("C: l LOGIN somebody pw-somebody\nS: l NO [UNAVAILABLE] The mail server takes no new accounts…").await;
    drop(client);
    town.finish().await;
}

/// Whoever looks all the time never sees an account at two servers, while routes change under many sessions.
#[tokio::test]
async fn no_account_is_ever_at_two_backends() {
    const USERS: usize = 6;
    let route = |turn: usize| {
        let users = |of: usize| {
            (0..USERS).filter(|user| (user + turn) % 3 == of).map(|user| format!("\"u{user}\"")).collect::<Vec<_>>()
        };
        (0..3)
            .map(|of| format!("[[route]]\nusers = [{}]\nto = \"{}\"\n", users(of).join(", "), crate::town::NAMES[of]))
            .collect::<String>()
    };
    let town = Town::new(&route(0), &[]).await;
    let mut served = 0;
    let work = async {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..4 * USERS {
            let (address, user) = (town.harness.address, format!("u{}", number % USERS));
            clients.spawn(async move {
                let mut served = 0;
                for _ in 0..40 {
                    let mut client = Client::connect(address).await;
                    client
                        .try_send(format!(
                            "l LOGIN {user} pw-{user}\r\ns SELECT INBOX\r\nf FETCH 1 FLAGS\r\no LOGOUT\r\n"
                        ))
                        .await;
                    // Whoever is sent away, or must wait for too long, comes again.
                    served += usize::from(client.rest().await.contains("f OK"));
                }
                served
            });
        }
        let reloads = async {
            for turn in 1..25 {
                town.reload(&route(turn)).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (_, all) = tokio::join!(reloads, clients.join_all());
        served = all.into_iter().sum();
    };
    let watch = async {
        loop {
            for user in 0..USERS {
                let homes = town.homes(&format!("u{user}"));
                assert!(homes.len() < 2, "u{user} is at {homes:?}");
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = work => {}
        () = tokio::time::sleep(3 * LIMIT) => panic!("not in time"),
    }
    assert!(served > 100, "{served} sessions were served");
    town.finish().await;
}
