//! One upstream connection for each mailbox, however many idle there: all of them hear of a message, also after all
//! connections were cut.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::net::SocketAddr;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::server::{Kind, Options, Server};
use crate::viewer::message;

const ACCOUNTS: usize = 100;
/// Of each account.
const IDLERS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_in_idle_hears_of_mail() {
    let options = Options::new(Accounts::numbered("idler", ACCOUNTS));
    let Some(server) = Server::start(Kind::Dovecot, &options).await else { return };
    let relay = Relay::start(server.address).await;
    let settings = Settings { mode: "multiplex", spare: 0, through: Some(relay.address), ..Settings::default() };
    let proxy = Proxy::start(&server, &settings).await;
    let mut work = JoinSet::new();
    for n in 0..ACCOUNTS {
        work.spawn(idlers(proxy.address, format!("idler{n}")));
    }
    let mut clients: Vec<Client> = work.join_all().await.into_iter().flatten().collect();
    assert_eq!(clients.len(), ACCOUNTS * IDLERS);
    for round in 1..=2 {
        let delivered = Instant::now();
        for n in 0..ACCOUNTS {
            let user = format!("idler{n}");
            let mut direct = Client::login(server.address, &user, &password_of(&user)).await.unwrap();
            direct.append("INBOX", "", &message("news")).await.unwrap().ok();
        }
        for client in &mut clients {
            hears(client, round).await;
        }
        let open = proxy.metrics().await.sum("imapool_upstream_connections");
        eprintln!("round {round}: all {} clients know after {:?}", clients.len(), delivered.elapsed());
        assert_eq!(open, ACCOUNTS as f64, "connections");
        relay.cut();
    }
    drop(clients);
    proxy.finish();
}

/// All of one account, in IDLE.
async fn idlers(address: SocketAddr, user: String) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..IDLERS {
        let mut client = Client::login(address, &user, &password_of(&user)).await.unwrap();
        client.command("SELECT INBOX").await.unwrap().ok();
        client.send(b"i IDLE\r\n").await.unwrap();
        assert!(client.response().await.unwrap().unwrap().starts_with(b"+"));
        clients.push(client);
    }
    clients
}

async fn hears(client: &mut Client, count: usize) {
    loop {
        let told = client.response().await.unwrap().expect("nobody is disconnected");
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(!told.starts_with("* BYE"), "{told}");
        if told == format!("* {count} EXISTS\r\n") {
            break;
        }
    }
}

/// Passes octets on, until it is told to cut all connections.
struct Relay {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<u64>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = tokio::sync::watch::Sender::new(0);
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }

    fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}
