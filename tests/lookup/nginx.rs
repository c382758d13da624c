//! nginx out of a temporary folder, and a client of it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::{Group, find_program, free_port, skip, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// A running nginx; ends when dropped.
pub(crate) struct Nginx {
    pub(crate) plain: SocketAddr,
    tls: SocketAddr,
    roots: RootCertStore,
    // Ended before its folder is gone.
    _group: Group,
    folder: TempDir,
}

impl Nginx {
    /// `None`: it is not installed here.
    pub(crate) async fn start(service: SocketAddr) -> Option<Self> {
        let Some(program) = find_program("nginx") else {
            skip("nginx");
            return None;
        };
        let module = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/libexec/nginx"]
            .map(|folder| Path::new(folder).join("ngx_mail_module.so"))
            .into_iter()
            .find(|file| file.is_file());
        let compiled_in = Command::new(&program).arg("-V").output().ok();
        let compiled_in =
            compiled_in.is_some_and(|told| String::from_utf8_lossy(&told.stderr).contains("--with-mail "));
        if module.is_none() && !compiled_in {
            skip("nginx's mail module");
            return None;
        }
        for _ in 0..5 {
            if let Some(nginx) = Self::try_start(&program, module.as_deref(), service).await {
                return Some(nginx);
            }
        }
        panic!("nginx does not start");
    }

    /// `None`: somebody has taken a port meanwhile.
    async fn try_start(program: &Path, module: Option<&Path>, service: SocketAddr) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (plain, tls) = (free_port(), free_port());
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let at = folder.path().display();
        fs::write(folder.path().join("cert"), key.cert.pem()).unwrap();
        fs::write(folder.path().join("key"), key.signing_key.serialize_pem()).unwrap();
        let module = module.map(|file| format!("load_module {};\n", file.display())).unwrap_or_default();
        let config = format!(
            "{module}daemon off;\npid {at}/pid;\nerror_log {at}/errors;\nevents {{}}\n\
             mail {{\n  auth_http {service}/auth?a=1;\n  auth_http_header X-Auth-Key \"s3cret value\";\n\
             ssl_certificate {at}/cert;\n  ssl_certificate_key {at}/key;\n\
             server {{ listen {plain}; listen unix:{at}/socket; protocol imap; }}\n\
             server {{ listen {tls} ssl; ssl_protocols TLSv1.3; protocol imap; }}\n}}\n"
        );
        let file = folder.path().join("config");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(folder.path()).arg("-e").arg("errors").arg("-c").arg(file);
        let mut group = Group::spawn(&mut command, &folder.path().join("output")).unwrap();
        let greets = || {
            let listens = std::net::TcpStream::connect(plain).is_ok();
            (listens || group.exited().is_some()).then_some(listens)
        };
        if wait_until(LIMIT, greets) != Some(true) || group.exited().is_some() {
            for log in ["output", "errors"] {
                eprintln!("{}", fs::read_to_string(folder.path().join(log)).unwrap_or_default());
            }
            return None;
        }
        let mut roots = RootCertStore::empty();
        roots.add(key.cert.der().clone()).unwrap();
        Some(Self { plain, tls, roots, _group: group, folder })
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.plain).await.unwrap()
    }

    pub(crate) async fn connect_unix(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("socket")).await.unwrap()
    }

    pub(crate) async fn connect_tls(&self) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(self.roots.clone()).with_no_client_auth();
        let stream = TcpStream::connect(self.tls).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

/// A client that has read the greeting.
pub(crate) struct Client<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn new(stream: S) -> Self {
        let mut client = Self(BufReader::new(stream));
        let greeting = client.line().await;
        assert!(greeting.starts_with("* OK"), "{greeting}");
        client
    }

    /// With literals, so that any octet may be in them. The reply.
    pub(crate) async fn login(&mut self, user: &[u8], password: &[u8]) -> String {
        self.say(format!("a LOGIN {{{}}}\r\n", user.len()).as_bytes()).await;
        assert!(self.line().await.starts_with('+'));
        self.say(&[user, format!(" {{{}}}\r\n", password.len()).as_bytes()].concat()).await;
        assert!(self.line().await.starts_with('+'));
        self.say(&[password, b"\r\n"].concat()).await;
        self.line().await
    }

    async fn say(&mut self, octets: &[u8]) {
        self.0.write_all(octets).await.unwrap();
        self.0.flush().await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        timeout(LIMIT, self.0.read_until(b'\n', &mut line)).await.expect("a line in time").unwrap();
        String::from_utf8_lossy(line.trim_ascii_end()).into_owned()
    }
}
