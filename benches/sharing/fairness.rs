//! One client reads a big message slowly, another runs a long SEARCH: how long do others in the same mailbox wait?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use imapool::demo::server::{Event, Fault, Options, Seed, Server, Stage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::accounts::password_of;
use crate::client::Client;
use crate::proxy::Proxy;
use crate::{Quantiles, settings};

const USER: &str = "user0";
const OTHERS: usize = 10;
const BIG: usize = 50_000_000;
/// What the slow client reads in a [`STEP`]: 100 kB a second.
const SIP: usize = 10_000;
const STEP: Duration = Duration::from_millis(100);
/// Between the commands of each of the others.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the others are watched without the long command and the slow reader.
const QUIET: Duration = Duration::from_secs(5);

pub(crate) async fn measure(search: Duration) -> Result<()> {
    let big = move |user: &str, _: &str, n: usize| match n {
        1 => [b"Subject: big\r\n\r\n".to_vec(), vec![b'x'; BIG]].concat(),
        _ => format!("Subject: message {n} of {user}\r\n\r\nsmall\r\n").into_bytes(),
    };
    let seed = Seed { mailboxes: vec![("INBOX".into(), 20)], message: Arc::new(big) };
    let delay = u64::try_from(search.as_millis())?;
    let slow = move |event: &Event<'_>| match (event.stage, event.verb) {
        (Stage::Command, "SEARCH") => Fault::DelayMs(delay),
        _ => Fault::None,
    };
    let server = Server::start(Options { seed, faults: Some(Arc::new(slow)), ..Options::default() }).await?;
    let proxy = Proxy::in_front_of("memory", server.address(), &settings()).await;

    let alone = others(proxy.address, QUIET).await?;
    let before = resident(&proxy).await;
    let reader = tokio::spawn(sip(proxy.address, search));
    let searcher = tokio::spawn(long_search(proxy.address));
    let watch = others(proxy.address, search);
    let (beside, most) = tokio::join!(watch, most_resident(&proxy, search));
    let (noops, fetches) = beside?;
    let read = reader.await??;
    let searched = searcher.await??;

    println!(
        "\nfairness: {OTHERS} others in the mailbox, beside a SEARCH of {:.0} s and a client that took {:.1} of {:.0} MB",
        searched.as_secs_f64(),
        read as f64 / 1e6,
        BIG as f64 / 1e6,
    );
    for (name, alone, beside) in [("NOOP", alone.0, noops), ("FETCH", alone.1, fetches)] {
        let (alone, beside) = (Quantiles::of(alone), Quantiles::of(beside));
        println!("  {name:<5} alone   {alone}\n  {name:<5} beside  {beside}");
    }
    let connections = proxy.metrics().await.sum("imapool_upstream_connections");
    println!("  resident memory {before:.1} MiB before, at most {most:.1} MiB; {connections} upstream connections");
    drop(proxy);
    server.stop().await;
    Ok(())
}

/// In MiB.
async fn resident(proxy: &Proxy) -> f64 {
    proxy.metrics().await.sum("process_resident_memory_bytes") / f64::from(1 << 20)
}

async fn most_resident(proxy: &Proxy, time: Duration) -> f64 {
    let (end, mut most) = (Instant::now() + time, 0_f64);
    while Instant::now() < end {
        most = most.max(resident(proxy).await);
        sleep(STEP).await;
    }
    most
}

async fn selected(address: SocketAddr) -> Result<Client> {
    let mut client = Client::login(address, USER, &password_of(USER)).await?;
    let reply = client.command("SELECT INBOX").await?;
    ensure!(reply.tagged.starts_with("OK"), "{reply}");
    Ok(client)
}

/// How long the NOOPs and the FETCHes took.
async fn others(address: SocketAddr, time: Duration) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let end = Instant::now() + time;
    let mut work = JoinSet::new();
    for n in 0..OTHERS {
        work.spawn(async move {
            let mut client = selected(address).await?;
            let fetch = format!("FETCH {} (UID FLAGS BODY.PEEK[HEADER])", n + 2);
            let (mut noops, mut fetches) = (Vec::new(), Vec::new());
            while Instant::now() < end {
                for (command, times) in [("NOOP", &mut noops), (fetch.as_str(), &mut fetches)] {
                    let begun = Instant::now();
                    let reply = client.command(command).await?;
                    ensure!(reply.tagged.starts_with("OK"), "{command}: {reply}");
                    times.push(begun.elapsed());
                    sleep(PAUSE).await;
                }
            }
            Ok((noops, fetches))
        });
    }
    let (mut noops, mut fetches) = (Vec::new(), Vec::new());
    while let Some(done) = work.join_next().await {
        let (some_noops, some_fetches) = done??;
        noops.extend(some_noops);
        fetches.extend(some_fetches);
    }
    Ok((noops, fetches))
}

/// How long it took. The reply comes long after the tests' clients have lost patience.
async fn long_search(address: SocketAddr) -> Result<Duration> {
    let mut client = selected(address).await?;
    let begun = Instant::now();
    client.send(b"s SEARCH TEXT small\r\n").await?;
    loop {
        match client.response().await {
            Ok(Some(response)) if response.starts_with(b"s ") => {
                ensure!(response.starts_with(b"s OK"), "{}", String::from_utf8_lossy(&response));
                return Ok(begun.elapsed());
            }
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("closed in SEARCH"),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads the big message slowly; gives the octets that it got.
async fn sip(address: SocketAddr, time: Duration) -> Result<usize> {
    let socket = TcpSocket::new_v4()?;
    // So that it is the proxy that waits, and not the kernel that has it all.
    socket.set_recv_buffer_size(64 * 1024)?;
    let mut stream = socket.connect(address).await?;
    let login = format!("a LOGIN {USER} {}\r\nb SELECT INBOX\r\nc FETCH 1 BODY.PEEK[]\r\n", password_of(USER));
    stream.write_all(login.as_bytes()).await?;
    let (end, mut read, mut sip) = (Instant::now() + time, 0, vec![0; SIP]);
    while Instant::now() < end {
        read += stream.read_exact(&mut sip).await?;
        sleep(STEP).await;
    }
    Ok(read)
}
