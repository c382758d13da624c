//! Certificates and authorities whose files change while it runs.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;
use tracing::{info, warn};

use super::Inner;
use crate::listener::ListenerContext;
use crate::tls::{Renewal, TlsAcceptorConfig};
use crate::upstream::backend::Backend;

/// One look takes at most one of so many parts of the time: thousands of files take a while.
const SHARE: u32 = 50;
/// Of thousands that have changed at once, each look names so many.
const NAMED: usize = 20;

/// Held while somebody looks. When the next one may.
pub(super) type Looking = Arc<Mutex<Option<Instant>>>;

/// Whose certificates they are.
enum Owner {
    Listener(Arc<ListenerContext>),
    Backend(Arc<Backend>),
}

impl Owner {
    fn renew(&self) -> Renewal {
        match self {
            Self::Listener(context) => context.tls.as_ref().map(TlsAcceptorConfig::renew),
            Self::Backend(backend) => backend.dialer.certificate().map(|store| store.renew()),
        }
        .unwrap_or_default()
    }

    fn tell(&self, renewal: &Renewal) {
        let (listener, backend) = match self {
            Self::Listener(context) => (Some(context.config.name.as_str()), None),
            Self::Backend(backend) => (None, Some(backend.config.name.as_str())),
        };
        for file in renewal.taken.iter().take(NAMED) {
            info!(listener, backend, file = %file.display(), "certificate renewed");
        }
        for file in renewal.gone.iter().take(NAMED) {
            info!(listener, backend, file = %file.display(), "a certificate is gone, and is shown no more");
        }
        for error in renewal.problems.iter().take(NAMED) {
            warn!(listener, backend, %error, "cannot renew the certificate; what was loaded before serves on");
        }
        let beyond = |number: usize| number.saturating_sub(NAMED);
        let renewed = beyond(renewal.taken.len()) + beyond(renewal.gone.len());
        let broken = beyond(renewal.problems.len());
        if renewed + broken > 0 {
            warn!(listener, backend, renewed, broken, "more certificates than are named here; see `imapool check`");
        }
    }
}

impl Inner {
    /// Loads certificates, keys and authorities whose files have changed, beside the runtime.
    pub(super) fn renew_certificates(&self) {
        let Ok(mut next) = Arc::clone(&self.looking).try_lock_owned() else { return };
        if next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        let contexts = self.contexts().into_iter().filter(|context| context.tls.is_some());
        let mut owners: Vec<_> = contexts.map(Owner::Listener).collect();
        let backends = self.pools.backends();
        let with_certificate = backends.iter().filter(|backend| backend.dialer.certificate().is_some());
        owners.extend(with_certificate.map(|backend| Owner::Backend(Arc::clone(backend))));
        if owners.is_empty() {
            return;
        }
        tokio::spawn(async move {
            let begun = Instant::now();
            let look = |owner: Owner| {
                let renewal = owner.renew();
                (owner, renewal)
            };
            let looks = move || owners.into_iter().map(look).collect::<Vec<_>>();
            for (owner, renewal) in tokio::task::spawn_blocking(looks).await.unwrap_or_default() {
                owner.tell(&renewal);
            }
            let now = Instant::now();
            *next = now.checked_add(now.duration_since(begun) * SHARE);
        });
    }
}
