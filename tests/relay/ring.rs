//! Replicas in one process, in front of one server in memory.

use std::fmt::Write as _;
use std::net::SocketAddr;

use imapool::config::{Config, ListenAddr, PoolMode};
use imapool_demo_server::{Options, Server};

use crate::support::{Client, Harness, soon};

pub(crate) const MODES: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];

pub(crate) struct Ring {
    pub(crate) server: Server,
    pub(crate) replicas: Vec<Harness>,
}

impl Ring {
    /// Three of them.
    pub(crate) async fn new(mode: PoolMode) -> Self {
        Self::with(mode, 3, Options::default(), |_| ()).await
    }

    /// So many, with what `change` makes of the configuration that they share.
    pub(crate) async fn with(mode: PoolMode, size: usize, options: Options, change: impl Fn(&mut Config)) -> Self {
        let server = Server::start(options).await.unwrap();
        let mut replicas = Vec::new();
        // Where each can be reached is known once it listens.
        for _ in 0..size {
            let alone = parsed(server.address(), &[], None);
            let start = |config: &mut Config| {
                config.pool.mode = mode;
                take(config, alone);
                change(config);
            };
            replicas.push(Harness::start(server.address(), start).await);
        }
        let inner: Vec<_> = replicas.iter().map(inner_address).collect();
        for (place, replica) in replicas.iter().enumerate() {
            let mut config = Config::clone(&replica.proxy().config());
            take(&mut config, parsed(server.address(), &inner, Some(place)));
            change(&mut config);
            replica.proxy().reload(config).await.unwrap();
        }
        Self { server, replicas }
    }

    /// The place of the replica that has a user's account, by the hash; all agree.
    pub(crate) fn owner(&self, user: &str) -> usize {
        let of = |replica: &Harness| replica.proxy().router().table().decide(user, "outer", None).backend.unwrap();
        let owners: Vec<_> = self.replicas.iter().map(of).collect();
        assert!(owners.iter().all(|owner| *owner == owners[0]), "{user}: {owners:?}");
        owners[0].strip_prefix('r').unwrap().parse().unwrap()
    }

    /// A user whose account that replica has.
    pub(crate) fn user_of(&self, place: usize) -> String {
        (0..).map(|number| format!("u{number}")).find(|user| self.owner(user) == place).unwrap()
    }

    /// A session of that user, by the outer listener of a replica.
    pub(crate) async fn login(&self, place: usize, user: &str) -> Client {
        self.replicas[place].login(user).await
    }

    /// The last one ends. Gives what is needed to start it again.
    pub(crate) async fn end_last(&mut self) -> Config {
        let mut last = self.replicas.pop().unwrap();
        let mut config = Config::clone(&last.proxy().config());
        config.listeners[1].address = ListenAddr::Tcp(inner_address(&last));
        soon("drain", last.take().drain()).await;
        config
    }

    pub(crate) async fn start_again(&mut self, config: Config) {
        self.replicas.push(Harness::start(self.server.address(), |new| *new = config).await);
    }

    /// How many replicas have connections of a user to the server.
    pub(crate) fn pools_with(&self, user: &str) -> usize {
        let has = |replica: &&Harness| {
            let accounts = replica.proxy().pools().accounts();
            accounts.iter().any(|account| account.name() == user && account.usage().connections > 0)
        };
        self.replicas.iter().filter(has).count()
    }

    /// Of whom a replica has connections to the server.
    pub(crate) fn pools_of(&self, place: usize) -> Vec<String> {
        let accounts = self.replicas[place].proxy().pools().accounts();
        accounts.iter().filter(|account| account.usage().connections > 0).map(|account| account.name()).collect()
    }

    /// Sessions that have gone through from a replica to others.
    pub(crate) fn relayed(&self, place: usize) -> u64 {
        self.replicas[place].metric("imapool_sessions_relayed_total", "")
    }

    pub(crate) async fn finish(self) {
        for replica in &self.replicas {
            replica.sessions(0).await;
        }
        for replica in self.replicas {
            replica.finish().await;
        }
    }
}

pub(crate) fn inner_address(replica: &Harness) -> SocketAddr {
    match replica.proxy().listener_addresses().remove(1).1 {
        ListenAddr::Tcp(address) => address,
        ListenAddr::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

/// In front of a server; `inner`: where replicas are reached, and which of them this is.
pub(crate) fn parsed(server: SocketAddr, inner: &[SocketAddr], own: Option<usize>) -> Config {
    let mut text = "[[listener]]\nname = \"outer\"\naddress = \"127.0.0.1:0\"\n\
                    [[listener]]\nname = \"inner\"\naddress = \"127.0.0.1:0\"\n\
                    proxy_protocol_from = [\"127.0.0.0/8\"]\nplaintext_login = \"always\"\n"
        .to_owned();
    for (place, address) in inner.iter().enumerate() {
        let more = "group = \"replicas\"\nsend_proxy = true\n";
        let _ = write!(text, "[[backend]]\nname = \"r{place}\"\naddress = \"{address}\"\n{more}");
    }
    let _ = write!(text, "[[backend]]\nname = \"mail\"\naddress = \"{server}\"\n[routing]\ndefault = \"mail\"\n");
    if let Some(own) = own {
        let _ = writeln!(text, "replica = \"r{own}\"");
    }
    if !inner.is_empty() {
        text += "[[group]]\nname = \"replicas\"\nmode = \"relay\"\ninner = \"inner\"\n\
                 check = { interval = \"100ms\", failures = 2, successes = 3 }\n\
                 [[route]]\nlisteners = [\"outer\"]\nto = \"replicas\"\n";
    }
    Config::parse(&text, "ring").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub(crate) fn take(config: &mut Config, parsed: Config) {
    let Config { listeners, backends, groups, routing, routes, .. } = parsed;
    *config = Config { listeners, backends, groups, routing, routes, ..config.clone() };
}
