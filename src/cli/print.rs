//! What commands print. Whoever reads it may stop before its end (`imapool status | head -n 1`): that is no failure.

use std::io::{self, Write as _};

use anyhow::Context as _;

/// To standard output.
///
/// # Errors
/// When it can be written nowhere: a full disk, for example.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

/// A line, or several, to standard error. Where that is closed there is nobody to be told.
pub(crate) fn error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
