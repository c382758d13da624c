//! A backend that follows a script, octet by octet, and remembers all it got.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::client::{Socket, matches, unescape};
use super::soon;

/// What a [`Conn`] offers unless told otherwise.
pub(crate) const CAPABILITIES: &str = "IMAP4rev1 LITERAL+ SASL-IR ENABLE IDLE UNSELECT UIDPLUS MOVE ID AUTH=PLAIN";

pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// What came in on each connection, in the order of acceptance.
    received: Vec<Vec<u8>>,
    /// Connections that logged in so far.
    logins: usize,
    open: usize,
}

/// One connection of the proxy's.
pub(crate) struct Conn {
    pub(crate) stream: Box<dyn Socket>,
    buffer: Vec<u8>,
    index: usize,
    /// The tag of the last command.
    pub(crate) tag: String,
    /// From 1, in the order of acceptance; after [`Conn::log_in`], in the order of logins.
    pub(crate) number: usize,
    shared: Arc<Mutex<Shared>>,
}

impl Scripted {
    /// Runs `script` for each connection from its first octet on. The proxy's first connection only looks whether the
    /// backend is there.
    pub(crate) async fn raw<F>(script: impl Fn(Conn) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let ours = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = {
                    let mut shared = ours.lock().unwrap();
                    shared.received.push(Vec::new());
                    shared.open += 1;
                    shared.received.len()
                };
                let shared = Arc::clone(&ours);
                let index = number - 1;
                let (buffer, tag) = (Vec::new(), String::new());
                tokio::spawn(script(Conn { stream: Box::new(stream), buffer, index, tag, number, shared }));
            }
        });
        Self { address, shared }
    }

    /// Greets and accepts logins as an IMAP server does, then runs `script` for each connection that has logged in.
    pub(crate) async fn start<F>(script: impl Fn(Conn) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::offering(CAPABILITIES, script).await
    }

    /// As [`Scripted::start`], with these capabilities.
    pub(crate) async fn offering<F>(
        capabilities: &'static str,
        script: impl Fn(Conn) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let script = Arc::new(script);
        Self::raw(move |mut conn| {
            let script = Arc::clone(&script);
            async move {
                conn.send(format!("* OK [CAPABILITY {capabilities}] ready\r\n")).await;
                if conn.log_in(capabilities).await {
                    script(conn).await;
                }
            }
        })
        .await
    }

    /// Connections that have logged in so far.
    pub(crate) fn logins(&self) -> usize {
        self.shared.lock().unwrap().logins
    }

    /// Connections whose script has not ended.
    pub(crate) fn open(&self) -> usize {
        self.shared.lock().unwrap().open
    }

    /// All that was received, connection after connection.
    pub(crate) fn received(&self) -> String {
        let shared = self.shared.lock().unwrap();
        shared.received.iter().map(|octets| String::from_utf8_lossy(octets)).collect()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Ok(mut shared) = self.shared.lock() {
            shared.open -= 1;
        }
    }
}

impl Conn {
    pub(crate) async fn send(&mut self, octets: impl AsRef<[u8]>) {
        // Whoever has gone notices nothing.
        let _gone = soon("the proxy to read", self.stream.write_all(octets.as_ref())).await;
        let _gone = self.stream.flush().await;
    }

    /// Reads until there are more octets; 0: closed.
    async fn read(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk).await.unwrap_or(0);
        self.shared.lock().unwrap().received[self.index].extend_from_slice(&chunk[..read]);
        self.buffer.extend_from_slice(&chunk[..read]);
        read
    }

    /// A line without its end; `None` at the end of the connection.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                let line = String::from_utf8_lossy(&line);
                return Some(line.strip_suffix("\r\n").unwrap_or_else(|| panic!("no CR: {line:?}")).to_owned());
            }
            if self.read().await == 0 {
                return None;
            }
        }
    }

    /// So many octets; fewer at the end of the connection.
    pub(crate) async fn octets(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.read().await > 0 {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Reads a command's first line; gives what follows the tag.
    pub(crate) async fn command(&mut self) -> Option<String> {
        let line = self.line().await?;
        let (tag, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no command: {line:?}"));
        self.tag = tag.to_owned();
        Some(rest.to_owned())
    }

    /// Whether a command comes, which must be this one.
    pub(crate) async fn line_is(&mut self, wanted: &str) -> bool {
        let command = self.command().await;
        assert!(command.as_deref().is_none_or(|command| command == wanted), "{command:?}");
        command.is_some()
    }

    /// TLS as the server; whatever was read before is forgotten.
    pub(crate) async fn secure(mut self, acceptor: &tokio_rustls::TlsAcceptor) -> Self {
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        if let Ok(secured) = acceptor.accept(plain).await {
            self.stream = Box::new(secured);
        }
        self.buffer.clear();
        self
    }

    /// Accepts whatever login comes; false: none came.
    pub(crate) async fn log_in(&mut self, capabilities: &str) -> bool {
        if !self.read_login(capabilities).await {
            return false;
        }
        self.number = {
            let mut shared = self.shared.lock().unwrap();
            shared.logins += 1;
            shared.logins
        };
        self.send(format!("{} OK [CAPABILITY {capabilities}] in\r\n", self.tag)).await;
        self.prove().await
    }

    /// Answers what comes after a login's OK, up to the command that shows whether there is a session; false: it did
    /// not come.
    pub(crate) async fn prove(&mut self) -> bool {
        loop {
            let Some(command) = self.command().await else { return false };
            match &*command {
                "STATUS INBOX (UIDNEXT)" => self.play("S: * STATUS INBOX (UIDNEXT 1)").await,
                "CAPABILITY" => self.play(&format!("S: * CAPABILITY {CAPABILITIES}")).await,
                id if id.starts_with("ID (\"name\" \"imapool\"") => self.play("S: * ID NIL").await,
                other => panic!("after a login: {other}"),
            }
            self.play("S: TAG OK done").await;
            if command.starts_with("STATUS") {
                return true;
            }
        }
    }

    /// The session after a login's OK: says OK to everything.
    pub(crate) async fn serve(&mut self) {
        if self.prove().await {
            self.obey().await;
        }
    }

    /// Answers CAPABILITY until a login comes, and reads that whole; false: none came.
    pub(crate) async fn read_login(&mut self, capabilities: &str) -> bool {
        loop {
            let Some(mut command) = self.command().await else { return false };
            if command == "CAPABILITY" {
                self.play(&format!("S: * CAPABILITY {capabilities}\nS: TAG OK told")).await;
                continue;
            }
            assert!(command.starts_with("LOGIN ") || command.starts_with("AUTHENTICATE "), "{command}");
            while let Some((_, size)) = command.strip_suffix('}').and_then(|rest| rest.rsplit_once('{')) {
                if !size.ends_with('+') {
                    self.send("+ go\r\n").await;
                }
                let _octets = self.octets(size.trim_end_matches('+').parse().unwrap()).await;
                let Some(line) = self.line().await else { return false };
                command = line;
            }
            return true;
        }
    }

    /// Runs a transcript. `C: ` is what must come next: of a command without its tag (`C> `: of any line, whole); `…`
    /// at the end stands for any rest. `S: ` sends a line (`S- `: without line end), in which `TAG` stands for the
    /// last command's tag. `C.` is the end of the connection.
    pub(crate) async fn play(&mut self, script: &str) {
        for step in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            let (side, text) = step.split_at(2);
            let text = text.strip_prefix(' ').unwrap_or(text);
            match side {
                "C:" | "C>" => {
                    let line = if side == "C:" { self.command().await } else { self.line().await };
                    let right = line.as_deref().is_some_and(|line| matches(text, line));
                    assert!(right, "the backend expected {text:?}, got {line:?}");
                }
                "S:" => self.send(unescape(&text.replace("TAG", &self.tag)) + "\r\n").await,
                "S-" => self.send(unescape(&text.replace("TAG", &self.tag))).await,
                "C." => self.gone().await,
                _ => panic!("no step of a transcript: {step:?}"),
            }
        }
    }

    /// Waits for the end of the connection; nothing more may come.
    pub(crate) async fn gone(&mut self) {
        let line = self.line().await;
        assert_eq!(line, None, "after the end");
    }

    /// Idles until DONE comes; false: the connection ended instead.
    pub(crate) async fn idle(&mut self) -> bool {
        self.send("+ idling\r\n").await;
        self.line().await.is_some()
    }

    /// Says OK to everything that is asked further, with LOGOUT as the end.
    pub(crate) async fn obey(&mut self) {
        while let Some(command) = self.command().await {
            let tag = &self.tag;
            match &*command {
                "LOGOUT" => return self.send(format!("* BYE bye\r\n{tag} OK bye\r\n")).await,
                "IDLE" => {
                    if !self.idle().await {
                        return;
                    }
                    self.send(format!("{} OK idled\r\n", self.tag)).await;
                }
                other => {
                    if let Some(words) = other.strip_prefix("ENABLE ") {
                        self.send(format!("* ENABLED {words}\r\n")).await;
                    }
                    let code = if other.starts_with("SELECT") { "[READ-WRITE] " } else { "" };
                    self.send(format!("{} OK {code}done\r\n", self.tag)).await;
                }
            }
        }
    }
}
