//! PEM files: certificates with their chains and keys, and what tells that a file was exchanged.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::InconsistentKeys;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsConfigError;
use super::provider;
use crate::certificate::{self, Validity};
use crate::files;
use crate::platform::files::{Identity, identity};

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

/// A file with a chain, and the one with its key: often the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
}

/// Both files of a pair.
pub(super) type Stamps = [Option<Stamp>; 2];

impl Pair {
    pub(super) fn new(certificate: &Path, private_key: &Path) -> Self {
        Self { certificate: certificate.into(), private_key: private_key.into() }
    }

    pub(super) fn stamps(&self) -> Stamps {
        let certificate = Stamp::of(&self.certificate);
        let same = self.private_key == self.certificate;
        [certificate, if same { certificate } else { Stamp::of(&self.private_key) }]
    }
}

/// A certificate that can be shown, with its key, and what is known of it.
pub(crate) struct Certificate {
    pub(super) pair: Pair,
    /// Of the files, before they were read.
    pub(super) stamps: Stamps,
    pub(super) key: Arc<CertifiedKey>,
    /// As hosts are called: in lower case, without a dot at the end.
    pub(super) names: Vec<String>,
    /// Of the chain, as far as it is understood.
    pub(crate) validities: Vec<Validity>,
    pub(super) expires: Option<i64>,
}

impl Certificate {
    /// Reads both files, of at most `most` octets each, and checks that they belong together.
    pub(super) fn load(pair: &Pair, most: u64) -> Result<Self, TlsConfigError> {
        // Before reading, so that a change while reading is seen by the next look.
        let stamps = pair.stamps();
        let key = certified_key(pair, most)?;
        let chain = || key.cert.iter().map(|certificate| &**certificate);
        Ok(Self {
            stamps,
            names: chain().next().map(certificate::names).unwrap_or_default(),
            validities: chain().filter_map(Validity::of).collect(),
            expires: certificate::expires(chain()),
            key: Arc::new(key),
            pair: pair.clone(),
        })
    }

    /// The file with the chain.
    pub(crate) fn file(&self) -> &Path {
        &self.pair.certificate
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("file", &self.pair.certificate).finish_non_exhaustive()
    }
}

fn certified_key(pair: &Pair, most: u64) -> Result<CertifiedKey, TlsConfigError> {
    let Pair { certificate, private_key } = pair;
    let chain = certificates(certificate, most)?;
    let key = PrivateKeyDer::from_pem_slice(&read(private_key, most)?).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsConfigError::NoKey { path: private_key.clone() },
        source => TlsConfigError::Pem { path: private_key.clone(), source },
    })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsConfigError::Mismatch { certificate: certificate.clone(), private_key: private_key.clone() }
        }
        rustls::Error::InvalidCertificate(_) => TlsConfigError::BadCertificate { path: certificate.clone(), source },
        source => TlsConfigError::BadKey { path: private_key.clone(), source },
    })
}

/// The certificates in a PEM file of at most `most` octets; at least one.
pub(crate) fn certificates(path: &Path, most: u64) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let chain = CertificateDer::pem_slice_iter(&read(path, most)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsConfigError::Pem { path: path.into(), source })?;
    if chain.is_empty() { Err(TlsConfigError::NoCertificate { path: path.into() }) } else { Ok(chain) }
}

/// There may be a key in it.
fn read(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, TlsConfigError> {
    let octets = files::read(path, most).map_err(|source| TlsConfigError::Read { path: path.into(), source })?;
    Ok(Zeroizing::new(octets))
}
