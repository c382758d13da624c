//! TLS towards a real server: from the first byte and by STARTTLS; a certificate that does not fit is an outage.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server, scratch_folder};

/// A self-signed certificate for `mail.example.org`, and its key.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let parameters = CertificateParams::new(vec!["mail.example.org".to_owned()]).expect("a name");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let files = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&files.0, certificate.pem()).expect("our folder");
    std::fs::write(&files.1, key.serialize_pem()).expect("our folder");
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_over_implicit_tls() {
    sessions_over_tls("implicit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_over_starttls() {
    sessions_over_tls("starttls").await;
}

async fn sessions_over_tls(tls: &'static str) {
    let folder = scratch_folder();
    let mut options = Options::new(Accounts::numbered("u", 1));
    let files = certificate(folder.path());
    options.tls = Some(files.clone());
    let Some(server) = Server::start(Kind::Dovecot, &options).await else { return };
    for (name, good) in [("mail.example.org", true), ("other.example.org", false)] {
        let backend = format!("server_name = \"{name}\"\nca_file = \"{}\"", files.0.display());
        let proxy = Proxy::start(&server, &Settings { tls, backend, ..Settings::default() }).await;
        let mut client = Client::connect(proxy.address).await.expect("a greeting");
        let login = client.command(&format!("LOGIN u0 {}", password_of("u0"))).await.expect("a reply");
        if good {
            login.ok();
            client.command("SELECT INBOX").await.expect("a reply").ok();
            client.logout().await.expect("LOGOUT");
        } else {
            assert!(login.tagged.starts_with("NO [UNAVAILABLE]"), "{login}");
            assert!(proxy.log().contains("certificate"), "{}", proxy.log());
        }
        proxy.finish();
    }
}
