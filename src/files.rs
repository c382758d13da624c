//! Text files that the command line and the configuration name. Whatever is there in their place (a FIFO, a device, far
//! too much) neither holds this process up nor fills its memory. A byte order mark, as editors of Windows write it
//! before UTF-8, is no part of the text.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// The longest configuration, in octets.
pub(crate) const CONFIGURATION: u64 = 1 << 18;
/// The longest PEM file: the authorities of a whole system are a fifth of it.
pub(crate) const PEM: u64 = 1 << 20;
/// The longest PEM file with a certificate of many: chain and key are a tenth of it.
pub(crate) const CERTIFICATE: u64 = 1 << 16;
/// The longest file that says where accounts go.
pub(crate) const MAP: u64 = imapool_proto::routing::map::LONGEST;
/// The longest file of another proxy's.
pub(crate) const FOREIGN: u64 = 1 << 28;
/// The longest file with a token.
pub(crate) const TOKEN: u64 = 1 << 12;

/// The whole of a regular file of at most `most` octets.
///
/// # Errors
/// What the system says, or that it is no such file.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    // It may grow while it is read.
    open(path, most)?.take(most + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > most { Err(too_large(most)) } else { Ok(octets) }
}

/// Tells whether [`read`] would read it.
///
/// # Errors
/// As [`read`].
pub(crate) fn probe(path: &Path, most: u64) -> io::Result<()> {
    open(path, most).map(drop)
}

/// The file, if it is one, and not longer than this; behind a byte order mark.
///
/// # Errors
/// As [`read`].
pub(crate) fn open(path: &Path, most: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // The opening of a FIFO would wait for a writer.
    crate::platform::files::open_without_waiting(&mut options);
    let mut file = options.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file, but a pipe, a socket or a device: write it to a file first"));
    }
    if metadata.len() > most {
        return Err(too_large(most));
    }
    skip_mark(&mut file)?;
    Ok(file)
}

/// Skips the byte order mark of UTF-8. That of UTF-16 begins no text that anybody here could read.
fn skip_mark(file: &mut File) -> io::Result<()> {
    const UTF_8: &[u8] = b"\xef\xbb\xbf";
    let mut start = Vec::with_capacity(UTF_8.len());
    file.by_ref().take(UTF_8.len() as u64).read_to_end(&mut start)?;
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is UTF-16: save it as UTF-8 (PowerShell: -Encoding utf8)",
        ));
    }
    if start != UTF_8 {
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(())
}

fn too_large(most: u64) -> io::Error {
    let most = bytesize::ByteSize::b(most);
    io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {most}: is it the right file?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        for (octets, text) in [
            (&b"\xef\xbb\xbfuser main\r\n"[..], Some(&b"user main\r\n"[..])),
            (b"\xef\xbb\xbf", Some(b"")),
            (b"\xef\xbb", Some(b"\xef\xbb")),
            (b"", Some(b"")),
            (b"ab", Some(b"ab")),
            (b"user main\n", Some(b"user main\n")),
            (b"\xef\xbb\xbf\xef\xbb\xbfx", Some(b"\xef\xbb\xbfx")),
            (b"\xff\xfeu\0s\0", None),
            (b"\xfe\xff\0u\0s", None),
        ] {
            std::fs::write(&path, octets).unwrap();
            assert_eq!(read(&path, 20).ok().as_deref(), text, "{octets:?}");
            assert_eq!(probe(&path, 20).is_ok(), text.is_some(), "{octets:?}");
        }
    }

    #[test]
    fn what_is_too_long_or_no_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("four"), "1234").unwrap();
        assert_eq!(read(&path("four"), 4).unwrap(), b"1234");
        let huge = path("huge");
        File::create(&huge).unwrap().set_len(1 << 32).unwrap();
        for (file, words) in [(path("four"), "longer than 3 B"), (huge, "longer than 3 B")] {
            let error = read(&file, 3).unwrap_err().to_string();
            assert!(error.contains(words), "{}: {error}", file.display());
            assert_eq!(probe(&file, 3).unwrap_err().to_string(), error);
        }
        for file in [folder.path().to_owned(), path("missing")] {
            assert_eq!(read(&file, 3).unwrap_err().to_string(), probe(&file, 3).unwrap_err().to_string());
        }
    }
}
