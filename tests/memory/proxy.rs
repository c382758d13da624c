//! The proxy as a process of its own, and how much memory it takes.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Runs until it is dropped.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: PathBuf,
}

impl Proxy {
    /// `mode`: of its pool; `listener`: further lines of `[[listener]]`. The folder is for its files, and goes with it.
    pub(crate) fn start(folder: PathBuf, backend: SocketAddr, mode: &str, listener: &str) -> Self {
        let file = folder.join("imapool.toml");
        let config = format!(
            "[[listener]]\nname = \"front\"\naddress = \"127.0.0.1:0\"\n{listener}\n\
             [[backend]]\naddress = \"{backend}\"\n\
             [pool]\nmode = \"{mode}\"\nmax_per_account = 4\nmax_total = 1100\n\
             [limits]\nsessions = 2000\n\
             [admin]\naddress = \"\"\n"
        );
        std::fs::write(&file, config).expect("a temporary folder can be written to");
        let mut child = Command::new(env!("CARGO_BIN_EXE_imapool"))
            .args(["run", "--config"])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be run");
        let stderr = child.stderr.take().expect("standard error is piped");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // To its end, so that the proxy never has to wait for a reader.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = listening(&line) {
                    let _ = tell.send(address);
                } else if !line.contains(" INFO ") {
                    eprintln!("{line}");
                }
            }
        });
        let mut proxy = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), folder };
        proxy.address = told.recv_timeout(Duration::from_secs(20)).expect("the proxy says where it listens");
        proxy
    }

    /// The most memory that it ever had resident at once, in octets.
    pub(crate) fn peak_resident(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory that it has resident now, in octets.
    pub(crate) fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Time of processors used so far, in hundredths of a second.
    pub(crate) fn cpu(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("the proxy still runs");
        let after_name = stat.rsplit_once(')').expect("a name").1;
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    }

    fn status(&self, field: &str) -> u64 {
        let path = Path::new("/proc").join(self.child.id().to_string()).join("status");
        let status = std::fs::read_to_string(path).expect("the proxy still runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel counts memory");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kibibytes * 1024
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The address in a `listening` line of the log.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening")?;
    let start = after.find("127.0.0.1:")?;
    let address: String =
        after[start..].chars().take_while(|char| char.is_ascii_digit() || matches!(char, '.' | ':')).collect();
    address.parse().ok()
}

/// A new folder for one proxy's files.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("imapool-memory-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    folder
}
