//! What came of a reload by SIGHUP, for whoever sent it. A signal has no answer, and a service manager knows only the
//! exit status of what it runs for a reload.
//!
//! Who asks binds a socket of datagrams in the service's runtime directory, and then sends the signal. imapool looks
//! which sockets are there before it reads its configuration, and sends each what came of that. Only the user that
//! imapool runs as can make a file there, so no token is needed; and nothing is left behind that could be out of date.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::{NamedTempFile, TempPath};

/// The variable by which systemd names the directory (RuntimeDirectory= of the unit).
const DIRECTORY: &str = "RUNTIME_DIRECTORY";
/// What the sockets are called, before the number of the process that asks.
const PREFIX: &str = "reload.";
/// How long a reload may take: it reads files and may bind ports.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer, in octets.
const LONGEST: usize = 32 * 1024;
/// Who is answered at a time.
const MOST: usize = 16;

/// Why it is not known what came of it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Not run by a service manager, or others could answer there.
    #[error(
        "RUNTIME_DIRECTORY names no directory that only its owner may write to, so imapool cannot say there what came of \
         it: this is for ExecReload= of a unit with RuntimeDirectory=; elsewhere use imapool ctl reload without --pid, or \
         kill -HUP and the log"
    )]
    NoDirectory,
    /// No socket there.
    #[error("cannot listen in {}: {error}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No such process, or not ours.
    #[error("cannot send SIGHUP to process {pid}: {error}")]
    Signal {
        /// Which.
        pid: i32,
        /// What the system said.
        error: io::Error,
    },
    /// Nothing was said.
    #[error(
        "process {pid} has not said within {} what came of it: see its log; is it imapool, with the same \
         RUNTIME_DIRECTORY, and not about to end?",
        humantime::format_duration(PATIENCE)
    )]
    Silence {
        /// Which.
        pid: i32,
    },
    /// The new configuration was refused; why.
    #[error("{0}")]
    Refused(String),
}

/// The first directory of the variable: a unit may have several. What is told there is not for everybody, nor may
/// everybody tell something there.
fn directory() -> Option<PathBuf> {
    /// Writable by group or others.
    const SHARED: u32 = 0o022;
    let directories = std::env::var_os(DIRECTORY)?;
    let path = std::env::split_paths(&directories).next().filter(|path| path.is_absolute())?;
    let metadata = fs::metadata(&path).ok()?;
    (metadata.is_dir() && metadata.mode() & SHARED == 0).then_some(path)
}

/// A socket whose file goes with it. It is ready before the signal is sent: nobody else is to answer it; and where root
/// asks, the service's user is to.
fn mailbox(path: &Path) -> io::Result<NamedTempFile<UnixDatagram>> {
    // Of an earlier process with this number.
    let _gone = fs::remove_file(path);
    let socket = UnixDatagram::bind(path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mailbox = NamedTempFile::from_parts(socket, TempPath::try_from_path(path)?);
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let owner = fs::metadata(path.parent().unwrap_or(path))?.uid();
    // The unit does not allow this call, nor is it needed there.
    if fs::metadata(path)?.uid() != owner {
        std::os::unix::fs::chown(path, Some(owner), None)?;
    }
    Ok(mailbox)
}

/// Sends SIGHUP to imapool, and waits for what comes of it: what has changed, in words.
///
/// # Errors
/// See [`AskError`].
pub fn ask(pid: i32) -> Result<String, AskError> {
    let path = directory().ok_or(AskError::NoDirectory)?.join(format!("{PREFIX}{}", std::process::id()));
    let mailbox = mailbox(&path).map_err(|error| AskError::Socket { path, error })?;
    // Zero and below are groups of processes.
    let sent = if pid > 0 { kill(Pid::from_raw(pid), Signal::SIGHUP) } else { Err(nix::errno::Errno::EINVAL) };
    sent.map_err(|error| AskError::Signal { pid, error: error.into() })?;
    let mut octets = vec![0; LONGEST];
    let length = mailbox.as_file().recv(&mut octets).map_err(|_| AskError::Silence { pid })?;
    let text = String::from_utf8_lossy(&octets[..length]).into_owned();
    match text.strip_prefix('+') {
        Some(changes) => Ok(changes.to_owned()),
        None => Err(AskError::Refused(text.trim_start_matches('-').to_owned())),
    }
}

/// Those who have asked.
#[derive(Debug, Default)]
pub struct Askers(Vec<PathBuf>);

impl Askers {
    /// Who waits now. Call it before the configuration is read: who comes later sends a signal of his own.
    #[must_use]
    pub fn waiting() -> Self {
        let entries = directory().and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten();
        let ours = |entry: &fs::DirEntry| {
            let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            named && entry.file_type().is_ok_and(|kind| kind.is_socket())
        };
        Self(entries.filter(ours).map(|entry| entry.path()).take(MOST).collect())
    }

    /// Tells them: what has changed, or why nothing has. Never waits.
    pub fn tell(self, outcome: Result<&str, &str>) {
        let Ok(socket) = UnixDatagram::unbound() else { return };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let text = match outcome {
            Ok(changes) => format!("+{changes}"),
            Err(error) => format!("-{error}"),
        };
        for path in self.0 {
            if let Err(error) = socket.send_to(&text.as_bytes()[..text.len().min(LONGEST)], &path)
                && error.kind() == io::ErrorKind::ConnectionRefused
            {
                // Left behind by one that was killed.
                let _gone = fs::remove_file(&path);
            }
        }
    }
}
