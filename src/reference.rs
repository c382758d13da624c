//! Files that are made from the command line, the configuration and the table of servers: man pages, completions, the
//! schema, docs/servers.md.

mod man;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Command, ValueEnum};
use clap_complete::Shell;

/// The command line of `imapool reference`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to write.
    kind: Kind,
    /// Into which folder; it is made if it is not there.
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// imapool.1, one for each subcommand, and imapool.toml.5.
    Man,
    /// For bash, zsh and fish.
    Completions,
    /// imapool.schema.json
    Schema,
    /// servers.md
    Servers,
}

/// Writes the files of one kind.
pub(crate) fn write(args: &Args, command: &Command) -> anyhow::Result<()> {
    fs::create_dir_all(&args.folder).with_context(|| args.folder.display().to_string())?;
    let mut command = command.clone();
    match args.kind {
        Kind::Man => man::write(command, &args.folder)?,
        Kind::Completions => {
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                clap_complete::generate_to(shell, &mut command, "imapool", &args.folder).context("completions")?;
            }
        }
        Kind::Schema => {
            fs::write(args.folder.join("imapool.schema.json"), imapool::schema::text()).context("schema")?
        }
        Kind::Servers => fs::write(args.folder.join("servers.md"), imapool::demo::page::page()).context("servers")?,
    }
    Ok(())
}
