//! `imapool service`: imapool as a service of Windows.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use imapool::config::{Config, Log};
pub(crate) use imapool::platform::service::AVAILABLE;
use imapool::platform::service::{self, ServiceError};

use super::{ConfigFile, check, print};
use crate::{Failure, Outcome, logging, run_with};

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Action {
    /// Install it, to be started with the host. Needs an administrator, as all of these.
    Install {
        #[command(flatten)]
        file: ConfigFile,
        /// Under another account than its own: one that has no password, such as "NT AUTHORITY\LocalService".
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
    },
    /// Stop it, and remove it; its files stay.
    Uninstall,
    /// Start it, and wait until it serves.
    Start,
    /// Stop it: commands that run may finish.
    Stop,
    /// What the service manager calls.
    #[command(hide = true)]
    Run {
        #[command(flatten)]
        file: ConfigFile,
        /// The folder of its log.
        #[arg(long, value_name = "FOLDER")]
        logs: PathBuf,
    },
}

/// Does it, and says so.
pub(crate) fn run(action: Action) -> Result<Outcome, Failure> {
    let done = match action {
        Action::Install { file, account } => {
            let config = std::path::absolute(&file.config).context("cannot tell where the configuration is")?;
            install(&config, account.as_deref())?
        }
        Action::Uninstall => told(service::uninstall())?,
        Action::Start => told(service::start())?,
        Action::Stop => told(service::stop())?,
        Action::Run { file, logs } => {
            service::run(move || serve(&file.config, &logs)).map_err(anyhow::Error::from)?;
            return Ok(Outcome::Well);
        }
    };
    print::text(&format!("{done}\n"))?;
    Ok(Outcome::Well)
}

fn told(result: Result<String, ServiceError>) -> Result<String, Failure> {
    result.map_err(|error| Failure::Runtime(error.into()))
}

/// Only with a configuration that it could start with: as `imapool check` tells it.
fn install(config: &Path, account: Option<&str>) -> Result<String, Failure> {
    if AVAILABLE {
        go_to_folder_of(config)?;
        let (loaded, places) = Config::load_with_places(config)?;
        check::loads(&loaded, &places, config)?;
    }
    told(service::install(config, account))
}

/// Files that a configuration names without a folder lie beside it. Services begin in the system's folder.
fn go_to_folder_of(config: &Path) -> anyhow::Result<()> {
    let folder = config.parent().unwrap_or(config);
    std::env::set_current_dir(folder).with_context(|| folder.display().to_string())
}

/// The service itself; gives its exit status. All that is wrong goes to its log: nobody sees anything else.
fn serve(config: &Path, logs: &Path) -> u32 {
    match try_to_serve(config, logs) {
        Ok(_) => 0,
        Err(failure) => {
            let status = if matches!(failure, Failure::Config(_)) { 2 } else { 1 };
            match failure {
                Failure::Config(error) => tracing::error!("{error}"),
                Failure::Told => {}
                Failure::Runtime(error) => tracing::error!("{error:#}"),
            }
            status
        }
    }
}

fn try_to_serve(file: &Path, logs: &Path) -> Result<Outcome, Failure> {
    let folder = go_to_folder_of(file);
    let loaded = Config::load_with_places(file);
    let log = loaded.as_ref().map_or_else(|_| Log::default(), |(config, _)| config.log.clone());
    let files = service::log_files(logs).context("cannot write the log")?;
    let level = logging::start_to(&log, files, false).map_err(anyhow::Error::from)?;
    folder?;
    let (config, places) = loaded?;
    run_with(file, config, places, level)
}
