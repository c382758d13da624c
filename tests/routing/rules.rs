//! Who goes where.

use imapool::config::{Config, ListenAddr, Listener, TlsMode};
use imapool_demo_server::Options;
use tokio::net::TcpStream;

use crate::support::Client;
use crate::support::tls::Certificates;
use crate::town::Town;

const ROUTES: &str = "
[[route]]
users = [\"anna@example.org\", \"@moved.example\"]
to = \"b\"
[[route]]
file = \"FOLDER/users.map\"
[[route]]
users = [\"@*.example.org\"]
to = \"\"
[[route]]
users = [\"@example.net\"]
to = \"c\"
";

const FILE: &str = "# name, where to, as whom
bert@example.org c
@example.com b
carla@example.com c u7
dora@example.com -
";

#[tokio::test]
async fn each_user_goes_where_the_first_route_says_that_fits() {
    let town = Town::new(ROUTES, &[("users.map", FILE)]).await;
    for (user, place) in [
        ("anna@example.org", "b"),
        ("Anna@EXAMPLE.org", "b"),
        ("x@moved.example", "b"),
        ("bert@example.org", "c"),
        ("x@example.com", "b"),
        ("x@example.net", "c"),
        ("x@example.org", "a"),
        ("x", "a"),
    ] {
        assert_eq!(town.goes(user).await, place, "{user}");
    }
    // What each name has to do with is on one server alone.
    assert_eq!(town.homes("x@example.net"), ["c"]);
    assert_eq!(town.harness.metric("imapool_routes_total", "routed"), 8);
    town.finish().await;
}

/// `carla@example.com` is `u7` there, and has the password of that.
#[tokio::test]
async fn a_backend_may_know_a_user_by_another_name() {
    let town = Town::new(ROUTES, &[("users.map", FILE)]).await;
    for login in ["LOGIN carla@example.com pw-u7", "AUTHENTICATE PLAIN AGNhcmxhQGV4YW1wbGUuY29tAHB3LXU3"] {
        let mut client = town.harness.client().await;
        client.play(&format!("C: l {login}\nS: l OK…")).await;
        assert_eq!(town.place(&mut client).await, "c");
        assert_eq!((town.homes("u7"), town.homes("carla@example.com")), (vec!["c"], vec![]));
    }
    town.finish().await;
}

/// As a wrong password is: the same code, the same delay, and it counts as one.
#[tokio::test]
async fn who_has_no_backend_is_refused_like_a_wrong_password() {
    let town = Town::new(&format!("[routing]\ndefault = \"\"\n{ROUTES}"), &[("users.map", FILE)]).await;
    for user in ["x@sub.example.org", "dora@example.com", "x@example.org", "x"] {
        let mut client = town.harness.client().await;
        client
            .play(&format!("C: l LOGIN {user} pw-{user}\nS: l NO [AUTHENTICATIONFAILED] …\nC: n NOOP\nS: n OK…"))
            .await;
        town.harness.logged(&["login refused: no route leads anywhere", &format!("user=\"{user}\"")]).await;
    }
    assert_eq!(town.servers.iter().map(|server| server.counters().logins).sum::<u64>(), 0);
    assert_eq!(town.harness.metric("imapool_routes_total", "refused"), 4);
    assert_eq!(town.harness.metric("imapool_logins_total", "refused"), 4);
    assert_eq!(town.goes("anna@example.org").await, "b", "the others are served");
    // In the very words of the server, once they are known.
    let refused = async |user: &str| {
        let mut client = town.harness.client().await;
        client.command(&format!("l LOGIN {user} wrong")).await
    };
    let words = refused("anna@example.org").await;
    assert!(words[0].starts_with("l NO [AUTHENTICATIONFAILED] "), "{words:?}");
    assert_eq!(refused("nobody@example.org").await, words);
    town.finish().await;
}

#[tokio::test]
async fn what_is_offered_before_login_is_what_all_share_that_can_be_reached() {
    let lists = ["IMAP4rev1 IDLE MOVE AUTH=PLAIN", "IMAP4rev1 MOVE AUTH=PLAIN QUOTA", "IMAP4rev1 IDLE AUTH=PLAIN"];
    let offers = |place: usize, mut options: Options| {
        options.capabilities.before = lists[place].into();
        options.capabilities.after = lists[place].into();
        options
    };
    let inner = |config: &mut Config| {
        let address = config.listeners[0].address.clone();
        config.listeners.push(Listener { name: "inner".into(), ..Listener::new(address) });
    };
    let routes = "[[route]]\nlisteners = [\"webmail\"]\nusers = [\"anna\"]\nto = \"b\"";
    let town = Town::with(routes, &[], offers, inner).await;
    let listed = async |client: &mut Client| {
        let said = client.command("c CAPABILITY").await;
        let words: Vec<_> = said[0].split(' ').skip(2).filter(|word| !word.starts_with("AUTH=")).collect();
        words.join(" ")
    };
    let mut outside = town.harness.client().await;
    assert_eq!(listed(&mut outside).await, "IMAP4rev1 MOVE SASL-IR LITERAL+ ID");
    let ListenAddr::Tcp(address) = town.harness.proxy().listener_addresses()[1].1 else { panic!("TCP") };
    let mut inside = Client::connect(address).await;
    inside.line().await;
    assert_eq!(listed(&mut inside).await, "IMAP4rev1 IDLE MOVE SASL-IR LITERAL+ ID", "only a");
    // After login, the account's own.
    outside.play("C: l LOGIN anna pw-anna\nS: l OK…").await;
    assert_eq!(listed(&mut outside).await, "IMAP4rev1 MOVE QUOTA SASL-IR LITERAL+ ID");
    drop((outside, inside));
    town.finish().await;
}

/// What a client calls this host is a condition like any other.
#[tokio::test]
async fn the_name_in_tls_decides() {
    let certificates = Certificates::new();
    let routes =
        "[[route]]\nserver_names = [\"*.EXAMPLE.org\"]\nto = \"b\"\n[[route]]\nlisteners = [\"plain\"]\nto = \"c\"";
    let folder = |config: &mut Config| {
        let plain = Listener { name: "plain".into(), ..Listener::new(config.listeners[0].address.clone()) };
        certificates.secure_listener(&mut config.listeners[0], TlsMode::Implicit);
        config.listeners.push(plain);
    };
    let routes = routes.replace("plain", "webmail");
    let town = Town::with(&routes, &[], |_, options| options, folder).await;
    let stream = TcpStream::connect(town.harness.address).await.unwrap();
    let mut named = Client::over(certificates.connect(stream).await.unwrap());
    named.play("S: * OK…\nC: l LOGIN anna pw-anna\nS: l OK…").await;
    assert_eq!(town.place(&mut named).await, "b");
    let ListenAddr::Tcp(address) = town.harness.proxy().listener_addresses()[1].1 else { panic!("TCP") };
    let mut plain = Client::connect(address).await;
    plain.play("S: * OK…\nC: l LOGIN bert pw-bert\nS: l OK…").await;
    assert_eq!(town.place(&mut plain).await, "a", "neither route is for it");
    drop((named, plain));
    town.finish().await;
}
