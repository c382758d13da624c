//! What a configuration needs of this host, looked at as a start or a reload does, but without opening a port; and,
//! where that is wished, of the backends.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::{StartError, new_backend};
use crate::admin::Token;
use crate::certificate::Validity;
use crate::config::{Config, Lifetime, TlsMode, Warning};
use crate::listener::ListenerContext;
use crate::metrics::Metrics;
use crate::net::Net;
use crate::ports::{self, Budget};
use crate::routing;
use crate::tls::{self, TlsConnectorConfig};
use crate::upstream::backend::{AskError, Asked};

/// What became of the look.
#[derive(Debug, Default)]
pub struct Checked {
    /// Why [`super::Proxy::start`] would refuse it; all of it, but for addresses that are in use.
    pub faults: Vec<StartError>,
    /// What is allowed and yet likely to be a mistake, in the configuration and in the files that it names.
    pub warnings: Vec<Warning>,
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
                Ok(context) => {
                    let chain = context.tls.map(|tls| tls.certificates().chain()).unwrap_or_default();
                    let whose = format!("listener \"{}\"", listener.name);
                    checked.certificates(&whose, listener.certificate.as_deref(), &chain, now);
                }
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
            if let Err(source) = TlsConnectorConfig::new(backend) {
                checked.faults.push(StartError::Tls { name: name.clone(), source });
            } else if let Some(file) = &backend.ca_file {
                let chain = tls::certificates(file).unwrap_or_default();
                checked.certificates(&format!("backend \"{name}\""), Some(file), &chain, now);
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

    /// Warns of the worst in one file.
    fn certificates<C: AsRef<[u8]>>(&mut self, whose: &str, file: Option<&Path>, certificates: &[C], now: i64) {
        if let (Some(lifetime), Some(file)) = (worst(certificates, now), file) {
            self.warnings.push(Warning::Certificate { whose: whose.to_owned(), file: file.to_owned(), lifetime });
        }
    }
}

/// What is to be told of a chain of certificates: of the worst of them.
pub(super) fn worst<C: AsRef<[u8]>>(certificates: &[C], now: i64) -> Option<Lifetime> {
    let lifetimes = certificates.iter().filter_map(|certificate| {
        let Validity { begins, ends } = Validity::of(certificate.as_ref())?;
        Lifetime::at(now, begins, ends)
    });
    lifetimes.min()
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
    let names: Vec<_> = config.backends.iter().map(|backend| backend.name.clone()).collect();
    let (metrics, budget) = (Metrics::new(&names), Budget::new(config));
    let pool = Arc::new(ArcSwap::from_pointee(config.pool.clone()));
    let made = config.backends.iter().enumerate();
    let made = made.map(|(index, backend)| new_backend(index, backend, &pool, &budget, &metrics, &Net::System));
    let backends = made.collect::<Result<Vec<_>, _>>()?;
    let asked = backends.into_iter().map(|backend| tokio::spawn(async move { backend.ask().await }));
    let mut answers = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        match answer.await {
            Ok(answer) => answers.push(answer),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(answers)
}

/// What is to be told now of a certificate that is good until then, in seconds since the Unix epoch.
#[must_use]
pub fn certificate_until(ends: i64) -> Option<Lifetime> {
    Lifetime::at(now(), i64::MIN, ends)
}
