//! The log of the service: files in a folder, of which there are never more than [`KEPT`], each of [`SIZE`] at most.
//! None is ever renamed: whoever reads one, or keeps it open, is in nobody's way.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// When a file has so many octets, the next is begun.
const SIZE: u64 = 32 << 20;
/// So many files are kept.
const KEPT: usize = 32;

/// What is written to, by one thread at a time.
pub type LogFiles = Mutex<Current>;

/// The file that is written to, a line at a time.
#[derive(Debug)]
pub struct Current {
    folder: PathBuf,
    size: u64,
    number: u32,
    /// `None`: the next could not be begun.
    file: Option<File>,
    written: u64,
}

/// The files of the log in a folder; goes on with the last one.
///
/// # Errors
/// Where the folder cannot be written to.
pub fn log_files(folder: &Path) -> io::Result<LogFiles> {
    Current::begin(folder, SIZE).map(Mutex::new)
}

impl Current {
    fn begin(folder: &Path, size: u64) -> io::Result<Self> {
        let number = numbers(folder)?.last().copied().unwrap_or(1);
        let mut current = Self { folder: folder.to_owned(), size, number, file: None, written: 0 };
        current.open()?;
        Ok(current)
    }

    fn open(&mut self) -> io::Result<()> {
        let path = self.folder.join(name(self.number));
        let file = File::options().append(true).create(true).open(&path);
        let file = file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        self.written = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Without a next file lines are lost: writing on in the old one would fill the disk.
    fn next(&mut self) -> io::Result<()> {
        if self.file.take().is_some() {
            self.number = self.number.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        }
        self.open()?;
        let found = numbers(&self.folder)?;
        let superfluous = found.len().saturating_sub(KEPT);
        for number in found.into_iter().take(superfluous) {
            // Whoever has it open without sharing may keep it until the next time.
            let _ = fs::remove_file(self.folder.join(name(number)));
        }
        Ok(())
    }
}

impl Write for Current {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let length = line.len() as u64;
        if self.file.is_none() || (self.written > 0 && self.written.saturating_add(length) > self.size) {
            self.next()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.write_all(line)?;
        self.written = self.written.saturating_add(length);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn name(number: u32) -> String {
    format!("imapool.{number:06}.log")
}

/// The numbers of the files that are there, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let found = entry?.file_name();
        let number: Option<u32> =
            found.to_str().and_then(|found| found.strip_prefix("imapool.")?.strip_suffix(".log")?.parse().ok());
        // As we write it, and no other way.
        numbers.extend(number.filter(|number| found.to_str() == Some(name(*number).as_str())));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(folder: &Path) -> Vec<String> {
        let read = |number: u32| fs::read_to_string(folder.join(name(number))).unwrap();
        numbers(folder).unwrap().into_iter().map(read).collect()
    }

    #[test]
    fn the_log_is_bounded_whatever_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Current::begin(folder.path(), 10).unwrap();
        for line in ["1234\n", "5678\n", "one line that is longer than a file\n", "9\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read(folder.path()), ["1234\n5678\n", "one line that is longer than a file\n", "9\n"]);
        for _ in 0..3 * KEPT {
            log.write_all(b"a whole file").unwrap();
        }
        assert_eq!(read(folder.path()), vec!["a whole file"; KEPT]);
    }

    #[test]
    fn another_start_goes_on_where_the_last_one_ended() {
        let folder = tempfile::tempdir().unwrap();
        for other in ["imapool.toml", "imapool.7.log", "imapool.000009.log.bak", "other.000009.log"] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        for _ in 0..3 {
            Current::begin(folder.path(), 10).unwrap().write_all(b"1234\n").unwrap();
        }
        assert_eq!(read(folder.path()), ["1234\n1234\n", "1234\n"]);
    }

    #[test]
    fn a_file_that_somebody_keeps_to_himself_stops_nothing() {
        use std::os::windows::fs::OpenOptionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let mut log = Current::begin(folder.path(), 4).unwrap();
        log.write_all(b"kept").unwrap();
        let first = folder.path().join(name(1));
        // Others may read and write it, and not remove it.
        let holder = File::options().read(true).share_mode(0x3).open(&first).unwrap();
        for _ in 0..2 * KEPT {
            log.write_all(b"line").unwrap();
        }
        assert!(first.exists());
        assert!(numbers(folder.path()).unwrap().len() <= KEPT + 1);
        drop(holder);
        log.write_all(b"line").unwrap();
        assert!(!first.exists());
        assert_eq!(numbers(folder.path()).unwrap().len(), KEPT);
    }

    #[test]
    fn where_no_file_can_be_made_lines_are_lost_until_one_can() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Current::begin(folder.path(), 4).unwrap();
        log.write_all(b"1234").unwrap();
        // A folder of this name.
        fs::create_dir(folder.path().join(name(2))).unwrap();
        log.write_all(b"lost").unwrap_err();
        log.write_all(b"lost").unwrap_err();
        fs::remove_dir(folder.path().join(name(2))).unwrap();
        log.write_all(b"5678").unwrap();
        assert_eq!(read(folder.path()), ["1234", "5678"]);
    }
}
