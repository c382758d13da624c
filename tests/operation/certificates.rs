//! Certificates both ways: an imapool in front of another one that lets in only whom an authority knows; and what both
//! do when the files change.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imapool::config::{PoolMode, TlsMode};
use imapool::demo::server::{Options, Server};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::authority::{Authority, Issued, NAME};
use crate::support::{Harness, soon, until};

/// One file with both, exchanged as a whole.
fn put(folder: &Path, name: &str, issued: &Issued) -> PathBuf {
    let (new, file) = (folder.join("new"), folder.join(name));
    fs::write(&new, format!("{}{}", issued.certificate, issued.key)).unwrap();
    fs::rename(new, &file).unwrap();
    file
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// A session of this user, from its login to its end. What the login was answered.
async fn session(harness: &Harness, user: &str) -> String {
    let mut client = harness.client().await;
    client.send(format!("l LOGIN {user} pw-{user}\r\n").as_bytes()).await;
    let answer = client.line().await;
    if answer.starts_with("l OK") {
        client.play("C: s SELECT INBOX\nS~ s OK…\nC: o LOGOUT\nS: * BYE…\nS: o OK…\nS.").await;
    }
    answer
}

async fn between_two(mode: PoolMode, tls: TlsMode) {
    eprintln!("{mode:?} {tls:?}");
    let server = Server::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (servers, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let path = folder.path();
    let behind = Harness::start(server.address(), |config| {
        config.pool.mode = mode;
        let listener = &mut config.listeners[0];
        listener.name = "inner".into();
        let file = put(path, "server.pem", &servers.issue(1));
        (listener.tls, listener.certificate, listener.private_key) = (tls, Some(file.clone()), Some(file));
        listener.client_ca_file = Some(write(path, "clients.pem", clients.pem()));
    })
    .await;
    // Both tell the log of the one that was started last.
    let front = Harness::start(behind.address, |config| {
        config.pool.mode = mode;
        let backend = &mut config.backends[0];
        (backend.tls, backend.server_name) = (tls, NAME.into());
        backend.ca_file = Some(write(path, "servers.pem", servers.pem()));
        let file = put(path, "client.pem", &clients.issue(2));
        (backend.certificate, backend.private_key) = (Some(file.clone()), Some(file));
    })
    .await;
    assert!(session(&front, "u1").await.starts_with("l OK"));
    assert_eq!(behind.metric("imapool_client_sessions_closed_total", "handshake_failed"), 0);

    // Another certificate, which the other side does not know: for connections from then on.
    let mut there = front.login("u2").await;
    put(path, "client.pem", &others.issue(3));
    front.logged(&["INFO", "certificate renewed", "backend=\"mail\"", "client.pem"]).await;
    let answer = session(&front, "u3").await;
    assert!(answer.starts_with("l NO [UNAVAILABLE]"), "{answer}");
    front.logged(&["the client was refused", "signed by none of the authorities in client_ca_file"]).await;
    there.play("C: s STATUS INBOX (MESSAGES)\nS~ s OK…\nC: o LOGOUT\nS: * BYE…\nS: o OK…\nS.").await;

    // The other side learns of it.
    write(path, "clients.pem", others.pem());
    front.logged(&["INFO", "certificate renewed", "listener=\"inner\"", "clients.pem"]).await;
    soon("a login", async { while !session(&front, "u4").await.starts_with("l OK") {} }).await;
    front.finish().await;
    behind.finish().await;
}

#[tokio::test]
async fn certificates_are_shown_to_backends_and_wanted_of_clients() {
    for tls in [TlsMode::Implicit, TlsMode::StartTls] {
        between_two(PoolMode::Multiplex, tls).await;
        between_two(PoolMode::Session, tls).await;
    }
}

/// A listener with a certificate of its own and a folder of further ones.
async fn with_folder(authority: &Authority, own: &Issued) -> (Server, TempDir, Harness) {
    let server = Server::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("certs");
    fs::create_dir(&certs).unwrap();
    put(&certs, "further.pem", &authority.issue(1));
    let harness = Harness::start(server.address(), |config| {
        let listener = &mut config.listeners[0];
        let file = put(folder.path(), "own.pem", own);
        listener.tls = TlsMode::Implicit;
        (listener.certificate, listener.private_key) = (Some(file.clone()), Some(file));
        listener.certificates = vec![certs];
    })
    .await;
    (server, folder, harness)
}

/// For the one name that these certificates have.
async fn is_shown(harness: &Harness, authority: &Authority, issued: &Issued) -> bool {
    let stream = TcpStream::connect(harness.address).await.unwrap();
    issued.is_shown(&authority.connect(stream).await.unwrap())
}

#[tokio::test]
async fn a_folder_is_renewed_while_it_runs_and_by_a_reload() {
    let authority = Authority::new();
    let own = authority.issue_until(40 * 24 * 60 * 60);
    let (_server, folder, harness) = with_folder(&authority, &own).await;
    let certs = folder.path().join("certs");
    let soonest = || harness.metric("imapool_listener_certificate_expiry_timestamp_seconds", "");
    let longer = authority.issue(2);
    let with_own = soonest();
    put(&certs, "further.pem", &longer);
    harness.logged(&["INFO", "certificate renewed", "further.pem"]).await;
    assert!(is_shown(&harness, &authority, &longer).await);
    assert_eq!(soonest(), with_own, "it expires later");

    // A broken one; others beside it are taken.
    write(&certs, "further.pem", "nothing");
    harness.logged(&["WARN", "cannot renew the certificate", "further.pem holds no certificate"]).await;
    assert!(is_shown(&harness, &authority, &longer).await);
    // One that expires before any other, for which nobody asks: it is told, and counted.
    put(&certs, "short.pem", &authority.issue_until(60 * 60));
    harness.logged(&["INFO", "certificate renewed", "short.pem"]).await;
    harness.logged(&["WARN", "its certificate in", "short.pem expires at"]).await;
    assert!(soonest() < with_own);
    assert!(is_shown(&harness, &authority, &longer).await);

    // A reload keeps what has become wrong, and takes what it finds.
    let config = (*harness.proxy().config()).clone();
    harness.proxy().reload(config.clone()).await.unwrap();
    assert!(is_shown(&harness, &authority, &longer).await);
    let mut without = config;
    without.listeners[0].certificates.clear();
    harness.proxy().reload(without).await.unwrap();
    assert!(is_shown(&harness, &authority, &own).await);
    until("the metric", || soonest() == with_own).await;
    harness.finish().await;
}

/// The output of a program that is a client, with both streams; `None`: it is not installed.
async fn client(program: &'static str, arguments: Vec<String>) -> Option<(bool, String)> {
    let run = move || {
        let mut command = Command::new("timeout");
        let mut child = command.arg("20").arg(program).args(arguments);
        child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        // Who ends by itself may have ended already.
        let _gone = child.stdin.take().unwrap().write_all(b"a LOGOUT\r\n");
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    if output.status.code() == Some(127) {
        assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none(), "{program} is not installed");
        eprintln!("SKIPPED: {program} is not installed");
        return None;
    }
    let told = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&told).into_owned()))
}

const PYTHON: &str = "import imaplib, socket, ssl, sys\n\
    port, name, ca, cert = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]\n\
    context = ssl.create_default_context(cafile=ca)\n\
    cert and context.load_cert_chain(cert[0])\n\
    class Named(imaplib.IMAP4_SSL):\n\
    \x20   def _create_socket(self, timeout=None):\n\
    \x20       return context.wrap_socket(socket.create_connection(('127.0.0.1', port)), server_hostname=name)\n\
    with Named() as mail:\n\
    \x20   mail.login('u1', 'pw-u1'); print(mail.select('INBOX'))\n";

/// Each verifies the certificate for the name that it asks for, and shows its own or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_clients_get_the_right_certificate_and_show_theirs() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let server = Server::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let further = put(path, "further.pem", &servers.issue_for("imap.example.net"));
    let harness = Harness::start(server.address(), |config| {
        let listener = &mut config.listeners[0];
        let file = put(path, "own.pem", &servers.issue(1));
        (listener.tls, listener.certificate, listener.private_key) =
            (TlsMode::Implicit, Some(file.clone()), Some(file));
        listener.certificates = vec![further];
        listener.client_ca_file = Some(write(path, "clients.pem", clients.pem()));
    })
    .await;
    let port = harness.address.port().to_string();
    let ca = write(path, "ca.pem", servers.pem()).display().to_string();
    let ours = put(path, "client.pem", &clients.issue(2)).display().to_string();
    for name in [NAME, "imap.example.net"] {
        for shows in [true, false] {
            let own = |flag: &str| if shows { vec![flag.to_owned(), ours.clone()] } else { Vec::new() };
            let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
            let url = format!("imaps://{name}:{port}/INBOX;MAILINDEX=1");
            let resolve = format!("{name}:{port}:127.0.0.1");
            let curl = [words(&["-sS", "-u", "u1:pw-u1", "--cacert", &ca, "--resolve", &resolve, &url]), own("--cert")];
            let address = format!("127.0.0.1:{port}");
            let s_client = ["s_client", "-quiet", "-verify_return_error", "-CAfile", &ca, "-connect", &address];
            let s_client = [words(&s_client), words(&["-servername", name, "-verify_hostname", name]), own("-cert")];
            let python = [words(&["-c", PYTHON, &port, name, &ca]), own("").split_off(usize::from(shows))];
            for (program, arguments, wanted) in [
                ("curl", curl.concat(), "Subject:"),
                ("openssl", s_client.concat(), "a OK"),
                ("python3", python.concat(), "'OK'"),
            ] {
                let Some((succeeded, told)) = client(program, arguments).await else { continue };
                assert_eq!(told.contains(wanted), shows, "{program} {name} {succeeded}: {told}");
            }
        }
    }
    harness.finish().await;
}
