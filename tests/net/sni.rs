//! Which certificate a client gets that says what it calls this host; clients that have to show one of their own, and
//! backends that ask for one.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use imapool::config::{self, TlsMode};
use imapool::listener::{BindProblem, BoundListener, HandshakeError, prepare};
use imapool::net::Net;
use imapool::stream::Stream;
use imapool::tls::{TlsAcceptorConfig, TlsConfigError, TlsError};
use imapool::upstream::dial::Dialer;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Authority, Folder, LIMIT, Pair, backend, pass, port_of, soon, tcp_listener};

const DEFAULT: &str = "mail.example.org";

/// A listener with implicit TLS, a certificate of its own, and a folder of further ones.
struct Place {
    folder: Folder,
    certs: PathBuf,
    ca: Authority,
    own: Pair,
    config: config::Listener,
}

impl Place {
    fn new() -> Self {
        let (folder, ca, mut config) = (Folder::new(), Authority::new(), tcp_listener());
        config.tls = TlsMode::Implicit;
        let own = ca.sign(DEFAULT);
        own.install(&folder.0, &mut config);
        let certs = folder.0.join("certs");
        fs::create_dir(&certs).unwrap();
        config.certificates = vec![certs.clone()];
        Self { folder, certs, ca, own, config }
    }

    fn bind(&self) -> BoundListener {
        BoundListener::bind(&self.config).unwrap()
    }

    /// Puts chain and key into one file of the folder; exchanged as a whole, as is to be done.
    fn put(&self, file: &str, pair: &Pair) -> PathBuf {
        let (new, file) = (self.folder.file("new", &both(pair)), self.certs.join(file));
        fs::rename(new, &file).unwrap();
        file
    }
}

fn both(pair: &Pair) -> String {
    format!("{}{}", pair.certificate, pair.key)
}

fn tls(listener: &BoundListener) -> &TlsAcceptorConfig {
    listener.context().tls.as_ref().unwrap()
}

/// Takes any certificate: these tests look which it is. Knows these signatures.
#[derive(Debug)]
struct Any(CryptoProvider, Vec<SignatureScheme>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.clone()
    }
}

/// What who asks for this name (or for none) and knows these signatures gets.
async fn shown_to(
    listener: &BoundListener,
    name: Option<&str>,
    schemes: Vec<SignatureScheme>,
) -> CertificateDer<'static> {
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let client = client.with_safe_default_protocol_versions().unwrap();
    let any = Arc::new(Any(default_provider(), schemes));
    let mut client = client.dangerous().with_custom_certificate_verifier(any).with_no_client_auth();
    client.enable_sni = name.is_some();
    let address: SocketAddr = ([127, 0, 0, 1], port_of(listener)).into();
    let connected = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name.unwrap_or("none.example").to_owned()).unwrap();
        TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap()
    };
    let accepted = async {
        let (stream, peer) = listener.accept().await;
        prepare(stream, peer, listener.context(), LIMIT).await.unwrap()
    };
    let (client, _server) = soon(async { tokio::join!(connected, accepted) }).await;
    client.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[track_caller]
fn is(shown: &CertificateDer<'_>, pair: &Pair) {
    assert!(*shown == CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap(), "another certificate");
}

/// Each name and what is shown for it.
async fn shows(listener: &BoundListener, all: &[(Option<&str>, &Pair)]) {
    let schemes = default_provider().signature_verification_algorithms.supported_schemes();
    for (name, pair) in all {
        eprintln!("{name:?}");
        is(&shown_to(listener, *name, schemes.clone()).await, pair);
    }
}

#[tokio::test]
async fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let mut place = Place::new();
    let [net, star, named] = ["a.example.net", "*.example.net", "named.example.com"].map(|name| place.ca.sign(name));
    place.put("a.pem", &net);
    // As certbot lays them down.
    fs::create_dir(place.certs.join("live")).unwrap();
    for (file, text) in
        [("fullchain.pem", &star.certificate), ("cert.pem", &star.certificate), ("privkey.pem", &star.key)]
    {
        fs::write(place.certs.join("live").join(file), text).unwrap();
    }
    place.config.certificates.push(place.folder.file("named.pem", &both(&named)));
    let listener = place.bind();
    assert!(tls(&listener).certificates().left_out().is_empty());
    shows(
        &listener,
        &[
            (Some("a.example.net"), &net),
            (Some("A.Example.Net"), &net),
            (Some("b.example.net"), &star),
            (Some("c.b.example.net"), &place.own),
            (Some("named.example.com"), &named),
            (Some(DEFAULT), &place.own),
            (Some("unknown.example"), &place.own),
            (None, &place.own),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_two_kinds_of_keys_the_one_that_the_client_knows() {
    let place = Place::new();
    let ecdsa = place.ca.sign("a.example.net");
    place.put("a.pem.ecdsa", &ecdsa);
    let Some(rsa) = rsa("a.example.net", &place.folder) else { return };
    place.put("a.pem.rsa", &rsa);
    let listener = place.bind();
    let name = Some("a.example.net");
    let all = default_provider().signature_verification_algorithms.supported_schemes();
    is(&shown_to(&listener, name, all).await, &ecdsa);
    is(&shown_to(&listener, name, vec![SignatureScheme::RSA_PSS_SHA256]).await, &rsa);
    is(&shown_to(&listener, name, vec![SignatureScheme::ECDSA_NISTP256_SHA256]).await, &ecdsa);
}

/// One by openssl: rcgen makes no RSA keys with every library.
fn rsa(name: &str, folder: &Folder) -> Option<Pair> {
    let (certificate, key) = (folder.0.join("rsa.pem"), folder.0.join("rsa.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=x", "-addext"])
        .arg(format!("subjectAltName=DNS:{name}"))
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none(), "openssl is not installed");
        eprintln!("SKIPPED: openssl is not installed");
        return None;
    }
    Some(Pair { certificate: fs::read_to_string(certificate).unwrap(), key: fs::read_to_string(key).unwrap() })
}

#[tokio::test]
async fn a_folder_is_looked_at_again_and_what_breaks_in_it_breaks_nothing_else() {
    let place = Place::new();
    let [one, two, renewed] = ["one.example", "two.example", "two.example"].map(|name| place.ca.sign(name));
    place.put("one.pem", &one);
    let listener = place.bind();
    let renew = || tls(&listener).renew();
    assert!(renew().is_empty());
    // A new one.
    let file = place.put("two.pem", &two);
    assert_eq!(renew().taken, std::slice::from_ref(&file));
    assert!(renew().is_empty());
    let all = [(Some("one.example"), &one), (Some("two.example"), &two)];
    shows(&listener, &all).await;
    // A broken one is told once, by its name; the old one serves on, and others are renewed beside it.
    fs::write(&file, &two.certificate).unwrap();
    let renewal = renew();
    assert!(matches!(&renewal.problems[..], [TlsConfigError::NoKey { path }] if *path == file), "{renewal:?}");
    let other = place.ca.sign("one.example");
    place.put("one.pem", &other);
    let renewal = renew();
    assert_eq!((renewal.taken.len(), renewal.problems.len()), (1, 0), "{renewal:?}");
    shows(&listener, &[(Some("one.example"), &other), (Some("two.example"), &two)]).await;
    // Mended.
    place.put("two.pem", &renewed);
    assert_eq!(renew().taken, std::slice::from_ref(&file));
    shows(&listener, &[(Some("two.example"), &renewed)]).await;
    // Gone.
    fs::remove_file(&file).unwrap();
    assert_eq!(renew().gone, [file]);
    shows(&listener, &[(Some("one.example"), &other), (Some("two.example"), &place.own)]).await;
    // All at once: as if the folder had been unmounted. And then it is there again.
    fs::rename(place.certs.join("one.pem"), place.folder.0.join("kept")).unwrap();
    assert!(matches!(&renew().problems[..], [TlsConfigError::Emptied { .. }]));
    assert!(renew().is_empty(), "told once");
    shows(&listener, &[(Some("one.example"), &other)]).await;
    fs::rename(&place.certs, place.folder.0.join("moved")).unwrap();
    assert!(matches!(&renew().problems[..], [TlsConfigError::Read { .. }]));
    shows(&listener, &[(Some("one.example"), &other)]).await;
}

/// As certbot does: each of the two names is taken away and given anew, one after the other. Whenever that is looked
/// at, the old pair is shown, until the new one is whole.
#[tokio::test]
async fn a_pair_serves_on_while_its_files_are_exchanged_one_after_the_other() {
    let place = Place::new();
    let (old, new) = (place.ca.sign("one.example"), place.ca.sign("one.example"));
    let live = place.certs.join("one.example");
    fs::create_dir(&live).unwrap();
    let [chain, key] = ["fullchain.pem", "privkey.pem"].map(|name| live.join(name));
    fs::write(&chain, &old.certificate).unwrap();
    fs::write(&key, &old.key).unwrap();
    let listener = place.bind();
    let wanted = async |pair: &Pair| shows(&listener, &[(Some("one.example"), pair)]).await;
    wanted(&old).await;
    for (file, text) in [(&key, &new.key), (&chain, &new.certificate)] {
        fs::remove_file(file).unwrap();
        for _ in 0..2 {
            let renewal = tls(&listener).renew();
            assert!(renewal.gone.is_empty() && renewal.taken.is_empty(), "{renewal:?}");
            wanted(&old).await;
        }
        fs::write(file, text).unwrap();
        let renewal = tls(&listener).renew();
        assert_eq!(renewal.taken.len(), usize::from(*file == chain), "{renewal:?}");
        wanted(if *file == chain { &new } else { &old }).await;
    }
    // The key under another name.
    let moved = live.join("key.pem");
    fs::rename(&key, &moved).unwrap();
    assert!(tls(&listener).renew().gone.is_empty());
    wanted(&new).await;
    // Both are gone.
    fs::remove_file(&moved).unwrap();
    fs::remove_file(&chain).unwrap();
    place.put("other.pem", &place.ca.sign("other.example"));
    assert_eq!(tls(&listener).renew().gone, [chain]);
}

/// At the start, and by `imapool check`.
#[tokio::test]
async fn a_folder_without_a_certificate_is_told() {
    let place = Place::new();
    fs::write(place.certs.join("README"), "nothing").unwrap();
    let listener = place.bind();
    let left_out = tls(&listener).certificates().left_out();
    assert!(matches!(left_out, [TlsConfigError::Nothing { path }] if *path == place.certs), "{left_out:?}");
    let config = imapool::config::Config::parse(
        &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\ncertificate = '{}'\nprivate_key = '{}'\n\
             certificates = ['{}']\n[[backend]]\naddress = \"127.0.0.1:9\"\n",
            place.config.certificate.as_ref().unwrap().display(),
            place.config.private_key.as_ref().unwrap().display(),
            place.certs.display()
        ),
        "imapool.toml",
    );
    let warnings: Vec<_> =
        imapool::app::Checked::new(&config.unwrap()).warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|told| told.contains("has no certificate with its key")), "{warnings:?}");
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_left_out_of_a_folder_and_refused_where_it_is_named() {
    let mut place = Place::new();
    let (one, other) = (place.ca.sign("one.example"), place.ca.sign("other.example"));
    place.put("one.pem", &one);
    place.put("nobody.pem", &place.ca.sign_with("x.example", |params| params.subject_alt_names.clear()));
    fs::write(place.certs.join("bare.pem"), &one.certificate).unwrap();
    fs::write(place.certs.join("strange.crt"), &one.certificate).unwrap();
    fs::write(place.certs.join("strange.key"), &other.key).unwrap();
    fs::write(place.certs.join("long.pem"), "-".repeat((1 << 16) + 1)).unwrap();
    // Part of what ACME clients lay down, and no fault.
    fs::write(place.certs.join("chain.pem"), &one.certificate).unwrap();
    let listener = place.bind();
    let told: Vec<_> = tls(&listener).certificates().left_out().iter().map(ToString::to_string).collect();
    for (file, words) in [
        ("nobody.pem", "carries no host's name"),
        ("bare.pem", "holds no private key"),
        ("strange.key", "does not belong to the certificate"),
        ("long.pem", "longer than"),
    ] {
        assert!(told.iter().any(|told| told.contains(file) && told.contains(words)), "{file}: {told:#?}");
    }
    assert_eq!(told.len(), 4, "{told:#?}");
    shows(&listener, &[(Some("one.example"), &one), (Some("x.example"), &place.own)]).await;
    for file in ["bare.pem", "nobody.pem", "strange.crt", "none.pem", "chain.pem"] {
        place.config.certificates = vec![place.certs.join(file)];
        let error = BoundListener::bind(&place.config).unwrap_err();
        assert!(matches!(error.reason, BindProblem::Tls(_)), "{file}: {error:?}");
    }
}

/// As at a reload of the configuration: what has become wrong in a folder since is still shown.
#[tokio::test]
async fn another_configuration_takes_over_what_is_there() {
    let mut place = Place::new();
    let one = place.ca.sign("one.example");
    let file = place.put("one.pem", &one);
    let before = TlsAcceptorConfig::after(&place.config, None).unwrap().unwrap();
    let same = TlsAcceptorConfig::after(&place.config, Some(&before)).unwrap().unwrap();
    assert!(same.is_like(&before));
    fs::write(&file, "").unwrap();
    let after = TlsAcceptorConfig::after(&place.config, Some(&before)).unwrap().unwrap();
    assert!(!after.is_like(&before));
    assert_eq!(after.certificates().left_out().len(), 1);
    // What is gone is gone, where it is an operator who says so.
    let aside = place.folder.0.join("aside");
    fs::rename(&file, &aside).unwrap();
    let without = TlsAcceptorConfig::after(&place.config, Some(&before)).unwrap().unwrap();
    assert!(matches!(without.certificates().left_out(), [TlsConfigError::Nothing { .. }]) && !without.is_like(&before));
    fs::rename(&aside, &file).unwrap();
    place.config.certificates.clear();
    assert!(!TlsAcceptorConfig::after(&place.config, Some(&after)).unwrap().unwrap().is_like(&after));
    // Whether it is still there shows where it is renewed from: nothing of it was lost.
    fs::remove_file(&file).unwrap();
    place.put("two.pem", &place.ca.sign("two.example"));
    assert_eq!(after.renew().gone, [file]);
}

/// Both ends of a connection whose client may have to show a certificate: `client` is the backend's side of it.
async fn meet(listener: &BoundListener, dialer: &Dialer) -> (Result<(), String>, Result<(), HandshakeError>) {
    soon(async {
        tokio::join!(
            async {
                let mut stream = dialer.connect(pass(), None, &[]).await.map_err(|error| error.to_string())?;
                // With TLS 1.3 the refusal comes after the handshake.
                match stream.read_u8().await {
                    Ok(b'!') => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            },
            async {
                let (stream, peer) = listener.accept().await;
                let mut accepted = prepare(stream, peer, listener.context(), LIMIT).await?;
                if let Stream::Tls(tls) = &accepted.stream {
                    assert_eq!(tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full), "resumed");
                }
                accepted.stream.write_all(b"!").await.unwrap();
                accepted.stream.flush().await.unwrap();
                Ok(())
            }
        )
    })
    .await
}

/// A listener that wants certificates of clients, and a backend configuration that leads to it.
struct Mutual {
    place: Place,
    clients: Authority,
    listener: BoundListener,
    backend: config::Backend,
}

impl Mutual {
    fn new() -> Self {
        let (mut place, clients) = (Place::new(), Authority::named("For clients"));
        place.config.client_ca_file = Some(place.folder.file("clients.pem", &clients.pem));
        let listener = place.bind();
        let mut backend = backend("127.0.0.1", port_of(&listener));
        backend.tls = TlsMode::Implicit;
        backend.ca_file = Some(place.folder.file("ca.pem", &place.ca.pem));
        Self { place, clients, listener, backend }
    }

    /// One that shows this certificate.
    fn dialer(&self, pair: &Pair) -> Dialer {
        let mut backend = self.backend.clone();
        let file = self.place.folder.file("own.pem", &both(pair));
        (backend.certificate, backend.private_key) = (Some(file.clone()), Some(file));
        Dialer::new(&backend, Net::System).unwrap()
    }

    async fn refused(&self, dialer: &Dialer) -> String {
        match meet(&self.listener, dialer).await {
            (Err(_), Err(HandshakeError::Tls(TlsError::Client(problem)))) => problem,
            other => panic!("{other:?}"),
        }
    }
}

const NO_CERTIFICATE: &str = "it has shown no certificate, which client_ca_file requires";
const UNKNOWN_ISSUER: &str = "its certificate is signed by none of the authorities in client_ca_file";

#[tokio::test]
async fn a_client_has_to_show_a_certificate_that_the_authority_has_signed() {
    let mutual = Mutual::new();
    let good = mutual.dialer(&mutual.clients.sign("front-end"));
    // Shown each time: nobody resumes by what was good once.
    for _ in 0..3 {
        assert!(matches!(meet(&mutual.listener, &good).await, (Ok(()), Ok(()))));
    }
    assert_eq!(mutual.refused(&Dialer::new(&mutual.backend, Net::System).unwrap()).await, NO_CERTIFICATE);
    let stranger = mutual.dialer(&mutual.place.ca.sign("front-end"));
    assert_eq!(mutual.refused(&stranger).await, UNKNOWN_ISSUER);
    let namesake = mutual.dialer(&Authority::named("For clients").sign("front-end"));
    assert_eq!(mutual.refused(&namesake).await, UNKNOWN_ISSUER);
    let over = mutual.clients.sign_with("front-end", |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(mutual.refused(&mutual.dialer(&over)).await, "its certificate has expired");
    let early = mutual.clients.sign_with("front-end", |params| params.not_before = date_time_ymd(4000, 1, 1));
    assert_eq!(
        mutual.refused(&mutual.dialer(&early)).await,
        "its certificate is not valid yet: check this host's clock"
    );
    let servers = mutual.clients.sign_with("front-end", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let problem = mutual.refused(&mutual.dialer(&servers)).await;
    assert!(problem.contains("clientAuth"), "{problem}");
    assert!(matches!(meet(&mutual.listener, &good).await, (Ok(()), Ok(()))));
}

#[tokio::test]
async fn authorities_and_own_certificates_are_renewed() {
    let mutual = Mutual::new();
    let (first, second) = (Authority::new(), mutual.clients.sign("front-end"));
    let dialer = mutual.dialer(&first.sign("front-end"));
    assert_eq!(mutual.refused(&dialer).await, UNKNOWN_ISSUER);
    // Another authority for clients.
    let file = mutual.place.folder.file("clients.pem", &first.pem);
    assert_eq!(tls(&mutual.listener).renew().taken, [file]);
    assert!(matches!(meet(&mutual.listener, &dialer).await, (Ok(()), Ok(()))));
    // A broken one is told, and the old one stays.
    mutual.place.folder.file("clients.pem", "");
    assert!(matches!(&tls(&mutual.listener).renew().problems[..], [TlsConfigError::NoCertificate { .. }]));
    assert!(tls(&mutual.listener).renew().is_empty());
    assert!(matches!(meet(&mutual.listener, &dialer).await, (Ok(()), Ok(()))));
    // The one before again: whom it has not signed is refused, though it was accepted a moment ago.
    mutual.place.folder.file("clients.pem", &mutual.clients.pem);
    assert_eq!(tls(&mutual.listener).renew().problems.len(), 0);
    assert_eq!(mutual.refused(&dialer).await, UNKNOWN_ISSUER);
    // The other side's turn.
    mutual.place.folder.file("own.pem", &both(&second));
    assert_eq!(dialer.certificate().unwrap().renew().taken.len(), 1);
    assert!(matches!(meet(&mutual.listener, &dialer).await, (Ok(()), Ok(()))));
    mutual
        .place
        .folder
        .file("own.pem", &format!("{}{}", second.certificate, KeyPair::generate().unwrap().serialize_pem()));
    assert!(matches!(&dialer.certificate().unwrap().renew().problems[..], [TlsConfigError::Mismatch { .. }]));
    assert!(matches!(meet(&mutual.listener, &dialer).await, (Ok(()), Ok(()))));
}

/// As hosting providers have them. Of thousands, what has changed is read, and nothing else.
#[tokio::test]
async fn thousands_of_certificates() {
    const MANY: usize = 3000;
    let place = Place::new();
    let [first, last] = [0, MANY - 1].map(|number| place.ca.sign(&format!("host{number}.example")));
    let key = KeyPair::generate().unwrap();
    for number in 1..MANY - 1 {
        let certificate = place.ca.certify(&format!("host{number}.example"), &key);
        fs::write(place.certs.join(format!("host{number}.pem")), both(&certificate)).unwrap();
    }
    place.put("host0.pem", &first);
    place.put(&format!("host{}.pem", MANY - 1), &last);
    let listener = place.bind();
    assert!(tls(&listener).certificates().left_out().is_empty());
    assert!(tls(&listener).renew().is_empty());
    let names = [0, MANY - 1].map(|number| format!("host{number}.example"));
    shows(&listener, &[(Some(&names[0]), &first), (Some(&names[1]), &last), (Some("host.example"), &place.own)]).await;
    let renewed = place.ca.sign("host7.example");
    let file = place.put("host7.pem", &renewed);
    assert_eq!(tls(&listener).renew().taken, [file]);
    shows(&listener, &[(Some("host7.example"), &renewed), (Some(&names[0]), &first)]).await;
}
