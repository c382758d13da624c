//! Where things are by default.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The configuration: `%ProgramData%\imapool\imapool.toml`.
#[must_use]
pub fn configuration() -> PathBuf {
    folder().join("imapool.toml")
}

/// The folder of the service's log.
pub(super) fn logs() -> PathBuf {
    folder().join("log")
}

/// `%ProgramData%\imapool`
pub(super) fn folder() -> PathBuf {
    from_environment("ProgramData", r"C:\ProgramData").join("imapool")
}

/// A program of the system, wherever others of its name may be. It hears nothing, and what it says is not shown.
pub(super) fn of_system(name: &str) -> Command {
    let mut command = Command::new(from_environment("SystemRoot", r"C:\Windows").join("System32").join(name));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn from_environment(variable: &str, otherwise: &str) -> PathBuf {
    let found = std::env::var_os(variable).filter(|path| Path::new(path).is_absolute());
    found.map_or_else(|| PathBuf::from(otherwise), PathBuf::from)
}
