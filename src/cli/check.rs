//! `imapool check`: what would become of a configuration.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use imapool::app::{self, Checked};
use imapool::config::{Config, Places};
use imapool::upstream::backend::Asked;

use super::{ConfigFile, Target, print};
use crate::{Outcome, block_on};

pub(crate) const EXAMPLES: &str = "\
Examples:
  imapool check && systemctl reload imapool
  imapool check --config imapool.toml --connect         do the servers answer, too?
  imapool check --config imapool.toml --diff            what would a reload change?
  imapool check --config new.toml --diff=imapool.toml   what is different between two files?";

/// What `check --connect` names of what a server offers: what imapool goes by.
const NAMED: &[&str] = &[
    "IMAP4rev1",
    "IMAP4rev2",
    "IDLE",
    "UIDPLUS",
    "MOVE",
    "ESEARCH",
    "CONDSTORE",
    "QRESYNC",
    "ENABLE",
    "ID",
    "UTF8=ACCEPT",
    "AUTH=PLAIN",
    "AUTH=LOGIN",
    "AUTH=XOAUTH2",
    "AUTH=OAUTHBEARER",
];

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Ask each server, too: resolve, connect, TLS, greeting and capabilities, without logging in. If one cannot be
    /// used, the exit status is 1, and it is told which step failed. Takes half a minute at most.
    #[arg(long)]
    connect: bool,
    /// Tell also what is different from the configuration that the running imapool has (asked by the admin address of
    /// FILE, or --admin), or from another file.
    #[arg(long, value_name = "OTHER", num_args = 0..=1, require_equals = true)]
    diff: Option<Option<PathBuf>>,
    /// With --diff: the running imapool's admin address.
    #[arg(long, value_name = "ADDRESS", env = "IMAPOOL_ADMIN")]
    admin: Option<String>,
}

/// Tells what is wrong, then what is doubtful, then what it says.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Outcome> {
    let file = &args.file.config;
    let (config, places) = Config::load_with_places(file)?;
    if !loads(&config, &places, file) {
        return Ok(Outcome::Misconfigured);
    }
    print::text(&format!("{}: ok\n{}", file.display(), describe(&config)))?;
    if let Some(other) = &args.diff {
        print::text(&differences(args, other.as_deref(), &config)?)?;
    }
    if args.connect { connect(&config) } else { Ok(Outcome::Well) }
}

/// Whether `imapool run` would take it; says what is wrong, or doubtful.
pub(super) fn loads(config: &Config, places: &Places, file: &Path) -> bool {
    let checked = Checked::new(config);
    for fault in &checked.faults {
        print::error(&format!("{}: {fault}", fault.place(config, places)));
    }
    if !checked.faults.is_empty() {
        return false;
    }
    for warning in checked.warnings {
        print::error(&format!("{}: warning: {warning}", file.display()));
    }
    true
}

/// What is different from another file, or from what runs.
fn differences(args: &CheckArgs, other: Option<&Path>, config: &Config) -> anyhow::Result<String> {
    let value = |config: &Config| serde_json::to_value(config).context("cannot compare");
    let (old, whose) = match other {
        Some(other) => (value(&Config::read(other)?)?, other.display().to_string()),
        None => {
            let target = Target { admin: args.admin.clone(), config: Some(args.file.config.clone()) };
            let client = target.client()?;
            (block_on(client.get("config"))?, format!("imapool at {}", client.address))
        }
    };
    let changes = imapool::config::diff(&old, &value(config)?);
    if changes.is_empty() {
        return Ok(format!("\nThe same as {whose}.\n"));
    }
    let mut text = format!("\nDifferent from {whose}, and what a reload makes of it:\n");
    for change in changes {
        let _ = writeln!(text, "  {change}");
    }
    Ok(text)
}

fn describe(config: &Config) -> String {
    let mut text = String::new();
    for listener in &config.listeners {
        let tls = listener.tls.as_str();
        let _ = writeln!(text, "  listener \"{}\" on {}, TLS: {tls}", listener.name, listener.address);
    }
    for backend in &config.backends {
        let otherwise = [
            backend.max_per_account.map(|most| format!(", at most {most} connections for each account")),
            backend.mode.map(|mode| format!(", mode: {}", mode.as_str())),
        ];
        let (name, address, tls) = (&backend.name, backend.address(), backend.tls.as_str());
        let otherwise: String = otherwise.into_iter().flatten().collect();
        let _ = writeln!(text, "  backend \"{name}\" at {address}, TLS: {tls}{otherwise}");
    }
    let (most, mode) = (config.pool.max_per_account, config.pool.mode.as_str());
    let _ = writeln!(text, "  at most {most} connections for each account, mode: {mode}");
    if !config.accounts.is_empty() {
        let _ = writeln!(text, "  otherwise for some accounts, in {} [[account]]", config.accounts.len());
    }
    let _ = match &config.admin.address {
        Some(address) => writeln!(text, "  admin address {address}"),
        None => writeln!(text, "  no admin address"),
    };
    text
}

/// Asks the backends.
fn connect(config: &Config) -> anyhow::Result<Outcome> {
    let answers = block_on(async { Ok(app::ask(config).await?) })?;
    let mut outcome = Outcome::Well;
    print::text("\nThe servers:\n")?;
    for (backend, answer) in config.backends.iter().zip(answers) {
        let name = format!("backend \"{}\" at {}", backend.name, backend.address());
        match answer {
            Ok(asked) => {
                print::text(&format!("  {name}: {}\n", shown(&asked)))?;
                if let Some(lifetime) = asked.expires.and_then(app::certificate_until) {
                    print::error(&format!("warning: {name}: the server's certificate {lifetime}"));
                }
            }
            Err(error) => {
                outcome = Outcome::Failed;
                print::error(&format!("{name}: {error}"));
            }
        }
    }
    Ok(outcome)
}

fn shown(asked: &Asked) -> String {
    let offers: Vec<_> = NAMED.iter().filter(|name| asked.capabilities.has(name)).copied().collect();
    let tls = asked.tls.map_or("without TLS".to_owned(), |version| format!("by {version}, certificate verified"));
    let address = asked.address.map_or(String::new(), |address| format!("{address} "));
    format!("{address}answers {tls}; offers {}", offers.join(" "))
}
