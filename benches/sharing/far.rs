//! A backend that is far away: how many round trips to it a short session costs, alone, beside others in its mailbox,
//! and beside a client in IDLE.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use imapool::demo::server::{Options, Server};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::accounts::password_of;
use crate::client::Client;
use crate::proxy::{Proxy, Settings};
use crate::{Quantiles, settings};

const USER: &str = "user0";
/// Each way.
const FAR: Duration = Duration::from_millis(20);
const SESSIONS: u32 = 50;
const LOGINS: usize = 9;
/// Of what is on its way, each way.
const CHUNKS: usize = 1024;
/// Long enough for the proxy to have put its connection to rest, or into IDLE.
const QUIET: Duration = Duration::from_secs(1);

pub(crate) async fn measure() -> Result<()> {
    let server = Server::start(Options::default()).await?;
    let relay = relay(server.address()).await?;
    let proxy = Proxy::in_front_of("memory", relay, &settings()).await;
    println!("\nfar: the backend is {} ms away, each way; in round trips to it", FAR.as_millis());
    let ready = Proxy::in_front_of("memory", relay, &Settings::default()).await;
    println!("  connecting and LOGIN, direct                  {:.2}", trips(login(relay).await?, 1));
    println!("  first of an account, a connection is ready    {:.2}", trips(login(ready.address).await?, 1));
    println!("  first of an account, none is ready            {:.2}", trips(login(proxy.address).await?, 1));
    drop(ready);
    sleep(QUIET).await;
    let alone = sessions(proxy.address).await?;
    println!("  LOGIN, SELECT, FETCH, LOGOUT, alone           {:.2}", trips(alone, SESSIONS));
    let mut beside = Client::login(proxy.address, USER, &password_of(USER)).await?;
    beside.command("SELECT INBOX").await?;
    sleep(QUIET).await;
    let shared = sessions(proxy.address).await?;
    println!("  the same, beside a client in the mailbox      {:.2}", trips(shared, SESSIONS));
    beside.send(b"i IDLE\r\n").await?;
    ensure!(beside.response().await?.is_some_and(|response| response.starts_with(b"+")), "no IDLE");
    sleep(QUIET).await;
    let idling = sessions(proxy.address).await?;
    println!("  the same, beside a client in IDLE             {:.2}", trips(idling, SESSIONS));
    drop(beside);
    drop(proxy);
    server.stop().await;
    Ok(())
}

/// The round trips to the backend that each of so many took.
fn trips(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() / f64::from(count) / (2.0 * FAR.as_secs_f64())
}

/// The median from connect() to the OK of LOGIN, each of another account. Between them the proxy opens a connection
/// for the next one, if it is to have one ready.
async fn login(address: SocketAddr) -> Result<Duration> {
    let mut times = Vec::new();
    for number in 0..LOGINS {
        sleep(QUIET).await;
        let user = format!("user{number}");
        let start = Instant::now();
        let _client = Client::login(address, &user, &password_of(&user)).await?;
        times.push(start.elapsed());
    }
    Ok(Quantiles::of(times).p50)
}

/// One after the other; between them, the proxy may come to rest, which does not count.
async fn sessions(address: SocketAddr) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for _ in 0..SESSIONS {
        let start = Instant::now();
        let mut client = Client::login(address, USER, &password_of(USER)).await?;
        client.command("SELECT INBOX").await?;
        client.command("FETCH 1 (FLAGS)").await?;
        client.command("LOGOUT").await?;
        all += start.elapsed();
        sleep(FAR * 10).await;
    }
    Ok(all)
}

/// Relays to the backend, each octet [`FAR`] later. TCP's handshake with the relay takes no time; on a network SYN and
/// SYN-ACK are a round trip before the client can send, and the backend can greet when the ACK is there. So neither
/// side's first octets are sent before then.
async fn relay(backend: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let syn = Instant::now();
            let Ok(far) = TcpStream::connect(backend).await else { continue };
            let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near_read, far_write, syn + FAR * 2));
            tokio::spawn(pass(far_read, near_write, syn + FAR * 3));
        }
    });
    Ok(address)
}

/// What is there before `open` is sent then.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin + Send + 'static, open: Instant) {
    let (sends, mut arrives) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    tokio::spawn(async move {
        while let Some((at, octets)) = arrives.recv().await {
            sleep_until(at).await;
            if to.write_all(&octets).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    let mut octets = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut octets).await {
        let sent = Instant::now().max(open);
        if sends.send((sent + FAR, octets[..read].to_vec())).await.is_err() {
            return;
        }
    }
}
