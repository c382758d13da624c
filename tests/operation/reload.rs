//! Another configuration and other certificates, under load: nobody notices, and what cannot be had changes nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use imapool::config::{ListenAddr, TlsMode};
use imapool::demo::server::{Options, Server};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::authority::Authority;
use crate::load::{Load, connect};
use crate::support::{Client, Harness, soon, until};

/// A configuration file, and the listeners and the backend that stay.
struct File {
    folder: TempDir,
    head: String,
}

impl File {
    fn new(backend: SocketAddr, listener: &str) -> Self {
        let head = format!(
            "[[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n{listener}\n\
             [[backend]]\nname = \"mail\"\naddress = \"{backend}\"\n"
        );
        Self { folder: tempfile::tempdir().unwrap(), head }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("imapool.toml")
    }

    /// What is given is the rest of the backend's section, and whatever comes after.
    fn write(&self, rest: &str) {
        let spare = if rest.contains("[pool]") { "" } else { "[pool]\nspare = 0\n" };
        fs::write(self.path(), format!("{}{rest}\n{spare}[admin]\naddress = \"\"\n", self.head)).unwrap();
    }

    async fn reload(&self, harness: &Harness, rest: &str) -> Result<Vec<String>, String> {
        self.write(rest);
        let reloaded = harness.proxy().reload_file().await;
        reloaded.map(|changes| changes.iter().map(ToString::to_string).collect()).map_err(|error| error.to_string())
    }
}

/// The proxy of a file that is not special.
async fn started(file: &File, backend: SocketAddr) -> Harness {
    let harness = Harness::start(backend, |config| {
        config.auth.failure_delay = std::time::Duration::from_secs(1);
    })
    .await;
    harness.proxy().set_source(file.path());
    // What the harness has of its own is undone.
    file.reload(&harness, "").await.unwrap();
    harness
}

#[tokio::test]
async fn a_hundred_reloads_under_load_lose_no_session() {
    let server = Server::start(Options::default()).await.unwrap();
    let file = File::new(server.address(), "");
    let harness = started(&file, server.address()).await;
    let load = Load::start(harness.address, None, 4, 6).await;
    load.further(4).await;
    let second = "[[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\n";
    let spare =
        format!("[[backend]]\nname = \"other\"\naddress = \"{}\"\nconnect_timeout = \"1s\"\n", server.address());
    let variants = [
        "login_timeout = \"20s\"\n",
        "[pool]\nspare = 0\nmax_per_account = 9\n",
        "[pool]\nspare = 0\nper_credential = true\nlinger = \"1s\"\n",
        "[auth]\ncache_ttl = \"1ms\"\n[limits]\nsessions = 100\nsessions_per_address = 50\n",
        "[pool]\nspare = 0\nmax_total = 20\n[log]\nlevel = \"debug\"\n",
        second,
        &spare,
        "",
    ];
    for round in 0..100 {
        let variant = variants[round % variants.len()];
        let changes = file.reload(&harness, variant).await.unwrap();
        assert!(!changes.is_empty(), "round {round}");
        assert_eq!(harness.proxy().listener_addresses().len(), if variant == second { 2 } else { 1 });
        load.further(2).await;
    }
    load.finish().await;
    let old = harness.metric("imapool_upstream_retired_total", "reason=\"reload\"");
    assert!(old >= 25, "{old} connections of earlier configurations were retired");
    assert_eq!(
        harness.metric("imapool_client_sessions_total", ""),
        harness.metric("imapool_client_sessions_total", "close=\"logout\"")
    );
    harness.finish().await;
    soon("closed", server.wait_open(|open| open == 0)).await;
}

#[tokio::test]
async fn ten_new_certificates_under_load() {
    let server = Server::start(Options::default()).await.unwrap();
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    // As Kubernetes does it: the files are links into a folder that is itself a link, which is exchanged.
    let show = |number: u64| {
        let data = folder.path().join(format!("data-{number}"));
        fs::create_dir(&data).unwrap();
        let issued = authority.issue(number);
        issued.write(&data);
        std::os::unix::fs::symlink(&data, folder.path().join("data-new")).unwrap();
        fs::rename(folder.path().join("data-new"), folder.path().join("data")).unwrap();
        issued
    };
    let mut shown = show(1);
    for file in ["certificate.pem", "key.pem"] {
        std::os::unix::fs::symlink(Path::new("data").join(file), folder.path().join(file)).unwrap();
    }
    let harness = Harness::start(server.address(), |config| {
        config.listeners[0].tls = TlsMode::Implicit;
        config.listeners[0].certificate = Some(folder.path().join("certificate.pem"));
        config.listeners[0].private_key = Some(folder.path().join("key.pem"));
    })
    .await;
    let load = Load::start(harness.address, Some(authority.clone()), 3, 4).await;
    for number in 2..=11 {
        let next = show(number);
        soon("the new certificate", async {
            loop {
                let stream = TcpStream::connect(harness.address).await.unwrap();
                let stream = authority.connect(stream).await.unwrap();
                if next.is_shown(&stream) {
                    return;
                }
                assert!(shown.is_shown(&stream), "neither the old one nor the new one");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
        shown = next;
        load.further(1).await;
    }
    // A key that does not belong to it: the last good pair serves on, and the log says what is wrong.
    fs::write(folder.path().join("data").join("key.pem"), authority.issue(99).key).unwrap();
    harness.logged(&["WARN", "cannot renew the certificate", "key.pem does not belong"]).await;
    let stream = TcpStream::connect(harness.address).await.unwrap();
    assert!(shown.is_shown(&authority.connect(stream).await.unwrap()));
    load.finish().await;
    harness.sessions(0).await;
}

#[tokio::test]
async fn what_cannot_be_had_changes_nothing_and_names_the_line() {
    let server = Server::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(1).write(folder.path());
    let file = File::new(server.address(), "");
    let harness = started(&file, server.address()).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap();
    let path = file.path();
    let in_folder = |name: &str| folder.path().join(name).display().to_string();
    let secure = |certificate: &str, key: &str| {
        format!(
            "[[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n\
             certificate = \"{certificate}\"\nprivate_key = \"{key}\"\n"
        )
    };
    fs::write(folder.path().join("other-key.pem"), authority.issue(2).key).unwrap();
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    // The fixed part has 7 lines; with each wrong thing comes a right one, which must not be done either.
    let wrong = [
        ("[pool]\nmax_per_account = 7\nlingr = \"1s\"\n".to_owned(), 10, "unknown key `pool.lingr`"),
        ("[pool]\nmax_per_account = \n".to_owned(), 9, "not valid TOML"),
        (secure(&in_folder("certificate.pem"), &in_folder("no-key.pem")), 13, "cannot be read"),
        (secure(&in_folder("certificate.pem"), &in_folder("other-key.pem")), 13, "does not belong to the certificate"),
        (secure(&in_folder("empty.pem"), &in_folder("key.pem")), 12, "holds no certificate"),
        (
            format!("[[listener]]\nname = \"new\"\naddress = \"{taken}\"\n[pool]\nmax_per_account = 7\n"),
            10,
            "is in use",
        ),
        ("ca_file = \"/nowhere/ca.pem\"\ntls = \"implicit\"\n".to_owned(), 8, "cannot be read"),
        ("source_port_range = \"1-5\"\n".to_owned(), 8, "source_port_range"),
    ];
    let before = harness.proxy().config();
    for (rest, line, reason) in wrong {
        let error = file.reload(&harness, &rest).await.unwrap_err();
        assert!(error.starts_with(&format!("{}:{line}:", path.display())), "{error}\n{rest}");
        assert!(error.contains(reason), "{error}");
        harness.logged(&["ERROR", "the old configuration serves on", reason]).await;
        assert_eq!(harness.proxy().config(), before);
        harness.visit("u8").await;
    }
    assert_eq!(harness.metric("imapool_upstream_retired_total", ""), 0, "the old connections serve on");
    fs::remove_file(&path).unwrap();
    let error = harness.proxy().reload_file().await.unwrap_err().to_string();
    assert!(error.contains("cannot read the configuration"), "{error}");
    harness.finish().await;
}

/// It holds for the sessions that are there, too: they are never on more connections than the file allows.
#[tokio::test]
async fn another_number_of_connections_holds_for_sessions_that_are_there() {
    let server = Server::start(Options::default()).await.unwrap();
    let file = File::new(server.address(), "");
    let harness = started(&file, server.address()).await;
    let mut clients = Vec::new();
    for mailbox in ["INBOX", "One", "Two"] {
        let mut client = harness.login("u8").await;
        if mailbox != "INBOX" {
            client.play(&format!("C: c CREATE {mailbox}\nS: c OK…")).await;
        }
        client.play(&format!("C: a SELECT {mailbox}\nS~ a OK…\nC: i IDLE\nS: + …")).await;
        clients.push(client);
    }
    until("one for each mailbox", || server.open_of("u8") == 3).await;
    for most in [1, 2, 1, 3] {
        file.reload(&harness, &format!("[pool]\nspare = 0\nmax_per_account = {most}\n")).await.unwrap();
        until("no more than allowed", || server.open_of("u8") <= most).await;
        for client in &mut clients {
            client.play("C: DONE\nS~ i OK…\nC: n STATUS INBOX (UIDNEXT)\nS~ n OK…\nC: i IDLE\nS: + …").await;
            assert!(server.open_of("u8") <= most);
        }
    }
    for mut client in clients {
        client.play("C: DONE\nS~ i OK…\nC: z LOGOUT\nS~ z OK…\nS.").await;
    }
    harness.finish().await;
}

#[tokio::test]
async fn connections_of_a_changed_backend_are_drained() {
    let [old, new] =
        [Server::start(Options::default()).await.unwrap(), Server::start(Options::default()).await.unwrap()];
    let file = File::new(old.address(), "");
    let mut harness = started(&file, old.address()).await;
    harness.visit("rests").await;
    let mut stays = harness.login("stays").await;
    stays.play("C: a SELECT INBOX\nS~ a OK…").await;
    let greeted = harness.client().await;
    let moved = File { head: file.head.replace(&old.address().to_string(), &new.address().to_string()), ..file };
    let changes = moved.reload(&harness, "").await.unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].contains("backend \"mail\".port"), "{changes:?}");
    // Nobody stays, neither at rest nor in a mailbox; who is there, comes now or logs in now goes to the new server.
    soon("the old server is left", old.wait_open(|open| open == 0)).await;
    stays.play("C: b FETCH 1 (FLAGS)\nS~ b OK…").await;
    harness.visit("rests").await;
    let mut greeted = greeted;
    greeted.play("C: a LOGIN late pw-late\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    assert_eq!((old.counters().logins, new.counters().logins), (2, 3));
    for client in [&mut stays, &mut greeted] {
        client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    }
    harness.at_rest(3).await;
    let proxy = harness.take();
    soon("drain", proxy.drain()).await;
}

#[tokio::test]
async fn a_listener_that_is_gone_lets_its_sessions_go_on() {
    let server = Server::start(Options::default()).await.unwrap();
    let file = File::new(server.address(), "");
    let harness = started(&file, server.address()).await;
    let second = "[[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\nplaintext_login = \"never\"\n";
    file.reload(&harness, second).await.unwrap();
    let Some((_, ListenAddr::Tcp(address))) =
        harness.proxy().listener_addresses().into_iter().find(|(name, _)| name == "second")
    else {
        panic!("no second listener");
    };
    let mut client = Client::connect(address).await;
    assert!(client.line().await.contains("LOGINDISABLED"));
    // Its settings change in place: the address cannot be bound twice.
    let changes = file.reload(&harness, &second.replace("never", "always")).await.unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    let mut later = connect(address, None).await;
    later.play("C: a LOGIN u8 pw-u8\nS: a OK…").await;
    file.reload(&harness, "").await.unwrap();
    until("nobody listens there", || std::net::TcpStream::connect(address).is_err()).await;
    later.play("C: b SELECT INBOX\nS~ b OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    harness.finish().await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named() {
    let server = Server::start(Options::default()).await.unwrap();
    let file = File::new(server.address(), "");
    let harness = started(&file, server.address()).await;
    let changes = file.reload(&harness, "[log]\nformat = \"json\"\n").await.unwrap();
    assert_eq!(changes, ["~ log.format: \"text\" -> \"json\"  (NEEDS A RESTART)"]);
    harness.logged(&["WARN", "needs a restart", "log.format"]).await;
    assert_eq!(file.reload(&harness, "[log]\nformat = \"json\"\n").await.unwrap(), [""; 0]);
    harness.finish().await;
}

#[tokio::test]
async fn limits_hold_at_once_in_both_directions() {
    let server = Server::start(Options::default()).await.unwrap();
    let file = File::new(server.address(), "");
    let harness = started(&file, server.address()).await;
    let mut strangers = [harness.client().await, harness.client().await, harness.client().await];
    file.reload(&harness, "[limits]\nunauthenticated = 1\n").await.unwrap();
    for stranger in &mut strangers[..2] {
        stranger.play("S: * BYE [UNAVAILABLE] Too many connections…\nS.").await;
    }
    strangers[2].play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    let first = harness.login("one").await;
    file.reload(&harness, "[limits]\nsessions = 1\n").await.unwrap();
    let mut second = Client::connect(harness.address).await;
    second.play("S: * BYE [LIMIT]…\nS.").await;
    file.reload(&harness, "[limits]\nsessions = 2\n").await.unwrap();
    drop(harness.client().await);
    drop(first);
    // The budget of upstream connections, with three in use.
    file.reload(&harness, "[pool]\nspare = 0\nmax_total = 3\n").await.unwrap();
    let mut clients = Vec::new();
    for user in ["one", "two", "three"] {
        let mut client = harness.login(user).await;
        client.play("C: a SELECT INBOX\nS~ a OK…").await;
        clients.push(client);
    }
    file.reload(&harness, "[pool]\nspare = 0\nmax_total = 2\ncheckout_timeout = \"100ms\"\n").await.unwrap();
    assert_eq!((harness.proxy().budget().in_use(), harness.proxy().budget().capacity()), (3, 2));
    for mut client in clients.drain(..2) {
        client.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    }
    file.reload(&harness, "[pool]\nspare = 0\nmax_total = 4\n").await.unwrap();
    for user in ["four", "five"] {
        let mut client = harness.login(user).await;
        client.play("C: a SELECT INBOX\nS~ a OK…").await;
        clients.push(client);
    }
    assert!(harness.proxy().budget().in_use() <= 4);
    drop(clients);
    harness.finish().await;
}
