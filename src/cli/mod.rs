//! The commands that talk to a running imapool by its admin address.

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod ctl;
pub(crate) mod lists;
pub(crate) mod print;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod top;

use std::path::PathBuf;

use imapool::config::{Admin, Config, ConfigError, ListenAddr};
use imapool::platform::paths::configuration;

use self::client::Client;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigFile {
    /// The configuration, a TOML file.
    #[arg(short, long, value_name = "FILE", default_value_os_t = configuration())]
    pub(crate) config: PathBuf,
}

/// Which imapool is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143.
    #[arg(long, value_name = "ADDRESS", env = "IMAPOOL_ADMIN", global = true)]
    admin: Option<String>,
    /// Its configuration, to take the admin address and the token from. Default, where no address is given:
    /// /etc/imapool/imapool.toml, if it can be read.
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl Target {
    /// A client for it.
    ///
    /// # Errors
    /// When the configuration cannot be read, or has no admin address.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        // Not the configuration of a command of its own: the exit status is that of any failure.
        let mut admin = self.configured().map_err(|error| anyhow::anyhow!("{:#}", anyhow::Error::from(error)))?;
        if let Some(address) = self.address() {
            admin.address = Some(address_of(address)?);
        }
        let Some(address) = admin.address.clone() else {
            anyhow::bail!("the configuration has no admin address: imapool cannot be asked");
        };
        // A token that cannot be read is missed only where one is needed.
        let token = imapool::admin::Token::load(&Admin { address: None, ..admin });
        Ok(Client { address, token: token.map_err(|error| error.to_string()) })
    }

    /// That is given; a variable that is empty gives none.
    fn address(&self) -> Option<&str> {
        self.admin.as_deref().filter(|address| !address.is_empty())
    }

    /// What the configuration says. The files that it names are for imapool to read, and not for everybody.
    fn configured(&self) -> Result<Admin, ConfigError> {
        match (&self.config, self.address()) {
            (Some(file), _) => Config::read_admin(file),
            // The token of this host's imapool is not for another.
            (None, Some(_)) => Ok(Admin::default()),
            (None, None) => match Config::read_admin(&configuration()) {
                Err(ConfigError::Read { .. }) => Ok(Admin::default()),
                read => read,
            },
        }
    }
}

fn address_of(text: &str) -> anyhow::Result<ListenAddr> {
    match (text.strip_prefix("unix:"), text.parse()) {
        (Some(path), _) => Ok(ListenAddr::Unix(path.into())),
        (None, Ok(address)) => Ok(ListenAddr::Tcp(address)),
        (None, Err(_)) => anyhow::bail!(
            "{text:?} is no admin address: write an IP address and a port such as 127.0.0.1:9143, or unix:/path"
        ),
    }
}
