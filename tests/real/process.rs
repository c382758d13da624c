//! Processes in groups of their own, ended by id whatever becomes of the test.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a process may take to end after SIGTERM before it is killed: longer than imapool waits for its sessions
/// (`limits.drain_timeout`).
const TERM_GRACE: Duration = Duration::from_secs(45);

/// A running process and its descendants.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    /// Starts `command` as the leader of a new process group, its output going to `log`.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> io::Result<Self> {
        let out = File::create(log)?;
        let err = out.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn()?;
        Ok(Self { child, ended: false })
    }

    /// The exit status, if the leader has ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// To the leader, which must be running.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is running");
    }

    /// SIGTERM to the leader, then the rest of the group is ended. `None`: it had to be killed.
    pub(crate) fn stop(&mut self) -> Option<ExitStatus> {
        if self.ended {
            return None;
        }
        self.ended = true;
        let group = Pid::from_raw(self.child.id() as i32);
        let _ = kill(group, Signal::SIGTERM);
        let status = wait_until(TERM_GRACE, || self.exited());
        let _ = killpg(group, Signal::SIGKILL);
        if status.is_none() {
            let _ = self.child.wait();
        }
        status
    }

    /// SIGKILL to all of them at once: nobody can say or save anything any more.
    pub(crate) fn kill(&mut self) {
        self.ended = true;
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks `probe` again and again, at most for `limit`. For facts of other processes, which send no event.
pub(crate) fn wait_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A loopback port that was free a moment ago. Servers that cannot bind port 0 and tell are given one of these,
/// and are started anew on another if somebody took it meanwhile.
pub(crate) fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    listener.local_addr().expect("a bound socket has an address")
}

/// The executable `name` on PATH or in the folders where servers live.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Says visibly that a test cannot run here; fails it if everything was required to be here.
pub(crate) fn skip(missing: &str) {
    assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none_or(|v| v != "1"), "{missing} is not installed here");
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // Straight to the stream: the test harness swallows what passing tests print.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {missing} is not installed here");
}
