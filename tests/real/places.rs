//! Dovecots with the same accounts, of which the first has one message in every INBOX, the second two, and so on: so a
//! client sees where it is. Who it is, it sees by the subject.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::accounts::{Accounts, password_of};
use crate::client::{Client, Reply};
use crate::server::{Kind, Options, Server};

/// So many of them; `None` (after saying so) if Dovecot is not installed.
pub(crate) async fn start(count: usize, options: &Options) -> Option<Vec<Server>> {
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(Server::start(Kind::Dovecot, options).await?);
    }
    let filling =
        servers.iter().zip(1..).map(|(server, messages)| fill(server.address, messages, options.accounts.clone()));
    filling.collect::<JoinSet<()>>().join_all().await;
    Some(servers)
}

/// Accounts with these names, and the passwords that [`password_of`] gives.
pub(crate) fn named<'n>(users: impl IntoIterator<Item = &'n str>) -> Accounts {
    let accounts = Accounts::default();
    users.into_iter().for_each(|user| accounts.set(user, &password_of(user)));
    accounts
}

async fn fill(server: SocketAddr, messages: usize, accounts: Accounts) {
    for user in accounts.names() {
        let message = format!("Subject: {user}\r\n\r\nmail\r\n");
        let append = format!("APPEND INBOX{}", format!(" {{{}+}}\r\n{message}", message.len()).repeat(messages));
        let mut client = Client::login(server, &user, &accounts.password(&user)).await.unwrap();
        client.command(&append).await.unwrap().ok();
        client.logout().await.unwrap();
    }
}

/// Of what a client has selected: the index of the server.
pub(crate) fn of(selected: &Reply) -> Option<usize> {
    let text = selected.to_string();
    let messages: usize =
        text.lines().find_map(|line| line.strip_suffix(" EXISTS")?.strip_prefix("* ")?.parse().ok())?;
    messages.checked_sub(1)
}
