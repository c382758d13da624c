//! An in-memory IMAP server (RFC 3501), real enough for mail clients, and with faults on demand.
//!
//! It shares no code with the proxy: in the tests it is the independent other side. Everything it holds is gone
//! when its [`Store`] is dropped. Octets from the network never make it panic, and everything they can fill has a
//! limit.

mod changes;
mod commands;
mod date;
mod envelope;
mod fetch;
mod folders;
mod list;
mod login;
mod mime;
mod options;
mod parse;
pub mod personality;
mod reply;
mod search;
mod seed;
mod selected;
mod session;
mod store;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::options::{
    Capabilities, Event, Fault, FaultHook, Kill, MessageMaker, Options, PasswordRule, Passwords, Seed, Stage,
};
pub use self::store::Store;

use self::session::Session;
pub use self::session::Wire;

/// Connections the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;
/// Octets under way in each direction of a connection without a socket.
const IN_MEMORY: usize = 64 << 10;
/// How long [`Server::stop`] waits for its connections.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server. Dropping it ends it abruptly; [`Server::stop`] says BYE first.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the server has counted since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Successful LOGIN and AUTHENTICATE commands.
    pub logins: u64,
    /// Refused LOGIN and AUTHENTICATE commands: credentials and limits.
    pub failed_logins: u64,
    /// Commands read, whatever their result.
    pub commands: u64,
    /// Commands answered with BAD: a proxy should cause none that its client did not.
    pub bad: u64,
}

/// A message as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageInfo {
    /// Its UID.
    pub uid: u32,
    /// Its flags in order, without \Recent.
    pub flags: Vec<String>,
    /// The message itself.
    pub octets: Bytes,
}

#[derive(Debug, Default)]
struct Counting {
    accepted: AtomicU64,
    logins: AtomicU64,
    failed_logins: AtomicU64,
    commands: AtomicU64,
    bad: AtomicU64,
}

/// One open connection, as the server's handle knows it.
#[derive(Debug)]
struct Connection {
    user: Option<String>,
    kill: watch::Sender<Option<Kill>>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    passwords: RwLock<Passwords>,
    store: Store,
    counting: Counting,
    connections: Mutex<BTreeMap<u64, Connection>>,
    /// Changes when a connection opens, logs in or closes.
    population: watch::Sender<()>,
}

impl Server {
    /// Binds all addresses and serves them.
    ///
    /// # Errors
    /// Where an address cannot be bound; nothing is served then.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listeners = options.addresses.iter().map(|a| listen(*a)).collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            passwords: RwLock::new(options.passwords.clone()),
            store: options.store.clone().unwrap_or_default(),
            options,
            counting: Counting::default(),
            connections: Mutex::default(),
            population: watch::Sender::new(()),
        });
        let server = Self { shared, addresses, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        for listener in listeners {
            let (shared, stop, tasks) = (server.shared.clone(), server.stop.clone(), server.tasks.clone());
            server.tasks.spawn(accept(listener, shared, stop, tasks));
        }
        Ok(server)
    }

    /// Connects without a socket: what the server says and does is the same.
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(IN_MEMORY);
        self.accept(server, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        client
    }

    /// Serves a connection that came in on `address` by other means than a listener.
    pub fn accept(&self, wire: impl Wire + 'static, address: SocketAddr) {
        self.tasks.spawn(serve(Box::new(wire), address, self.shared.clone(), self.stop.clone()));
    }

    /// The first address.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All addresses, in the order of [`Options::addresses`], with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counting = &self.shared.counting;
        Counters {
            accepted: read(&counting.accepted),
            open: self.shared.connections.lock().len() as u64,
            logins: read(&counting.logins),
            failed_logins: read(&counting.failed_logins),
            commands: read(&counting.commands),
            bad: read(&counting.bad),
        }
    }

    /// Open connections in all.
    pub fn open(&self) -> usize {
        self.shared.connections.lock().len()
    }

    /// Open connections that are logged in as this user.
    pub fn open_of(&self, user: &str) -> usize {
        self.shared.open_of(user)
    }

    /// Waits until the number of open connections satisfies the predicate; bound the wait from outside.
    pub async fn wait_open(&self, wanted: impl Fn(usize) -> bool) {
        let mut population = self.shared.population.subscribe();
        while !wanted(self.open()) {
            if population.changed().await.is_err() {
                return;
            }
        }
    }

    /// Replaces the rule by which passwords are accepted from now on; open connections stay.
    pub fn set_passwords(&self, passwords: Passwords) {
        *self.shared.passwords.write() = passwords;
    }

    /// Ends all connections; returns how many.
    pub fn kill(&self, how: Kill) -> usize {
        self.shared.kill(how, |_| true)
    }

    /// Ends the connections which are logged in as this user; returns how many.
    pub fn kill_user(&self, user: &str, how: Kill) -> usize {
        self.shared.kill(how, |of| of == Some(user))
    }

    /// Delivers a message to a mailbox, which is made if need be, and returns its UID; `None` where the name or the
    /// account is refused.
    pub fn deliver(&self, user: &str, mailbox: &str, message: impl Into<Bytes>) -> Option<u32> {
        let account = self.shared.store.account(user, &self.shared.options.seed)?;
        account.change(|content| {
            // An error means it exists, or that the look-up below finds nothing.
            let _exists = content.create(mailbox);
            let date = date::DateTime::now();
            content.by_name_mut(mailbox).map(|m| m.append(message.into(), Default::default(), date))
        })
    }

    /// The messages of a mailbox, or `None` where there is none of that name.
    pub fn messages(&self, user: &str, mailbox: &str) -> Option<Vec<MessageInfo>> {
        let account = self.shared.store.account(user, &self.shared.options.seed)?;
        let content = account.lock();
        let info = |m: &store::Message| MessageInfo {
            uid: m.uid,
            flags: m.flags.iter().cloned().collect(),
            octets: m.octets.clone(),
        };
        Some(content.by_name(mailbox)?.messages().iter().map(info).collect())
    }

    /// The content, which a server started later can go on with ([`Options::store`]).
    pub fn store(&self) -> Store {
        self.shared.store.clone()
    }

    /// Stops accepting, says BYE to all and waits for them (at most 5 s). The ports are free when it returns.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.shared.kill(Kill::Bye, |_| true);
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            self.shared.kill(Kill::Reset, |_| true);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.shared.kill(Kill::Close, |_| true);
    }
}

impl Shared {
    fn open_of(&self, user: &str) -> usize {
        self.connections.lock().values().filter(|c| c.user.as_deref() == Some(user)).count()
    }

    fn kill(&self, how: Kill, wanted: impl Fn(Option<&str>) -> bool) -> usize {
        let connections = self.connections.lock();
        let mut killed = 0;
        for connection in connections.values().filter(|c| wanted(c.user.as_deref())) {
            connection.kill.send_replace(Some(how));
            killed += 1;
        }
        killed
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken, tasks: TaskTracker) {
    let Ok(address) = listener.local_addr() else { return };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // A connection without NODELAY only is a slow one.
                let _slow = stream.set_nodelay(true);
                tasks.spawn(serve(Box::new(stream), address, shared.clone(), stop.clone()));
            }
            // Out of descriptors, most likely: they come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection from accept to close.
async fn serve(stream: Box<dyn Wire>, address: SocketAddr, shared: Arc<Shared>, stop: CancellationToken) {
    let conn = shared.counting.accepted.fetch_add(1, Ordering::Relaxed) + 1;
    let (kill, mut killed) = watch::channel(None);
    {
        let mut connections = shared.connections.lock();
        if connections.len() >= shared.options.max_connections || stop.is_cancelled() {
            return;
        }
        connections.insert(conn, Connection { user: None, kill });
    }
    shared.population.send_replace(());
    let _registered = Registered { shared: shared.clone(), conn };
    let mut session = Session::new(shared, stream, address, conn);
    let end = tokio::select! {
        biased;
        end = session.run() => end,
        how = killed.wait_for(Option::is_some) => session::End::Killed(how.ok().and_then(|h| *h).unwrap_or(Kill::Close)),
    };
    session.close(end).await;
}

/// Takes the connection off the list when its task ends, however that happens.
struct Registered {
    shared: Arc<Shared>,
    conn: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.connections.lock().remove(&self.conn);
        self.shared.population.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fetch::{self, Item};
    use super::mime::Part;
    use super::parse::Parser;
    use super::reply::Reply;
    use super::*;

    /// Octets that look enough like IMAP and MIME to get past the first check.
    fn soup() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "(",
                ")",
                "[",
                "]",
                "<",
                ">",
                "{3}\r\n",
                "{3+}\r\n",
                "\"",
                "\\",
                " ",
                "*",
                ":",
                ",",
                "1",
                "0",
                "4294967295",
                "\r\n",
                "\n",
                "--b",
                "--",
                "\r\n\r\n",
                "BODY",
                "BODY.PEEK[",
                "HEADER.FIELDS (",
                ".MIME",
                "FLAGS",
                "NOT",
                "OR",
                "UID",
                "SENTON",
                "ON",
                "1-Jan-2024",
                "HEADER",
                "From:",
                "Date: 31 Dec 9999",
                "a@b",
                "=",
                ";",
                "ALL",
                "MODSEQ",
                "CHANGEDSINCE",
                "QRESYNC",
                "RETURN (MIN)",
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n",
                "Content-Type: message/rfc822\r\n\r\n",
            ])
            .prop_map(|s| s.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_octets_make_the_parsers_panic(octets in soup()) {
            let octets = Bytes::from(octets);
            let command = Parser::new(octets.clone());
            let items = fetch::parse_items(&mut command.clone()).unwrap_or_default();
            let key = search::parse(&mut command.clone());
            let _changes = (
                changes::Parameters::parse(&mut command.clone()),
                changes::Since::parse(&mut command.clone()),
                changes::unchanged_since(&mut command.clone()),
                search::Wanted::parse(&mut command.clone()),
            );
            let _date = date::DateTime::parse_imap(&mut command.clone()).map(date::DateTime::imap);
            let message = store::Message {
                uid: 1,
                octets: octets.clone(),
                date: date::DateTime::from_unix(0),
                flags: Default::default(),
                changed: 0,
            };
            let all = [Item::Envelope, Item::Structure { extended: true }];
            let mut out = Reply::default();
            fetch::write(1, &message, true, &[&all[..], &items].concat(), &[Item::Flags], &mut out);
            if let Ok(key) = key {
                key.matches(&search::Candidate { number: 1, recent: false, message: &message, largest: (1, 1) });
            }
            let part = Part::parse(&octets);
            prop_assert!(part.header.end == part.body.start && part.body.end == octets.len());
        }
    }
}
