//! The recipes of docs/routing.md, followed to the letter: what the page says is put into the configuration, with the
//! addresses of real Dovecots and a folder of the test's, and curl and Python's imaplib come to where it says.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::process::Command;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::directory::Directory;
use crate::places;
use crate::process::{find_program, skip};
use crate::proxy::Proxy;
use crate::server::{Options, Server, scratch_folder};

const PAGE: &str = include_str!("../../docs/routing.md");
const BY_DOMAIN: &str = "## By domain";
const MIGRATION: &str = "## From an old server to a new one, account by account";
const BY_HAND: &str = "### By hand";
const SERVICE: &str = "## A service in front of a database";
const GROUP: &str = "## A group of equal servers";

/// What no recipe says.
const REST: &str = "
[[listener]]
name = \"webmail\"
address = \"127.0.0.1:0\"

[admin]
address = \"127.0.0.1:0\"
token_file = \"/etc/imapool/admin.token\"

[auth]
failure_delay = \"10ms\"

[pool]
checkout_timeout = \"2s\"
";

/// The page by its headings, which are the first lines.
fn sections() -> impl Iterator<Item = &'static str> {
    let starts: Vec<_> = PAGE.match_indices("\n##").map(|(at, _)| at + 1).chain([PAGE.len()]).collect();
    starts.windows(2).map(|ends| &PAGE[ends[0]..ends[1]]).collect::<Vec<_>>().into_iter()
}

/// The block of this kind under a heading of the page.
fn block(heading: &str, kind: &str) -> &'static str {
    let section = sections().find(|section| section.lines().next() == Some(heading)).expect("a heading of the page");
    let (_, block) = section.split_once(&format!("```{kind}\n")).expect("its block");
    block.split_once("```").expect("its end").0
}

#[test]
fn every_recipe_is_followed() {
    let blocks = |section: &&str| section.matches("```toml").count();
    let headings = sections().flat_map(|section| std::iter::repeat_n(section.lines().next(), blocks(&section)));
    let followed = [BY_DOMAIN, MIGRATION, BY_HAND, SERVICE, GROUP];
    assert_eq!(headings.flatten().collect::<Vec<_>>(), followed);
}

/// A recipe that runs.
struct Kitchen {
    proxy: Proxy,
    servers: Vec<Server>,
    /// Of the backends, in the order of the servers.
    names: Vec<String>,
    /// The whole configuration.
    text: String,
}

impl Kitchen {
    /// `None` (after saying so): something is missing. `files`, by their names, are in /etc/imapool, which is a folder
    /// of the test's as /var/lib/imapool is.
    async fn follow(recipe: &str, accounts: Accounts, files: &[(&str, &str)]) -> Option<Self> {
        for program in ["curl", "python3"] {
            if find_program(program).is_none() {
                skip(program);
                return None;
            }
        }
        let addresses = regex::Regex::new(r#"name = "(\w+)"\naddress = "(192\.0\.2\.\d+:143)""#).unwrap();
        let backends: Vec<_> = addresses.captures_iter(recipe).map(|it| [it[1].to_owned(), it[2].to_owned()]).collect();
        let servers = places::start(backends.len(), &Options::new(accounts)).await?;
        let folder = scratch_folder();
        let at = folder.path().display().to_string();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text.replace("/etc/imapool", &at)).unwrap();
        }
        std::fs::write(folder.path().join("admin.token"), "0123456789abcdef").unwrap();
        let mut text = format!("{recipe}{REST}").replace("/etc/imapool", &at).replace("/var/lib/imapool", &at);
        for ([_, address], server) in backends.iter().zip(&servers) {
            text = text.replace(address, &server.address.to_string());
        }
        let names = backends.into_iter().map(|[name, _]| name).collect();
        let kitchen = Self { proxy: Proxy::configured(folder, &text), servers, names, text };
        kitchen.check();
        Some(kitchen)
    }

    fn check(&self) {
        let checked = self.proxy.ask(&["check"]);
        assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}\n{}", self.text);
    }

    /// What `imapool route` says: the backend, or "refused", and the rest.
    fn route(&self, user: &str) -> (String, String) {
        let told = self.proxy.ask(&["route", user]);
        let text = String::from_utf8(told.stdout.clone()).unwrap();
        let (first, rest) = text.split_once('\n').unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!(told.status.code(), Some(i32::from(first == "refused")), "{told:?}");
        (first.trim_start_matches("backend ").to_owned(), rest.to_owned())
    }

    /// Where curl and imaplib come to, or what they are told.
    fn landed(&self, user: &str, password: &str) -> String {
        let port = self.proxy.address.port().to_string();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--user", &format!("{user}:{password}")]);
        curl.args(["-X", "STATUS INBOX (MESSAGES)", &format!("imap://127.0.0.1:{port}/")]);
        let by_curl = self.place(&mut curl);
        let mut imaplib = Command::new("python3");
        imaplib.args(["-c", include_str!("recipes/landed.py"), &port, user, password]);
        let by_imaplib = self.place(&mut imaplib);
        match (by_curl, by_imaplib) {
            (Ok(curl), Ok(imaplib)) if curl == imaplib => curl,
            (Err(_), Err(told)) => told,
            differ => panic!("{user}: {differ:?}\n{}", self.proxy.log()),
        }
    }

    /// Where a program comes to, or how it is refused.
    fn place(&self, program: &mut Command) -> Result<String, String> {
        let output = program.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(67) {
            return Err(text.trim().to_owned());
        }
        let messages = text.split_once("MESSAGES ").map(|(_, rest)| rest.trim_end_matches([')', '\r', '\n']));
        let messages: usize = messages.and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{output:?}"));
        Ok(self.names[messages - 1].clone())
    }

    /// That `imapool route` says where a user goes and by which rule, and that clients come there.
    fn assert_goes(&self, user: &str, place: &str, rule: &str) {
        let (told, why) = self.route(user);
        assert_eq!(told, place, "{user}: {why}");
        assert!(why.contains(rule), "{user}: {why}");
        let landed = self.landed(user, &password_of(&user.to_lowercase()));
        match place {
            "refused" => assert!(landed.contains("[AUTHENTICATIONFAILED]"), "{user}: {landed}"),
            _ => assert_eq!(landed, place, "{user}"),
        }
    }

    /// A client that idles.
    async fn idler(&self, user: &str) -> Client {
        let mut client = Client::login(self.proxy.address, user, &password_of(user)).await.unwrap();
        client.command("SELECT INBOX").await.unwrap().ok();
        client.send(b"i IDLE\r\n").await.unwrap();
        assert!(client.response().await.unwrap().unwrap().starts_with(b"+"));
        client
    }
}

/// It has heard nothing meanwhile, and is served.
async fn assert_undisturbed(client: &mut Client) {
    client.send(b"DONE\r\n").await.unwrap();
    let next = client.response().await.unwrap().unwrap();
    assert!(next.starts_with(b"i OK"), "{}", next.escape_ascii());
    client.command("NOOP").await.unwrap().ok();
}

async fn assert_sent_away(client: &mut Client) {
    let farewell = client.response().await.unwrap().unwrap();
    assert!(farewell.starts_with(b"* BYE"), "{}", farewell.escape_ascii());
    assert_eq!(client.response().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_domain() {
    let users =
        ["anna@example.org", "bert@example.net", "carla@sales.example.net", "dora@a.b.example.net", "emil@example.com"];
    let recipe = block(BY_DOMAIN, "toml");
    let Some(kitchen) = Kitchen::follow(recipe, places::named(users.into_iter().chain(["anna"])), &[]).await else {
        return;
    };
    for (user, place, rule) in [
        ("anna@example.org", "org", "route 1"),
        ("Anna@Example.ORG", "org", "route 1"),
        ("bert@example.net", "net", "route 2"),
        ("carla@sales.example.net", "net", "route 2"),
        ("dora@a.b.example.net", "net", "route 2"),
        ("emil@example.com", "refused", "routing.default"),
        ("anna", "refused", "routing.default"),
    ] {
        kitchen.assert_goes(user, place, rule);
    }
    kitchen.proxy.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_an_old_server_to_a_new_one() {
    let users = ["anna@example.org", "bert", "bert@example.org", "x@sales.example.org", "carla@example.org"];
    let accounts = places::named(users.into_iter().chain(["dora", "emil"]));
    // The new server knows bert by another name only.
    accounts.set("bert@example.org", &password_of("bert"));
    let map = block(MIGRATION, "text");
    let Some(kitchen) = Kitchen::follow(block(MIGRATION, "toml"), accounts, &[("moved.map", map)]).await else {
        return;
    };
    let file = kitchen.proxy.folder().join("moved.map");
    for (user, place, rule) in [
        ("anna@example.org", "new", "moved.map:2"),
        ("bert", "new", "moved.map:3\nas bert\nlogged in as bert@example.org"),
        ("x@sales.example.org", "new", "moved.map:4"),
        ("carla@example.org", "refused", "moved.map:5"),
        ("dora", "old", "routing.default"),
        ("emil", "old", "routing.default"),
    ] {
        kitchen.assert_goes(user, place, rule);
    }
    let mut anna = kitchen.idler("anna@example.org").await;
    let mut dora = kitchen.idler("dora").await;
    let mut emil = kitchen.idler("emil").await;

    // A wrong line changes nothing.
    let written = std::fs::read_to_string(&file).unwrap();
    kitchen.proxy.logs(
        &["WARN", "cannot take over changed routes; the old ones serve on", "moved.map:6: there is no", "\"nwe\""],
        || move_file(&file, &format!("{written}dora nwe\n")),
    );
    assert!(!kitchen.proxy.ask(&["check"]).status.success());
    assert_eq!(kitchen.landed("dora", &password_of("dora")), "old");

    let leaves =
        ["INFO", "an account leaves its backend", "account=\"dora\" backend=\"old\"", "the routes have changed"];
    kitchen.proxy.logs(&leaves, || move_file(&file, &format!("{written}dora new\n")));
    kitchen.check();
    assert_sent_away(&mut dora).await;
    kitchen.assert_goes("dora", "new", "moved.map:6");
    kitchen.assert_goes("emil", "old", "routing.default");
    for client in [&mut anna, &mut emil] {
        assert_undisturbed(client).await;
    }
    drop((anna, emil));
    kitchen.proxy.finish();
}

/// As the page says: beside the old one, and renamed.
fn move_file(file: &std::path::Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    assert!(Command::new("mv").args([&new, file]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_hand() {
    let accounts = places::named(["anna@example.org", "dora", "emil"]);
    let recipe = [block(MIGRATION, "toml"), block(BY_HAND, "toml")].concat();
    let files = [("moved.map", block(MIGRATION, "text"))];
    let Some(kitchen) = Kitchen::follow(&recipe, accounts, &files).await else { return };
    let mut emil = kitchen.idler("emil").await;
    for (order, place, rule) in [
        (&["move", "dora", "new"][..], "new", "/moves"),
        (&["move", "dora", "--as-routed"], "old", "routing.default"),
        (&["kick", "dora"], "old", "routing.default"),
        (&["move", "anna@example.org", "old"], "old", "/moves"),
        (&["move", "anna@example.org", "--as-routed"], "new", "moved.map:2"),
    ] {
        let mut client = kitchen.idler(order[1]).await;
        let admin = kitchen.proxy.admin.to_string();
        let done = kitchen.proxy.ask(&[&["ctl", "--admin", &admin], order].concat());
        assert!(done.status.success(), "{order:?}: {done:?}");
        assert_sent_away(&mut client).await;
        kitchen.assert_goes(order[1], place, rule);
    }
    assert_undisturbed(&mut emil).await;
    drop(emil);
    kitchen.proxy.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_in_front_of_a_database() {
    let accounts = places::named(["anna", "bert", "carla@example.org", "dora", "fred", "gustav", "hanna"]);
    let directory = Directory::start("X-Auth-Key: secret").await;
    // The page leaves the servers out.
    let recipe = "[[backend]]\nname = \"one\"\naddress = \"192.0.2.10:143\"\n\
                  [[backend]]\nname = \"two\"\naddress = \"192.0.2.20:143\"\n"
        .to_owned()
        + &block(SERVICE, "toml").replace("127.0.0.1:8080", &directory.address.to_string());
    let Some(kitchen) = Kitchen::follow(&recipe, accounts, &[]).await else { return };
    let at = |place: usize| {
        let address = kitchen.servers[place].address;
        format!("Auth-Status: OK\nAuth-Server: {}\nAuth-Port: {}", address.ip(), address.port())
    };
    let by_name = "Auth-Status: OK\nAuth-Server: two";
    for (user, says) in [
        ("anna", at(0)),
        ("bert", by_name.to_owned()),
        ("carla", at(1) + "\nAuth-User: carla@example.org\nAuth-Pass: pw-carla@example.org"),
        ("dora", at(1) + "\nAuth-Pass: pw-dora"),
        ("emil", "Auth-Status: This account is locked\nAuth-Wait: 1".to_owned()),
        ("fred", "Auth-Status: Come back later\nAuth-Error-Code: UNAVAILABLE".to_owned()),
        ("gustav", "raw:HTTP/1.0 500 Out of order\r\n\r\n".to_owned()),
        ("hanna", at(0).replace("Auth-Server: 127.0.0.1", "Auth-Server: 127.0.0.99")),
    ] {
        directory.set(user, &says);
    }
    for (user, password, place) in [
        ("anna", "pw-anna", "one"),
        ("bert", "pw-bert", "two"),
        ("carla", "anything", "two"),
        ("dora", "ticket", "two"),
    ] {
        assert_eq!(kitchen.route(user).0, place, "{user}");
        assert_eq!(kitchen.landed(user, password), place, "{user}");
    }
    assert!(kitchen.route("carla").1.ends_with("logged in as carla@example.org\n"), "{:?}", kitchen.route("carla"));
    // The backend judges every password itself.
    assert!(kitchen.landed("anna", "wrong").contains("[AUTHENTICATIONFAILED]"));
    for (user, words) in [
        ("emil", "This account is locked"),
        ("fred", "[UNAVAILABLE] Come back later"),
        ("gustav", "[UNAVAILABLE]"),
        ("hanna", "[UNAVAILABLE]"),
        ("nobody", "There is no such account"),
    ] {
        let told = kitchen.landed(user, &password_of(user));
        assert!(told.contains(words), "{user}: {told}");
    }
    assert_eq!(kitchen.route("emil").0, "refused");

    // The connection of who is refused is kept.
    let mut client = Client::connect(kitchen.proxy.address).await.unwrap();
    let refused = client.command("LOGIN emil pw-emil").await.unwrap();
    assert_eq!(refused.tagged, "NO This account is locked");
    client.command("LOGIN bert pw-bert").await.unwrap().ok();
    client.logout().await.unwrap();

    let asked: Vec<_> = directory.requests().iter().map(|request| request.to_lowercase()).collect();
    let has = |request: &str, field: &str| request.lines().any(|line| line == field.to_lowercase());
    let by_clients = asked.iter().filter(|it| has(it, "Auth-User: bert") && has(it, "Client-IP: 127.0.0.1"));
    let [once] = by_clients.collect::<Vec<_>>()[..] else { panic!("an answer is kept: {asked:?}") };
    for field in ["Auth-Method: plain", "Auth-Protocol: imap", "Auth-Login-Attempt: 1", "X-Auth-Key: secret"] {
        assert!(has(once, field), "{once}");
    }
    assert!(asked.iter().all(|request| !request.contains("auth-pass")), "{asked:?}");
    kitchen.proxy.finish();
}

/// Where a Python that has read the page says that accounts go.
fn rendezvous(weights: &str, accounts: &[String]) -> Vec<String> {
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("recipes/rendezvous.py"), weights]).args(accounts);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_equal_servers() {
    let users: Vec<_> = (0..16).map(|n| format!("user{n}")).collect();
    let late: Vec<_> = (0..16).map(|n| format!("late{n}")).collect();
    let accounts = places::named(users.iter().chain(&late).map(String::as_str));
    let recipe = block(GROUP, "toml");
    let Some(mut kitchen) = Kitchen::follow(recipe, accounts, &[]).await else { return };
    let expected = rendezvous("mail1=100,mail2=200", &users);
    for (user, place) in users.iter().zip(&expected) {
        kitchen.assert_goes(user, place, "group \"mail\"");
    }
    let many: Vec<_> = (0..3000).map(|n| format!("account{n}")).collect();
    let second = rendezvous("mail1=100,mail2=200", &many).iter().filter(|place| *place == "mail2").count();
    assert!((1900..2100).contains(&second), "twice as many: {second} of 3000");

    // Without weight, a server gets no new accounts; those that are there stay.
    let before = rendezvous("mail1=100,mail2=200", &late);
    let (at_first, at_second) = (position(&expected, "mail1"), position(&expected, "mail2"));
    let mut idler = kitchen.idler(&users[at_second]).await;
    kitchen.proxy.reload(&kitchen.text.replace("weight = 200 ", "weight = 0 "));
    assert_eq!(kitchen.landed(&users[at_second], &password_of(&users[at_second])), "mail2");
    let newcomer = position(&before, "mail2");
    kitchen.assert_goes(&late[newcomer], "mail1", "group \"mail\"");
    assert_undisturbed(&mut idler).await;

    // There is no failover. Whose password is known is told so only with the first command.
    kitchen.proxy.reload(&kitchen.text);
    drop(kitchen.servers.remove(0));
    let of_first = &late[position(&before, "mail1")];
    let told = kitchen.landed(of_first, &password_of(of_first));
    assert!(told.contains("[UNAVAILABLE]"), "{told}");
    let mut client =
        Client::login(kitchen.proxy.address, &users[at_first], &password_of(&users[at_first])).await.unwrap();
    let told = client.command("SELECT INBOX").await.unwrap().tagged;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    assert_eq!(kitchen.landed(&users[at_second], &password_of(&users[at_second])), "mail2");
    drop(idler);
    kitchen.proxy.finish();
}

fn position(places: &[String], place: &str) -> usize {
    places.iter().position(|it| it == place).expect("among so many, one goes there")
}
