//! An authority that issues as many certificates as a test wants.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::soon;

pub(crate) const NAME: &str = "mail.example.org";

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Arc<Self> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // As strict clients want it.
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Arc::new(Self { issuer: Issuer::new(params, key), pem })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn issue(&self, serial: u64) -> Issued {
        self.issue_as(|params| params.serial_number = Some(SerialNumber::from(serial)))
    }

    /// For another host.
    pub(crate) fn issue_for(&self, name: &str) -> Issued {
        self.issue_as(|params| *params = CertificateParams::new([name.to_owned()]).unwrap())
    }

    /// Good from yesterday until so many seconds from now; fewer than 0: it is over.
    pub(crate) fn issue_until(&self, seconds: i64) -> Issued {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let at = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(now.checked_add_signed(seconds).unwrap());
        self.issue_as(|params| (params.not_before, params.not_after) = (at(-24 * 60 * 60), at(seconds)))
    }

    fn issue_as(&self, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        change(&mut params);
        // Without a name of its own, it looks as if it were signed by itself.
        params.distinguished_name.push(DnType::CommonName, "host");
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// TLS as the client, without resumption: each handshake sees the certificate.
    pub(crate) async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from(NAME).unwrap();
        soon("TLS", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }
}

impl Issued {
    pub(crate) fn write(&self, folder: &Path) {
        std::fs::write(folder.join("certificate.pem"), &self.certificate).unwrap();
        std::fs::write(folder.join("key.pem"), &self.key).unwrap();
    }

    /// Whether this is what the server has shown.
    pub(crate) fn is_shown(&self, stream: &TlsStream<TcpStream>) -> bool {
        let ours = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        stream.get_ref().1.peer_certificates().is_some_and(|shown| shown[0] == ours)
    }
}
