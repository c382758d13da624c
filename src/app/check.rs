//! What a configuration needs of this host, looked at as a start or a reload does, but without opening a port; and,
//! where that is wished, of the backends.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Made, StartError};
use crate::admin::Token;
use crate::certificate::Validity;
use crate::config::{Config, Lifetime, TlsMode};
use crate::files;
use crate::listener::ListenerContext;
use crate::net::Net;
use crate::ports;
use crate::routing;
use crate::tls::{self, CertificateStore, TlsConnectorConfig};
use crate::upstream::backend::{AskError, Asked};

/// What became of the look.
#[derive(Debug, Default)]
pub struct Checked {
    /// Why [`super::Proxy::start`] would refuse it; all of it, but for addresses that are in use.
    pub faults: Vec<StartError>,
    /// What is allowed and yet likely to be a mistake, in the configuration and in the files that it names; each in one
    /// line with a remedy.
    pub warnings: Vec<String>,
}

impl Checked {
    /// Looks at a configuration. Blocks for the reading of a few small files.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut checked = Self { faults: Vec::new(), warnings: config.warnings() };
        let now = now();
        for listener in &config.listeners {
            match ListenerContext::new(listener) {
                Err(error) => checked.faults.push(error.into()),
                Ok(context) => checked.listener(&context, now),
            }
        }
        for backend in &config.backends {
            let name = &backend.name;
            if let Err(source) = ports::check_range(backend) {
                checked.faults.push(StartError::Ports { name: name.clone(), source });
            }
            if backend.tls == TlsMode::None {
                continue;
            }
            let whose = format!("backend \"{name}\"");
            match TlsConnectorConfig::new(backend) {
                Err(source) => checked.faults.push(StartError::Tls { name: name.clone(), source }),
                Ok(tls) => {
                    checked.authorities(&whose, backend.ca_file.as_deref(), now);
                    tls.certificate.iter().for_each(|store| checked.certificates(&whose, store, now));
                }
            }
        }
        if let Err(error) = routing::check(config) {
            checked.faults.push(error.into());
        }
        // Without the address, nobody asks for it.
        if config.admin.address.is_some()
            && let Err(error) = Token::load(&config.admin)
        {
            checked.faults.push(error.into());
        }
        checked
    }

    fn listener(&mut self, context: &ListenerContext, now: i64) {
        let Some(tls) = &context.tls else { return };
        let whose = format!("listener \"{}\"", context.config.name);
        self.certificates(&whose, tls.certificates(), now);
        let left_out = tls.certificates().left_out().iter();
        self.warnings
            .extend(left_out.map(|problem| format!("{whose}: not all of its certificates are shown: {problem}")));
        self.authorities(&whose, context.config.client_ca_file.as_deref(), now);
    }

    /// Warns of each that is not good, or not for long.
    fn certificates(&mut self, whose: &str, store: &CertificateStore, now: i64) {
        for certificate in store.all() {
            self.lifetime(whose, certificate.file(), worst(&certificate.validities, now));
        }
    }

    /// Warns of the worst in the file.
    fn authorities(&mut self, whose: &str, file: Option<&Path>, now: i64) {
        let Some(file) = file else { return };
        let certificates = tls::certificates(file, files::PEM).unwrap_or_default();
        let validities: Vec<_> = certificates.iter().filter_map(|it| Validity::of(it)).collect();
        self.lifetime(whose, file, worst(&validities, now));
    }

    fn lifetime(&mut self, whose: &str, file: &Path, lifetime: Option<Lifetime>) {
        self.warnings.extend(lifetime.map(|it| format!("{whose}: a certificate in {} {it}", file.display())));
    }
}

/// What is to be told of a chain of certificates: of the worst of them.
pub(super) fn worst(chain: &[Validity], now: i64) -> Option<Lifetime> {
    chain.iter().filter_map(|validity| Lifetime::at(now, validity.begins, validity.ends)).min()
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What each backend answers, in the order of the configuration; all are asked at once, and no credential is shown.
/// Within half a minute, whatever they do.
///
/// # Errors
/// Where a backend cannot even be asked: [`Checked`] tells that before.
pub async fn ask(config: &Config) -> Result<Vec<Result<Asked, AskError>>, StartError> {
    let asked = Made::of(config, &Net::System)?
        .backends
        .into_iter()
        .map(|backend| tokio::spawn(async move { backend.ask().await }));
    let mut answers = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        answers.push(answer.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    Ok(answers)
}

/// What is to be told now of a certificate that is good until then, in seconds since the Unix epoch.
#[must_use]
pub fn certificate_until(ends: i64) -> Option<Lifetime> {
    Lifetime::at(now(), i64::MIN, ends)
}
