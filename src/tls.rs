//! TLS on both sides: certificates that can be exchanged while running, roots, and errors that say what to do.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use thiserror::Error;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config;
use crate::platform::files::{Identity, identity};

/// The ALPN name of IMAP (IANA registry). Offered, never required: few clients send it.
const ALPN_IMAP: &[u8] = b"imap";

/// Why TLS cannot be set up from the configuration.
#[derive(Debug, Error)]
pub enum TlsConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{} is not valid PEM: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: pem::Error,
    },
    /// No `BEGIN CERTIFICATE` in it.
    #[error("{} holds no certificate (no \"BEGIN CERTIFICATE\")", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No private key in it that can be used.
    #[error("{} holds no private key that can be used: it must be PEM (PKCS#8, PKCS#1 or SEC1) and not encrypted", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is of a kind that is not supported, or damaged.
    #[error("the private key in {} cannot be used: {source}", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A certificate that cannot be parsed.
    #[error("a certificate in {} cannot be used: {source}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Key and certificate are from different pairs.
    #[error("the private key in {} does not belong to the certificate in {} (the first one in the file must be the server's own)",
        private_key.display(), certificate.display())]
    Mismatch {
        /// The certificate chain's file.
        certificate: PathBuf,
        /// The private key's file.
        private_key: PathBuf,
    },
    /// `tls` is on, but there is no certificate or no key.
    #[error("tls is on, but certificate or private_key is not set")]
    NotConfigured,
    /// `server_name` is neither a DNS name nor an IP address.
    #[error("server_name \"{name}\" is neither a DNS name nor an IP address")]
    ServerName {
        /// As configured.
        name: String,
    },
    /// The system's roots cannot be loaded.
    #[error("the system's trusted certificates cannot be loaded ({0}): install ca-certificates, or set ca_file")]
    SystemRoots(rustls::Error),
    /// rustls refuses the combination.
    #[error("TLS cannot be set up: {0}")]
    Other(#[from] rustls::Error),
}

/// Why a handshake failed. The connection is gone.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Not finished in time.
    #[error("the TLS handshake was not finished within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The server's certificate was refused by us.
    #[error(transparent)]
    Certificate(#[from] CertificateProblem),
    /// The first bytes are no TLS.
    #[error("the other side does not speak TLS here: it may want STARTTLS, or no TLS (see `tls` in the configuration)")]
    NotTls,
    /// Any other breach or refusal, the other side's alerts included.
    #[error("the TLS handshake failed: {0}")]
    Protocol(rustls::Error),
    /// The other side went away.
    #[error("the connection was closed during the TLS handshake")]
    Closed,
    /// TLS has begun on this connection before.
    #[error("TLS is already active on this connection")]
    AlreadyTls,
    /// The backend's `tls` is none.
    #[error("TLS is not configured for this backend (`tls` is none)")]
    NotConfigured,
    /// The connection failed.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(io::Error),
}

/// Why a server's certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CertificateProblem {
    /// It is another host's.
    #[error("the certificate is not for \"{server_name}\" but for {presented}: set server_name to a name it carries")]
    WrongName {
        /// What was asked for.
        server_name: String,
        /// The names in the certificate.
        presented: String,
    },
    /// Its time is over: since this second of the Unix epoch, where that is known.
    #[error("the certificate has expired: renew it on the server (or check this host's clock)")]
    Expired(Option<i64>),
    /// Its time has not begun.
    #[error("the certificate is not valid yet: check this host's clock and the server's")]
    NotValidYet,
    /// Signed by nobody we trust.
    #[error(
        "the certificate is signed by an unknown authority: set ca_file to that authority's certificate, and let the server send its whole chain"
    )]
    UnknownIssuer,
    /// Anything else rustls objects to.
    #[error("the certificate was refused: {0}{remedy}", remedy = remedy(.0))]
    Other(CertificateError),
}

fn remedy(error: &CertificateError) -> &'static str {
    // `openssl req -x509` makes such certificates by default. The reason is known only by its name: rustls wraps the
    // error type of a crate that is not ours to depend on.
    if format!("{error:?}").contains("CaUsedAsEndEntity") {
        " (a self-signed server certificate must not say CA:TRUE; make it with basicConstraints=CA:FALSE)"
    } else {
        ""
    }
}

impl TlsError {
    /// A bounded name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "tls_timeout",
            Self::Certificate(_) => "tls_certificate",
            Self::NotTls | Self::Protocol(_) | Self::AlreadyTls | Self::NotConfigured => "tls_protocol",
            Self::Closed => "tls_closed",
            Self::Io(_) => "tls_io",
        }
    }

    /// Sorts what a handshake returned. `server_name` is what the certificate had to say (on the client side).
    pub(crate) fn classify(error: io::Error, server_name: Option<&ServerName<'_>>) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Self::Closed
                }
                _ => Self::Io(error),
            };
        };
        match tls {
            rustls::Error::InvalidCertificate(reason) => {
                Self::Certificate(CertificateProblem::classify(reason, server_name))
            }
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Protocol(other.clone()),
        }
    }
}

impl CertificateProblem {
    fn classify(error: &CertificateError, server_name: Option<&ServerName<'_>>) -> Self {
        let wanted = || server_name.map_or_else(String::new, |name| name.to_str().into_owned());
        match error {
            CertificateError::NotValidForNameContext { presented, .. } => {
                // A hostile server chooses these names: a few of them are enough, control characters are none.
                let names: Vec<_> = presented.iter().take(8).map(|name| readable(name)).collect();
                let presented = if names.is_empty() { "no name at all".into() } else { names.join(", ") };
                Self::WrongName { server_name: wanted(), presented }
            }
            CertificateError::NotValidForName => {
                Self::WrongName { server_name: wanted(), presented: "another host".into() }
            }
            CertificateError::Expired => Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired(not_after.as_secs().try_into().ok()),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            // The second: an authority of the same name as one of ours, but with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            other => Self::Other(other.clone()),
        }
    }
}

/// `DnsName("mail.example.org")`, as rustls presents it, made fit for a log line.
fn readable(presented: &str) -> String {
    let name = presented.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")")).unwrap_or(presented);
    name.chars().filter(|c| !c.is_control()).take(255).collect()
}

fn provider() -> Arc<CryptoProvider> {
    // Named, not the process's default: a library must not depend on who installed which first.
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A listener's certificate chain and key, which can be exchanged while connections are being accepted.
pub struct CertificateStore {
    certificate: PathBuf,
    private_key: PathBuf,
    current: ArcSwap<CertifiedKey>,
    /// The files as they were when they were last tried, good or bad.
    tried: Mutex<[Option<Stamp>; 2]>,
}

/// What tells that a file was exchanged. Of the file a symlink leads to: Kubernetes exchanges the symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    identity: Identity,
    modified: Option<SystemTime>,
    size: u64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { identity: identity(&metadata), modified: metadata.modified().ok(), size: metadata.len() })
    }
}

impl CertificateStore {
    /// Loads both PEM files and checks that they belong together.
    ///
    /// # Errors
    /// Names the file that is at fault.
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, TlsConfigError> {
        let tried = Mutex::new([Stamp::of(certificate), Stamp::of(private_key)]);
        let current = ArcSwap::from_pointee(certified_key(certificate, private_key)?);
        Ok(Self { certificate: certificate.into(), private_key: private_key.into(), current, tried })
    }

    /// When the first of its certificates expires, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        crate::certificate::expires(self.current.load().cert.iter().map(|certificate| &**certificate))
    }

    /// Its certificates, the server's own first.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.load().cert.clone()
    }

    /// Whether either file has changed since it was last loaded (or since the loading of it last failed). Costs two
    /// `stat` calls: poll it every few seconds.
    pub fn changed(&self) -> bool {
        *self.tried.lock() != self.stamps()
    }

    /// Loads the files again; handshakes from now on use them. Blocks for the reading of two small files.
    ///
    /// # Errors
    /// As [`CertificateStore::load`]. The certificate in use stays, and [`CertificateStore::changed`] is false until
    /// the files change once more: a half-written pair is reported once and repaired by its other half.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        // Before reading, so that a change while reading is seen by the next poll.
        *self.tried.lock() = self.stamps();
        self.current.store(Arc::new(certified_key(&self.certificate, &self.private_key)?));
        Ok(())
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [Stamp::of(&self.certificate), Stamp::of(&self.private_key)]
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore")
            .field("certificate", &self.certificate)
            .field("private_key", &self.private_key)
            .finish_non_exhaustive()
    }
}

fn certified_key(certificate: &Path, private_key: &Path) -> Result<CertifiedKey, TlsConfigError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(private_key)?).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsConfigError::NoKey { path: private_key.into() },
        source => TlsConfigError::Pem { path: private_key.into(), source },
    })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsConfigError::Mismatch { certificate: certificate.into(), private_key: private_key.into() }
        }
        rustls::Error::InvalidCertificate(_) => TlsConfigError::BadCertificate { path: certificate.into(), source },
        source => TlsConfigError::BadKey { path: private_key.into(), source },
    })
}

/// The certificates in a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let chain = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsConfigError::Pem { path: path.into(), source })?;
    if chain.is_empty() { Err(TlsConfigError::NoCertificate { path: path.into() }) } else { Ok(chain) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    crate::files::read(path, crate::files::PEM).map_err(|source| TlsConfigError::Read { path: path.into(), source })
}

/// The server side of TLS for one listener. Cheap to clone.
#[derive(Clone)]
pub struct TlsAcceptorConfig {
    pub(crate) acceptor: TlsAcceptor,
    store: Arc<CertificateStore>,
}

impl TlsAcceptorConfig {
    /// From a listener's `certificate` and `private_key`; `None` when its `tls` is none.
    ///
    /// # Errors
    /// When a file is missing, unreadable or wrong.
    pub fn new(listener: &config::Listener) -> Result<Option<Self>, TlsConfigError> {
        if listener.tls == config::TlsMode::None {
            return Ok(None);
        }
        let (Some(certificate), Some(private_key)) = (&listener.certificate, &listener.private_key) else {
            return Err(TlsConfigError::NotConfigured);
        };
        Self::with_store(Arc::new(CertificateStore::load(certificate, private_key)?)).map(Some)
    }

    /// From certificates loaded before, which several listeners may share.
    ///
    /// # Errors
    /// When rustls refuses the set-up.
    pub fn with_store(store: Arc<CertificateStore>) -> Result<Self, TlsConfigError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&store) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN_IMAP.to_vec()];
        // Stateless tickets: a front end that reconnects all the time then skips the signature.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), store })
    }

    /// The certificates, to be reloaded.
    pub fn certificates(&self) -> &Arc<CertificateStore> {
        &self.store
    }
}

impl fmt::Debug for TlsAcceptorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsAcceptorConfig").field(&self.store).finish()
    }
}

/// The client side of TLS for one backend: one for all its connections, since resumption lives in it. Cheap to clone.
#[derive(Clone)]
pub struct TlsConnectorConfig {
    pub(crate) connector: TlsConnector,
    pub(crate) server_name: ServerName<'static>,
}

impl TlsConnectorConfig {
    /// From a backend's `server_name` and `ca_file`.
    ///
    /// # Errors
    /// When the roots cannot be loaded, or the name is none.
    pub fn new(backend: &config::Backend) -> Result<Self, TlsConfigError> {
        let server_name = ServerName::try_from(backend.server_name.clone())
            .map_err(|_| TlsConfigError::ServerName { name: backend.server_name.clone() })?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier(backend.ca_file.as_deref())?)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_IMAP.to_vec()];
        config.resumption = Resumption::in_memory_sessions(32);
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }
}

impl fmt::Debug for TlsConnectorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnectorConfig").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn verifier(ca_file: Option<&Path>) -> Result<Arc<dyn ServerCertVerifier>, TlsConfigError> {
    let Some(path) = ca_file else {
        return match rustls_platform_verifier::Verifier::new(provider()) {
            Ok(verifier) => Ok(Arc::new(verifier)),
            Err(error) => Err(TlsConfigError::SystemRoots(error)),
        };
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsConfigError::BadCertificate { path: path.into(), source })?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    Ok(verifier.map_err(|error| TlsConfigError::Other(rustls::Error::General(error.to_string())))?)
}
