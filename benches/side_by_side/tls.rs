//! TLS between the load and the proxies: one certificate for all of them, and clients that trust it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// Whom the certificate is for.
pub(crate) const NAME: &str = "localhost";

/// What both sides need.
pub(crate) struct Tls {
    /// The certificate and its key (ECDSA on P-256) in one file.
    pub(crate) pem: PathBuf,
    roots: RootCertStore,
}

impl Tls {
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
        let pem = folder.join("tls.pem");
        fs::write(&pem, cert.pem() + &signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        Ok(Self { pem, roots })
    }

    /// Of one front end, whose connections share their tickets where it `resumes`.
    pub(crate) fn client(&self, resumes: bool) -> Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(Arc::new(config))
    }
}
