//! Sets up the log: to standard error, as text or JSON.

use std::io::{self, IsTerminal};

use imapool::config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The environment variable RUST_LOG is no filter.
    #[error("RUST_LOG is not valid: write a level such as \"debug\", or \"imapool=debug,rustls=info\"")]
    Environment(#[source] ParseError),
    /// There is a log already.
    #[error("cannot set up the log")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Logs from now on as the configuration says, or RUST_LOG if it is set.
///
/// # Errors
/// When RUST_LOG is not a filter, or when this is called again.
pub(crate) fn start(log: &Log) -> Result<(), LogError> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) if !directives.trim().is_empty() => {
            EnvFilter::try_new(directives).map_err(LogError::Environment)?
        }
        _ => EnvFilter::new(directives(&log.level)),
    };
    let log_to = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => log_to.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log_to.json().flatten_event(true).try_init(),
    }
    .map_err(LogError::Twice)
}

/// The level is for imapool's own words: TLS and HTTP libraries speak only when something is wrong.
fn directives(level: &str) -> String {
    let others = if level == "error" { "error" } else { "warn" };
    format!("{others},imapool={level}")
}
