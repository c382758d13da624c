//! Each class of error with its exact place, and what a good file says.

mod accounts;
mod keys;
mod platform;
mod relay;
mod routes;
mod syntax;
mod values;
mod warnings;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::platform::Has;

const EXAMPLE: &str = include_str!("../../config/imapool.toml");
/// Four lines: what follows begins at line 5.
const MINIMAL: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"127.0.0.1:143\"\n";

/// As on a system that has everything.
fn parsed(text: &str) -> Result<Config, ConfigError> {
    Config::parse_for(Has::EVERYTHING, text)
}

/// What is wrong, a line each.
fn wrong(text: &str) -> String {
    parsed(text).expect_err("this is a wrong configuration").to_string()
}

/// The same, after the minimal file.
fn wrong_after_minimal(text: &str) -> String {
    wrong(&format!("{MINIMAL}{text}"))
}

/// One key of `[pool]`, `[limits]` and so on: the value begins at line 6.
fn with(section: &str, line: &str) -> Result<Config, ConfigError> {
    parsed(&format!("{MINIMAL}[{section}]\n{line}\n"))
}

fn listener(lines: &str) -> Result<Config, ConfigError> {
    parsed(&format!("[[backend]]\naddress = \"192.0.2.1:143\"\n[[listener]]\n{lines}\n"))
}

fn backend(lines: &str) -> Result<Config, ConfigError> {
    parsed(&format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\n{lines}\n"))
}

fn with_key(section: &str, key: &str, value: &str) -> Result<Config, ConfigError> {
    let line = format!("{key} = {value}");
    match section {
        "listener" => listener(&format!("address = \"127.0.0.1:1\"\n{line}")),
        "backend" => backend(&format!("address = \"127.0.0.1:1\"\n{line}")),
        // One that has a member, and one that leads somewhere.
        "group" => parsed(&format!("{MINIMAL}group = \"g\"\n[[group]]\nname = \"g\"\n{line}\n")),
        "route" if !["to", "file", "http"].contains(&key) => {
            parsed(&format!("{MINIMAL}[[route]]\nto = \"\"\n{line}\n"))
        }
        "route" => parsed(&format!("{MINIMAL}[[route]]\n{line}\n")),
        "account" if key != "users" => parsed(&format!("{MINIMAL}[[account]]\nusers = [\"a\"]\n{line}\n")),
        "account" => parsed(&format!("{MINIMAL}[[account]]\n{line}\n")),
        _ => with(section, &line),
    }
}

#[track_caller]
fn refused(result: Result<Config, ConfigError>, expected: &str) {
    assert_eq!(result.expect_err("this is a wrong configuration").to_string(), expected);
}

#[test]
fn two_addresses_are_enough() {
    let config = parsed(MINIMAL).unwrap();
    let address = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    assert_eq!(config, Config::new(Listener::new(address), Backend::new("127.0.0.1", 143)));
    assert_eq!((config.listeners[0].name.as_str(), config.backends[0].name.as_str()), ("127.0.0.1:0", "127.0.0.1:143"));
    assert_eq!(config.warnings(), [""; 0]);
}

#[test]
fn the_example_says_the_defaults() {
    let config = parsed(EXAMPLE).unwrap();
    let mut expected =
        Config::new(Listener::new(ListenAddr::Tcp("127.0.0.1:1143".parse().unwrap())), Backend::new("127.0.0.1", 143));
    expected.listeners[0].name = "webmail".to_owned();
    expected.backends[0].name = "main".to_owned();
    assert_eq!(config, expected);
    assert_eq!(config.warnings(), [""; 0]);
}

#[test]
fn the_example_has_every_key() {
    let mut section = String::new();
    let mut mentioned = BTreeSet::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('#').unwrap_or(line).strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
            mentioned.insert((String::new(), section.clone()));
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && !key.starts_with(' ')
        {
            mentioned.insert((section.clone(), key.to_owned()));
        }
    }
    let known = Config::keys().into_iter().map(|(section, key)| (section.to_owned(), key.to_owned()));
    assert_eq!(mentioned, known.collect());
}

#[test]
fn everything_can_be_said() {
    let text = r#"
        [[listener]]
        name = "tls"
        address = "[::1]:993"
        tls = "implicit"
        certificate = "/c.pem"
        private_key = "/k.pem"
        certificates = ["/certs", "/more.pem"]
        client_ca_file = "/clients.pem"
        proxy_protocol_from = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]
        plaintext_login = "never"
        reset_on_client_close = false
        reuse_port = true
        [[listener]]
        address = "unix:/run/imapool/imap.sock"
        plaintext_login = "always"
        [[backend]]
        name = "main"
        address = "mail.example.org:993"
        tls = "implicit"
        server_name = "imap.example.org"
        ca_file = "/ca.pem"
        certificate = "/own.pem"
        private_key = "/own.key"
        source_addresses = ["192.0.2.8", "2001:db8::1"]
        source_port_range = "40000-44999"
        connect_timeout = "1500ms"
        id = "always"
        forward_client_id = true
        send_proxy = true
        [[backend]]
        address = "[2001:db8::2]:143"
        tls = "starttls"
        [pool]
        linger = "0s"
        max_per_account = 0x10
        drain_bytes = 1024
        per_credential = "always"
        [auth]
        cache_ttl = "1h 30m"
        [limits]
        command_line = "1MiB"
        literals = "2kB"
        [admin]
        address = ""
        [log]
        format = "json"
        level = "trace"
        sessions = false
    "#;
    let config = parsed(text).unwrap();
    let [tls, unix] = &config.listeners[..] else { panic!("two listeners: {:?}", config.listeners) };
    assert_eq!(
        *tls,
        Listener {
            name: "tls".to_owned(),
            address: ListenAddr::Tcp("[::1]:993".parse().unwrap()),
            tls: TlsMode::Implicit,
            certificate: Some(PathBuf::from("/c.pem")),
            private_key: Some(PathBuf::from("/k.pem")),
            certificates: vec![PathBuf::from("/certs"), PathBuf::from("/more.pem")],
            client_ca_file: Some(PathBuf::from("/clients.pem")),
            proxy_protocol_from: ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"].map(|net| net.parse().unwrap()).into(),
            plaintext_login: PlaintextLogin::Never,
            reset_on_client_close: false,
            reuse_port: true,
        }
    );
    assert_eq!(unix.address, ListenAddr::Unix(PathBuf::from("/run/imapool/imap.sock")));
    assert_eq!((unix.name.as_str(), unix.plaintext_login), ("unix:/run/imapool/imap.sock", PlaintextLogin::Always));
    let [main, v6] = &config.backends[..] else { panic!("two backends: {:?}", config.backends) };
    assert_eq!(
        *main,
        Backend {
            name: "main".to_owned(),
            host: "mail.example.org".to_owned(),
            port: 993,
            tls: TlsMode::Implicit,
            server_name: "imap.example.org".to_owned(),
            ca_file: Some(PathBuf::from("/ca.pem")),
            certificate: Some(PathBuf::from("/own.pem")),
            private_key: Some(PathBuf::from("/own.key")),
            source_addresses: vec!["192.0.2.8".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            source_port_range: Some(40_000..=44_999),
            connect_timeout: Duration::from_millis(1500),
            id: Identify::Always,
            forward_client_id: true,
            send_proxy: true,
            ..Backend::new("mail.example.org", 993)
        }
    );
    assert_eq!(
        (v6.host.as_str(), v6.address().as_str(), v6.tls),
        ("2001:db8::2", "[2001:db8::2]:143", TlsMode::StartTls)
    );
    let pool = Pool {
        linger: Duration::ZERO,
        max_per_account: 16,
        drain_bytes: 1024,
        per_credential: PerCredential::Always,
        ..Pool::default()
    };
    assert_eq!(config.pool, pool);
    assert_eq!(config.auth.cache_ttl, Duration::from_secs(5400));
    assert_eq!((config.limits.command_line, config.limits.literals), (1024 * 1024, 2000));
    assert_eq!(config.admin.address, None);
    assert_eq!(
        config.log,
        Log { format: LogFormat::Json, level: "trace".to_owned(), sessions: false, ..Log::default() }
    );
}

#[test]
fn the_admin_section() {
    let head = "[[listener]]\naddress = \"127.0.0.1:1143\"\n[[backend]]\naddress = \"127.0.0.1:143\"\n[admin]\n";
    let of = |text: &str| parsed(&format!("{head}{text}")).map(|config| config.admin);
    let admin = of("address = \"unix:/run/a.sock\"\ntoken_file = \"/t\"\nhosts = [\"imapool.example.org\"]\n").unwrap();
    assert_eq!(admin.address, Some(ListenAddr::Unix(PathBuf::from("/run/a.sock"))));
    assert_eq!((admin.token_file.as_deref(), admin.is_public()), (Some(Path::new("/t")), false));
    assert_eq!(admin.hosts, ["imapool.example.org"]);
    assert!(of("address = \"0.0.0.0:9143\"\n").unwrap().is_public());
    assert!(!of("address = \"[::1]:9143\"\n").unwrap().is_public());
    for (text, place) in [
        ("hosts = [\"http://x\"]", "f:6:10"),
        ("address = \"unix:relative\"", "f:6:11"),
        ("address = \"127.0.0.1:1143\"", "f:6:11"),
        ("address = \"localhost:9143\"", "f:6:11"),
    ] {
        let error = of(text).unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    }
}

#[test]
fn unknown_keys_get_the_nearest_valid_one() {
    let cases = [
        ("[pool]\n  max_per_acount = 5\n", "f:6:3: unknown key `pool.max_per_acount`: did you mean `max_per_account`?"),
        ("[pol]\n", "f:5:2: unknown key `pol`: did you mean `pool`?"),
        ("[pool]\ncache_ttl = \"5m\"\n", "f:6:1: unknown key `pool.cache_ttl`: it belongs under [auth]"),
        (
            "[pool]\nlogin_timeout = \"5m\"\n",
            "f:6:1: unknown key `pool.login_timeout`: it belongs under [[backend]] or under [limits]",
        ),
        ("[pool.admin]\n", "f:5:7: unknown key `pool.admin`: it belongs at the top level"),
        (
            "\"x\\ny\" = 1\n",
            "f:5:1: unknown key `backend.x\\ny`: the nearest is `tls`; valid here: address, fallback_addresses, name, tls, \
          server_name, ca_file, certificate, private_key, source_addresses, source_port_range, connect_timeout, login_timeout, reply_timeout, id, forward_client_id, send_proxy, group, weight, mode, max_per_account, idle_timeout",
        ),
        ("tsl = \"none\"\n", "f:5:1: unknown key `backend.tsl`: did you mean `tls`?"),
        (
            "[log]\ncolour = true\n",
            "f:6:1: unknown key `log.colour`: the nearest is `slow`; valid here: level, format, sessions, slow",
        ),
        (
            "[\"\"]\n",
            "f:5:2: unknown key ``: the nearest is `log`; valid here: listener, backend, group, routing, \
             route, account, pool, auth, limits, admin, log",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong_after_minimal(text), expected, "{text:?}");
    }
}

#[test]
fn missing_sections_and_keys() {
    let no_listener =
        "f:1:1: `listener` is missing: add a [[listener]] with a line such as address = \"127.0.0.1:1143\"";
    let no_backend = "f:1:1: `backend` is missing: add a [[backend]] with a line such as address = \"127.0.0.1:143\"";
    assert_eq!(wrong(""), format!("{no_listener}\n{no_backend}"));
    assert_eq!(wrong("listener = []\nbackend = []").lines().count(), 2);
    assert_eq!(
        wrong("[log]\n[[listener]]\nname = \"x\"\n  [[backend]]\n"),
        "f:2:1: `listener.address` is missing: add a line such as address = \"127.0.0.1:1143\"\n\
         f:4:3: `backend.address` is missing: add a line such as address = \"127.0.0.1:143\""
    );
    refused(
        listener("address = \"127.0.0.1:993\"\ntls = \"implicit\""),
        "f:5:7: `listener.certificate` is missing: tls = \"implicit\" needs it, name a PEM file or write tls = \"none\"\n\
         f:5:7: `listener.private_key` is missing: tls = \"implicit\" needs it, name a PEM file or write tls = \"none\"",
    );
}

#[test]
fn what_must_be_unique() {
    let names = "logs and metrics tell them apart by the name, write another";
    let addresses = "only one can listen there, write another";
    let text = r#"[[listener]]
name = "a"
address = "127.0.0.1:143"
[[listener]]
name = "a"
address = "127.0.0.1:143"
[[listener]]
address = "127.0.0.1:0"
name = "free port"
[[listener]]
address = "127.0.0.1:0"
name = "another free port"
[[backend]]
address = "h:143"
[[backend]]
address = "h:143"
[admin]
address = "127.0.0.1:143"
"#;
    assert_eq!(
        wrong(text),
        format!(
            "f:5:8: `listener.name` \"a\" is taken already, by line 2: {names}\n\
             f:6:11: `listener.address` \"127.0.0.1:143\" is taken already, by line 3: {addresses}\n\
             f:15:1: `backend.name` \"h:143\" is taken already, by line 13: {names}\n\
             f:18:11: `admin.address` \"127.0.0.1:143\" is taken already, by line 3: {addresses}"
        )
    );
    let default_admin = listener("address = \"127.0.0.1:9143\"").unwrap_err().to_string();
    assert!(
        default_admin.contains("`admin.address` \"127.0.0.1:9143\" is taken already, by line 4"),
        "{default_admin}"
    );
}

#[test]
fn a_backend_is_not_imapool_itself() {
    for listen in ["127.0.0.1:143", "0.0.0.0:143", "[::]:143"] {
        let text = format!("[[listener]]\naddress = \"{listen}\"\n[[backend]]\naddress = \"127.0.0.1:143\"\n");
        let expected = "f:4:11: `backend.address` \"127.0.0.1:143\" is taken already, by line 2: \
                        imapool would connect to itself, write the IMAP server's address";
        assert_eq!(wrong(&text), expected);
    }
    let other_host = "[[listener]]\naddress = \"0.0.0.0:143\"\n[[backend]]\naddress = \"192.0.2.1:143\"\n";
    assert!(parsed(other_host).is_ok());
}

#[test]
fn all_problems_come_in_the_order_of_the_file() {
    let text =
        "[log]\nlevel = 1\nx = 1\n[pool]\nspare = 500\n[[backend]]\ntls = \"no\"\n[[listener]]\naddress = \"x\"\n";
    let error = parsed(text).unwrap_err();
    let places: Vec<_> = error.problems().iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(2, 9), (3, 1), (5, 9), (6, 1), (7, 7), (9, 11)]);
}

#[test]
fn a_byte_order_mark_is_no_column() {
    assert_eq!(wrong(&format!("\u{feff}x = 1\n{MINIMAL}")).split(" unknown").next(), Some("f:1:1:"));
}

/// Whatever the text: a configuration, or problems that lie within it.
fn parses_or_explains(text: &str) -> Result<(), TestCaseError> {
    if let Err(error) = parsed(text) {
        prop_assert!(!error.problems().is_empty());
        let lines: Vec<&str> = text.split('\n').collect();
        for problem in error.problems() {
            let line = lines.get(problem.line - 1);
            prop_assert!(
                line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&problem.column)),
                "{problem}"
            );
            prop_assert!(!problem.to_string().contains(char::is_control), "{:?}", problem.to_string());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_parses_or_is_explained(text in any::<String>()) {
        parses_or_explains(&text)?;
    }

    #[test]
    fn text_like_toml_parses_or_is_explained(
        text in r#"(\[?\[(listener|backend|pool|log|x)\]\]?\n|(address|tls|linger|certificate|x) = ("unix:[/a]{0,3}"|"[0-9:smx]{0,9}"|-?[0-9]{1,30}|\[.{0,9}\]|\{\}|.{0,5})\n){0,20}"#,
    ) {
        parses_or_explains(&text)?;
    }

    #[test]
    fn a_mutated_example_parses_or_is_explained(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n\"\\[\\]=éß]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, length, insertion) in edits {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, insertion.chars());
        }
        parses_or_explains(&text.into_iter().collect::<String>())?;
    }
}
