//! What the tests know of a real IMAP server, whichever it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::accounts::Accounts;
use crate::client::Client;
use crate::process::Group;

/// How long a server may take until its greeting.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Dovecot 2.3
    Dovecot,
    /// Cyrus 3.6
    Cyrus,
    /// Dovecot 2.4, of Debian 13
    Dovecot24,
    /// Cyrus 3.10, of Debian 13
    Cyrus310,
    /// Courier-IMAP 5.2, of Debian 13
    Courier,
}

impl Kind {
    /// As conversations name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dovecot => "dovecot-2.3",
            Self::Cyrus => "cyrus-3.6",
            Self::Dovecot24 => "dovecot-2.4",
            Self::Cyrus310 => "cyrus-3.10",
            Self::Courier => "courier",
        }
    }

    /// Without its version.
    pub(crate) fn family(self) -> &'static str {
        self.name().split('-').next().unwrap_or_default()
    }
}

/// What a test wants of its server.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Who may log in.
    pub(crate) accounts: Accounts,
    /// Dovecot's `mail_max_userip_connections`.
    pub(crate) max_userip_connections: usize,
    /// Dovecot's `auth_failure_delay`, in seconds.
    pub(crate) auth_failure_delay: u32,
    /// Dovecot's `anvil-auth-penalty`: slows every login from an address that has brought wrong passwords.
    pub(crate) penalty: bool,
    /// Dovecot's `mail_location`.
    pub(crate) mail_location: &'static str,
    /// PEM certificate and key: switches STARTTLS and the TLS port on.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// Dovecot's processes serve one connection after another. By default, each connection has one of its own, whose
    /// start takes longer than most sessions of the tests do.
    pub(crate) reuse: bool,
    /// What it writes is kept in memory, where there is room: it syncs much.
    pub(crate) in_memory: bool,
}

impl Options {
    /// Roomy limits, no TLS.
    pub(crate) fn new(accounts: Accounts) -> Self {
        Self {
            accounts,
            max_userip_connections: 1000,
            auth_failure_delay: 0,
            penalty: false,
            mail_location: "maildir:~/Maildir",
            tls: None,
            reuse: true,
            in_memory: true,
        }
    }
}

/// A running server. Dropping it ends its processes and removes its folder.
#[derive(Debug)]
pub(crate) struct Server {
    /// Which it is.
    pub(crate) kind: Kind,
    /// Where it listens without TLS.
    pub(crate) address: SocketAddr,
    /// Where it listens with TLS from the first byte.
    pub(crate) tls_address: Option<SocketAddr>,
    /// Ended before the folder is removed: fields drop in this order.
    pub(crate) processes: Group,
    /// Everything it writes.
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    /// Starts the server; `None` (after saying so) if it is not installed.
    pub(crate) async fn start(kind: Kind, options: &Options) -> Option<Self> {
        match kind {
            Kind::Dovecot | Kind::Dovecot24 => crate::dovecot::start(kind, options).await,
            Kind::Cyrus | Kind::Cyrus310 => crate::cyrus::start(kind, options).await,
            Kind::Courier => crate::courier::start(options).await,
        }
    }

    /// Starts one anew that has ended, where it was.
    pub(crate) async fn start_again(&mut self) {
        self.processes = match self.kind {
            Kind::Dovecot | Kind::Dovecot24 => crate::dovecot::run(self.kind, self.folder.path()),
            Kind::Cyrus | Kind::Cyrus310 => crate::cyrus::run(self.kind, self.folder.path()),
            Kind::Courier => panic!("no test wants this of Courier"),
        };
        let up = await_greeting(&mut self.processes, self.address).await;
        assert!(up, "it does not start again:\n{}", self.log());
    }

    /// What it has logged, for a failing test.
    pub(crate) fn log(&self) -> String {
        ["log", "output"]
            .iter()
            .filter_map(|name| std::fs::read(self.folder.path().join(name)).ok())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .collect()
    }
}

/// A folder that other users can enter, with a short name: Unix sockets go into it.
pub(crate) fn scratch_folder() -> tempfile::TempDir {
    folder_in(std::env::temp_dir())
}

/// The same for all that a server writes.
pub(crate) fn server_folder(options: &Options) -> tempfile::TempDir {
    folder_in(memory().filter(|_| options.in_memory).unwrap_or_else(std::env::temp_dir))
}

fn folder_in(place: PathBuf) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let prefix = format!("imapool-{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(place)
        .expect("a writable temporary folder")
}

/// A file system in memory that all root folders have, if there is one with room.
fn memory() -> Option<PathBuf> {
    const ROOM: u64 = 1 << 30;
    let place = PathBuf::from("/dev/shm");
    let seen = statvfs(&place).ok()?;
    (seen.blocks_available() * seen.fragment_size() >= ROOM).then_some(place)
}

/// Waits until the greeting comes, or the process ends, or time is up.
pub(crate) async fn await_greeting(processes: &mut Group, address: SocketAddr) -> bool {
    let start = tokio::time::Instant::now();
    while start.elapsed() < START_LIMIT && processes.exited().is_none() {
        if Client::connect(address).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}
