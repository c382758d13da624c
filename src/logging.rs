//! Sets up the log: to standard error, as text or JSON.

use std::io;

use anyhow::Context as _;
use imapool::admin::Remember;
use imapool::config::{Log, LogFormat};
use imapool::log_format::{Fields, JsonLines};
use imapool::platform::shows_colours;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

const NO_FILTER: &str = "RUST_LOG is not valid: write a level such as \"debug\", or \"imapool=debug,rustls=info\"";

/// Changes the level while the process runs.
#[derive(Clone)]
pub(crate) struct Level {
    /// `None`: RUST_LOG rules.
    filter: Option<Handle<EnvFilter, Registry>>,
}

impl Level {
    /// Logs from now on as a new configuration says; the format stays.
    pub(crate) fn apply(&self, log: &Log) {
        if let Some(filter) = &self.filter {
            // Fails only when there is no log any more.
            let _ = filter.reload(EnvFilter::new(directives(log)));
        }
    }
}

/// Logs from now on as the configuration says, or RUST_LOG if it is set.
///
/// # Errors
/// When RUST_LOG is not a filter, or when this is called again.
pub(crate) fn start(log: &Log) -> anyhow::Result<Level> {
    start_to(log, io::stderr, shows_colours())
}

/// As [`start`], to another place; with colours or without.
pub(crate) fn start_to<W>(log: &Log, writer: W, colours: bool) -> anyhow::Result<Level>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, fixed) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) if !directives.trim().is_empty() => {
            let filter = EnvFilter::try_new(directives).context(NO_FILTER)?;
            (filter, true)
        }
        _ => (EnvFilter::new(directives(log)), false),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let output = tracing_subscriber::fmt::layer().fmt_fields(Fields).with_writer(writer);
    let log_to = tracing_subscriber::registry().with(filter).with(Remember);
    match log.format {
        LogFormat::Text => log_to.with(output.with_ansi(colours)).try_init(),
        LogFormat::Json => log_to.with(output.event_format(JsonLines)).try_init(),
    }
    .context("cannot set up the log")?;
    Ok(Level { filter: (!fixed).then_some(handle) })
}

/// The level is for imapool's own words: TLS and HTTP libraries speak only when something is wrong.
fn directives(log: &Log) -> String {
    let level = &log.level;
    let others = if level == "error" { "error" } else { "warn" };
    let sessions = if log.sessions { "" } else { ",imapool::sessions=off" };
    format!("{others},imapool={level}{sessions}")
}
