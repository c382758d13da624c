//! A Debian 13 in a folder, for servers that are newer than this machine's. `.ci/run` makes one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

use crate::process::{find_program, skip};

/// Makes this machine's temporary folder, processes and devices seen in the other root folder, and goes on there. What
/// is mounted is seen by this process and its children alone, and is gone with the last of them.
const ENTER: &str = r#"
set -e
mkdir -p "$ROOT$TMP"
mount --rbind "$TMP" "$ROOT$TMP"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/run"
eval "$FIRST"
exec chroot "$ROOT" "$@"
"#;

/// Its root folder, if `program` is installed there; else `None`, after saying that `what` cannot be tested.
pub(crate) fn root_with(program: &str, what: &str) -> Option<PathBuf> {
    let named = std::env::var_os("IMAPOOL_DEBIAN13_ROOT").map(PathBuf::from);
    let usual = PathBuf::from("/opt/imapool-test/debian13");
    let inside = program.trim_start_matches('/');
    let root = named.into_iter().chain([usual]).find(|root| root.join(inside).is_file());
    let can_enter = geteuid().is_root() && find_program("unshare").is_some() && find_program("chroot").is_some();
    let root = root.filter(|_| can_enter);
    if root.is_none() {
        skip(&format!("{what} (a Debian 13 at IMAPOOL_DEBIAN13_ROOT, and root to enter it)"));
    }
    root
}

/// Runs `program` there, as the process that is started: no other stands between. A shell that sees both root folders,
/// the other as `$ROOT`, does `first` before.
pub(crate) fn command(root: &Path, first: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"])
        .arg(program)
        .env("ROOT", root)
        .env("TMP", std::env::temp_dir())
        .env("FIRST", if first.is_empty() { ":" } else { first });
    command
}
