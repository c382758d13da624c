//! What a configuration decides of a name, for who asks without running it.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use super::Router;
use super::http::{Answer, Question};
use super::rulebook::{Decision, RouteError, Rulebook};
use super::table::named;
use crate::config::Config;
use crate::net::Net;
use crate::residence::Residence;

impl Router {
    /// The account that somebody means by this name: by what its users call it, or by what it logs in by.
    #[must_use]
    pub fn known_as(&self, user: &[u8]) -> Option<Arc<Residence>> {
        self.residences.find(&self.account_of(&self.table.load(), user).0)
    }
}

/// What a configuration decides of a name. Files are read, and services asked, without a password.
///
/// # Errors
/// When a file cannot be used, or a service does not say where.
pub async fn explain(
    config: &Config,
    user: &str,
    listener: &str,
    server_name: Option<&str>,
) -> Result<Decision, String> {
    let book = Rulebook::new(config, None, &Net::System).map_err(|error| error.to_string())?;
    let mut decision = book.decide(user, listener, server_name, &|target, key| book.choice(target, key));
    let Some((rule, Some(lookup))) = decision.asks.map(|rule| (rule, &book.lookups[rule])) else {
        return Ok(decision);
    };
    let question = Question {
        user: user.as_bytes().to_vec(),
        mechanism: "plain",
        server_name: server_name.map(str::to_owned),
        attempt: 1,
        ..Question::default()
    };
    let words = &book.words[rule];
    let answer = lookup.ask(question, false).await.map_err(|error| format!("{words}: {error}"))?;
    match &*answer {
        Answer::Server { host, port, user, .. } => {
            let is_at = |place: usize, address: &SocketAddr| {
                let found = (config.backends[place].host.as_str(), config.backends[place].port).to_socket_addrs();
                found.is_ok_and(|mut found| found.any(|it| it == *address))
            };
            let target = named(&book.routes, config.backends.iter(), is_at, host, *port);
            let target = target.ok_or_else(|| {
                let server = port.map_or(host.clone(), |port| format!("{host}:{port}"));
                format!("{words}: the service names {server}, which is no backend")
            })?;
            book.tell_group(target, &mut decision.rule);
            decision.backend = book.name(book.choice(target, decision.key.as_bytes()));
            decision.terms = book.terms.of(decision.key.as_bytes(), decision.backend.as_deref().unwrap_or_default());
            decision.login = user.as_ref().map(|user| String::from_utf8_lossy(user).into_owned());
        }
        Answer::Refused(denial) => decision.rule += &format!(", which says: {}", denial.text),
    }
    Ok(decision)
}

/// Makes of the routes of a configuration what a start would. Nobody is asked.
///
/// # Errors
/// When a file or a service cannot be used.
pub fn check(config: &Config) -> Result<(), RouteError> {
    Rulebook::new(config, None, &Net::System).map(drop)
}
