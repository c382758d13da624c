//! `imapool demo`, and the in-memory IMAP server which it and the tests use. Production code does not know it.
//!
//! The demo runs each load twice: against the in-memory server itself, and through a proxy in front of it. First with
//! few local ports, to show what goes wrong without a proxy; then with all of them, to show what either way costs. The
//! server has a port for each way, so that what one run leaves behind is not counted for another.

pub mod load;
pub mod page;
pub mod report;
pub mod sockets;

pub use imapool_demo_server as server;

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;
use tokio::time::sleep;

use self::load::{Ending, Load};
use self::report::{Cost, Run, Shortage, Ways};
use self::server::personality::Personality;
use self::server::{Options, Server};
use self::sockets::Ports;

/// No session begins later than this after the first one: the demo stays below 30 s, whatever happens.
const TIME_LIMIT: Duration = Duration::from_secs(24);
/// Of each run with few ports.
const SHORTAGE_LIMIT: Duration = Duration::from_secs(3);
/// Of the direct run with all ports.
const DIRECT_LIMIT: Duration = Duration::from_secs(12);
/// Ports that the front end is left with where it is to have few.
const FEW_PORTS: u16 = 200;
/// Sessions that begin in a second where there are few ports. On the loopback interface Linux lends a port again
/// after a second, so that `FEW_PORTS` of them can go well.
const SHORTAGE_RATE: u32 = 1000;
/// How many begin in all: two seconds of them.
const SHORTAGE_SESSIONS: u32 = 2 * SHORTAGE_RATE;
/// Of these, as many at once as leaves most of the ports free.
const SHORTAGE_AT_ONCE: u32 = FEW_PORTS as u32 / 4;
/// How long the last sessions' sockets may take to be gone.
const SETTLING: Duration = Duration::from_millis(300);
/// How long the server waits for the front end to close after LOGOUT: real ones have things to write down first.
const LOGOUT_GRACE: Duration = Duration::from_millis(20);

/// The command line of `imapool demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Sessions to run each way, in the second part.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sessions: u32,
    /// Accounts the sessions take turns in.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub accounts: u32,
    /// Sessions at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: u32,
    /// How long the server takes to check a password, such as 5ms or 0s.
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = humantime::parse_duration)]
    pub login_cost: Duration,
    /// Which kind of server to run: dovecot, exchange, gmail and others, one that lacks an extension, lies, or dies at
    /// a step; "list" prints them all.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub server: Option<String>,
    /// Leave server and proxy running afterwards, until Ctrl-C, to try them out.
    #[arg(long)]
    pub keep: bool,
}

/// A kind of server that there is, or `list`.
fn kind(name: &str) -> Result<String, String> {
    if name == LIST || Personality::of(name).is_some() {
        return Ok(name.to_owned());
    }
    Err(format!("there is no such kind; \"--server {LIST}\" prints them"))
}

/// Prints the kinds of servers instead of running one.
const LIST: &str = "list";

/// Why the demo could not be given.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The in-memory server could not be started: no loopback interface, or no descriptors left.
    #[error("cannot start the demo's IMAP server")]
    Server(#[source] io::Error),
    /// The proxy could not be started.
    #[error("cannot start imapool in front of the demo's IMAP server")]
    Proxy(#[source] Box<dyn Error + Send + Sync>),
    /// Standard output is closed.
    #[error("cannot print")]
    Output(#[source] io::Error),
    /// Ctrl-C cannot be waited for.
    #[error("cannot wait for Ctrl-C")]
    Signal(#[source] io::Error),
    /// The proxy did not keep what it promises.
    #[error("{failed} of {begun} sessions through imapool failed: they should all go well")]
    SessionsFailed {
        /// Sessions through the proxy that failed.
        failed: u64,
        /// All that were begun.
        begun: u64,
    },
}

/// A proxy that runs in front of the demo's server.
pub struct Front {
    /// Where it accepts client sessions.
    pub listener: SocketAddr,
    /// Where its metrics are.
    pub admin: Option<SocketAddr>,
    /// Ends it.
    pub stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Gives the demo. `start` is handed the proxy's configuration (TOML, ports 0) and starts one, for each half anew.
///
/// # Errors
/// Where server or proxy cannot start, nothing can be printed, or a session through the proxy failed. Sessions that
/// fail without it are what is to be shown.
pub async fn run_with<F>(args: DemoArgs, start: F) -> Result<(), DemoError>
where
    F: AsyncFn(String) -> Result<Front, Box<dyn Error + Send + Sync>>,
{
    if args.server.as_deref() == Some(LIST) {
        return print(&report::kinds(&Personality::all()));
    }
    let kind = args.server.as_deref().and_then(Personality::of);
    let server = start_server(args.login_cost, kind.as_ref()).await.map_err(DemoError::Server)?;
    let start = async || start(configuration(server.addresses()[BEHIND])).await.map_err(DemoError::Proxy);
    let begun = Instant::now();
    print(report::INTRODUCTION)?;
    if let Some(kind) = &kind {
        print(&report::kind(kind))?;
    }
    let front = start().await?;
    let shortage = run_short(&args, &server, front.listener).await;
    front.stop.await;
    print(&shortage.as_ref().map_or_else(report::no_shortage, Shortage::to_string))?;
    let front = start().await?;
    let cost = compare(&args, &server, front.listener, TIME_LIMIT.saturating_sub(begun.elapsed())).await;
    print(&cost.to_string())?;
    let verdict = report::verdict(shortage.ok().as_ref(), &cost);
    print(&verdict.to_string())?;
    if args.keep {
        print(&invitation(server.addresses()[DIRECT], &front))?;
        tokio::signal::ctrl_c().await.map_err(DemoError::Signal)?;
    }
    front.stop.await;
    server.stop().await;
    // Nothing was promised for a server that cannot be worked with.
    if verdict.is_kept() || kind.is_some_and(|kind| !kind.verdict.pooling) {
        Ok(())
    } else {
        Err(DemoError::SessionsFailed { failed: verdict.pooled.failed, begun: verdict.pooled.begun() })
    }
}

/// The server's addresses: for the proxy, and for each of the direct runs.
const BEHIND: usize = 0;
const DIRECT: usize = 1;
const DIRECT_LOGOUT: usize = 2;
const DIRECT_HANG_UP: usize = 3;

/// Starts the demo's server, of this kind if there is one. Its first address is for the proxy, the others are for
/// direct runs.
///
/// # Errors
/// Where no address can be bound.
pub async fn start_server(login_cost: Duration, kind: Option<&Personality>) -> io::Result<Server> {
    let addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 4];
    let options = kind.map_or_else(Options::default, Personality::options);
    let options = Options { addresses, login_delay: login_cost, logout_grace: LOGOUT_GRACE, ..options };
    Server::start(options).await
}

/// Runs sessions of a front end that has few ports, against the server of [`start_server`] and against the proxy before
/// it: once with LOGOUT at the end of each, once without.
///
/// # Errors
/// Where this system cannot keep a socket to few ports.
pub async fn run_short(args: &DemoArgs, server: &Server, proxy: SocketAddr) -> io::Result<Shortage> {
    let few = sockets::few(FEW_PORTS)?;
    let both = async |direct: usize, ending: Ending| {
        let load = Load {
            address: server.addresses()[direct],
            sessions: SHORTAGE_SESSIONS,
            accounts: args.accounts,
            concurrency: args.concurrency.min(SHORTAGE_AT_ONCE),
            ending,
            rate: Some(SHORTAGE_RATE),
            ports: few.kept.then(|| few.ports.clone()),
            time_limit: SHORTAGE_LIMIT,
        };
        let through = Load { address: proxy, ..load.clone() };
        let direct = measure(load, server, "direct").await;
        Ways { direct, pooled: measure(through, server, "through imapool").await }
    };
    let logout = both(DIRECT_LOGOUT, Ending::Logout).await;
    let hang_up = both(DIRECT_HANG_UP, Ending::HangUp).await;
    Ok(Shortage { rate: SHORTAGE_RATE, host: sockets::ephemeral(), few, logout, hang_up })
}

/// Runs the load with all ports, against the server of [`start_server`] and against the proxy before it.
pub async fn compare(args: &DemoArgs, server: &Server, proxy: SocketAddr, time_limit: Duration) -> Cost {
    let load = Load {
        address: server.addresses()[DIRECT],
        sessions: args.sessions,
        accounts: args.accounts,
        concurrency: args.concurrency,
        ending: Ending::Logout,
        rate: None,
        ports: None,
        time_limit: DIRECT_LIMIT.min(time_limit),
    };
    let through = Load { address: proxy, ..load.clone() };
    let begun = Instant::now();
    let direct = measure(load, server, "direct").await;
    let through = Load { time_limit: time_limit.saturating_sub(begun.elapsed()), ..through };
    let pooled = measure(through, server, "through imapool").await;
    Cost {
        ways: Ways { direct, pooled },
        accounts: args.accounts,
        login_cost: args.login_cost,
        host: sockets::ephemeral(),
    }
}

/// The proxy's configuration; everything that is not said is the default.
fn configuration(backend: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"demo\"\naddress = \"127.0.0.1:0\"\n\n\
         [[backend]]\nname = \"demo\"\naddress = \"{backend}\"\n\n\
         [admin]\naddress = \"127.0.0.1:0\"\n"
    )
}

/// Runs the load against one address and counts what it cost.
async fn measure(load: Load, server: &Server, name: &str) -> Run {
    let before = server.counters();
    let bar = progress_bar(load.sessions, name);
    let (wanted, address) = (load.sessions, load.address);
    let outcome = load::run(load, &bar).await;
    bar.finish_and_clear();
    let after = server.counters();
    Run {
        wanted,
        outcome,
        connections: after.accepted - before.accepted,
        logins: after.logins + after.failed_logins - before.logins - before.failed_logins,
        front_end: settled(address).await,
        proxy: sockets::towards(server.addresses()[BEHIND]),
    }
}

/// The ports that are held towards this address, once the last connections have ended.
async fn settled(address: SocketAddr) -> Option<Ports> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let ports = sockets::towards(address)?;
        if ports.in_use == 0 || Instant::now() >= deadline {
            return Some(ports);
        }
        // The kernel gives no word of it.
        sleep(SETTLING / 30).await;
    }
}

/// A bar on standard error; hidden where that is no terminal.
fn progress_bar(sessions: u32, name: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:>16} {bar:40} {human_pos}/{human_len} sessions, {per_sec}, {eta}");
    let bar = ProgressBar::new(sessions.into());
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_prefix(name.to_owned())
}

/// How to try what is running.
fn invitation(direct: SocketAddr, front: &Front) -> String {
    let user = load::user(1);
    let password = load::password(&user);
    let mut text = format!(
        "\nStill running. Users are user1, user2, … (any name will do); the password is pw-<user>.\n\n  \
         through imapool:  curl -u {user}:{password} 'imap://{}/INBOX;MAILINDEX=1'\n  \
         directly:         curl -u {user}:{password} 'imap://{direct}/INBOX;MAILINDEX=1'\n",
        front.listener
    );
    if let Some(admin) = front.admin {
        text.push_str(&format!("  metrics:          curl http://{admin}/metrics\n"));
    }
    text.push_str("\nCtrl-C ends it.\n");
    text
}

fn print(text: &str) -> Result<(), DemoError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(DemoError::Output)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        demo: DemoArgs,
    }

    #[test]
    fn the_defaults_and_the_limits_of_the_command_line() {
        let parse = |more: &[&str]| CommandLine::try_parse_from(["demo"].iter().chain(more)).map(|c| c.demo);
        let defaults = parse(&[]).unwrap();
        assert_eq!((defaults.sessions, defaults.accounts, defaults.keep), (20_000, 50, false));
        assert_eq!(parse(&["--server", "gmail"]).unwrap().server.as_deref(), Some("gmail"));
        assert!(parse(&["--server", "list"]).is_ok() && parse(&["--server", "nosuch"]).is_err());
        assert_eq!(parse(&["--login-cost", "0s"]).unwrap().login_cost, Duration::ZERO);
        for wrong in [["--sessions", "0"], ["--accounts", "0"], ["--concurrency", "0"], ["--login-cost", "x"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
