//! A login: where it goes, whether it is accepted, and what the client is told.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::warn;

use super::closing::Ended;
use super::{Context, Session};
use crate::auth::{Answer, Verdict};
use crate::imap::sasl::Credential;
use crate::metrics::LoginResult;
use crate::pool::Pass;
use crate::routing::{Caller, Way};
use crate::session::machine::LoginReply;

impl Session {
    pub(super) async fn login(&mut self, credential: &Arc<Credential>) -> Result<(), Ended> {
        self.attempts += 1;
        let listener = &self.listener.config.name;
        let at_once = self.context.router.way_at_once(credential, listener, self.stream.server_name());
        let known = match &at_once {
            Some(Way::To(visit, credential)) => self.context.auth.known(visit, credential, self.client.ip(), self.now),
            _ => None,
        };
        let answer = match known {
            Some(pass) => Verdict::Accepted(pass).into(),
            None => self.judged(credential, at_once).await?,
        };
        let reply = match answer.verdict {
            Verdict::Accepted(pass) => self.accepted(&pass)?,
            Verdict::Refused(refusal) => LoginReply::Refused { reply: refusal.reply, challenge: refusal.challenge },
            Verdict::Limit(text) => refused(format!("NO [LIMIT] {text}")),
            Verdict::Throttled => refused("NO [UNAVAILABLE] Too many failed logins; try again later.".into()),
            Verdict::Unavailable(text) => refused(format!("NO [UNAVAILABLE] {text}")),
        };
        self.last_input = self.now;
        self.machine.handle_login(reply, &answer.alerts);
        Ok(())
    }

    /// The backend accepts the credential: whoever shows it is let in, unless there is no room.
    fn accepted(&mut self, pass: &Pass) -> Result<LoginReply, Ended> {
        let presence = match pass.grant().visit().map(|visit| self.context.router.admit(visit)) {
            Some(None) => {
                let (client, user) = (self.client, pass.account().name());
                warn!(%client, user, limit = "account.sessions", "too many sessions");
                self.context.metrics.login(LoginResult::Limit);
                return Ok(refused("NO [LIMIT] Too many sessions of this account; try again later.".into()));
            }
            admitted => admitted.flatten(),
        };
        if !self.record.place().logged_in() {
            return Err(self.gave_way());
        }
        self.presence = presence;
        Ok(self.let_in(pass))
    }

    fn let_in(&mut self, pass: &Pass) -> LoginReply {
        self.record.set_account(pass.account());
        // A reload has taken it away just now, perhaps before this could be seen in the record.
        if pass.account().backend().is_gone() {
            self.record.close();
        }
        if let Some(visit) = pass.grant().visit() {
            visit.residence().take_in(&self.record);
        }
        self.grant = Some(pass.grant().clone());
        LoginReply::Accepted(pass.account().offered())
    }

    /// Waits for what others say, unless somebody else gets its place meanwhile.
    async fn judged(&mut self, credential: &Arc<Credential>, at_once: Option<Way>) -> Result<Answer, Ended> {
        let (context, record) = (Arc::clone(&self.context), Arc::clone(&self.record));
        let caller = Caller {
            listener: self.listener.config.name.clone(),
            server_name: self.stream.server_name().map(str::to_owned),
            client: self.client.ip(),
            local: self.stream.local_address(),
            tls: self.stream.tls_version(),
            attempt: self.attempts,
        };
        let judge = Box::pin(judge(&context, credential, &caller, at_once));
        record.place().verifies(true);
        let answer = self
            .meanwhile(async {
                tokio::select! {
                    biased;
                    () = record.place().given_up() => None,
                    answer = judge => Some(answer),
                }
            })
            .await;
        record.place().verifies(false);
        answer.ok_or_else(|| self.gave_way())
    }
}

/// `way`: what could be said at once.
async fn judge(context: &Context, credential: &Arc<Credential>, caller: &Caller, mut way: Option<Way>) -> Answer {
    let Context { auth, router, .. } = context;
    let client: Option<IpAddr> = caller.client;
    loop {
        let found = match way.take() {
            Some(way) => way,
            None => router.way(credential, caller).await,
        };
        let (visit, credential) = match found {
            Way::To(visit, credential) => (visit, credential),
            Way::Nobody => return auth.nobody(credential, client).await,
            Way::Refused { code, text, wait } => return auth.turned_away(credential, client, code, &text, wait).await,
            Way::Unavailable(text) => return Verdict::Unavailable(text.into()).into(),
        };
        // Where a service said where, that was not looked at before.
        if let Some(pass) = auth.known(&visit, &credential, client, Instant::now()) {
            return Verdict::Accepted(pass).into();
        }
        let ended = visit.residence().ended();
        let answer = auth.verify(visit, credential, client).await;
        // The account has begun to leave that backend meanwhile: it is asked for where it goes.
        if !ended.is_cancelled() || !matches!(answer.verdict, Verdict::Unavailable(_)) {
            return answer;
        }
    }
}

fn refused(reply: String) -> LoginReply {
    LoginReply::Refused { reply, challenge: None }
}
