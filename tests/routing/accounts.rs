//! What is otherwise for some accounts, and for those at some backends: at a start, and for accounts that exist when a
//! reload brings it.

use std::sync::Arc;

use imapool::config::{Config, PoolMode};
use imapool::pool::Account;
use imapool_demo_server::Options;

use crate::support::{Client, until};
use crate::town::Town;

const BOTH: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];

/// Each server has the mailboxes M1 to M4, too.
async fn town(mode: PoolMode, routes: &str) -> Town {
    let with_mailboxes = |_: usize, mut options: Options| {
        options.seed.mailboxes.extend((1..=4).map(|number| (format!("M{number}"), 1)));
        options
    };
    Town::with(routes, &[], with_mailboxes, |config: &mut Config| config.pool.mode = mode).await
}

/// Sessions in these mailboxes.
async fn sessions_in(town: &Town, user: &str, mailboxes: &[&str]) -> Vec<Client> {
    let mut clients = Vec::new();
    for mailbox in mailboxes {
        let mut client = town.harness.login(user).await;
        client.play(&format!("C: s SELECT {mailbox}\nS~ s OK…")).await;
        clients.push(client);
    }
    clients
}

fn open(town: &Town, user: &str) -> usize {
    town.servers.iter().map(|server| server.open_of(user)).sum()
}

/// How many of an account's sessions wait for a connection.
fn waiting(town: &Town, user: &str) -> usize {
    let accounts = town.harness.proxy().pools().accounts();
    accounts.iter().filter(|account| account.name() == user).map(|account| account.usage().waiting).sum()
}

/// That an account has so many connections, and no more, when there is work for four: what shares takes turns, others
/// wait.
async fn has_at_most(town: &Town, user: &str, most: usize, mode: PoolMode) {
    let mut clients = Vec::new();
    for (place, mailbox) in ["M1", "M2", "M3", "M4"].into_iter().enumerate() {
        let mut client = town.harness.login(user).await;
        client.send(format!("s SELECT {mailbox}\r\n")).await;
        if mode == PoolMode::Multiplex || place < most {
            client.play("S~ s OK…").await;
        } else {
            until(&format!("{user} waits"), || waiting(town, user) == place + 1 - most).await;
        }
        clients.push(client);
    }
    assert_eq!(open(town, user), most, "{user} {mode:?}");
    drop(clients);
    town.harness.sessions(0).await;
}

/// How many connections two sessions of one mailbox have.
async fn of_two(town: &Town, user: &str) -> usize {
    let _clients = sessions_in(town, user, &["INBOX", "INBOX"]).await;
    open(town, user)
}

#[tokio::test]
async fn the_account_counts_then_its_backend_then_the_pool() {
    const ROUTES: &str = "[[route]]\nusers = [\"@small.example\", \"anna@big.example\"]\nto = \"b\"\nb: max_per_account = 1\n\
                          [routing]\ndefault_domain = \"big.example\"\nmaster_separator = \"*\"\n\
                          [[account]]\nusers = [\"@big.example\"]\nmax_per_account = 3\n\
                          [[account]]\nusers = [\"x@big.example\"]\nmax_per_account = 1";
    for mode in BOTH {
        let town = town(mode, ROUTES).await;
        for (user, wanted) in [
            ("x@small.example", 1),
            ("x@other.example", 4),
            ("x@big.example", 3),
            // Spelt as it pleases, without its domain, or by a master.
            ("X@Big.Example", 3),
            ("bert", 3),
            ("carla*admin", 3),
            // Both its backend and its account say something.
            ("anna@big.example", 3),
        ] {
            has_at_most(&town, user, wanted, mode).await;
        }
        town.finish().await;
    }
}

#[tokio::test]
async fn one_may_share_where_others_do_not_and_the_other_way_round() {
    for mode in BOTH {
        let other = if mode == PoolMode::Session { PoolMode::Multiplex } else { PoolMode::Session };
        let (own, others) = if mode == PoolMode::Session { (1, 2) } else { (2, 1) };
        let word = other.as_str();
        let routes = format!(
            "[[route]]\nusers = [\"@there\"]\nto = \"b\"\nb: mode = \"{word}\"\n[[account]]\nusers = [\"anna\"]\nmode = \"{word}\""
        );
        let town = town(mode, &routes).await;
        for (user, wanted) in [("anna", own), ("x@there", own), ("bert", others)] {
            assert_eq!(of_two(&town, user).await, wanted, "{user} {mode:?}");
        }
        town.finish().await;
    }
}

#[tokio::test]
async fn connections_rest_as_long_as_their_accounts_may() {
    const ROUTES: &str = "[[route]]\nusers = [\"@there\"]\nto = \"b\"\nb: idle_timeout = \"20ms\"\n\
                          [[account]]\nusers = [\"anna\"]\nidle_timeout = \"30ms\"\n\
                          [[account]]\nusers = [\"kept@there\"]\nidle_timeout = \"1h\"";
    for mode in BOTH {
        let town = town(mode, ROUTES).await;
        for user in ["bert", "kept@there", "anna", "x@there"] {
            town.goes(user).await;
        }
        until("those that may rest for a moment only are closed", || open(&town, "anna") + open(&town, "x@there") == 0)
            .await;
        assert_eq!((open(&town, "bert"), open(&town, "kept@there")), (1, 1), "{mode:?}");
        assert!(town.harness.metric("imapool_upstream_retired_total", "idle") >= 2, "{mode:?}");
        town.finish().await;
    }
}

/// A client that hears that there are too many.
async fn one_too_many(town: &Town, user: &str) -> Client {
    let mut client = town.harness.client().await;
    client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l NO [LIMIT] Too many sessions…")).await;
    client
}

#[tokio::test]
async fn an_account_has_so_many_sessions_at_once_by_all_its_names() {
    const ROUTES: &str = "[[account]]\nusers = [\"anna\", \"@shared\"]\nsessions = 2";
    for mode in BOTH {
        let town = town(mode, ROUTES).await;
        let (mut first, second) = (town.harness.login("anna").await, town.harness.login("Anna").await);
        let mut third = one_too_many(&town, "ANNA").await;
        // What the password is, is told first.
        third.play("C: w LOGIN anna wrong\nS: w NO [AUTHENTICATIONFAILED]…").await;
        // Each account has so many.
        let shared = [town.harness.login("x@shared").await, town.harness.login("x@shared").await];
        let (other, further) = (town.harness.login("y@shared").await, one_too_many(&town, "x@shared").await);
        let unlimited = sessions_in(&town, "bert", &["INBOX", "INBOX", "INBOX"]).await;
        // Who is sent away has left by the time it hears so, and if it never hangs up.
        let is_first = |account: &Arc<Account>| account.name() == "anna";
        let records = town.harness.proxy().registry().all();
        records.iter().find(|it| it.account().is_some_and(is_first)).unwrap().close();
        first.play("S: * BYE…").await;
        third.play("C: a LOGIN ANNA pw-ANNA\nS: a OK…\nC: s SELECT INBOX\nS~ s OK…").await;
        drop(one_too_many(&town, "anna").await);
        assert_eq!(town.harness.metric("imapool_logins_total", "limit"), 3, "{mode:?}");
        town.harness.logged(&["too many sessions", "user=\"ANNA\"", "limit=\"account.sessions\""]).await;
        // More at a reload; and fewer, which ends none.
        town.reload("[[account]]\nusers = [\"@shared\"]\nsessions = 3").await;
        let [mut kept, also_kept] = shared;
        let more = (town.harness.login("anna").await, town.harness.login("x@shared").await);
        town.reload("[[account]]\nusers = [\"@shared\"]\nsessions = 1").await;
        drop(one_too_many(&town, "x@shared").await);
        kept.play("C: n NOOP\nS: n OK…").await;
        drop((first, second, third, other, further, unlimited, more, kept, also_kept));
        town.finish().await;
    }
}

/// However many come at once.
#[tokio::test]
async fn no_more_are_let_in_when_all_come_at_once() {
    let town = town(PoolMode::Multiplex, "[[account]]\nusers = [\"anna\"]\nsessions = 3").await;
    for round in 0..5 {
        let mut clients = Vec::new();
        for _ in 0..12 {
            clients.push(town.harness.client().await);
        }
        for client in &mut clients {
            client.send("l LOGIN anna pw-anna\r\n").await;
        }
        let mut let_in = 0;
        for client in &mut clients {
            let said = client.line().await;
            assert!(said.starts_with("l OK ") || said.starts_with("l NO [LIMIT] "), "{said}");
            let_in += usize::from(said.starts_with("l OK "));
        }
        assert_eq!(let_in, 3, "round {round}");
        drop(clients);
        town.harness.sessions(0).await;
    }
    town.finish().await;
}

#[tokio::test]
async fn who_may_not_log_in_is_refused_like_a_wrong_password_and_no_server_is_asked() {
    const ROUTES: &str = "[routing]\ndefault_domain = \"here\"\nmaster_separator = \"*\"\n\
                          [[account]]\nusers = [\"good@out\"]\n\
                          [[account]]\nusers = [\"@out\", \"anna\"]\nallow = false";
    let town = town(PoolMode::Multiplex, ROUTES).await;
    for login in [
        "LOGIN Anna pw-Anna",
        "LOGIN anna@here pw-anna@here",
        "LOGIN anna*admin pw-anna*admin",
        "LOGIN x@OUT pw-x@OUT",
        // \0anna\0pw-anna
        "AUTHENTICATE PLAIN AGFubmEAcHctYW5uYQ==",
        // anna\0bert\0pw-bert: for anna's mail
        "AUTHENTICATE PLAIN YW5uYQBiZXJ0AHB3LWJlcnQ=",
        // bert\0anna\0pw-anna: for bert's mail, by anna's password
        "AUTHENTICATE PLAIN YmVydABhbm5hAHB3LWFubmE=",
        "LOGIN bert*anna pw-bert*anna",
    ] {
        let mut client = town.harness.client().await;
        client.play(&format!("C: l {login}\nS: l NO [AUTHENTICATIONFAILED] …\nC: n NOOP\nS: n OK…")).await;
    }
    assert_eq!(town.servers.iter().map(|server| server.counters().logins).sum::<u64>(), 0);
    assert_eq!(town.servers.iter().map(|server| server.counters().failed_logins).sum::<u64>(), 0);
    assert_eq!(town.harness.metric("imapool_routes_total", "refused"), 8);
    assert_eq!((town.goes("good@out").await, town.goes("bert").await), ("a", "a"));
    town.finish().await;
}

#[tokio::test]
async fn who_may_not_log_in_any_more_is_sent_away_and_may_come_again_when_that_is_over() {
    for mode in BOTH {
        let town = town(mode, "").await;
        let [mut idler, mut at_rest, mut bert] =
            [town.harness.login("anna").await, town.harness.login("anna").await, town.harness.login("bert").await];
        idler.play("C: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …").await;
        bert.play("C: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …").await;
        let changes = town.reload("[[account]]\nusers = [\"anna\"]\nallow = false").await;
        assert!(changes.iter().any(|change| change.starts_with("+ account 1: ")), "{changes:?}");
        idler.play("S: * BYE…\nS.").await;
        at_rest.play("S: * BYE…\nS.").await;
        until("its connections are closed", || open(&town, "anna") == 0).await;
        town.harness.logged(&["an account leaves its backend", "account=\"anna\"", "why=\"it may not log in\""]).await;
        let mut again = town.harness.client().await;
        again.play("C: l LOGIN anna pw-anna\nS: l NO [AUTHENTICATIONFAILED] …").await;
        bert.play("C: DONE\nS: i OK…\nC: n NOOP\nS: n OK…").await;
        town.reload("").await;
        again.play("C: m LOGIN anna pw-anna\nS: m OK…\nC: s SELECT INBOX\nS~ s OK…").await;
        assert_eq!((open(&town, "anna"), open(&town, "bert")), (1, 1), "{mode:?}");
        drop((again, bert));
        town.finish().await;
    }
}

/// Whoever gets another's mail by a name that a route gives him has none where that account may not log in.
#[tokio::test]
async fn who_may_not_log_in_has_no_mail_by_another_name_either() {
    const FILE: &str = "[[route]]\nfile = \"FOLDER/users.map\"";
    const LOCKED: &str = "[[account]]\nusers = [\"anna\"]\nallow = false";
    let town = Town::new(FILE, &[("users.map", "alias b anna\nother b bert\n")]).await;
    let mut before = town.harness.client().await;
    before.play("C: l LOGIN alias pw-anna\nS: l OK…").await;
    town.reload(&format!("{FILE}\n{LOCKED}")).await;
    before.play("S: * BYE…\nS.").await;
    let mut client = town.harness.client().await;
    client.play("C: l LOGIN alias pw-anna\nS: l NO [AUTHENTICATIONFAILED] …").await;
    client.play("C: m LOGIN other pw-bert\nS: m OK…").await;
    drop(client);
    town.finish().await;
}

/// A reload: no connection is opened anew for it, and each account goes by it from its next session or connection on.
#[tokio::test]
async fn accounts_that_exist_go_by_what_a_reload_says() {
    for mode in BOTH {
        let town = town(mode, "").await;
        for user in ["anna", "bert"] {
            has_at_most(&town, user, 4, mode).await;
        }
        let logins = || town.servers[0].counters().logins;
        let before = logins();
        let changes = town.reload("a: max_per_account = 2\n[[account]]\nusers = [\"anna\"]\nmax_per_account = 3").await;
        assert!(changes.contains(&"~ backend \"a\".max_per_account: \"\" -> 2  (at once)".to_owned()), "{changes:?}");
        for (user, wanted) in [("anna", 3), ("bert", 2)] {
            until("what was beyond that is gone", || open(&town, user) <= wanted).await;
            has_at_most(&town, user, wanted, mode).await;
        }
        // Nothing is retired for the sake of these keys.
        let other = if mode == PoolMode::Session { PoolMode::Multiplex } else { PoolMode::Session };
        let (before, retired) = (logins().max(before), town.harness.metric("imapool_upstream_retired_total", ""));
        town.reload(&format!("a: mode = \"{}\"\na: max_per_account = 4\na: idle_timeout = \"1h\"", other.as_str()))
            .await;
        assert_eq!(of_two(&town, "bert").await, 2, "as many as there were");
        town.harness.sessions(0).await;
        assert_eq!(logins(), before, "{mode:?}");
        assert_eq!(town.harness.metric("imapool_upstream_retired_total", ""), retired, "{mode:?}");
        // New connections go by the new time.
        town.reload("a: idle_timeout = \"20ms\"").await;
        town.servers[0].kill_user("bert", imapool_demo_server::Kill::Reset);
        until("its connections are gone", || open(&town, "bert") == 0).await;
        town.goes("bert").await;
        until("the next does not rest for long", || open(&town, "bert") == 0).await;
        town.finish().await;
    }
}

/// The gate lets an account open what it has places for, at once, also when it has them by a reload.
#[tokio::test]
async fn places_that_a_reload_brings_are_there_at_once() {
    const MANY: usize = 20;
    let town = town(PoolMode::Session, "a: max_per_account = 1").await;
    town.goes("anna").await;
    town.reload(&format!("[[account]]\nusers = [\"anna\"]\nmax_per_account = {MANY}")).await;
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(town.harness.login("anna").await);
    }
    for client in &mut clients {
        client.send("s SELECT INBOX\r\n").await;
    }
    for client in &mut clients {
        client.play("S~ s OK…").await;
    }
    assert_eq!(open(&town, "anna"), MANY);
    assert_eq!(town.harness.metric("imapool_dials_delayed_total", ""), 0);
    drop(clients);
    town.finish().await;
}
