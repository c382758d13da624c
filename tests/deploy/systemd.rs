//! The systemd units.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::{Process, find, folder, read, repository, succeed};

/// What `systemd-analyze security` may at most say, from 0.0 (safe) to 10.0.
const EXPOSURE: f32 = 2.0;

#[test]
fn the_service_is_little_exposed() {
    let Some(analyze) = find("systemd-analyze") else { return };
    let unit = repository("deploy/systemd/imapool.service");
    let text = succeed(Command::new(analyze).args(["security", "--offline=true", "--no-pager"]).arg(unit));
    let line = text.lines().find(|line| line.contains("Overall exposure level")).expect("a verdict");
    let exposure: f32 = line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number");
    assert!(exposure <= EXPOSURE, "{text}");
}

#[test]
fn the_units_are_well_formed() {
    let Some(analyze) = find("systemd-analyze") else { return };
    // It wants the programs to be there: a copy that names this binary.
    let folder = folder();
    for unit in ["imapool.service", "imapool.socket"] {
        let text = read(&format!("deploy/systemd/{unit}")).replace("/usr/bin/imapool", env!("CARGO_BIN_EXE_imapool"));
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    let mut command = Command::new(analyze);
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    command.args(["imapool.service", "imapool.socket"].map(|unit| folder.path().join(unit)));
    let output = command.output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("imapool."), "{complaints}");
}

/// The unit's filter of system calls, by the same library as systemd's; then the program.
const FILTERED: &str = r##"
import ctypes, os, subprocess, sys
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
def calls(names):
    found = set()
    for name in names:
        if name.startswith("@"):
            lines = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
            members = [line.split("#")[0].strip() for line in lines.stdout.splitlines()[1:]]
            found |= calls(member for member in members if member)
        else:
            found.add(name)
    return found
allowed = calls(["@default"])
for line in open(sys.argv[1]):
    if line.startswith("SystemCallFilter="):
        names = line.strip().split("=", 1)[1]
        if names.startswith("~"):
            allowed -= calls(names[1:].split())
        else:
            allowed |= calls(names.split())
context = ctypes.c_void_p(lib.seccomp_init(0x00050000 | 1))
for name in allowed:
    number = lib.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        assert lib.seccomp_rule_add(context, 0x7fff0000, number, 0) == 0, name
assert lib.seccomp_load(context) == 0
os.execv(sys.argv[2], sys.argv[2:])
"##;

fn filtered(arguments: &[&str], folder: &std::path::Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", FILTERED]).arg(repository("deploy/systemd/imapool.service"));
    command.arg(env!("CARGO_BIN_EXE_imapool")).args(arguments);
    command.current_dir(folder).env("RUNTIME_DIRECTORY", folder).env_remove("RUST_LOG").stderr(Stdio::piped());
    command
}

/// What the unit allows is enough to start, and to be told what came of a reload.
#[test]
fn it_runs_and_reloads_within_the_filter_of_system_calls() {
    let (Some(_), Some(_)) = (find("systemd-analyze"), find("python3")) else { return };
    let folder = folder();
    let text =
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"127.0.0.1:9\"\n[admin]\naddress = \"\"\n";
    std::fs::write(folder.path().join("imapool.toml"), text).unwrap();
    let mut service = Process(filtered(&["run", "-c", "imapool.toml"], folder.path()).spawn().unwrap());
    let mut log = BufReader::new(service.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = Vec::new();
    while !said.iter().any(|line: &String| line.contains("listening")) {
        said.push(log.next().unwrap_or_else(|| panic!("it does not listen: {said:?}")));
    }
    let pid = service.0.id().to_string();
    let told = succeed(&mut filtered(&["ctl", "reload", "--pid", &pid], folder.path()));
    assert_eq!(told, "reloaded; nothing has changed\n");
    std::fs::write(folder.path().join("imapool.toml"), "x").unwrap();
    let refused = filtered(&["ctl", "reload", "--pid", &pid], folder.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("imapool.toml:1:2: not valid TOML"), "{refused:?}");
}
