//! Certificates made for one test, and a folder to keep them in.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imapool::config::{Backend, Listener, TlsMode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::soon;

const NAME: &str = "mail.example.org";

/// An authority, a server's certificate for `mail.example.org`, and files with them.
pub(crate) struct Certificates {
    folder: PathBuf,
    authority: String,
    certificate: String,
    key: String,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("imapool-behaviour-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap().pem();
        let this = Self { folder, authority, certificate, key: key.serialize_pem() };
        for (file, content) in [("ca", &this.authority), ("certificate", &this.certificate), ("key", &this.key)] {
            fs::write(this.folder.join(file), content).unwrap();
        }
        this
    }

    pub(crate) fn secure_listener(&self, listener: &mut Listener, mode: TlsMode) {
        listener.tls = mode;
        listener.certificate = Some(self.folder.join("certificate"));
        listener.private_key = Some(self.folder.join("key"));
    }

    pub(crate) fn secure_backend(&self, backend: &mut Backend, mode: TlsMode) {
        backend.tls = mode;
        backend.server_name = NAME.into();
        backend.ca_file = Some(self.folder.join("ca"));
    }

    /// TLS as the client.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(NAME).unwrap();
        soon("TLS", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    /// TLS as the server.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.folder);
    }
}
