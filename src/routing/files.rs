//! Files that say where accounts go: read, and read again when they have changed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::Target;
use super::map::{BadLine, LONGEST, LONGEST_LINE, Map};
use super::name::{Names, Pattern};
use crate::files;

/// Why a file cannot be used. Displays with `FILE:LINE`.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is wrong. The first is named.
    #[error("{}:{line}: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u32,
        /// What is wrong with it.
        source: BadLine,
    },
}

impl MapError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Line { path, .. } => path,
        }
    }
}

/// Reads a whole file. `target` finds backends and groups by their names.
///
/// # Errors
/// When it cannot be read, or any line is wrong.
pub(super) fn read(path: &Path, names: &Names, target: impl Fn(&str) -> Option<Target>) -> Result<Map, MapError> {
    let failed = |source| MapError::Read { path: path.to_owned(), source };
    let file: File = files::open(path, LONGEST).map_err(failed)?;
    // It may grow while it is read.
    let mut reader = BufReader::with_capacity(1 << 16, file.take(LONGEST));
    let (mut map, mut line) = (Map::default(), Vec::new());
    let mut number = 1;
    loop {
        line.clear();
        let most = LONGEST_LINE as u64 + 2;
        if (&mut reader).take(most).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        map.add(number, text, names, &target).map_err(|source| MapError::Line {
            path: path.to_owned(),
            line: number,
            source,
        })?;
        number += 1;
    }
    if number == 1 {
        return Err(failed(io::Error::other(
            "it is empty: if nobody is to be in it, write a line such as \"# nobody\"",
        )));
    }
    map.shrink();
    Ok(map)
}

/// At the head of a file of moves, which is never empty.
const HEADING: &str = "# Who was moved where by `imapool ctl move`: account, backend or group.";

/// Writes another line in the place of those that these keys have, or none. Whoever reads the file, and whatever ends
/// this process meanwhile, finds all of the old lines or all of the new ones.
///
/// # Errors
/// What the system says.
pub(super) fn amend(path: &Path, names: &Names, keys: &[Vec<u8>], line: Option<&str>) -> io::Result<()> {
    let text = match files::read(path, LONGEST) {
        Ok(octets) => String::from_utf8(octets).map_err(|_| io::Error::other("it is not UTF-8"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    // Not those of their domain.
    let is_own = |word: &str| match Pattern::parse(word, names) {
        Ok(Pattern::Name(name)) => keys.iter().any(|key| **key == *name),
        _ => false,
    };
    let is_other = |text: &&str| {
        let word = text.split_ascii_whitespace().next().unwrap_or("#");
        word.starts_with('#') || !is_own(word)
    };
    let mut lines: Vec<_> = text.lines().filter(is_other).collect();
    if lines.is_empty() {
        lines.push(HEADING);
    }
    lines.extend(line);
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    // Who may read it stays as it was.
    if let Ok(metadata) = std::fs::metadata(path) {
        file.set_permissions(metadata.permissions())?;
    }
    lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    // The name, too.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    crate::platform::files::sync_folder(folder)
}
