//! Where things are by default.

use std::path::PathBuf;

/// The configuration.
#[must_use]
pub fn configuration() -> PathBuf {
    PathBuf::from("/etc/imapool/imapool.toml")
}
