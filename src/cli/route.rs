//! `imapool route`: where a user would go, and why.

use imapool::config::Config;
use imapool::routing::{self, Decision};

use super::{ConfigFile, print};
use crate::{Outcome, block_on};

pub(crate) const EXAMPLES: &str = "\
Examples:
  imapool route anna@example.org
  imapool route anna --listener inner --server-name imap.example.org --config imapool.toml";

#[derive(Debug, clap::Args)]
pub(crate) struct RouteArgs {
    /// The name, as a client would write it.
    #[arg(value_name = "USER")]
    user: String,
    /// The listener that the session would come by. Default: the first.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// What the client would call this host in TLS (SNI). Default: nothing.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Prints the backend and the rule; the exit status is 1 where there is no backend.
pub(crate) fn run(args: &RouteArgs) -> anyhow::Result<Outcome> {
    let config = Config::load(&args.file.config)?;
    let listener = args.listener.as_ref().unwrap_or(&config.listeners[0].name);
    if !config.listeners.iter().any(|known| known.name == *listener) {
        anyhow::bail!("there is no listener {listener:?} in {}", args.file.config.display());
    }
    let asked = routing::explain(&config, &args.user, listener, args.server_name.as_deref());
    let decision = match block_on(async { Ok(asked.await) })? {
        Ok(decision) => decision,
        Err(error) => {
            print::error(&error);
            return Ok(Outcome::Misconfigured);
        }
    };
    print::text(&told(&decision))?;
    Ok(if decision.backend.is_some() { Outcome::Well } else { Outcome::Failed })
}

fn told(decision: &Decision) -> String {
    let Decision { backend, rule, key, login, account, terms, .. } = decision;
    let mut text = match backend {
        Some(backend) => format!("backend {backend}\n"),
        None => "refused\n".to_owned(),
    };
    text += &format!("by {rule}\nas {key}\n");
    if let Some(login) = login {
        text += &format!("logged in as {login}\n");
    }
    // Of who may not log in, the rule is that.
    if let Some(account) = account.as_ref().filter(|_| terms.allow) {
        text += &format!("{account}\n");
    }
    if backend.is_some() {
        text += &format!("{terms}\n");
    }
    text
}
