//! Files as they are found in the field, of each product; what comes of them loads.

use std::collections::BTreeMap;

use imapool_proto::routing::Target;
use imapool_proto::routing::map::Map;
use imapool_proto::routing::name::Names;

use super::*;
use crate::config::{Config, Listener, PlaintextLogin, TlsMode};

/// What was made, and what it means.
struct Made {
    toml: String,
    accounts: String,
    config: Config,
}

impl Made {
    fn backends(&self) -> Vec<(String, TlsMode)> {
        self.config.backends.iter().map(|backend| (backend.address(), backend.tls)).collect()
    }

    fn listeners(&self) -> Vec<(String, TlsMode)> {
        self.config.listeners.iter().map(|listener| (listener.address.to_string(), listener.tls)).collect()
    }

    fn listener(&self, address: &str) -> &Listener {
        self.config.listeners.iter().find(|listener| listener.address.to_string() == address).unwrap()
    }

    /// Lines for accounts, without the heading.
    fn lines(&self) -> Vec<&str> {
        self.accounts.lines().skip(1).collect()
    }

    /// What somebody should look at.
    fn lost(&self) -> &str {
        let (_, lost) = self.toml.split_once("# NOT TAKEN OVER").unwrap_or_default();
        lost.split("# Not needed").next().unwrap()
    }

    #[track_caller]
    fn loses(&self, notes: &[&str]) {
        for note in notes {
            assert!(self.lost().contains(note), "{note}:\n{}", self.toml);
        }
        assert_eq!(
            self.lost().lines().skip(1).filter(|line| !line.trim().is_empty()).count(),
            notes.len(),
            "{}",
            self.lost()
        );
    }
}

fn source<'s>(conf: &'s str, read: &'s dyn Fn(&Path) -> io::Result<String>) -> Source<'s> {
    Source { conf, name: "old.conf", accounts: None, read, map: "/etc/imapool/imapool.map" }
}

/// With these files, by their paths.
#[track_caller]
fn made_with(conf: &str, files: &[(&str, &str)]) -> Made {
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    let read = |path: &Path| match files.get(path.to_str().unwrap()) {
        Some(text) => Ok((*text).to_owned()),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let Imported { toml, accounts, .. } = import(None, &source(conf, &read)).unwrap();
    let config = Config::parse(&toml, "imapool.toml").unwrap_or_else(|error| panic!("{error}\n{toml}"));
    let accounts = accounts.unwrap_or_default();
    assert_eq!(accounts.is_empty(), !toml.contains("file = \"/etc/imapool/imapool.map\""), "{toml}");
    let names: Vec<_> = config.backends.iter().map(|backend| backend.name.clone()).collect();
    let (mut map, known) = (Map::default(), Names { fold: true, ..Names::default() });
    for (number, line) in (1..).zip(accounts.lines()) {
        let target = |name: &str| names.iter().position(|known| known == name).map(Target::Backend);
        map.add(number, line.as_bytes(), &known, target).unwrap_or_else(|error| panic!("{error:?}\n{line}"));
    }
    for text in [&toml, &accounts] {
        assert!(!text.contains("s3cr3t"), "{text}");
    }
    Made { toml, accounts, config }
}

#[track_caller]
fn made(conf: &str) -> Made {
    made_with(conf, &[])
}

fn error(conf: &str) -> String {
    let read = |_: &Path| Err(io::ErrorKind::NotFound.into());
    import(None, &source(conf, &read)).unwrap_err().to_string()
}

#[test]
fn nginx_with_tls_in_all_its_ways() {
    let made = made(include_str!("examples/nginx-tls.conf"));
    let wanted =
        [("0.0.0.0:143", TlsMode::StartTls), ("[::]:143", TlsMode::StartTls), ("0.0.0.0:993", TlsMode::Implicit)];
    assert_eq!(made.listeners(), wanted.map(|(address, tls)| (address.to_owned(), tls)));
    let [first, .., last] = &made.config.listeners[..] else { panic!("{}", made.toml) };
    assert_eq!(first.private_key.as_deref(), Some("/etc/ssl/mail key.pem".as_ref()));
    assert_eq!(first.plaintext_login, PlaintextLogin::Always);
    assert_eq!(
        (first.client_ca_file.as_deref(), last.client_ca_file.as_deref()),
        (None, Some("/etc/ssl/ca.pem".as_ref()))
    );
    assert_eq!(last.plaintext_login, PlaintextLogin::Loopback);
    let services: Vec<_> = made
        .config
        .routes
        .iter()
        .map(|route| (route.http.as_deref(), route.send_password, route.listeners.len()))
        .collect();
    assert_eq!(
        services,
        [(Some("http://127.0.0.1:9000/auth"), true, 2), (Some("http://127.0.0.1:9000/auth"), true, 1)]
    );
    assert_eq!(made.config.routes[0].timeout, std::time::Duration::from_secs(10));
    assert_eq!(made.config.routing.default.as_deref(), Some(""), "whom the service does not know");
    made.loses(&[
        "line 8, auth_http_header: it may be a secret",
        "line 10, proxy_pass_error_message",
        "line 17, server (pop3)",
        "line 18, server (smtp)",
        "line 5, auth_http: nginx dials whatever address",
    ]);
}

#[test]
fn nginx_with_a_server_for_each_service() {
    let made = made(include_str!("examples/nginx-services.conf"));
    let wanted = [("127.0.0.1:10143", TlsMode::None), ("0.0.0.0:993", TlsMode::Implicit)];
    assert_eq!(made.listeners(), wanted.map(|(address, tls)| (address.to_owned(), tls)));
    assert_eq!(made.config.listeners[0].plaintext_login, PlaintextLogin::Loopback);
    assert_eq!(made.config.routes.len(), 1);
    made.loses(&[
        "line 7, auth_http: its URL may have a secret",
        "line 8, proxy_protocol: write send_proxy = true",
        "line 10, ssl_certificate: only the last one",
        "line 11, auth_http: only a service by http://",
        "line 11, made_up: imapool does not know",
        "line 2, auth_http: nginx dials",
    ]);
}

/// Either file has authorities; by default a server shows those of one to its clients, and not those of the other.
#[test]
fn nginx_that_asks_clients_for_certificates() {
    let conf = |lines: &str| {
        format!(
            "mail {{ server {{ listen 993 ssl; auth_http localhost/a; ssl_certificate c.pem; ssl_certificate_key k.pem;\n\
             {lines}\n}} }}"
        )
    };
    let (told, trusted) = ("ssl_client_certificate /ca.pem;", "ssl_trusted_certificate /trusted.pem;");
    let of_service = "auth_http: nginx dials whatever address";
    for (lines, authority, notes) in [
        (format!("ssl_verify_client on; {trusted}"), Some("/trusted.pem"), vec![of_service]),
        (format!("ssl_verify_client on; {told}"), Some("/ca.pem"), vec![of_service]),
        (
            format!("ssl_verify_client on; {trusted} {told}"),
            Some("/ca.pem"),
            vec![of_service, "line 2, ssl_trusted_certificate: its authorities sign clients' certificates, too"],
        ),
        (
            "ssl_verify_client on;".to_owned(),
            None,
            vec![of_service, "line 2, ssl_verify_client: no authority is named"],
        ),
        (format!("ssl_verify_client off; {trusted}"), None, vec![of_service]),
    ] {
        let made = made(&conf(&lines));
        let listener = made.listener("0.0.0.0:993");
        assert_eq!(listener.client_ca_file.as_deref(), authority.map(Path::new), "{lines}");
        made.loses(&notes);
    }
}

#[test]
fn a_url_with_a_query_is_for_nobody_else() {
    let read = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let conf = |url: &str| format!("mail {{ server {{ listen 143; auth_http {url}; }} }}");
    for (url, private) in [("localhost/auth?key=1234", true), ("localhost/auth", false)] {
        let imported = import(None, &source(&conf(url), &read)).unwrap();
        assert_eq!(imported.is_private, private, "{url}");
        assert_eq!(imported.toml.contains("auth_http: its URL may have a secret"), private, "{}", imported.toml);
    }
}

#[test]
fn nginx_that_cannot_be_read() {
    for (conf, words) in [
        ("mail { server { listen 25; protocol smtp; } }", "no server for IMAP"),
        ("mail {\n server {\n listen 143; protocol imap;\n", "line 2: this does not end"),
        ("mail { }\n}", "line 2: this } ends nothing"),
        ("mail {\n auth_http 'x;\n}", "line 2: the quote does not end"),
        ("mail { server { listen 143 } }", "line 1: a semicolon is missing"),
        ("mail { ; }", "line 1: a name is missing"),
        (
            "mail { server { listen mail.example.org:143; protocol imap; } }",
            "line 1: listen mail.example.org:143: write an IP",
        ),
    ] {
        let told = error(conf);
        assert!(told.contains(words), "{conf}: {told}");
    }
    assert!(error(&"mail {".repeat(10_000)).contains("so many blocks"));
}

const POPMAP: &str = include_str!("examples/popmap");

#[test]
fn perdition_with_a_popmap() {
    let conf = include_str!("examples/perdition.conf");
    let made = made_with(conf, &[("/etc/perdition/popmap", POPMAP)]);
    assert_eq!(made.listeners(), [("0.0.0.0:143".to_owned(), TlsMode::StartTls)]);
    let wanted = [
        "mail1.example.org:143",
        "mail2.example.org:1143",
        "mail2.example.org:143",
        "192.0.2.7:143",
        "sarah.example.org:144",
    ];
    assert_eq!(made.backends(), wanted.map(|address| (address.to_owned(), TlsMode::StartTls)));
    assert_eq!(
        made.lines(),
        [
            "anna mail1.example.org:143",
            "bert@example.org mail2.example.org:1143",
            "@sales.example.org mail1.example.org:143 bob",
            "carla 192.0.2.7:143 carla2",
        ]
    );
    assert_eq!(made.config.routing.default.as_deref(), Some("sarah.example.org:144"));
    made.loses(&[
        "line 4, of the popmap: an earlier line is for the same account",
        "line 7, of the popmap: it has no colon",
        "line 8, of the popmap: a space",
        "line 13, ssl_no_cert_verify: the server's certificate is always verified",
        "line 14, strip_domain",
        "line 17, whatever: imapool does not know",
    ]);
    assert!(made.toml.contains("line 16, username: User="), "{}", made.toml);
}

#[test]
fn perdition_with_expressions() {
    let conf = include_str!("examples/perdition-expressions.conf");
    let popmap = include_str!("examples/popmap.re");
    let made = made_with(conf, &[("/etc/perdition/popmap.re", popmap)]);
    assert_eq!(made.listeners(), [("127.0.0.1:993".to_owned(), TlsMode::Implicit)]);
    assert_eq!(made.lines(), ["@example.org mail1.example.org:993", "bert mail2.example.org:993"]);
    assert_eq!(made.config.routing.default.as_deref(), Some("mail4.example.org:993"));
    assert!(made.config.backends.iter().all(|backend| backend.tls == TlsMode::Implicit));
    made.loses(&[
        "line 2, of the popmap: an earlier line is for its whole domain",
        "line 4, of the popmap: where it leads depends on the name",
        "line 5, of the popmap: this expression has no counterpart",
        "line 7, of the popmap: an earlier line is for everybody",
    ]);
}

#[test]
fn perdition_with_servers_in_turn_and_a_database() {
    let conf = include_str!("examples/perdition-database.conf");
    let made = made(conf);
    assert_eq!(made.config.routing.default.as_deref(), Some("default"));
    let groups: Vec<_> = made.config.backends.iter().map(|backend| backend.group.as_deref()).collect();
    assert_eq!(groups, [Some("default"); 2]);
    made.loses(&["line 3, map_library: export it to lines", "line 4, sssl_mode"]);
    for (conf, words) in [
        ("map_library \"\"\nlisten_port 143\n", "no server: neither outgoing_server nor a popmap"),
        ("outgoing_server a b\n", "line 1: outgoing_server a b: write host names"),
        ("protocol POP3\noutgoing_server a\n", "line 1: protocol POP3: write IMAP4"),
        ("outgoing_server a\nlisten_port many\n", "line 2: listen_port many: write a port number"),
        ("outgoing_server a\nb eth0\n", "line 2: bind_address eth0: write an IP address"),
    ] {
        assert!(error(conf).contains(words), "{conf}: {}", error(conf));
    }
}

/// Those of the accounts come last, and are counted.
#[test]
fn lines_for_accounts_do_not_hide_what_is_said_of_the_rest() {
    let popmap: String = (0..5000).map(|number| format!("user{number}\nb{number}:192.0.2.1\n")).collect();
    let conf = "map_library /usr/lib/libperditiondb_gdbm.so\nstrip_domain all\nno_such_option 1\n";
    let made = made_with(conf, &[("/etc/perdition/popmap", &popmap)]);
    assert_eq!(made.lines().len(), 5000);
    let lost: Vec<_> = made.lost().lines().skip(1).filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lost.len(), 12, "{lost:?}");
    assert!(lost[0].contains("line 2, strip_domain") && lost[1].contains("line 3, no_such_option"), "{lost:?}");
    assert!(lost[2].ends_with("line 1, of the popmap: it has no colon"), "{lost:?}");
    assert!(lost[11].ends_with("line 19, of the popmap: it has no colon; the same of 4990 more lines"), "{lost:?}");
    // Whatever the file makes up.
    let users: String =
        (0..5000).map(|number| format!("u{number}:::::::odd{number}=1 proxy=y host=192.0.2.1\n")).collect();
    let conf = "passdb {\n driver = passwd-file\n args = /users\n}\nssl_client_cert = x\n";
    let made = made_with(conf, &[("/users", &users)]);
    assert!(made.lost().contains("line 5, ssl_client_cert: "), "{}", made.lost());
    assert!(made.lost().contains("and 4900 more lines for accounts, for other reasons"), "{}", made.lost());
}

/// Each of a hundred thousand at a host of its own: what compares each with all others does not end within minutes.
#[test]
fn a_host_for_each_account() {
    let popmap: String = (0..100_000).map(|number| format!("user{number}:host{number}.example.org\n")).collect();
    let read = |_: &Path| Ok(popmap.clone());
    let conf = "map_library /usr/lib/libperditiondb_gdbm.so\n";
    let imported = import(None, &source(conf, &read)).unwrap();
    assert_eq!(imported.toml.matches("[[backend]]").count(), 100_000);
    assert_eq!(imported.accounts.unwrap().lines().count(), 100_001);
}

#[test]
fn dovecot_2_3_with_one_server() {
    let conf = include_str!("examples/dovecot-2.3.conf");
    let made = made(conf);
    let wanted = [("192.0.2.1:9993", TlsMode::Implicit), ("[::]:9993", TlsMode::Implicit)];
    assert_eq!(made.listeners(), wanted.map(|(address, tls)| (address.to_owned(), tls)));
    assert_eq!(made.config.listeners[0].certificate.as_deref(), Some("/etc/ssl/mail.pem".as_ref()));
    assert_eq!(made.backends(), [("10.0.0.5:993".to_owned(), TlsMode::Implicit)]);
    assert_eq!(made.config.backends[0].ca_file.as_deref(), Some("/etc/ssl/ca.pem".as_ref()));
    assert_eq!(made.config.routing.master_separator, "*");
    made.loses(&[
        "line 7, login_trusted_networks",
        "line 8, mail_max_userip_connections",
        "line 9, passdb static ssl: the server's certificate is always verified",
        "line 33, local_name imap.example.net",
    ]);
}

const PASSWD: &str = include_str!("examples/users");

#[test]
fn dovecot_2_3_with_a_passwd_file() {
    let conf = include_str!("examples/dovecot-2.3-users.conf");
    let made = made_with(conf, &[("/etc/dovecot/proxy-users", PASSWD)]);
    let wanted =
        [("10.0.0.1:143", TlsMode::None), ("10.0.0.2:1143", TlsMode::StartTls), ("10.0.0.9:143", TlsMode::None)];
    assert_eq!(made.backends(), wanted.map(|(address, tls)| (address.to_owned(), tls)));
    assert_eq!(
        made.lines(),
        ["anna@example.org 10.0.0.1:143", "bert@example.org 10.0.0.2:1143 bert", "carla@example.org 10.0.0.1:143"]
    );
    assert_eq!(made.config.routing.default.as_deref(), Some("10.0.0.9:143"));
    assert_eq!(made.listener("0.0.0.0:143").plaintext_login, PlaintextLogin::Always);
    made.loses(&[
        "line 4, of the passwd-file master: imapool logs in as the client does",
        "line 4, of the passwd-file pass: imapool logs in as the client does",
        "line 5, of the passwd-file: it does not proxy",
        "line 6, of the passwd-file: where it leads depends on the name",
        "line 7, passdb sql: write a service",
        "line 16, !include_try",
    ]);
}

/// As `doveconf -nP` prints it: keys are hidden. Whatever `ssl` says, Dovecot takes it for TLS.
#[test]
fn dovecot_that_hides_its_key() {
    let conf = "# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf\ndisable_plaintext_auth = no\npassdb {\n  \
        args = proxy=y host=10.0.0.5 ssl=1\n  driver = static\n}\n\
        ssl_cert = </etc/ssl/mail.pem\nssl_key = # hidden, use -P to show it\n";
    let made = made(conf);
    assert_eq!(made.backends(), [("10.0.0.5:993".to_owned(), TlsMode::Implicit)]);
    made.loses(&["ssl_cert and ssl_key: not both are named here, so NO LISTENER HAS TLS"]);
}

#[test]
fn dovecot_with_two_kinds_of_tls_at_one_server() {
    let conf = "passdb {\n  driver = passwd-file\n  args = /users\n}\n";
    let users = "anna:::::::proxy=y host=10.0.0.1\nbert:::::::proxy=y host=10.0.0.1 starttls=yes port=143\n";
    let made = made_with(conf, &[("/users", users)]);
    assert_eq!(made.backends(), [("10.0.0.1:143".to_owned(), TlsMode::StartTls)]);
    made.loses(&["10.0.0.1:143: named with and without TLS"]);
}

/// Whom the old proxy let in, the new one lets in, and nobody else; or it is said.
#[test]
fn dovecot_that_denies_some() {
    let conf = "passdb {\n  driver = static\n  args = proxy=y host=10.0.0.1 nopassword=y\n}\n\
                passdb {\n  driver = passwd-file\n  deny = yes\n  args = /denied\n}\n\
                passdb {\n  driver = sql\n  deny = yes\n  args = /sql\n}\n\
                passdb {\n  driver = passwd-file\n  args = /users\n}\n";
    let made = made_with(conf, &[("/denied", "# gone\nmallory\neve@example.org:x\n"), ("/users", "mallory::::::: \n")]);
    assert_eq!(made.lines(), ["mallory -", "eve@example.org -"]);
    made.loses(&[
        "passdb sql: WHOM IT DENIES IS LET IN",
        "passdb passwd-file: an earlier one is for everybody, so that nobody comes to this one",
    ]);
    let unread = made_with(&conf.replace("/denied", "/elsewhere"), &[]);
    unread.loses(&[
        "passdb passwd-file: its file cannot be read, and WHOM IT DENIES IS LET IN",
        "passdb sql: WHOM IT DENIES IS LET IN",
        "passdb passwd-file: an earlier one is for everybody",
    ]);
}

#[test]
fn dovecot_with_names_of_its_own() {
    let conf = "passdb {\n  driver = passwd-file\n  args = username_format=%n /users\n  username_filter = *@example.org\n\
                result_failure = continue\n}\n";
    let users = "anna:::::::proxy=y host=10.0.0.1 user=anna2\n\
                 bert:::::::proxy=y host=10.0.0.1 user=bert2 destuser=bert3\n\
                 carla:::::::proxy=y host=10.0.0.1 user=%n\n";
    let made = made_with(conf, &[("/users", users)]);
    assert_eq!(made.lines(), ["anna 10.0.0.1:143 anna2", "bert 10.0.0.1:143 bert3", "carla 10.0.0.1:143"]);
    made.loses(&[
        "passdb passwd-file username_filter",
        "passdb passwd-file result_failure",
        "passdb passwd-file username_format: names in the file are parts",
        "line 3, of the passwd-file user",
    ]);
}

#[test]
fn dovecot_2_4() {
    let conf = include_str!("examples/dovecot-2.4.conf");
    let made = made_with(conf, &[("/etc/dovecot/users", "anna:::::::host=10.0.0.1\nbert:::::::host=2001:db8::1\n")]);
    let wanted = [
        ("10.0.0.1:993", TlsMode::Implicit),
        ("[2001:db8::1]:993", TlsMode::Implicit),
        ("mail.example.org:143", TlsMode::StartTls),
    ];
    assert_eq!(made.backends(), wanted.map(|(address, tls)| (address.to_owned(), tls)));
    assert_eq!(made.lines(), ["anna 10.0.0.1:993", "bert [2001:db8::1]:993"]);
    let wanted = ["0.0.0.0:143", "[::]:143", "0.0.0.0:993", "[::]:993"];
    assert_eq!(made.listeners().into_iter().map(|(address, _)| address).collect::<Vec<_>>(), wanted);
    assert!(
        made.config
            .listeners
            .iter()
            .all(|it| it.tls != TlsMode::None && it.plaintext_login == PlaintextLogin::Loopback)
    );
    made.loses(&[
        "line 16, passdb static proxy_mech",
        "line 16, passdb static starttls: the server's certificate is always verified",
        "line 26, passdb ldap: write a service",
    ]);
}

#[test]
fn dovecot_that_cannot_be_read() {
    for (conf, words) in [
        ("passdb {\n  driver = pam\n}\n", "no passdb that proxies"),
        ("passdb {\n  driver = static\n  args = proxy=y host=%1Mu.example.com\n}\n", "no passdb that proxies"),
        ("passdb {\n  driver = static\n", "line 1: this section does not end"),
        ("passdb {\n}\n}\n", "line 3: this } ends nothing"),
    ] {
        assert!(error(conf).contains(words), "{conf}: {}", error(conf));
    }
    assert!(error(&"passdb {\n".repeat(10_000)).contains("so many sections"));
}

/// No line of a comment ends before it ends.
#[test]
fn a_name_with_a_line_in_it_says_nothing() {
    let conf = "passdb {\n  driver = passwd-file\n  args = \"/x\u{1b}[pool]\"\n}\n\
        passdb {\n  driver = static\n  args = proxy=y host=a\n}\n";
    let made = made(conf);
    made.loses(&["line 1, passdb passwd-file: /x?[pool] cannot be read"]);
}

#[test]
fn whose_it_is_is_seen_or_said() {
    for (conf, format) in [
        ("# mail\nserver_hostname a\n", Some(Format::Imapproxy)),
        ("events {}\nmail{\n}\n", Some(Format::Nginx)),
        ("#passdb\n  outgoing_server a\n", Some(Format::Perdition)),
        ("ssl = no\npassdb static {\n", Some(Format::Dovecot)),
        ("mail_location = x\n# mail {\n", None),
    ] {
        assert_eq!(Format::of(conf), format, "{conf}");
    }
    assert!(error("hello").contains("Write --from with one of imapproxy, nginx, perdition, dovecot"));
}

/// Whatever is thrown at them, they end, and what they make loads.
mod anything {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_read(
            conf in r#"((mail|server|listen|protocol|imap|auth_http|143|a\.b|\\|'|"|#|:|\*)[ ;{}\n]{0,3}){0,40}"#,
            other in r"((passdb|static|args|driver|proxy=y|host=|fields|P|s|M|ssl_mode|x|%\{u\}|<)[ ={}\n]{0,3}){0,40}",
            accounts in r"(([a-z@*. ]{0,6})[: ]{0,8}(proxy=y host=)?[a-z@$.:0-9]{0,8}\n){0,6}",
        ) {
            let read = |_: &Path| Ok(accounts.clone());
            let all = |conf| Format::ALL.map(|(_, format)| (conf, format));
            for (conf, format) in [&conf, &other].into_iter().flat_map(all) {
                if let Ok(imported) = import(Some(format), &source(conf, &read)) {
                    let loaded = Config::parse(&imported.toml, "t");
                    // What was wrong before is refused with its line.
                    if let Err(error) = loaded {
                        let text = error.to_string();
                        let wrong = ["only one can listen", "connect to itself", "keep that, or write another port"];
                        prop_assert!(wrong.iter().any(|words| text.contains(words)), "{text}\n{}", imported.toml);
                    }
                }
            }
        }
    }
}
