//! Logins that a replica judges, which has the session from then on. Nothing is remembered of them here but who was
//! wrong.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

use super::{Answer, Asker, Authenticator, Verdict, is_the_credentials_fault, unjudged};
use crate::imap::sasl::Credential;
use crate::metrics::{LoginPath, LoginResult};
use crate::residence::Visit;
use crate::shown;
use crate::upstream::backend::{Backend, Relayed};
use crate::upstream::login::{Outcome, Refusal};

/// A session that goes through to a replica.
#[derive(Debug)]
pub struct Passage {
    /// Where to.
    pub backend: Arc<Backend>,
    /// What keeps its account there.
    pub visit: Visit,
    /// Whose session it is, as the client wrote it.
    pub user: String,
    /// The connection.
    pub relayed: Relayed,
    /// What the replica wants the user to see, each as an untagged reply without `*` and line end.
    pub alerts: Vec<String>,
}

impl Authenticator {
    /// Has the replica that is visited judge a credential.
    ///
    /// # Errors
    /// Its answer, if that is not yes, or why there is none.
    pub async fn relay(
        &self,
        visit: Visit,
        credential: &Credential,
        client: Option<IpAddr>,
    ) -> Result<Box<Passage>, Answer> {
        let begun = Instant::now();
        let asker = Asker { user: credential.user.clone(), client, proven: false };
        let residence = Arc::clone(visit.residence());
        let asked = async {
            self.delay(&asker).await;
            self.ask_replica(visit, credential, &asker).await
        };
        // Broken off if the account leaves: whoever is let in elsewhere waits for that.
        let judged = residence.meanwhile(asked).await.unwrap_or_else(|| Err(Verdict::unavailable().into()));
        let (result, path) = match judged.as_ref().map_err(|answer| &answer.verdict) {
            Ok(_) => (LoginResult::Verified, LoginPath::Verified),
            Err(Verdict::Refused(refusal)) if is_the_credentials_fault(code_of(refusal)) => {
                info!(
                    client = client.map(tracing::field::display),
                    user = shown::text(&asker.user),
                    reply = refusal.reply,
                    "login refused by a replica"
                );
                // It has held its answer back itself.
                let delay = self.throttle.lock().hold(&asker.user, asker.client, Instant::now().into_std());
                sleep_until(begun + delay).await;
                (LoginResult::Refused, LoginPath::Refused)
            }
            Err(Verdict::Limit(_)) => (LoginResult::Limit, LoginPath::Failed),
            _ => (LoginResult::Unavailable, LoginPath::Failed),
        };
        self.metrics.logins.inc(result);
        self.metrics.login_seconds.get(path).observe(begun.elapsed());
        judged
    }

    async fn ask_replica(&self, visit: Visit, credential: &Credential, asker: &Asker) -> Result<Box<Passage>, Answer> {
        let backend = self.pools.backend(visit.residence().backend()).ok_or_else(Verdict::unavailable)?;
        let wait = self.settings.load().wait;
        timeout(wait, backend.in_service()).await.map_err(|_| Verdict::unavailable())?;
        let judgement = backend.relay(credential, asker.client).await;
        let alerts = judgement.alerts;
        let (connection, outcome) = match judgement.result {
            Ok(judged) => judged,
            Err(error) => return Err(unjudged(&backend, &asker.user, error).into()),
        };
        let now = Instant::now().into_std();
        if let Outcome::Refused(refusal) = outcome {
            if is_the_credentials_fault(code_of(&refusal)) {
                self.throttle.lock().failed(&asker.user, asker.client, now);
            }
            return Err(Answer { verdict: Verdict::Refused(refusal), alerts: alerts.into() });
        }
        self.throttle.lock().succeeded(&asker.user, asker.client, now);
        visit.let_in();
        let user = String::from_utf8_lossy(&credential.user).into_owned();
        let relayed = connection.into_relayed(&visit);
        Ok(Box::new(Passage { backend, visit, user, relayed, alerts }))
    }
}

/// Its response code: `AUTHENTICATIONFAILED`.
fn code_of(refusal: &Refusal) -> Option<&str> {
    let (_, rest) = refusal.reply.split_once(" [")?;
    rest.split_once([']', ' ']).map(|(code, _)| code)
}
