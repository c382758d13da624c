//! The peers: where their programs are, and how each is set up in front of a backend.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use rustls::ClientConfig;
use tokio::runtime::Handle;

use crate::auth_http::AuthHttp;
use crate::client::Door;
use crate::dovecot::{self, User};
use crate::process::{Scratch, Server, find_program, first_line_of, free_address, interrupted};
use crate::tls::Tls;

/// A free port can be taken by somebody else before the server binds it: then once more.
const START_ATTEMPTS: usize = 3;

/// What stands between the load and the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Direct,
    /// A plain TCP relay.
    Haproxy,
    /// The mail proxy module.
    Nginx,
    /// `proxy=y`.
    Dovecot,
    /// A caching IMAP proxy.
    Imapproxy,
    /// This project, with `pool.mode = "session"`.
    Imapool,
    /// This project, with `pool.mode = "multiplex"`.
    Multiplex,
    /// An earlier build of it, at `IMAPOOL_BEFORE`, with `pool.mode = "session"`.
    Before,
    /// The same, with `pool.mode = "multiplex"`.
    MultiplexBefore,
}

/// Names the program of an earlier build, to be measured beside this one.
const BEFORE: &str = "IMAPOOL_BEFORE";
/// Names the program to be measured in place of the one that cargo has built for the bench, which has what tests need
/// of its libraries, too, a clock that can be stopped for one.
const NOW: &str = "IMAPOOL_NOW";

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Direct,
        Self::Haproxy,
        Self::Nginx,
        Self::Dovecot,
        Self::Imapproxy,
        Self::Imapool,
        Self::Multiplex,
        Self::Before,
        Self::MultiplexBefore,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Dovecot => "dovecot",
            Self::Imapproxy => "up-imapproxy",
            Self::Imapool => "imapool",
            Self::Multiplex => "imapool-multiplex",
            Self::Before => "before",
            Self::MultiplexBefore => "before-multiplex",
        }
    }

    pub(crate) fn is_imapool(self) -> bool {
        matches!(self, Self::Imapool | Self::Multiplex | Self::Before | Self::MultiplexBefore)
    }

    /// The program and what it calls its version.
    ///
    /// # Errors
    /// Why the peer must be left out.
    pub(crate) fn find(self) -> Result<(PathBuf, String)> {
        let (names, version): (&[&str], &str) = match self {
            Self::Direct => return Ok((PathBuf::new(), "no proxy".to_owned())),
            Self::Haproxy => (&["haproxy"], "-v"),
            Self::Nginx => (&["nginx"], "-v"),
            Self::Dovecot => {
                let program = dovecot::find()?;
                let version = first_line_of(&program, "--version");
                return Ok((program, format!("Dovecot {version} as proxy")));
            }
            Self::Imapproxy => {
                let program = find_program(&["in.imapproxyd", "imapproxyd"]);
                let program = program.ok_or_else(|| anyhow!("not found on PATH"))?;
                if !User::current()?.is_root() {
                    bail!("insists on being started by root (it calls setgroups)");
                }
                return Ok((program, "up-imapproxy (does not tell its version)".to_owned()));
            }
            Self::Before | Self::MultiplexBefore => {
                let program = std::env::var_os(BEFORE).map(PathBuf::from);
                let program = program.ok_or_else(|| anyhow!("{BEFORE} names no earlier build"))?;
                let version = format!("an earlier build, {}", first_line_of(&program, "--version"));
                return Ok((program, version));
            }
            Self::Imapool | Self::Multiplex => {
                let mode = if self == Self::Imapool { "session" } else { "multiplex" };
                let version = format!("imapool {} (this tree), mode {mode}", env!("CARGO_PKG_VERSION"));
                let built = || PathBuf::from(env!("CARGO_BIN_EXE_imapool"));
                return Ok((std::env::var_os(NOW).map_or_else(built, PathBuf::from), version));
            }
        };
        let program = find_program(names).ok_or_else(|| anyhow!("not found on PATH"))?;
        let version = first_line_of(&program, version);
        Ok((program, version))
    }
}

/// A peer that is there.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    program: PathBuf,
    pub(crate) version: String,
}

/// A peer in front of a backend; ended when dropped.
pub(crate) struct Running {
    /// Where the load connects to.
    pub(crate) door: Door,
    /// `None`: direct.
    pub(crate) server: Option<Server>,
    /// What nginx asks; ended after nginx.
    _auth_http: Option<AuthHttp>,
}

/// What starting a peer takes.
pub(crate) struct Room<'a> {
    pub(crate) runtime: &'a Handle,
    pub(crate) scratch: &'a Scratch,
    pub(crate) tls: &'a Tls,
    /// Sessions at once that the peer must be able to carry.
    pub(crate) sessions: usize,
}

impl Peer {
    /// # Errors
    /// Why the peer must be left out.
    pub(crate) fn find(kind: Kind) -> Result<Self> {
        let (program, version) = kind.find()?;
        Ok(Self { kind, program, version })
    }

    /// Starts the peer in front of `upstream` and waits until it greets; with TLS towards clients if `tls` is one.
    pub(crate) fn start(
        &self,
        room: &Room<'_>,
        upstream: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Running> {
        let mut attempt = 1;
        loop {
            match self.try_start(room, upstream, tls) {
                Err(error) if attempt < START_ATTEMPTS && !interrupted() => {
                    eprintln!("{}: {error:#}; once more", self.kind.name())
                }
                result => return result,
            }
            attempt += 1;
        }
    }

    fn try_start(&self, room: &Room<'_>, upstream: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Running> {
        if self.kind == Kind::Direct {
            return Ok(Running { door: Door::plain(upstream), server: None, _auth_http: None });
        }
        let door = Door { address: free_address()?, tls: tls.cloned() };
        let setting = Setting {
            program: &self.program,
            folder: &room.scratch.folder(self.kind.name())?,
            door: &door,
            pem: &room.tls.pem,
            upstream,
            sessions: room.sessions,
        };
        let mut auth_http = None;
        let server = match self.kind {
            Kind::Direct => bail!("direct has no server"),
            Kind::Haproxy => start_haproxy(&setting)?,
            Kind::Nginx => {
                let helper = auth_http.insert(AuthHttp::start(room.runtime, upstream)?);
                start_nginx(&setting, helper.address)?
            }
            Kind::Dovecot => {
                dovecot::start_proxy(&self.program, setting.folder, door.address, upstream, room.sessions)?
            }
            Kind::Imapproxy => start_imapproxy(&setting)?,
            Kind::Imapool | Kind::Before => start_imapool(&setting, "session")?,
            Kind::Multiplex | Kind::MultiplexBefore => start_imapool(&setting, "multiplex")?,
        };
        Ok(Running { door, server: Some(server), _auth_http: auth_http })
    }
}

struct Setting<'a> {
    program: &'a Path,
    folder: &'a Path,
    door: &'a Door,
    /// For TLS.
    pem: &'a Path,
    upstream: SocketAddr,
    sessions: usize,
}

impl Setting<'_> {
    fn write(&self, config: &str) -> Result<PathBuf> {
        let file = self.folder.join("config");
        fs::write(&file, config)?;
        Ok(file)
    }

    fn start(&self, command: &mut Command) -> Result<Server> {
        Server::start(command, &self.folder.join("stderr.log"), self.door)
    }
}

fn start_haproxy(setting: &Setting<'_>) -> Result<Server> {
    let tls = setting.door.tls.as_ref().map_or_else(String::new, |_| format!(" ssl crt {}", setting.pem.display()));
    let config = setting.write(&format!(
        "global\n  maxconn {}\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30m\n  timeout server 30m\n\
         listen imap\n  bind {}{tls}\n  server backend {}\n",
        setting.sessions + 1000,
        setting.door.address,
        setting.upstream,
    ))?;
    setting.start(Command::new(setting.program).arg("-db").arg("-f").arg(config))
}

fn start_nginx(setting: &Setting<'_>, auth_http: SocketAddr) -> Result<Server> {
    // A module of its own file in Debian and others, compiled in elsewhere.
    let module = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/libexec/nginx"]
        .map(|folder| Path::new(folder).join("ngx_mail_module.so"))
        .into_iter()
        .find(|file| file.is_file())
        .map(|file| format!("load_module {};\n", file.display()))
        .unwrap_or_default();
    let at = setting.folder.display();
    let config = setting.write(&format!(
        "{module}daemon off;\npid {at}/pid;\nerror_log stderr warn;\n\
         worker_processes auto;\nworker_rlimit_nofile {};\n\
         events {{ worker_connections {}; }}\n\
         mail {{\n  auth_http {auth_http}/;\n  imap_capabilities IMAP4rev1 LITERAL+ IDLE UNSELECT;\n  timeout 30m;\n\
         server {{ listen {}; protocol imap; proxy on; }}\n}}\n",
        2 * setting.sessions + 2000,
        2 * setting.sessions + 2000,
        setting.door.address,
    ))?;
    setting.start(
        Command::new(setting.program).arg("-p").arg(setting.folder).arg("-e").arg("stderr").arg("-c").arg(config),
    )
}

fn start_imapproxy(setting: &Setting<'_>) -> Result<Server> {
    // It refuses to stay root.
    let (user, group) = ("nobody", group_of_nobody());
    let at = setting.folder.display();
    let config = setting.write(&format!(
        "server_hostname {}\nserver_port {}\nlisten_address {}\nlisten_port {}\n\
         connect_retries 1\nconnect_delay 1\ncache_size {}\ncache_expiration_time 300\n\
         proc_username {user}\nproc_groupname {group}\nforeground_mode yes\n\
         stat_filename {at}/stat\nprotocol_log_filename {at}/protocol.log\n",
        setting.upstream.ip(),
        setting.upstream.port(),
        setting.door.address.ip(),
        setting.door.address.port(),
        setting.sessions + 1000,
    ))?;
    let pid = setting.folder.join("pid");
    setting.start(Command::new(setting.program).arg("-f").arg(config).arg("-p").arg(pid))
}

fn group_of_nobody() -> &'static str {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let debian = groups.lines().any(|line| line.starts_with("nogroup:"));
    if debian { "nogroup" } else { "nobody" }
}

fn start_imapool(setting: &Setting<'_>, mode: &str) -> Result<Server> {
    let pem = setting.pem;
    let tls =
        setting.door.tls.as_ref().map_or_else(String::new, |_| {
            format!("tls = \"implicit\"\ncertificate = {pem:?}\nprivate_key = {pem:?}\n")
        });
    let config = setting.write(&format!(
        "[[listener]]\naddress = \"{}\"\n{tls}\n[[backend]]\naddress = \"{}\"\n\n\
         [pool]\nmode = \"{mode}\"\n\n[admin]\naddress = \"\"\n\n[log]\nlevel = \"warn\"\n",
        setting.door.address, setting.upstream,
    ))?;
    setting.start(Command::new(setting.program).arg("run").arg("--config").arg(config))
}
