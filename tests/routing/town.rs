//! Three servers in memory, which hold one, two and three messages for everybody, so that a client sees where it is.

use std::fs;
use std::path::PathBuf;

use imapool::config::Config;
use imapool_demo_server::{Options, Seed, Server};
use tempfile::TempDir;

use crate::support::{Client, Harness};

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];

pub(crate) struct Town {
    pub(crate) servers: Vec<Server>,
    pub(crate) harness: Harness,
    folder: TempDir,
}

impl Town {
    /// `routes`: the rest of a configuration, in which `FOLDER` stands for this town's folder; `files` are in that.
    pub(crate) async fn new(routes: &str, files: &[(&str, &str)]) -> Self {
        Self::with(routes, files, |_, options| options, |_| ()).await
    }

    pub(crate) async fn with(
        routes: &str,
        files: &[(&str, &str)],
        server: impl Fn(usize, Options) -> Options,
        proxy: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut servers = Vec::new();
        for place in 0..NAMES.len() {
            let seed = Seed { mailboxes: vec![("INBOX".into(), place + 1)], ..Seed::default() };
            servers.push(Server::start(server(place, Options { seed, ..Options::default() })).await.unwrap());
        }
        let text = text(&servers, &folder, routes);
        let harness = Harness::start(servers[0].address(), |config| {
            take(config, &text);
            proxy(config);
        })
        .await;
        Self { servers, harness, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Other routes take the place of those there are.
    pub(crate) async fn reload(&self, routes: &str) -> Vec<String> {
        let mut config = Config::clone(&self.harness.proxy().config());
        take(&mut config, &text(&self.servers, &self.folder, routes));
        let changes = self.harness.proxy().reload(config).await.unwrap();
        changes.iter().map(ToString::to_string).collect()
    }

    /// Where a client is that has logged in.
    pub(crate) async fn place(&self, client: &mut Client) -> &'static str {
        let said = client.command("s SELECT INBOX").await;
        let exists = said.iter().find_map(|line| line.strip_suffix(" EXISTS")?.strip_prefix("* ")?.parse().ok());
        let messages: usize = exists.unwrap_or_else(|| panic!("{said:?}"));
        NAMES[messages - 1]
    }

    /// Where a user comes to, who leaves again.
    pub(crate) async fn goes(&self, user: &str) -> &'static str {
        let mut client = self.harness.login(user).await;
        let place = self.place(&mut client).await;
        client.play("C: o LOGOUT\nS~ o OK…\nS.").await;
        place
    }

    /// Where a user has connections that have logged in.
    pub(crate) fn homes(&self, user: &str) -> Vec<&'static str> {
        let servers = NAMES.into_iter().zip(&self.servers);
        servers.filter(|(_, server)| server.open_of(user) > 0).map(|(name, _)| name).collect()
    }

    pub(crate) async fn finish(self) {
        self.harness.finish().await;
    }
}

fn text(servers: &[Server], folder: &TempDir, routes: &str) -> String {
    let backend = |(name, server): (&str, &Server)| {
        let more = routes.lines().filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect::<Vec<_>>();
        format!("[[backend]]\nname = \"{name}\"\naddress = \"{}\"\n{}\n", server.address(), more.join("\n"))
    };
    let backends: String = NAMES.into_iter().zip(servers).map(backend).collect();
    let rest: Vec<_> = routes.lines().filter(|line| line.get(1..3) != Some(": ")).collect();
    let rest = rest.join("\n").replace("FOLDER", &folder.path().display().to_string());
    format!("[[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n{backends}{rest}\n")
}

fn take(config: &mut Config, text: &str) {
    let parsed = Config::parse(text, "town").unwrap_or_else(|error| panic!("{error}\n{text}"));
    config.backends = parsed.backends;
    config.groups = parsed.groups;
    config.routing = parsed.routing;
    config.routes = parsed.routes;
}
