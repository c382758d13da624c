//! What was made, as files: all of it or nothing, and never in place of something that is there.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};
use thiserror::Error;

use super::Imported;

/// Nothing was written.
#[derive(Debug, Error)]
#[error("nothing was written: {}: {source}", path.display())]
pub struct WriteError {
    /// The file that could not be.
    path: PathBuf,
    /// What the system says.
    source: io::Error,
}

/// Writes the configuration, and the file with the accounts where there is one. A configuration that somebody has
/// worked on is not to be lost by a slip of the hand.
///
/// # Errors
/// When one of them is there already, or cannot be written to its end.
pub fn write(imported: &Imported, path: &Path, map: &Path) -> Result<(), WriteError> {
    let accounts = imported.accounts.as_ref();
    let accounts = accounts.map(|text| beside(map, text, false).map_err(failed(map))).transpose()?;
    let configuration = beside(path, &imported.toml, imported.is_private).map_err(failed(path))?;
    let has_map = accounts.is_some();
    if let Some(accounts) = accounts {
        name(accounts, map).map_err(failed(map))?;
    }
    name(configuration, path).map_err(failed(path)).inspect_err(|_| {
        if has_map {
            drop(std::fs::remove_file(map));
        }
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    move |source| WriteError { path: path.to_owned(), source }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Written and on the disk under a name of its own, which is gone with the value. `private`: for its owner alone.
fn beside(path: &Path, text: &str, private: bool) -> io::Result<NamedTempFile> {
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut builder = Builder::new();
    builder.prefix(".imapool-import-");
    let mut file = if private {
        builder.tempfile_in(folder(path))?
    } else {
        builder.make_in(folder(path), |path| OpenOptions::new().write(true).create_new(true).open(path))?
    };
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Gives it its name, safely on the disk, too.
fn name(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist_noclobber(path).map_err(|error| error.error)?;
    crate::platform::files::sync_folder(folder(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn imported(is_private: bool) -> Imported {
        Imported { toml: "# toml\n".into(), accounts: Some("# map\n".into()), is_private }
    }

    #[test]
    fn what_is_there_is_kept_and_then_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let [path, map] = ["imapool.toml", "imapool.map"].map(|name| folder.path().join(name));
        for there in [&path, &map] {
            fs::write(there, "mine").unwrap();
            let error = write(&imported(false), &path, &map).unwrap_err().to_string();
            assert!(error.contains(&there.display().to_string()), "{error}");
            assert_eq!(fs::read_to_string(there).unwrap(), "mine");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            fs::remove_file(there).unwrap();
        }
        write(&imported(false), &path, &map).unwrap();
        assert_eq!([&path, &map].map(|file| fs::read_to_string(file).unwrap()), ["# toml\n", "# map\n"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
