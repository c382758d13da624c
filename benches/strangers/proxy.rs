//! imapool as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Runs until it is dropped.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Proxy {
    /// By default but for `more`, in front of `backend`.
    pub(crate) fn start(backend: SocketAddr, more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("imapool.toml");
        let config = format!(
            "[[listener]]\nname = \"front\"\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"{backend}\"\n\
             [admin]\naddress = \"\"\n[log]\nsessions = false\n{more}"
        );
        std::fs::write(&file, config)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_imapool"))
            .args(["run", "--config"])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // To its end, so that the proxy never has to wait for a reader.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("listening listener=\"front\" address=") {
                    let _gone = tell.send(address.trim().to_owned());
                }
            }
        });
        let mut this = Self { child, address: backend, _folder: folder };
        this.address = told.recv_timeout(Duration::from_secs(20)).context("it says where it listens")?.parse()?;
        Ok(this)
    }

    /// The memory that it has resident now, in octets.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel counts memory")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1024)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
