//! What those who never log in cost the others: thousands of connections that send a little now and then, and the
//! times from connecting to OK of LOGIN of right users, with and without them. `cargo bench --bench strangers`;
//! benches/README.md says more.

#[cfg(target_os = "linux")]
mod proxy;

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("SKIPPED: addresses of 127.0.0.0/8 and /proc are Linux's");
}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use anyhow::{Context as _, Result, ensure};
    use clap::Parser;
    use imapool::demo::server::{Options as ServerOptions, Server};
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep, timeout};

    use crate::proxy::Proxy;

    /// Right users at once, and their accounts.
    const RIGHT: usize = 8;
    const ACCOUNTS: usize = 50;
    /// What each stranger sends at once, so that the most is held for it; of a line that never ends.
    const FILL: usize = 7_900;
    /// The same within AUTHENTICATE, where more may come.
    const FILL_SASL: usize = 16_000;
    /// Between two octets of a stranger.
    const PAUSE: Duration = Duration::from_secs(5);
    /// Nothing takes longer than that.
    const LONGEST: Duration = Duration::from_secs(60);

    /// Measures what strangers cost.
    #[derive(Debug, Parser)]
    #[command(name = "strangers")]
    struct Options {
        /// Connections that do not log in.
        #[arg(long, default_value_t = 10_000)]
        strangers: usize,
        /// How often right users are watched without strangers and with them.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// How long, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Given by `cargo bench`.
        #[arg(long, hide = true)]
        bench: bool,
    }

    #[tokio::main(worker_threads = 2)]
    pub(crate) async fn main() -> Result<()> {
        let options = Options::parse();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        ensure!(
            hard > options.strangers as u64 + 1000,
            "{} open files are needed (ulimit -Hn)",
            options.strangers + 1000
        );
        let server = Server::start(ServerOptions::default()).await?;
        for (scene, limits) in
            [("as by default", String::new()), ("all let in", "unauthenticated = \"100%\"\n".to_owned())]
        {
            println!("{scene}:");
            let proxy = Proxy::start(server.address(), &format!("[limits]\n{limits}"))?;
            let ratio = scene_of(&options, &proxy).await?;
            println!(
                "  p99 {ratio:.2} times that without strangers (median of {} rounds; target: at most 2)",
                options.rounds
            );
        }
        Ok(())
    }

    async fn scene_of(options: &Options, proxy: &Proxy) -> Result<f64> {
        let watch = Duration::from_secs(options.seconds);
        // All accounts are known, and all code is in memory.
        watch_right_users(proxy.address, Duration::from_secs(2)).await?;
        println!("  resident before: {} MB", proxy.resident()? / 1_000_000);
        let mut ratios = Vec::new();
        for round in 1..=options.rounds {
            let quiet = watch_right_users(proxy.address, watch).await?;
            let strangers = Strangers::start(proxy.address, options.strangers);
            strangers.all_there().await?;
            let among = watch_right_users(proxy.address, watch).await?;
            let (resident, there) = (proxy.resident()?, strangers.there.load(Ordering::Relaxed));
            let came_back = strangers.came_back.load(Ordering::Relaxed);
            strangers.stop().await;
            let ratio = among.p99.as_secs_f64() / quiet.p99.as_secs_f64();
            println!("  round {round}, without: {quiet}");
            println!("  round {round}, among {there} strangers, who came back {came_back} times: {among}");
            println!("  round {round}: {} MB resident, p99 {ratio:.2} times", resident / 1_000_000);
            ratios.push(ratio);
        }
        ratios.sort_by(f64::total_cmp);
        Ok(ratios[ratios.len() / 2])
    }

    struct Strangers {
        stop: Arc<AtomicBool>,
        there: Arc<AtomicUsize>,
        came_back: Arc<AtomicUsize>,
        wanted: usize,
        tasks: Vec<JoinHandle<()>>,
    }

    impl Strangers {
        fn start(address: SocketAddr, wanted: usize) -> Self {
            let (stop, there, came_back) = (Arc::default(), Arc::default(), Arc::default());
            let mut this = Self { stop, there, came_back, wanted, tasks: Vec::new() };
            for number in 0..wanted {
                let (stop, there, came_back) =
                    (Arc::clone(&this.stop), Arc::clone(&this.there), Arc::clone(&this.came_back));
                this.tasks.push(tokio::spawn(async move {
                    let mut first = true;
                    while !stop.load(Ordering::Relaxed) {
                        // Whoever is sent away comes back, but not in a rush: that would be another attack.
                        let _over = stranger(address, number, &stop, &there, first).await;
                        came_back.fetch_add(1, Ordering::Relaxed);
                        first = false;
                        sleep(PAUSE).await;
                    }
                }));
            }
            this
        }

        /// Those that have been sent away already count.
        async fn all_there(&self) -> Result<()> {
            let begun = Instant::now();
            while self.there.load(Ordering::Relaxed) + self.came_back.load(Ordering::Relaxed) < self.wanted {
                ensure!(begun.elapsed() < LONGEST, "the strangers do not come in");
                sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        }

        async fn stop(self) {
            self.stop.store(true, Ordering::Relaxed);
            for task in self.tasks {
                task.abort();
                let _aborted = task.await;
            }
            // Their ends are not a part of what is measured next.
            sleep(Duration::from_secs(2)).await;
        }
    }

    async fn stranger(
        address: SocketAddr,
        number: usize,
        stop: &AtomicBool,
        there: &AtomicUsize,
        first: bool,
    ) -> Result<()> {
        if first {
            // Not all in one burst: what is measured is that they are there.
            sleep(Duration::from_micros(500 * number as u64)).await;
        }
        let mut stream = timeout(LONGEST, connect(address, number)).await??;
        let mut greeting = [0; 512];
        ensure!(timeout(LONGEST, stream.read(&mut greeting)).await?? > 0);
        let (begun, fill) = match number % 4 {
            0 => ("a LOGIN u {8000+}\r\n", FILL),
            1 => ("a AUTHENTICATE PLAIN\r\n", FILL_SASL),
            _ => ("a LOGIN \"", FILL),
        };
        stream.write_all(begun.as_bytes()).await?;
        stream.write_all(&vec![b'x'; fill]).await?;
        there.fetch_add(1, Ordering::Relaxed);
        let mut ended = Ok(());
        let mut octets = [0; 512];
        while !stop.load(Ordering::Relaxed) && ended.is_ok() {
            let read = timeout(PAUSE, stream.read(&mut octets)).await;
            ended = match read {
                // The continuation of AUTHENTICATE, or BYE, after which the end comes.
                Ok(Ok(read)) if read > 0 => Ok(()),
                Ok(_) => Err(anyhow::anyhow!("sent away")),
                Err(_) => stream.write_all(b"x").await.context("sent away"),
            };
        }
        there.fetch_sub(1, Ordering::Relaxed);
        ended
    }

    /// From one of several addresses, so that there are ports enough.
    async fn connect(address: SocketAddr, number: usize) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let source = [127, 0, 0, u8::try_from(2 + number % 8)?];
        socket.bind((source, 0).into())?;
        Ok(socket.connect(address).await?)
    }

    struct Quantiles {
        logins: usize,
        median: Duration,
        p99: Duration,
    }

    impl std::fmt::Display for Quantiles {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{} logins, median {:.2?}, p99 {:.2?}", self.logins, self.median, self.p99)
        }
    }

    async fn watch_right_users(address: SocketAddr, watch: Duration) -> Result<Quantiles> {
        let until = Instant::now() + watch;
        let users = (0..RIGHT).map(|user| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut number = user;
                while Instant::now() < until {
                    let begun = Instant::now();
                    let stream = timeout(LONGEST, TcpStream::connect(address)).await??;
                    let mut stream = BufReader::new(stream);
                    answer(&mut stream, "* OK").await?;
                    let name = format!("u{}", number % ACCOUNTS);
                    stream.write_all(format!("a LOGIN {name} pw-{name}\r\n").as_bytes()).await?;
                    answer(&mut stream, "a OK").await?;
                    times.push(begun.elapsed());
                    stream.write_all(b"z LOGOUT\r\n").await?;
                    answer(&mut stream, "z OK").await?;
                    number += RIGHT;
                    // As many as that, and not as many as there is time for: else what is measured is a full processor.
                    sleep(Duration::from_millis(10)).await;
                }
                anyhow::Ok(times)
            })
        });
        let mut times = Vec::new();
        for user in users.collect::<Vec<_>>() {
            times.extend(user.await??);
        }
        times.sort();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().context("no logins");
        Ok(Quantiles { logins: times.len(), median: at(0.5)?, p99: at(0.99)? })
    }

    /// Reads to a line that begins so.
    async fn answer(stream: &mut BufReader<TcpStream>, begins: &str) -> Result<()> {
        let mut line = String::new();
        while !line.starts_with(begins) {
            line.clear();
            ensure!(timeout(LONGEST, stream.read_line(&mut line)).await?? > 0, "ended before {begins:?}");
            ensure!(!line.starts_with("a NO") && !line.starts_with("* BYE [U"), "{line}");
        }
        Ok(())
    }
}
