//! Programs that may not be there, folders, and a running imapool.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Beyond this a test has hung.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// A folder that goes when it is dropped.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("imapool-deploy-").tempdir().unwrap()
}

/// Where a program is; `None`, and a word on standard error, where it is not installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Says that a test is skipped, and why; fails where everything is required.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none_or(|required| required != "1"), "{why}");
    // Past the test harness, which would swallow it.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Runs a program to its end, which must be a good one; gives what it says on standard output.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(crate) fn finish(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub(crate) fn imapool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
    command.env_remove("RUST_LOG");
    command
}

/// Waits until something is there, looking again and again: for foreign programs, which give no word.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A child process; killed, by its id, when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `imapool run`.
pub(crate) struct Imapool {
    _process: Process,
    /// Its first listener's address.
    pub(crate) listener: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Imapool {
    /// With a configuration that has listeners and the admin address on 127.0.0.1, port 0.
    pub(crate) fn start(config: &Path) -> Self {
        let mut command = imapool();
        // Whatever the configuration says: where it listens is in the log.
        command.env("RUST_LOG", "imapool=info").args(["run", "--config"]).arg(config);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let process = Process(child);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            // To its end, so that it never has to wait for a reader.
            for line in stderr.lines().map_while(Result::ok) {
                match listening(&line) {
                    Some(address) => drop(tell.send((line.contains("listener=\"admin\""), address))),
                    None if !line.contains(" INFO ") => eprintln!("{line}"),
                    None => {}
                }
            }
        });
        let (mut listener, mut admin) = (None, None);
        while listener.is_none() || admin.is_none() {
            let (is_admin, address) = told.recv_timeout(WAIT).expect("imapool says where it listens");
            let place = if is_admin { &mut admin } else { &mut listener };
            place.get_or_insert(address);
        }
        Self { _process: process, listener: listener.unwrap(), admin: admin.unwrap() }
    }
}

/// The address in a `listening` line of the log.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.split_once("listening")?.1.split_once("address=")?;
    address.split_whitespace().next()?.parse().ok()
}

/// GET over HTTP/1.0; the body, of a good answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(WAIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}
