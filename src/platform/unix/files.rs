//! Files.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Has the opening of a FIFO not wait for a writer.
pub(crate) fn open_without_waiting(options: &mut OpenOptions) {
    options.custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
}

/// What tells a file from another of the same name: device and inode.
pub(crate) type Identity = (u64, u64);

/// See [`Identity`].
pub(crate) fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Has a name that was given in this folder outlast a loss of power.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use crate::files::{probe, read};

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
