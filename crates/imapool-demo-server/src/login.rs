//! LOGIN and AUTHENTICATE (RFC 3501 sections 6.2.2 and 6.2.3; RFC 4616, RFC 4959; XOAUTH2 as Google describes it).

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::commands::{Outcome, Refusal};
use super::options::Seed;
use super::parse::Parser;
use super::reply::Reply;
use super::session::{Flow, Session};
use super::store::Store;

/// Octets of one line of an exchange.
const RESPONSE_LIMIT: usize = 16 << 10;

impl Session {
    /// LOGIN
    pub(super) async fn login(&mut self, mut p: Parser) -> Outcome {
        p.space()?;
        let user = p.astring()?;
        p.space()?;
        let password = p.astring()?;
        p.end()?;
        self.admit(&user, &password).await
    }

    /// AUTHENTICATE; the connection may end in the middle of the exchange.
    pub(super) async fn authenticate(&mut self, mut p: Parser) -> Flow<Outcome> {
        let mechanism = match p.space().and_then(|()| p.keyword()) {
            Ok(mechanism) => mechanism,
            Err(e) => return Ok(Err(e.into())),
        };
        if !self.offers(&format!("AUTH={mechanism}")) {
            return Ok(Err(Refusal::No("[CANNOT] Unsupported authentication mechanism.".into())));
        }
        let mut initial = None;
        if p.eat(b' ') {
            if !self.offers("SASL-IR") {
                return Ok(Err(Refusal::bad("SASL-IR was not offered")));
            }
            initial = Some(p.run(|b| b != b' '));
        }
        if let Err(e) = p.end() {
            return Ok(Err(e.into()));
        }
        let initial = match initial.as_deref() {
            Some(b"=") => Some(Vec::new()),
            Some(text) => match STANDARD.decode(text) {
                Ok(response) => Some(response),
                Err(_) => return Ok(Err(Refusal::bad("invalid base64"))),
            },
            None => None,
        };
        match mechanism.as_str() {
            "PLAIN" => self.plain(initial).await,
            "LOGIN" => self.login_mechanism(initial).await,
            "XOAUTH2" => self.xoauth2(initial).await,
            _ => Ok(Err(Refusal::No("[CANNOT] Unsupported authentication mechanism.".into()))),
        }
    }

    /// Sends a challenge and reads the response; `Err` within is the reply to an abort or to bad base64.
    async fn challenge(&mut self, challenge: &str) -> Flow<Result<Vec<u8>, Refusal>> {
        let mut out = Reply::default();
        out.text("+ ").text(&STANDARD.encode(challenge)).text("\r\n");
        self.send(out).await?;
        let line = self.read_line(RESPONSE_LIMIT).await?;
        let line = line.trim_ascii_end();
        if line == b"*" {
            return Ok(Err(Refusal::bad("authentication aborted")));
        }
        Ok(STANDARD.decode(line).map_err(|_| Refusal::bad("invalid base64")))
    }

    async fn plain(&mut self, initial: Option<Vec<u8>>) -> Flow<Outcome> {
        let response = match initial {
            Some(response) => Ok(response),
            None => self.challenge("").await?,
        };
        let response = match response {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let fields: Vec<&[u8]> = response.split(|b| *b == 0).collect();
        let [authorize, user, password] = fields[..] else {
            return Ok(Err(Refusal::bad("not three fields")));
        };
        if !authorize.is_empty() && authorize != user {
            self.shared.counting.failed_logins.fetch_add(1, Ordering::Relaxed);
            return Ok(Err(Refusal::No("[AUTHORIZATIONFAILED] Authorization failed.".into())));
        }
        Ok(self.admit(user, password).await)
    }

    async fn login_mechanism(&mut self, initial: Option<Vec<u8>>) -> Flow<Outcome> {
        let user = match initial {
            Some(user) => Ok(user),
            None => self.challenge("Username:").await?,
        };
        let user = match user {
            Ok(user) => user,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match self.challenge("Password:").await? {
            Ok(password) => Ok(self.admit(&user, &password).await),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    async fn xoauth2(&mut self, initial: Option<Vec<u8>>) -> Flow<Outcome> {
        let response = match initial {
            Some(response) => Ok(response),
            None => self.challenge("").await?,
        };
        let response = match response {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let field = |name: &[u8]| {
            response.split(|b| *b == 1).find_map(|f| f.strip_prefix(name)).map(<[u8]>::to_vec).unwrap_or_default()
        };
        let outcome = self.admit(&field(b"user="), &field(b"auth=Bearer ")).await;
        if outcome.is_err() {
            // The error comes as a challenge, which the client answers with an empty response.
            let _ignored = self.challenge(r#"{"status":"400","schemes":"Bearer"}"#).await?;
        }
        Ok(outcome)
    }

    /// Checks a credential and the account's limit, and enters the authenticated state.
    async fn admit(&mut self, user: &[u8], password: &[u8]) -> Outcome {
        let delay = self.shared.options.login_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut result = self.check(user, password);
        let user = String::from_utf8_lossy(user);
        let quirks = &self.shared.options.quirks;
        if result.is_err() && quirks.not_connected.is_some() && quirks.befall(Some(&user)) && !user.is_empty() {
            // An account of its own, which nobody can ask for anything.
            self.account = Store::default().account("", &Seed { mailboxes: Vec::new(), ..Seed::default() });
            self.not_connected = true;
            result = Ok(self.shared.options.words.logged_in.into());
        }
        let counting = &self.shared.counting;
        let counter = if result.is_ok() { &counting.logins } else { &counting.failed_logins };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn check(&mut self, user: &[u8], password: &[u8]) -> Outcome {
        let shared = self.shared.clone();
        let words = &shared.options.words;
        let refused = || Refusal::of(words.wrong_password);
        let (Ok(user), Ok(password)) = (std::str::from_utf8(user), std::str::from_utf8(password)) else {
            return Err(refused());
        };
        if user.is_empty() || !shared.passwords.read().accepts(user, password) {
            return Err(refused());
        }
        // Counted and registered under one lock, or two logins at once could both be the last one allowed.
        let mut connections = shared.connections.lock();
        if let Some(max) = shared.options.max_connections_per_account
            && connections.values().filter(|c| c.user.as_deref() == Some(user)).count() >= max
        {
            return Err(Refusal::of(&words.too_many.replace("{max}", &max.to_string())));
        }
        let account = shared.store.account(user, &shared.options.seed);
        let account = account.ok_or_else(|| Refusal::No("[LIMIT] Too many accounts.".into()))?;
        if let Some(connection) = connections.get_mut(&self.conn) {
            connection.user = Some(user.to_owned());
        }
        drop(connections);
        shared.population.send_replace(());
        self.account = Some(account);
        let offered = &shared.options.capabilities;
        let code = if offered.after_login { format!("[CAPABILITY {}] ", offered.after) } else { String::new() };
        Ok(format!("{code}{}", words.logged_in))
    }
}
