//! Numbers of this process, from /proc.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

use crate::platform::Facts;

/// USER_HZ, the unit of times in /proc: part of the kernel's interface, 100 on every architecture Rust's standard
/// library runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is known now.
pub(crate) fn facts() -> Facts {
    let status = fs::read_to_string("/proc/self/status").ok();
    let status = status.as_deref();
    Facts {
        cpu_seconds: cpu_seconds(),
        open_fds: open_fds(),
        max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
        resident_bytes: status.and_then(|status| status_bytes(status, "VmRSS:")),
        virtual_bytes: status.and_then(|status| status_bytes(status, "VmSize:")),
        start_seconds: start_seconds(),
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// Since Linux 6.2 the directory's size is the number; before, it is 0 and the entries have to be counted.
fn open_fds() -> Option<u64> {
    const FDS: &str = "/proc/self/fd";
    match fs::metadata(FDS).ok()?.len() {
        // One entry is the descriptor by which the directory is read.
        0 => Some((fs::read_dir(FDS).ok()?.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

/// A line such as `VmRSS:     12345 kB` of /proc/self/status.
fn status_bytes(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes * 1024)
}

fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + start_ticks(&stat)? / TICKS_PER_SECOND)
}

/// Field 22 of /proc/self/stat: ticks from boot to this process's start.
fn start_ticks(stat: &str) -> Option<f64> {
    // Field 2, the command's name, may hold spaces and parentheses: count from the last one, after which is field
    // 3.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn this_process_has_plausible_numbers() {
        let facts = facts();
        assert!(facts.cpu_seconds.unwrap() >= 0.0);
        assert!(facts.open_fds.unwrap() >= 3);
        assert!(facts.max_fds.unwrap() >= facts.open_fds.unwrap());
        assert!(facts.resident_bytes.unwrap() > 100 * 1024);
        assert!(facts.virtual_bytes.unwrap() > facts.resident_bytes.unwrap());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - facts.start_seconds.unwrap();
        // A test runs for minutes at most; btime is a whole second.
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
    }

    #[test]
    fn an_opened_file_is_counted() {
        // Other tests of this binary open and close files too: many files stand out among them.
        let before = open_fds().unwrap();
        let files: Vec<_> = (0..200).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let during = open_fds().unwrap();
        drop(files);
        assert!(during >= before + 150, "{before} before, {during} with 200 more");
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let fields = (3..=52).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_ticks(&format!("1 (a b) c) {fields}")), Some(22.0));
        assert_eq!(start_ticks("1 (a) S 1 2"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(status_bytes("VmPeak:\t  9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12 * 1024));
        assert_eq!(status_bytes("VmRSS:\t12\n", "VmRSS:"), None);
        assert_eq!(status_bytes("", "VmRSS:"), None);
    }
}
