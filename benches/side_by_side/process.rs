//! Child processes: started in the foreground with a log file, ended by their id, and asked what they cost through
//! /proc.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Buffers, Client, Door};

/// How long a server may take until it greets.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// What is foreign code's own pace (a port that opens, a process that ends) gives no event to wait for: it is looked at
/// this often.
const POLL: Duration = Duration::from_millis(10);
/// USER_HZ, the unit of the times in /proc/PID/stat: 100 on every Linux architecture in use.
const TICKS_PER_SECOND: f64 = 100.0;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Notes that the user wants to stop: everything that loops looks at it, so that all servers are ended and the files
/// removed.
pub(crate) fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A folder of its own, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("imapool-side-by-side-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        // Servers that give up root must still get at their files.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }

    /// A new empty folder in it, writable by anyone: some servers change to a user of their own.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A loopback address nobody listens on at this moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The first of `names` found on PATH or among the system's server programs.
pub(crate) fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from)).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

/// What a program prints first, on either stream.
pub(crate) fn first_line_of(program: &Path, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).stdin(Stdio::null()).output() else {
        return "version unknown".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("version unknown").to_owned()
}

/// What a program prints, without the line end.
pub(crate) fn output_of(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{} {}: {}", program.display(), arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A server running as a child in the foreground; ended when dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` with both its streams in `log`, and waits until an IMAP server greets at `door`.
    pub(crate) fn start(command: &mut Command, log: &Path, door: &Door) -> Result<Self> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let mut server = Self { child, log: log.to_owned() };
        server.wait_for_greeting(door)?;
        Ok(server)
    }

    fn wait_for_greeting(&mut self, door: &Door) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !greets(door) {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended before it listened ({status}){}", self.log_tail());
            }
            if interrupted() {
                bail!("interrupted");
            }
            if Instant::now() >= deadline {
                bail!("no greeting after {START_TIMEOUT:?}{}", self.log_tail());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].iter().map(|line| format!("; {line}")).collect()
    }

    /// Processor time, user and system, of the process, its living descendants, and those of them which ended.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks: u64 = process_tree(self.child.id()).iter().map(|process| process.ticks).sum();
        Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Resident memory in octets of the process and its descendants.
    pub(crate) fn resident(&self) -> u64 {
        process_tree(self.child.id()).iter().map(|process| resident(process.id)).sum()
    }

    /// Waits until the resident memory has held still, as processes may give back buffers a moment after their use.
    pub(crate) fn settled_resident(&self) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(2);
        let (mut last, mut same) = (self.resident(), 0);
        while same < 4 && Instant::now() < deadline {
            thread::sleep(POLL * 5);
            let now = self.resident();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let family = process_tree(self.child.id());
        signal(self.child.id(), Signal::SIGTERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(POLL),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        // The ids of the children may be used again only after their parent has ended, which it has not.
        for process in family {
            signal(process.id, Signal::SIGKILL);
        }
        if let Err(error) = self.child.wait() {
            eprintln!("cannot wait for process {}: {error}", self.child.id());
        }
    }
}

fn signal(id: u32, signal: Signal) {
    // An error means that the process has ended, which is what is wanted.
    let _ = i32::try_from(id).map(|id| kill(Pid::from_raw(id), signal));
}

fn greets(door: &Door) -> bool {
    let mut buffers = Buffers::new();
    // The polite way out, so that it is the server that closes.
    Client::connect(door, &mut buffers).and_then(|client| client.logout(&mut buffers)).is_ok()
}

struct Process {
    id: u32,
    parent: u32,
    ticks: u64,
}

/// A process and its living descendants.
fn process_tree(root: u32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut rest: Vec<Process> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(read_stat).collect();
    let mut tree: Vec<Process> = rest.extract_if(.., |process| process.id == root).collect();
    let mut next = 0;
    while let Some(parent) = tree.get(next).map(|process| process.id) {
        tree.extend(rest.extract_if(.., |process| process.parent == parent));
        next += 1;
    }
    tree
}

fn read_stat(id: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold blanks and parentheses; after it come state, ppid and the rest.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // utime, stime, and of the children already waited for: cutime, cstime (fields 14 to 17 of proc(5)).
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Process { id, parent: u32::try_from(number(1)?).ok()?, ticks })
}

/// From smaps_rollup, which is exact; the figure in status lags behind by what each processor has not yet reported.
fn resident(id: u32) -> u64 {
    let exact = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok().and_then(|text| kibibytes(&text, "Rss:"));
    let status = || fs::read_to_string(format!("/proc/{id}/status")).ok().and_then(|text| kibibytes(&text, "VmRSS:"));
    exact.or_else(status).unwrap_or(0) * 1024
}

fn kibibytes(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()
}
