//! TLS on both sides: certificates that can be exchanged while running, roots, and errors that say what to do.

mod error;
mod names;
mod pem;
mod shelf;
mod store;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use self::error::{CertificateProblem, TlsConfigError, TlsError};
pub(crate) use self::pem::{Stamp, certificates};
pub use self::store::{CertificateStore, Renewal};
use crate::{config, files};

/// The ALPN name of IMAP (IANA registry). Offered, never required: few clients send it.
const ALPN_IMAP: &[u8] = b"imap";

fn provider() -> Arc<CryptoProvider> {
    // Named, not the process's default: a library must not depend on who installed which first.
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The server side of TLS for one listener.
pub struct TlsAcceptorConfig {
    server: ArcSwap<ServerConfig>,
    store: Arc<CertificateStore>,
    clients: Option<Clients>,
}

/// Who has to have signed the certificates of clients.
struct Clients {
    ca_file: PathBuf,
    /// The file as it was when it was last tried, good or bad.
    tried: Mutex<Option<Stamp>>,
}

impl TlsAcceptorConfig {
    /// From a listener's `certificate`, `private_key`, `certificates` and `client_ca_file`; `None` when its `tls` is
    /// none. Of files in folders, those that are wrong are left out (`CertificateStore::left_out`). What is the same as
    /// in an earlier one, in whose place it comes, is taken over, and what has become wrong in a folder since.
    ///
    /// # Errors
    /// When a file that is named is missing, unreadable or wrong.
    pub fn after(listener: &config::Listener, earlier: Option<&Self>) -> Result<Option<Self>, TlsConfigError> {
        if listener.tls == config::TlsMode::None {
            return Ok(None);
        }
        let (Some(certificate), Some(private_key)) = (&listener.certificate, &listener.private_key) else {
            return Err(TlsConfigError::NotConfigured);
        };
        let earlier = earlier.map(|earlier| &*earlier.store);
        let store = Arc::new(CertificateStore::after(certificate, private_key, &listener.certificates, earlier)?);
        let clients = |ca_file: &PathBuf| Clients { ca_file: ca_file.clone(), tried: Mutex::new(Stamp::of(ca_file)) };
        let clients = listener.client_ca_file.as_ref().map(clients);
        let server = ArcSwap::from_pointee(server(&store, clients.as_ref())?);
        Ok(Some(Self { server, store, clients }))
    }

    /// For one handshake.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.server.load_full())
    }

    /// The certificates.
    pub fn certificates(&self) -> &Arc<CertificateStore> {
        &self.store
    }

    /// Whether both are made of the same files, and these were the same when they were last looked at.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let authorities =
            |it: &Self| it.clients.as_ref().map(|clients| (clients.ca_file.clone(), *clients.tried.lock()));
        self.store.is_like(&other.store) && authorities(self) == authorities(other)
    }

    /// Loads what has changed; handshakes from now on use it. What cannot be loaded stays as it was, and is told once.
    /// Blocks for a look at each file.
    #[must_use]
    pub fn renew(&self) -> Renewal {
        let mut renewal = self.store.renew();
        let Some(clients) = &self.clients else { return renewal };
        let mut tried = clients.tried.lock();
        let stamp = Stamp::of(&clients.ca_file);
        if *tried != stamp {
            *tried = stamp;
            match server(&self.store, Some(clients)) {
                Ok(server) => {
                    self.server.store(Arc::new(server));
                    renewal.taken.push(clients.ca_file.clone());
                }
                Err(problem) => renewal.problems.push(problem),
            }
        }
        renewal
    }
}

fn server(store: &Arc<CertificateStore>, clients: Option<&Clients>) -> Result<ServerConfig, TlsConfigError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(clients) => {
            let roots = Arc::new(roots(&clients.ca_file)?);
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(store) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![ALPN_IMAP.to_vec()];
    if clients.is_some() {
        // Who resumes a session shows no certificate: it may have expired since, and its authority be gone.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        // Stateless tickets: a front end that reconnects all the time then skips the signature.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
    }
    Ok(config)
}

impl fmt::Debug for TlsAcceptorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsAcceptorConfig").field(&self.store).finish()
    }
}

/// The client side of TLS for one backend: one for all its connections, since resumption lives in it.
pub struct TlsConnectorConfig {
    pub(crate) connector: TlsConnector,
    pub(crate) server_name: ServerName<'static>,
    /// What is shown to a backend that asks for it.
    pub(crate) certificate: Option<Arc<CertificateStore>>,
}

impl TlsConnectorConfig {
    /// From a backend's `server_name`, `ca_file`, `certificate` and `private_key`.
    ///
    /// # Errors
    /// When the roots or the certificate cannot be loaded, or the name is none.
    pub fn new(backend: &config::Backend) -> Result<Self, TlsConfigError> {
        let server_name = ServerName::try_from(backend.server_name.clone())
            .map_err(|_| TlsConfigError::ServerName { name: backend.server_name.clone() })?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier(backend.ca_file.as_deref())?);
        let pair = backend.certificate.as_ref().zip(backend.private_key.as_ref());
        let store = pair.map(|(certificate, private_key)| CertificateStore::load(certificate, private_key));
        let certificate = store.transpose()?.map(Arc::new);
        let mut config = match &certificate {
            Some(store) => builder.with_client_cert_resolver(Arc::clone(store) as Arc<dyn ResolvesClientCert>),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_IMAP.to_vec()];
        // Who resumes is taken for whom he showed himself as at first, however the certificate was renewed since.
        config.resumption =
            if certificate.is_some() { Resumption::disabled() } else { Resumption::in_memory_sessions(32) };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name, certificate })
    }
}

impl fmt::Debug for TlsConnectorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnectorConfig").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn verifier(ca_file: Option<&Path>) -> Result<Arc<dyn ServerCertVerifier>, TlsConfigError> {
    let Some(path) = ca_file else {
        let verifier = rustls_platform_verifier::Verifier::new(provider()).map_err(TlsConfigError::SystemRoots)?;
        return Ok(Arc::new(verifier));
    };
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots(path)?), provider()).build()?)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, files::PEM)? {
        roots.add(certificate).map_err(|source| TlsConfigError::BadCertificate { path: path.into(), source })?;
    }
    Ok(roots)
}
