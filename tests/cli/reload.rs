//! `systemctl reload` fails when the reload is refused: what the unit runs for that, run here as systemd would.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::thread;

use crate::place::{Done, Place};

const UNIT: &str = include_str!("../../deploy/systemd/imapool.service");

fn text(more: &str) -> String {
    let addresses = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"127.0.0.1:9\"\n";
    format!("{addresses}[admin]\naddress = \"\"\n[pool]\nspare = 0\n{more}")
}

struct Service {
    place: Place,
    child: Child,
}

impl Service {
    /// Without an admin address, and without a token.
    fn start() -> Self {
        let place = Place::new();
        fs::create_dir(place.path("run")).unwrap();
        fs::set_permissions(place.path("run"), fs::Permissions::from_mode(0o750)).unwrap();
        place.write("imapool.toml", text(""));
        let mut command = place.command(&["run", "-c", "imapool.toml"]);
        let mut child = command.env("RUNTIME_DIRECTORY", place.path("run")).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        // It waits for signals before it says so.
        assert!(log.by_ref().any(|line| line.contains("listening")), "it does not listen");
        thread::spawn(move || log.for_each(drop));
        Self { place, child }
    }

    /// The process itself: what was started is the program that ends it in time.
    fn pid(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(children).unwrap().trim().to_owned()
    }

    /// What the unit runs.
    fn reload(&self) -> Done {
        let lines: Vec<_> = UNIT.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
        let [line] = lines[..] else { panic!("{lines:?}") };
        let line = line.strip_prefix("/usr/bin/imapool ").unwrap().replace("$MAINPID", &self.pid());
        let arguments: Vec<_> = line.split(' ').collect();
        let done: Done = self.command(&arguments).output().unwrap().into();
        let left = fs::read_dir(self.place.path("run")).unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");
        done
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.place.command(arguments);
        command.env("RUNTIME_DIRECTORY", self.place.path("run"));
        command
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // `timeout` passes it on.
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _gone = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        let _gone = self.child.wait();
    }
}

#[test]
fn a_reload_that_is_refused_fails() {
    let service = Service::start();
    let done = service.reload();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "reloaded; nothing has changed\n"), "{done:?}");
    service.place.write("imapool.toml", text("linger = \"1s\"\n"));
    let done = service.reload();
    assert_eq!(done.code, Some(0));
    assert_eq!(done.stdout, "reloaded:\n~ pool.linger: \"30s\" -> \"1s\"  (for new connections)\n");
    // A wrong line, and what only the process can know: that somebody else listens there.
    service.place.write("imapool.toml", text("lingr = \"1s\"\n"));
    let done = service.reload();
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""));
    assert!(done.stderr.contains("imapool.toml:10:1: unknown key `pool.lingr`: did you mean `linger`?"), "{done:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = format!("[[listener]]\naddress = \"{}\"\n", taken.local_addr().unwrap());
    service.place.write("imapool.toml", text(&second));
    let done = service.reload();
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("is in use: stop the other server"), "{done:?}");
    service.place.write("imapool.toml", text(""));
    assert_eq!(service.reload().code, Some(0));
}

#[test]
fn many_who_reload_at_once_are_all_told() {
    let service = Service::start();
    let running: Vec<_> = (0..8)
        .map(|_| {
            let mut command = service.command(&["ctl", "reload", "--pid", &service.pid()]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in running {
        let done: Done = child.wait_with_output().unwrap().into();
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), "reloaded; nothing has changed\n"), "{done:?}");
    }
}

/// What an earlier command left behind when it was killed, or what somebody else put there, keeps nobody from being
/// told.
#[test]
fn what_lies_in_the_directory_is_no_hindrance() {
    let service = Service::start();
    let run = service.place.path("run");
    drop(std::os::unix::net::UnixDatagram::bind(run.join("reload.1")).unwrap());
    // One that is never read, and not empty.
    let full = std::os::unix::net::UnixDatagram::bind(run.join("reload.2")).unwrap();
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(&[0; 1024], run.join("reload.2")).is_ok() {}
    nix::unistd::mkfifo(&run.join("reload.3"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A process that another test is just starting has the first one, too, until it is what it is to be.
    for _ in 0..20 {
        let done: Done = service.command(&["ctl", "reload", "--pid", &service.pid()]).output().unwrap().into();
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), "reloaded; nothing has changed\n"), "{done:?}");
        if !run.join("reload.1").exists() {
            break;
        }
    }
    assert!(!run.join("reload.1").exists(), "of a process that is gone");
    drop(full);
}

#[test]
fn where_nothing_can_be_told_it_says_so() {
    let place = Place::new();
    let done = place.run(&["ctl", "reload", "--pid", "1"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("RUNTIME_DIRECTORY names no directory"), "{done:?}");
    let service = Service::start();
    for pid in ["0", "-1", "999999999"] {
        let argument = format!("--pid={pid}");
        let done: Done = service.command(&["ctl", "reload", &argument]).output().unwrap().into();
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains(&format!("cannot send SIGHUP to process {pid}")), "{done:?}");
    }
    // Others could answer, or be answered.
    fs::set_permissions(service.place.path("run"), fs::Permissions::from_mode(0o770)).unwrap();
    let done: Done = service.command(&["ctl", "reload", "--pid", &service.pid()]).output().unwrap().into();
    assert!(done.stderr.contains("names no directory that only its owner may write to"), "{done:?}");
    fs::set_permissions(service.place.path("run"), fs::Permissions::from_mode(0o750)).unwrap();
    // Not to be written to: for others than root.
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(service.place.path("run"), fs::Permissions::from_mode(0o500)).unwrap();
        let done: Done = service.command(&["ctl", "reload", "--pid", &service.pid()]).output().unwrap().into();
        assert!(done.stderr.contains("cannot listen in"), "{done:?}");
    }
}
