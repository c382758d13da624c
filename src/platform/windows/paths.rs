//! Where things are by default.

use std::path::{Path, PathBuf};

/// The configuration: `%ProgramData%\imapool\imapool.toml`.
#[must_use]
pub fn configuration() -> PathBuf {
    folder().join("imapool.toml")
}

/// The log of the service.
#[must_use]
pub fn log() -> PathBuf {
    folder().join("imapool.log")
}

fn folder() -> PathBuf {
    let data = std::env::var_os("ProgramData").filter(|data| Path::new(data).is_absolute());
    data.map_or_else(|| PathBuf::from(r"C:\ProgramData"), PathBuf::from).join("imapool")
}
