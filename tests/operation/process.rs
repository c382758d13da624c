//! The program itself, as an operator runs it: `imapool run` and the commands that talk to it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::http::TOKEN;
use crate::support::until;

/// A running imapool, ended with the test.
pub(crate) struct Imapool {
    child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) folder: TempDir,
}

impl Imapool {
    /// With this configuration after one listener on a free port and the admin socket `admin.sock` with a token.
    pub(crate) fn configured(backend: SocketAddr, more: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        let file = folder.path().join("imapool.toml");
        fs::write(&file, text(&folder, backend, more)).unwrap();
        (folder, file)
    }

    pub(crate) async fn start(backend: SocketAddr, more: &str) -> Self {
        let (folder, file) = Self::configured(backend, more);
        let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
        command.arg("run").arg("--config").arg(file);
        Self::spawn(command, folder).await
    }

    pub(crate) async fn spawn(mut command: Command, folder: TempDir) -> Self {
        let mut child = command.stderr(Stdio::piped()).env_remove("RUST_LOG").spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let (stderr, ours) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = ours.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let this = Self { child, log, folder };
        // As text or as JSON.
        until("it listens", || this.log().lines().any(|line| line.contains("listening") && line.contains("webmail")))
            .await;
        this
    }

    /// With an admin address of TCP instead of the socket.
    pub(crate) async fn with_tcp_admin(backend: SocketAddr, more: &str) -> Self {
        let (folder, file) = Self::configured(backend, more);
        let text = fs::read_to_string(&file).unwrap();
        let socket = format!("unix:{}/admin.sock", folder.path().display());
        fs::write(&file, text.replace(&socket, "127.0.0.1:0")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
        command.arg("run").arg("--config").arg(file);
        let imapool = Self::spawn(command, folder).await;
        imapool.logged("listening listener=\"admin\"").await;
        imapool
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn logged(&self, part: &str) {
        until(&format!("{part:?} in the log:\n{}", self.log()), || self.log().contains(part)).await;
    }

    /// Where it accepts sessions, by its log.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listening("webmail")
    }

    pub(crate) fn listening(&self, listener: &str) -> SocketAddr {
        let log = self.log();
        let json = format!("\"listening\",\"listener\":\"{listener}\",\"address\":\"");
        if let Some(line) = log.split(&json).nth(1) {
            return line.split('"').next().unwrap().parse().unwrap();
        }
        let line = log.split(&format!("listening listener=\"{listener}\" address=")).nth(1).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) {
        until("the end of imapool", || self.child.try_wait().unwrap().is_some()).await;
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Another `imapool`, with its configuration.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
        command.arg(arguments[0]).arg("--config").arg(self.folder.path().join("imapool.toml"));
        command.args(&arguments[1..]).env_remove("IMAPOOL_ADMIN").env_remove("IMAPOOL_ADMIN_TOKEN");
        command.output().unwrap()
    }

    pub(crate) fn rewrite(&self, backend: SocketAddr, more: &str) {
        fs::write(self.folder.path().join("imapool.toml"), text(&self.folder, backend, more)).unwrap();
    }
}

impl Drop for Imapool {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log\n{}", self.log());
        }
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

pub(crate) fn text(folder: &TempDir, backend: SocketAddr, more: &str) -> String {
    let folder = folder.path().display();
    format!(
        "[[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n\n[[backend]]\nname = \"main\"\naddress = \"{backend}\"\n\n\
         [admin]\naddress = \"unix:{folder}/admin.sock\"\ntoken_file = \"{folder}/token\"\n{more}"
    )
}
