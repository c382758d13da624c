//! What goes wrong with TLS, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::CertificateError;
use rustls::server::VerifierBuilderError;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem;
use thiserror::Error;

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
    /// A further certificate that no client can ask for.
    #[error("the certificate in {} carries no host's name (subjectAltName, DNS): no client gets it", path.display())]
    NoName {
        /// The file.
        path: PathBuf,
    },
    /// More in a folder than is looked at.
    #[error("{} holds more than {most} {what}, and the others are not looked at: delete what is not needed, or name \
             another folder", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// How much may be there.
        most: usize,
        /// Of what.
        what: &'static str,
    },
    /// A folder that had certificates.
    #[error("{} is empty, and was not: is something mounted there? The certificates that were in it stay until a \
             reload", path.display())]
    Emptied {
        /// The folder.
        path: PathBuf,
    },
    /// A folder without any certificate.
    #[error("{} has no certificate with its key that could be shown: is it the right folder, and are they called as \
             docs/security.md says?", path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
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

impl From<VerifierBuilderError> for TlsConfigError {
    fn from(error: VerifierBuilderError) -> Self {
        Self::Other(rustls::Error::General(error.to_string()))
    }
}

impl TlsConfigError {
    /// The file or folder at fault.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::Pem { path, .. }
            | Self::NoCertificate { path }
            | Self::NoKey { path }
            | Self::BadKey { path, .. }
            | Self::BadCertificate { path, .. }
            | Self::NoName { path }
            | Self::TooMany { path, .. }
            | Self::Nothing { path }
            | Self::Emptied { path } => Some(path),
            Self::Mismatch { private_key, .. } => Some(private_key),
            Self::NotConfigured | Self::ServerName { .. } | Self::SystemRoots(_) | Self::Other(_) => None,
        }
    }
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
    /// The client's certificate was refused by us, or it has shown none (`listener.client_ca_file`); why.
    #[error("the client was refused: {0}")]
    Client(String),
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

/// Why a client's certificate is not accepted.
fn client_refused(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: check this host's clock".into()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by none of the authorities in client_ca_file".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("its certificate cannot be accepted: {error} (its extended key usage must have clientAuth)")
        }
        other => format!("its certificate cannot be accepted: {other}{}", remedy(other)),
    }
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
            Self::Certificate(_) | Self::Client(_) => "tls_certificate",
            Self::NotTls | Self::Protocol(_) | Self::AlreadyTls | Self::NotConfigured => "tls_protocol",
            Self::Closed => "tls_closed",
            Self::Io(_) => "tls_io",
        }
    }

    /// Sorts what a handshake returned. `server_name` is what the certificate had to say; `None`: we are the server.
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
            rustls::Error::NoCertificatesPresented => {
                Self::Client("it has shown no certificate, which client_ca_file requires".into())
            }
            rustls::Error::InvalidCertificate(reason) => match server_name {
                Some(name) => Self::Certificate(CertificateProblem::classify(reason, name)),
                None => Self::Client(client_refused(reason)),
            },
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Protocol(other.clone()),
        }
    }
}

impl CertificateProblem {
    fn classify(error: &CertificateError, server_name: &ServerName<'_>) -> Self {
        let wanted = || server_name.to_str().into_owned();
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
