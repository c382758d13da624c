//! Dovecot, and up-imapproxy and imapool in front of it, each on a host of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use imapool::demo::load::{password, user};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::host::Host;

/// Whose sessions they are.
pub(crate) const ACCOUNTS: u32 = 20;
/// Where all three listen.
pub(crate) const IMAP: u16 = 143;
const MESSAGES: u32 = 10;
/// Whose the mail is: Dovecot serves none of root's.
const NOBODY: u32 = 65534;
const START: Duration = Duration::from_secs(15);
/// The cables to Dovecot; those of the front ends are numbered from 0.
const CABLES: [u8; 2] = [254, 255];

/// A folder of its own, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("imapool-failed-sessions-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        // up-imapproxy and Dovecot give up root.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The three, running; ended when dropped, the proxies first.
pub(crate) struct Servers {
    _processes: [Process; 3],
    pub(crate) imapool: Host,
    pub(crate) imapproxy: Host,
    pub(crate) dovecot: Host,
}

impl Servers {
    pub(crate) fn start(scratch: &Scratch) -> Result<Self> {
        // Ports enough: it is the front ends' that are counted.
        let host =
            || Host::new(10_000, 60_000).map_err(|error| anyhow!("no network namespaces: {error}; run it as root"));
        let (dovecot, imapproxy, imapool) = (host()?, host()?, host()?);
        let (_, behind_imapproxy) = imapproxy.connect(&dovecot, CABLES[0]);
        let (_, behind_imapool) = imapool.connect(&dovecot, CABLES[1]);
        let processes = [
            start_imapool(&imapool, behind_imapool, &scratch.0)?,
            start_imapproxy(&imapproxy, behind_imapproxy, &scratch.0)?,
            start_dovecot(&dovecot, &scratch.0)?,
        ];
        for (name, host) in [("Dovecot", &dovecot), ("up-imapproxy", &imapproxy), ("imapool", &imapool)] {
            host.run(greets(name))?;
        }
        Ok(Self { _processes: processes, imapool, imapproxy, dovecot })
    }
}

/// Waits until the server on this host greets.
async fn greets(name: &'static str) -> Result<()> {
    let deadline = Instant::now() + START;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, IMAP));
    while Instant::now() < deadline {
        let greeting = async {
            let mut line = [0; 4];
            TcpStream::connect(address).await?.read_exact(&mut line).await.map(|_| line)
        };
        match timeout(Duration::from_secs(2), greeting).await {
            Ok(Ok(line)) if &line == b"* OK" => return Ok(()),
            // A foreign program gives no word when it begins to listen.
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
    bail!("{name} does not greet; is it installed?")
}

/// A server in the foreground; ended, by its process id, when dropped.
struct Process(Child);

impl Process {
    fn start(host: &Host, program: &'static str, arguments: &[&Path]) -> Result<Self> {
        let arguments: Vec<PathBuf> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let child = host.run(async move {
            // Should the bench be killed, so is this.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "TERM", program]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
            command.spawn()
        });
        Ok(Self(child.with_context(|| format!("start {program}"))?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended, which is what is wanted.
        let _ = i32::try_from(self.0.id()).map(|id| kill(Pid::from_raw(id), Signal::SIGTERM));
        let _ = self.0.wait();
    }
}

fn start_imapool(host: &Host, backend: Ipv4Addr, folder: &Path) -> Result<Process> {
    let file = folder.join("imapool.toml");
    let text = format!(
        "[[listener]]\naddress = \"0.0.0.0:{IMAP}\"\nplaintext_login = \"always\"\n\n\
         [[backend]]\naddress = \"{backend}:{IMAP}\"\n\n[admin]\naddress = \"\"\n\n[log]\nlevel = \"warn\"\n"
    );
    fs::write(&file, text)?;
    Process::start(host, env!("CARGO_BIN_EXE_imapool"), &["run".as_ref(), "--config".as_ref(), &file])
}

fn start_imapproxy(host: &Host, backend: Ipv4Addr, folder: &Path) -> Result<Process> {
    let (file, pid) = (folder.join("imapproxy.conf"), folder.join("imapproxy.pid"));
    let at = folder.display();
    // Debian's defaults, but for addresses and files.
    let text = format!(
        "server_hostname {backend}\nserver_port {IMAP}\nlisten_address 0.0.0.0\nlisten_port {IMAP}\n\
         connect_retries 10\nconnect_delay 5\ncache_size 3072\ncache_expiration_time 300\n\
         proc_username nobody\nproc_groupname nogroup\nforeground_mode yes\n\
         stat_filename {at}/stat\nprotocol_log_filename {at}/protocol.log\n"
    );
    fs::write(&file, text)?;
    Process::start(host, "imapproxyd", &["-f".as_ref(), &file, "-p".as_ref(), &pid])
}

fn start_dovecot(host: &Host, folder: &Path) -> Result<Process> {
    let mut users = String::new();
    for name in (1..=ACCOUNTS).map(user) {
        make_mailbox(&folder.join("mail").join(&name), &name)?;
        users += &format!("{name}:{{PLAIN}}{}\n", password(&name));
    }
    fs::write(folder.join("users"), users)?;
    let at = folder.display();
    let text = format!(
        "protocols = imap\nlisten = 0.0.0.0\nbase_dir = {at}/run\nstate_dir = {at}/state\nlog_path = {at}/dovecot.log\n\
         ssl = no\ndisable_plaintext_auth = no\nmail_location = maildir:{at}/mail/%u\n\
         first_valid_uid = 1\nfirst_valid_gid = 1\nmail_max_userip_connections = 100\n\
         passdb {{\n  driver = passwd-file\n  args = {at}/users\n}}\n\
         userdb {{\n  driver = static\n  args = uid={NOBODY} gid={NOBODY} home={at}/mail/%u\n}}\n\
         service auth {{\n  client_limit = 2000\n}}\n\
         service imap {{\n  service_count = 1000\n  process_min_avail = 4\n}}\n\
         service imap-login {{\n  service_count = 0\n  inet_listener imap {{\n    port = {IMAP}\n  }}\n\
         inet_listener imaps {{\n    port = 0\n  }}\n}}\n"
    );
    let file = folder.join("dovecot.conf");
    fs::write(&file, text)?;
    Process::start(host, "dovecot", &["-F".as_ref(), "-c".as_ref(), &file])
}

fn make_mailbox(home: &Path, name: &str) -> Result<()> {
    for part in ["cur", "new", "tmp"] {
        fs::create_dir_all(home.join(part))?;
        chown(home.join(part), Some(NOBODY), Some(NOBODY))?;
    }
    chown(home, Some(NOBODY), Some(NOBODY))?;
    for number in 1..=MESSAGES {
        let file = home.join("cur").join(format!("{}.M{number}.bench:2,S", 1_700_000_000 + number));
        let text = format!(
            "From: A Sender <sender@example.org>\r\nTo: {name}@example.org\r\nSubject: [{name}] Message {number}\r\n\
             Date: Mon, 7 Feb 1994 21:52:25 -0800\r\nMIME-Version: 1.0\r\n\r\nA line of text.\r\n"
        );
        fs::write(&file, text)?;
        chown(&file, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}
