//! `imapool service`: imapool as a service of Windows.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use imapool::config::{Config, ConfigError, Log};
use imapool::platform::service;
pub(crate) use imapool::platform::service::AVAILABLE;

use super::{ConfigFile, check, print};
use crate::{Outcome, logging, run_with};

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
pub(crate) fn run(action: Action) -> anyhow::Result<Outcome> {
    let done = match action {
        Action::Install { file, account } => {
            let config = std::path::absolute(&file.config).context("cannot tell where the configuration is")?;
            if AVAILABLE && !could_start(&config)? {
                return Ok(Outcome::Misconfigured);
            }
            service::install(&config, account.as_deref())?
        }
        Action::Uninstall => service::uninstall()?,
        Action::Start => service::start()?,
        Action::Stop => service::stop()?,
        Action::Run { file, logs } => {
            service::run(move || serve(&file.config, &logs))?;
            return Ok(Outcome::Well);
        }
    };
    print::text(&format!("{done}\n"))?;
    Ok(Outcome::Well)
}

/// Whether it could start with this configuration: as `imapool check` tells it.
fn could_start(config: &Path) -> anyhow::Result<bool> {
    go_to_folder_of(config)?;
    let (loaded, places) = Config::load_with_places(config)?;
    Ok(check::loads(&loaded, &places, config))
}

/// Files that a configuration names without a folder lie beside it. Services begin in the system's folder.
fn go_to_folder_of(config: &Path) -> anyhow::Result<()> {
    let folder = config.parent().unwrap_or(config);
    std::env::set_current_dir(folder).with_context(|| folder.display().to_string())
}

/// The service itself; gives its exit status. All that is wrong goes to its log: nobody sees anything else.
fn serve(config: &Path, logs: &Path) -> u32 {
    let outcome = try_to_serve(config, logs).unwrap_or_else(|error| match error.downcast_ref::<ConfigError>() {
        Some(fault) => {
            tracing::error!("{fault}");
            Outcome::Misconfigured
        }
        None => {
            tracing::error!("{error:#}");
            Outcome::Failed
        }
    });
    outcome as u32
}

fn try_to_serve(file: &Path, logs: &Path) -> anyhow::Result<Outcome> {
    let folder = go_to_folder_of(file);
    let loaded = Config::load_with_places(file);
    let log = loaded.as_ref().map_or_else(|_| Log::default(), |(config, _)| config.log.clone());
    let files = service::log_files(logs).context("cannot write the log")?;
    let level = logging::start_to(&log, files, false)?;
    folder?;
    let (config, places) = loaded?;
    run_with(file, config, places, level)
}
