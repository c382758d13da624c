//! Files that say where accounts go: read, and read again when they have changed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::Target;
use super::map::{BadLine, LONGEST, LONGEST_LINE, Map};
use super::name::{Kind, Names, Pattern};
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
    /// Lines are wrong.
    #[error("{}", told(path, lines, *more))]
    Lines {
        /// The file.
        path: PathBuf,
        /// The first of them, counted from 1, and what is wrong with each.
        lines: Vec<(u32, BadLine)>,
        /// How many more there are.
        more: u32,
    },
}

/// So many wrong lines of a file are named.
const MOST_NAMED: usize = 20;

/// For people: a line each.
fn told(path: &Path, lines: &[(u32, BadLine)], more: u32) -> String {
    let path = path.display();
    let mut told: Vec<_> = lines.iter().map(|(line, source)| format!("{path}:{line}: {source}")).collect();
    if more > 0 {
        told.push(format!("{path}: {more} more lines are wrong"));
    }
    told.join("\n")
}

impl MapError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Lines { path, .. } => path,
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
    let (mut wrong, mut more) = (Vec::new(), 0);
    let mut number = 1;
    loop {
        line.clear();
        let most = LONGEST_LINE as u64 + 2;
        if (&mut reader).take(most).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        match map.add(number, text, names, &target) {
            Ok(()) => {}
            Err(source) if wrong.len() < MOST_NAMED => wrong.push((number, source)),
            Err(_) => more += 1,
        }
        // The rest of one that is too long is no line of its own.
        if line.len() as u64 == most && !line.ends_with(b"\n") {
            reader.skip_until(b'\n').map_err(failed)?;
        }
        number += 1;
    }
    if !wrong.is_empty() {
        return Err(MapError::Lines { path: path.to_owned(), lines: wrong, more });
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
    // What is at the end of a link takes the place of that.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = match files::read(path, LONGEST) {
        Ok(octets) => String::from_utf8(octets).map_err(|_| io::Error::other("it is not UTF-8"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    // Not those of their domain.
    let names_it = |pattern: Pattern| pattern.kind == Kind::Name && keys.iter().any(|key| **key == *pattern.key);
    let is_own = |word: &str| Pattern::parse(word, names).is_ok_and(names_it);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.map");
        std::fs::write(&path, text).unwrap();
        let target = |name: &str| (name == "a").then_some(Target::Backend(0));
        let error = read(&path, &Names::default(), target).unwrap_err().to_string();
        error.replace(&path.display().to_string(), "users.map")
    }

    #[test]
    fn each_wrong_line_is_named_and_of_many_how_many_there_are() {
        let long = "x".repeat(10_000);
        let told = error(&format!("anna a\nbert\n{long}\ncarla b\nanna a\n"));
        let lines: Vec<_> = told.lines().map(|line| line.split_once(": ").unwrap()).collect();
        let places: Vec<_> = lines.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, ["users.map:2", "users.map:3", "users.map:4", "users.map:5"], "{told}");
        assert!(lines[1].1.starts_with("it is longer than"), "{told}");
        assert_eq!(lines[3].1, "line 1 has the same key");
        let told = error(&"one\n".repeat(50_000));
        assert_eq!(told.lines().count(), MOST_NAMED + 1, "{told}");
        assert!(told.ends_with("users.map: 49980 more lines are wrong"), "{told}");
    }
}
