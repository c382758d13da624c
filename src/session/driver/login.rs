//! A login: where it goes, whether it is accepted, and what the client is told.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::closing::Ended;
use super::{Context, Session};
use crate::auth::{Answer, Passage, Verdict};
use crate::imap::sasl::Credential;
use crate::metrics::LoginResult;
use crate::pool::Pass;
use crate::routing::http::Denial;
use crate::routing::{self, Caller, Way};
use crate::session::machine::LoginReply;
use crate::session::relay::{self, Beginning};

/// What came of a credential.
enum Judged {
    /// An answer.
    Here(Answer),
    /// A replica has accepted it.
    Through(Box<Passage>),
}

impl From<Answer> for Judged {
    fn from(answer: Answer) -> Self {
        Self::Here(answer)
    }
}

impl Session {
    pub(super) async fn login(&mut self, credential: &Arc<Credential>) -> Result<(), Ended> {
        self.attempts += 1;
        let listener = &self.record.listener.config.name;
        let at_once = self.context.router.way_at_once(credential, listener, self.stream.server_name());
        let known = match &at_once {
            Some(Way::To(visit, credential)) => {
                self.context.auth.known(visit, credential, self.record.client.ip(), self.now)
            }
            _ => None,
        };
        let answer = match known {
            Some(pass) => Verdict::Accepted(pass).into(),
            None => match self.judged(credential, at_once).await? {
                Judged::Here(answer) => answer,
                Judged::Through(passage) => return Err(self.leave_for(passage)),
            },
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
        let Some(presence) = self.context.router.admit(pass.grant().visit()) else {
            let (client, user) = (self.record.client, pass.account().name());
            warn!(%client, user, limit = "account.sessions", "too many sessions");
            self.context.metrics.logins.inc(LoginResult::Limit);
            return Ok(refused("NO [LIMIT] Too many sessions of this account; try again later.".into()));
        };
        if !self.record.place.logged_in() {
            return Err(self.gave_way());
        }
        self.presence = Some(presence);
        self.record.set_account(pass.account());
        // A reload has taken it away just now, perhaps before this could be seen in the record.
        if pass.account().backend().is_gone() {
            self.record.close();
        }
        pass.grant().visit().residence().take_in(&self.record);
        self.grant = Some(pass.grant().clone());
        Ok(LoginReply::Accepted(pass.account().offered()))
    }

    /// It has logged in at a replica, and is that one's from here on.
    fn leave_for(&mut self, passage: Box<Passage>) -> Ended {
        if !self.record.place.logged_in() {
            return self.gave_way();
        }
        self.record.goes_through(passage.user.clone(), Arc::clone(&passage.backend));
        // A reload has taken it away just now, perhaps before this could be seen in the record.
        if !self.context.router.leads_to(&passage.backend) {
            self.record.close();
        }
        passage.visit.residence().take_in(&self.record);
        self.machine.handle_login(LoginReply::Accepted(Arc::clone(&passage.relayed.offered)), &passage.alerts);
        let (written, ahead) = self.machine.hand_over();
        written.into_iter().for_each(|octets| self.queue(octets));
        Ended::Through(passage, ahead)
    }

    /// Passes it through to a replica, to its end.
    pub(super) async fn go_through(self: Box<Self>, passage: Passage, ahead: Bytes) {
        let has_eof = self.machine.has_eof();
        let Self { stream: client, record, context, output, .. } = *self;
        let owed = output.iter().flatten().copied().collect();
        relay::run(Beginning { client, record, context, passage, owed, ahead, has_eof }).await;
    }

    /// Waits for what others say, unless somebody else gets its place meanwhile.
    async fn judged(&mut self, credential: &Arc<Credential>, at_once: Option<Way>) -> Result<Judged, Ended> {
        let (context, record) = (Arc::clone(&self.context), Arc::clone(&self.record));
        let caller = Caller {
            listener: self.record.listener.config.name.clone(),
            server_name: self.stream.server_name().map(str::to_owned),
            client: self.record.client.ip(),
            local: self.stream.local_address(),
            tls: self.stream.tls_version(),
            attempt: self.attempts,
        };
        let judge = Box::pin(judge(&context, credential, &caller, at_once));
        record.place.verifies(true);
        let answer = self
            .meanwhile(async {
                tokio::select! {
                    biased;
                    () = record.place.given_up() => None,
                    answer = judge => Some(answer),
                }
            })
            .await;
        record.place.verifies(false);
        answer.ok_or_else(|| self.gave_way())
    }
}

/// A replica that cannot be reached is tried so often, after a check each time: it may be found to be down.
const IN_VAIN: u32 = 4;
/// So often a login is made anew whose account has begun to leave meanwhile. Two logins that routes lead to two places
/// could send each other away for ever.
const AGAIN: u32 = 8;

/// `way`: what could be said at once.
async fn judge(context: &Context, credential: &Arc<Credential>, caller: &Caller, mut way: Option<Way>) -> Judged {
    let Context { auth, router, .. } = context;
    let client: Option<IpAddr> = caller.client;
    let (mut gone, mut in_vain, deadline) = (Vec::new(), 0, router.deadline());
    let mut left = 0..AGAIN;
    loop {
        let found = match way.take() {
            Some(way) => way,
            // What few need is on the heap: it would make all of this larger.
            None => Box::pin(router.way(credential, caller, deadline)).await,
        };
        let (visit, credential) = match found {
            Way::To(visit, credential) => (visit, credential),
            Way::Relay(visit, credential) => {
                let (ended, index) = (visit.residence().ended.clone(), visit.residence().backend());
                match auth.relay(visit, &credential, client).await {
                    Ok(passage) => return Judged::Through(passage),
                    // One that is found to be gone: another has its accounts now, if there is one.
                    Err(_) if !gone.contains(&index) && router.is_down(index) => gone.push(index),
                    Err(answer) if is_final(&answer, &ended) || left.next().is_none() => {
                        let may_change = match &answer.verdict {
                            Verdict::Unavailable(_) => {
                                in_vain += 1;
                                in_vain < IN_VAIN
                            }
                            Verdict::Refused(refusal) => routing::is_on_its_way(&refusal.reply),
                            _ => false,
                        };
                        if !may_change || !router.has_looked_again(deadline).await {
                            return answer.into();
                        }
                    }
                    Err(_) => {}
                }
                continue;
            }
            Way::Nobody => return auth.nobody(credential, client).await.into(),
            Way::Refused(Denial { code, text, wait }) => {
                return auth.turned_away(credential, client, code, &text, wait).await.into();
            }
            Way::Unavailable(text) => return Answer::from(Verdict::Unavailable(text.into())).into(),
        };
        // Where a service said where, that was not looked at before.
        if let Some(pass) = auth.known(&visit, &credential, client, Instant::now()) {
            return Answer::from(Verdict::Accepted(pass)).into();
        }
        let ended = visit.residence().ended.clone();
        let answer = Box::pin(auth.verify(visit, credential, client)).await;
        if is_final(&answer, &ended) || left.next().is_none() {
            return answer.into();
        }
    }
}

/// Else the account has begun to leave that backend meanwhile: it is asked for where it goes.
fn is_final(answer: &Answer, ended: &CancellationToken) -> bool {
    !ended.is_cancelled() || !matches!(answer.verdict, Verdict::Unavailable(_))
}

fn refused(reply: String) -> LoginReply {
    LoginReply::Refused { reply, challenge: None }
}
