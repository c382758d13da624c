//! Files that the command line and the configuration name. Whatever is there in their place (a FIFO, a device, far too
//! much) neither holds this process up nor fills its memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

/// The longest configuration, in octets.
pub(crate) const CONFIGURATION: u64 = 1 << 18;
/// The longest PEM file: the authorities of a whole system are a fifth of it.
pub(crate) const PEM: u64 = 1 << 20;
/// The longest file that says where accounts go.
pub(crate) const MAP: u64 = imapool_proto::routing::map::LONGEST;
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

/// The file, if it is one, and not longer than this.
///
/// # Errors
/// As [`read`].
pub(crate) fn open(path: &Path, most: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // The opening of a FIFO would wait for a writer.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nix::fcntl::OFlag::O_NONBLOCK.bits());
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file, but a pipe, a socket or a device: write it to a file first"));
    }
    if metadata.len() > most { Err(too_large(most)) } else { Ok(file) }
}

fn too_large(most: u64) -> io::Error {
    let most = bytesize::ByteSize::b(most);
    io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {most}: is it the right file?"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_neither_hangs_nor_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("four"), "1234").unwrap();
        assert_eq!(read(&path("four"), 4).unwrap(), b"1234");
        let fifo = path("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let huge = path("huge");
        File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        for (file, words) in [
            (path("four"), "longer than 3 B"),
            (fifo, "not a regular file"),
            (huge, "longer than 3 B"),
            (Path::new("/dev/zero").to_owned(), "not a regular file"),
            (folder.path().to_owned(), "is a directory"),
            (path("missing"), "No such file"),
        ] {
            let error = read(&file, 3).unwrap_err().to_string();
            assert!(error.contains(words), "{}: {error}", file.display());
            assert_eq!(probe(&file, 3).unwrap_err().to_string(), error);
        }
    }
}
