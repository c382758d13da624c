//! Files.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::MetadataExt as _;
use std::path::Path;

/// A named pipe without a server is refused at once.
pub(crate) fn open_without_waiting(_: &mut OpenOptions) {}

/// What tells a file from another of the same name: when it was made, to 100 ns.
pub(crate) type Identity = u64;

/// See [`Identity`].
pub(crate) fn identity(metadata: &Metadata) -> Identity {
    metadata.creation_time()
}

/// Folders are written down by NTFS itself, in its log; there is no call for it.
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
