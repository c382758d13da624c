//! The command line as a user meets it: exit codes, and what is printed where.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;

/// Longer than any of these commands needs.
const PATIENCE: Duration = Duration::from_secs(60);

const GOOD: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"127.0.0.1:143\"\n";

/// What a command did: exit code, standard output, standard error.
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn imapool(arguments: &[&str], folder: &Path, environment: &[(&str, &str)]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
    command.args(arguments).current_dir(folder).env_remove("RUST_LOG").timeout(PATIENCE);
    let output = command.envs(environment.iter().copied()).output().expect("the binary starts");
    Done {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A folder of its own for each test, emptied first.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config").join(test);
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("the folder is ours");
    }
    fs::create_dir_all(&folder).expect("cargo made the folder above");
    folder
}

fn check(test: &str, text: impl AsRef<[u8]>) -> Done {
    let folder = folder(test);
    fs::write(folder.join("imapool.toml"), text).expect("the folder is there");
    imapool(&["check", "--config", "imapool.toml"], &folder, &[])
}

#[test]
fn check_accepts_the_example() {
    let done = imapool(&["check", "--config", "config/imapool.toml"], Path::new(env!("CARGO_MANIFEST_DIR")), &[]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert_eq!(
        done.stdout,
        "config/imapool.toml: ok\n\
        \x20 listener \"webmail\" on 127.0.0.1:1143, TLS: none\n\
        \x20 backend \"main\" at 127.0.0.1:143, TLS: none\n\
        \x20 at most 4 connections for each account, mode: multiplex\n\
        \x20 admin address 127.0.0.1:9143\n"
    );
}

#[test]
fn check_tells_all_that_is_wrong() {
    let done = check("wrong", format!("{GOOD}[pool]\nlingr = \"30s\"\nspare = true\n"));
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        done.stderr,
        "imapool.toml:6:1: unknown key `pool.lingr`: did you mean `linger`?\n\
         imapool.toml:7:9: `pool.spare` is a boolean, but must be a whole number, without quotes\n"
    );
}

#[test]
fn check_tells_where_toml_ends() {
    let done = check("syntax", "[[listener]\n");
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
    assert!(done.stderr.starts_with("imapool.toml:1:12: not valid TOML: "), "{}", done.stderr);
}

#[test]
fn check_tells_where_utf8_ends() {
    let done = check("latin1", b"# \xc3\xa4\nx = \"M\xfcnchen\"\n");
    assert_eq!(done.code, Some(2));
    assert_eq!(done.stderr, "imapool.toml:2:7: not UTF-8: save the file in that encoding\n");
}

#[test]
fn check_opens_the_files_that_are_named() {
    let listener = |tls: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"{tls}\"\ncertificate = \"cert.pem\"\nprivate_key = \".\"\n\
             [[backend]]\naddress = \"localhost:143\"\ntls = \"{tls}\"\nca_file = \"ca.pem\"\n"
        )
    };
    let done = check("files", listener("implicit"));
    assert_eq!(done.code, Some(2));
    let lines: Vec<&str> = done.stderr.lines().collect();
    let expected = [
        "imapool.toml:4:15: `listener.certificate` cannot be \"cert.pem\": the file cannot be read: ",
        "imapool.toml:5:15: `listener.private_key` cannot be \".\": the file cannot be read: ",
        "imapool.toml:9:11: `backend.ca_file` cannot be \"ca.pem\": the file cannot be read: ",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    // Without TLS nobody reads them, which is told.
    let done = check("files", listener("none"));
    assert_eq!((done.code, done.stderr.lines().count()), (Some(0), 2));
    assert!(done.stderr.lines().all(|line| line.contains("warning: ") && line.contains("nobody uses its")));
}

#[test]
fn check_warns_and_succeeds() {
    let done = check("warning", format!("{GOOD}[limits]\nidle_timeout = \"5m\"\n"));
    assert_eq!(done.code, Some(0));
    assert!(done.stdout.starts_with("imapool.toml: ok\n"), "{}", done.stdout);
    assert!(done.stderr.starts_with("imapool.toml: warning: limits.idle_timeout 5m is below"), "{}", done.stderr);
}

#[test]
fn a_file_that_is_not_there() {
    for command in ["check", "run"] {
        let done = imapool(&[command, "--config", "missing.toml"], &folder("missing"), &[]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
        assert!(done.stderr.starts_with("missing.toml: cannot read the configuration: "), "{}", done.stderr);
    }
}

#[test]
fn run_refuses_what_check_refuses() {
    let folder = folder("run");
    fs::write(folder.join("imapool.toml"), "[pool]\nspare = true\n").unwrap();
    let [check, run] = ["check", "run"].map(|command| imapool(&[command, "--config", "imapool.toml"], &folder, &[]));
    assert_eq!(run.code, Some(2));
    assert_eq!(run.stderr.lines().count(), 3, "{}", run.stderr);
    assert_eq!(run.stderr, check.stderr);
}

#[test]
fn run_refuses_a_wrong_rust_log() {
    let folder = folder("rust_log");
    fs::write(folder.join("imapool.toml"), GOOD).unwrap();
    let done = imapool(&["run", "--config", "imapool.toml"], &folder, &[("RUST_LOG", "imapool=loud")]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""));
    assert!(done.stderr.starts_with("imapool: RUST_LOG is not valid"), "{}", done.stderr);
}

#[test]
fn wrong_usage() {
    let folder = folder("usage");
    for arguments in [&[][..], &["serve"], &["check", "--config"], &["run", "-c"], &["demo", "--sessions", "0"]] {
        let done = imapool(arguments, &folder, &[]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(done.stderr.contains("--help"), "{arguments:?}: {}", done.stderr);
    }
}

#[test]
fn help_says_what_it_does_and_shows_an_example() {
    let folder = folder("help");
    for arguments in [&["--help"][..], &["run", "--help"], &["check", "--help"], &["demo", "--help"]] {
        let done = imapool(arguments, &folder, &[]);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(done.stdout.contains("Example"), "{arguments:?}: {}", done.stdout);
    }
    let version = imapool(&["--version"], &folder, &[]);
    assert_eq!(version.stdout, concat!("imapool ", env!("CARGO_PKG_VERSION"), "\n"));
}
