//! The memory of the proxy's process does not depend on how big messages are, nor much on how slowly they are read.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

#[cfg(not(target_os = "linux"))]
#[test]
fn memory_is_counted_on_linux_only() {
    eprintln!("SKIPPED: how much memory a process has resident is read from /proc");
}

#[cfg(target_os = "linux")]
#[path = "memory/backend.rs"]
mod backend;
#[cfg(target_os = "linux")]
#[path = "memory/proxy.rs"]
mod proxy;

#[cfg(target_os = "linux")]
mod linux {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;
    use tokio::time::{sleep, timeout};

    use crate::backend::{self, MESSAGE, Seen};
    use crate::proxy::{Proxy, folder};

    const MIB: u64 = 1024 * 1024;
    /// For one whole test, which takes seconds where nothing else runs.
    const PATIENCE: Duration = Duration::from_secs(240);
    const SLOW_SESSIONS: usize = 1000;
    /// What each of them reads of its message before it stops.
    const SIP: u64 = 100_000;

    async fn backend() -> (SocketAddr, Arc<Seen>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        tokio::spawn(backend::serve(listener, Arc::clone(&seen)));
        (address, seen)
    }

    /// Says a command and reads to its tagged reply.
    async fn command<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, tag: &str, line: &str) {
        stream.write_all(format!("{tag} {line}\r\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        tagged(stream, tag).await;
    }

    async fn tagged<S: AsyncRead + Unpin>(stream: &mut BufReader<S>, tag: &str) {
        let mut line = String::new();
        while !line.starts_with(tag) {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "closed before {tag} was answered");
        }
        assert!(line.starts_with(&format!("{tag} OK")), "{line}");
    }

    /// Selects the mailbox and asks for its message, up to the first octet; flags are news from others.
    async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>) {
        command(stream, "s", "SELECT INBOX").await;
        stream.write_all(b"f FETCH 1 BODY[]\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut line = String::new();
        while !line.contains("BODY[]") {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "closed before the message came");
        }
    }

    /// Takes the message, and then gives it back.
    async fn take_and_give<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
        let mut stream = BufReader::with_capacity(64 * 1024, stream);
        command(&mut stream, "l", "LOGIN big secret").await;
        ask(&mut stream).await;
        backend::receive(&mut stream, MESSAGE).await.unwrap();
        tagged(&mut stream, "f").await;
        stream.write_all(format!("a APPEND INBOX {{{MESSAGE}}}\r\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut line = String::new();
        while !line.starts_with('+') {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "closed before the message could go");
        }
        backend::send(&mut stream).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
        stream.flush().await.unwrap();
        tagged(&mut stream, "a").await;
        command(&mut stream, "b", "LOGOUT").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_message_of_200_mb_passes_both_ways_in_64_mib() {
        both_ways("session").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_message_of_200_mb_passes_both_ways_in_64_mib_when_mailboxes_are_shared() {
        both_ways("multiplex").await;
    }

    async fn both_ways(mode: &str) {
        let (address, seen) = backend().await;
        let proxy = Proxy::start(folder(&format!("both-{mode}")), address, mode, "");
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        timeout(PATIENCE, take_and_give(stream)).await.expect("in time");
        assert_eq!((seen.sent.load(Ordering::Relaxed), seen.received.load(Ordering::Relaxed)), (MESSAGE, MESSAGE));
        let peak = proxy.peak_resident();
        println!("200 MB both ways, {mode}: peak {:.1} MiB, CPU {}", peak as f64 / MIB as f64, proxy.cpu());
        assert!(peak < 64 * MIB, "{peak} octets resident");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_message_of_200_mb_passes_both_ways_through_tls_in_64_mib() {
        let (address, seen) = backend().await;
        let folder = folder("tls");
        let listener = certificate(&folder);
        let client = tls_client(&folder);
        let proxy = Proxy::start(folder, address, "multiplex", &listener);
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = client.connect(name, stream).await.unwrap();
        timeout(PATIENCE, take_and_give(stream)).await.expect("in time");
        assert_eq!((seen.sent.load(Ordering::Relaxed), seen.received.load(Ordering::Relaxed)), (MESSAGE, MESSAGE));
        let peak = proxy.peak_resident();
        println!("200 MB both ways through TLS: peak {:.1} MiB", peak as f64 / MIB as f64);
        assert!(peak < 64 * MIB, "{peak} octets resident");
    }

    /// Writes certificate and key; gives the listener's lines of configuration.
    fn certificate(folder: &Path) -> String {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        format!("tls = \"implicit\"\ncertificate = {certificate:?}\nprivate_key = {key:?}\n")
    }

    fn tls_client(folder: &Path) -> tokio_rustls::TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("certificate.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config).into()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_slow_readers_stay_below_128_mib() {
        a_thousand("session").await;
    }

    /// Four of a mailbox cannot share a connection then: each gets one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_slow_readers_of_shared_mailboxes_stay_below_128_mib() {
        a_thousand("multiplex").await;
    }

    async fn a_thousand(mode: &str) {
        // Two thousand would fill the kernel's own memory for TCP.
        static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = ONE_AT_A_TIME.lock().await;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let need = 2 * SLOW_SESSIONS as u64 + 200;
        if hard < need {
            return eprintln!("SKIPPED: needs {need} file descriptors (ulimit -Hn is {hard})");
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let (address, seen) = backend().await;
        let proxy = Proxy::start(folder(&format!("slow-{mode}")), address, mode, "");
        timeout(PATIENCE, slow_readers(&proxy, &seen)).await.expect("in time");
    }

    async fn slow_readers(proxy: &Proxy, seen: &Seen) {
        let address = proxy.address;
        // Not all at once, which would be about logins.
        let turns = Arc::new(Semaphore::new(50));
        let sessions: Vec<_> = (0..SLOW_SESSIONS)
            .map(|number| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move {
                    let _turn = turns.acquire().await.unwrap();
                    let stream = TcpStream::connect(address).await.unwrap();
                    let mut stream = BufReader::with_capacity(4096, stream);
                    command(&mut stream, "l", &format!("LOGIN user{} secret", number / 4)).await;
                    ask(&mut stream).await;
                    backend::receive(&mut stream, SIP).await.unwrap();
                    stream
                })
            })
            .collect();
        let mut streams = Vec::new();
        for session in sessions {
            streams.push(session.await.unwrap());
        }
        assert_eq!(seen.fetches.load(Ordering::Relaxed), SLOW_SESSIONS as u64);
        until_at_rest(seen).await;
        let (peak, stalled) = (proxy.peak_resident(), proxy.resident());
        // They do get their message when they go on reading.
        for stream in &mut streams {
            assert_eq!(stream.fill_buf().await.unwrap().first(), Some(&(u8::try_from(SIP % 251).unwrap())));
        }
        drop(streams);
        println!(
            "{SLOW_SESSIONS} slow readers: peak {:.1} MiB, when all stood still {:.1} MiB; {} octets per session underway",
            peak as f64 / MIB as f64,
            stalled as f64 / MIB as f64,
            seen.sent.load(Ordering::Relaxed) / SLOW_SESSIONS as u64,
        );
        assert!(peak < 128 * MIB, "{peak} octets resident");
    }

    /// Waits until every buffer on the way is full: nothing more is taken from the backend for a second.
    async fn until_at_rest(seen: &Seen) {
        let mut before = 0;
        loop {
            let now = seen.sent.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
            sleep(Duration::from_secs(1)).await;
        }
    }
}
