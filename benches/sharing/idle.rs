//! Many clients in IDLE on INBOX, of many accounts; beside them, one direct client for each account. A message is
//! delivered to each: when do they hear of it?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use imapool::demo::server::{Options as DemoOptions, Seed, Server as DemoServer};
use tokio::sync::mpsc;

use crate::accounts::{Accounts, password_of};
use crate::client::Client;
use crate::proxy::Proxy;
use crate::server::{Kind, Options as ServerOptions, Server};
use crate::{Options, Quantiles, settings};

const LIMIT: Duration = Duration::from_secs(30);
/// Longer than everything takes.
const NEVER: Duration = Duration::from_secs(3600);
const MESSAGE: &str = "Subject: news\r\n\r\nnews\r\n";

/// In front of the in-memory server, which tells at once, and in front of Dovecot, which takes its time.
pub(crate) async fn measure(options: &Options) -> Result<()> {
    let seed = Seed { mailboxes: vec![("INBOX".into(), 0)], ..Seed::default() };
    let demo = DemoServer::start(DemoOptions { seed, ..DemoOptions::default() }).await?;
    let proxy = Proxy::in_front_of("memory", demo.address(), &settings()).await;
    let deliver = async |user: String| demo.deliver(&user, "INBOX", MESSAGE).map(drop).context("no INBOX");
    scene("in-memory server", demo.address(), proxy, options, 1, deliver).await?;
    demo.stop().await;

    let accounts = Accounts::numbered("user", options.accounts);
    let Some(dovecot) = Server::start(Kind::Dovecot, &ServerOptions::new(accounts)).await else { return Ok(()) };
    let proxy = Proxy::start(&dovecot, &settings()).await;
    let deliver = async |user: String| {
        let mut client = Client::login(dovecot.address, &user, &password_of(&user)).await?;
        client.append("INBOX", "", MESSAGE).await?;
        anyhow::Ok(client.logout().await?)
    };
    // Its processes watch mailboxes with inotify, of which a user has 128 by default, and without look twice a minute.
    scene("Dovecot", dovecot.address, proxy, options, 10, deliver).await
}

/// What one client has heard: its account, whether it is a direct one, and when.
type Heard = (usize, bool, Instant);

/// Every so many accounts have a direct client, too.
async fn scene(
    name: &str,
    server: SocketAddr,
    proxy: Proxy,
    options: &Options,
    direct_every: usize,
    deliver: impl AsyncFn(String) -> Result<()>,
) -> Result<()> {
    let (hears, mut heard) = mpsc::unbounded_channel();
    for account in 0..options.accounts {
        if account % direct_every == 0 {
            idle(server, account, true, &hears).await?;
        }
        for _ in 0..options.clients {
            idle(proxy.address, account, false, &hears).await?;
        }
    }
    // A mailbox that is quiet for half a second is asked for its UIDs once; that is not what is measured here.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut direct, mut shared, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        for account in 0..options.accounts {
            let begun = Instant::now();
            deliver(format!("user{account}")).await?;
            let mut times = Vec::new();
            let direct_too = usize::from(account % direct_every == 0);
            for _ in 0..options.clients + direct_too {
                let told: Heard = tokio::time::timeout(LIMIT, heard.recv()).await?.context("a client ended")?;
                ensure!(told.0 == account, "account {} was told of account {account}'s mail", told.0);
                times.push(told);
            }
            let at = times.iter().find(|told| told.1).map(|told| told.2);
            direct.extend(at.map(|at| at - begun));
            for told in times.iter().filter(|told| !told.1) {
                shared.push(told.2 - begun);
                later.extend(at.map(|at| told.2.saturating_duration_since(at)));
            }
        }
    }
    let connections = proxy.metrics().await.sum("imapool_upstream_connections");
    let (accounts, clients) = (options.accounts, options.clients);
    let (direct, shared, later) = (Quantiles::of(direct), Quantiles::of(shared), Quantiles::of(later));
    let ratio = shared.p50.as_secs_f64() / direct.p50.as_secs_f64();
    println!("\nidle, {name}: {accounts} accounts × {clients} clients, {connections} upstream connections");
    println!("  direct, after delivery   {direct}");
    println!("  imapool, after delivery  {shared}");
    println!("  imapool, after direct    {later}");
    println!("  ratio of the medians after delivery: {ratio:.2}");
    proxy.finish();
    Ok(())
}

/// Puts a client into IDLE; it tells of each message it hears of.
async fn idle(address: SocketAddr, account: usize, direct: bool, hears: &mpsc::UnboundedSender<Heard>) -> Result<()> {
    let user = format!("user{account}");
    let mut client = Client::login(address, &user, &password_of(&user)).await?;
    client.command("SELECT INBOX").await?;
    client.send(b"i IDLE\r\n").await?;
    ensure!(client.response().await?.is_some_and(|response| response.starts_with(b"+")), "no IDLE");
    let hears = hears.clone();
    tokio::spawn(async move {
        // Ends with the connection.
        while let Ok(true) = client.has_more(NEVER).await {
            let Ok(Some(response)) = client.response().await else { break };
            if response.ends_with(b" EXISTS\r\n") && hears.send((account, direct, Instant::now())).is_err() {
                break;
            }
        }
    });
    Ok(())
}
