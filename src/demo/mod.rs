//! `imapool demo`, and the in-memory IMAP server which it and the tests use. Production code does not know it.
//!
//! The demo runs the same load twice: against the in-memory server itself, and through a proxy in front of it. The
//! server has a port for each of the two, so that what one run leaves behind is not counted for the other.

pub mod load;
pub mod report;
pub mod server;
pub mod sockets;

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;

use self::load::Load;
use self::report::{Report, Run};
use self::server::{Options, Server};

/// No session begins later than this after the first one: the demo stays below 30 s, whatever happens.
const TIME_LIMIT: Duration = Duration::from_secs(24);
/// Of the direct run alone.
const DIRECT_LIMIT: Duration = Duration::from_secs(14);
/// How long the server waits for the front end to close after LOGOUT: real ones have things to write down first.
const LOGOUT_GRACE: Duration = Duration::from_millis(20);

/// The command line of `imapool demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Sessions to run each way.
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
    /// Leave server and proxy running afterwards, until Ctrl-C, to try them out.
    #[arg(long)]
    pub keep: bool,
}

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

/// Gives the demo. `start` is handed the proxy's configuration (TOML, ports 0) and starts it.
///
/// # Errors
/// Where server or proxy cannot start, or nothing can be printed. Sessions that fail are a number in the table.
pub async fn run_with<F>(args: DemoArgs, start: F) -> Result<(), DemoError>
where
    F: AsyncFnOnce(String) -> Result<Front, Box<dyn Error + Send + Sync>>,
{
    let server = start_server(args.login_cost).await.map_err(DemoError::Server)?;
    let front = start(configuration(server.addresses()[1])).await.map_err(DemoError::Proxy)?;
    print(&compare(&args, &server, front.listener).await.to_string())?;
    if args.keep {
        print(&invitation(server.address(), &front))?;
        tokio::signal::ctrl_c().await.map_err(DemoError::Signal)?;
    }
    front.stop.await;
    server.stop().await;
    Ok(())
}

/// Starts the demo's server: its first address is for the direct run, its second one for the proxy.
///
/// # Errors
/// Where no address can be bound.
pub async fn start_server(login_cost: Duration) -> io::Result<Server> {
    let addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 2];
    let options = Options { addresses, login_delay: login_cost, logout_grace: LOGOUT_GRACE, ..Options::default() };
    Server::start(options).await
}

/// Runs the load against the server of [`start_server`], and then against the proxy before its second address.
pub async fn compare(args: &DemoArgs, server: &Server, proxy: SocketAddr) -> Report {
    let (direct, behind) = (server.addresses()[0], server.addresses()[1]);
    let load = Load {
        address: direct,
        sessions: args.sessions,
        accounts: args.accounts,
        concurrency: args.concurrency,
        time_limit: DIRECT_LIMIT,
    };
    let begun = Instant::now();
    let direct = measure(load, server, None, "direct").await;
    let load = Load { address: proxy, time_limit: TIME_LIMIT.saturating_sub(begun.elapsed()), ..load };
    let pooled = measure(load, server, Some(behind), "through imapool").await;
    Report { direct, pooled, login_cost: args.login_cost, ephemeral: sockets::ephemeral() }
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
async fn measure(load: Load, server: &Server, behind: Option<SocketAddr>, name: &str) -> Run {
    let before = server.counters();
    let bar = progress_bar(load.sessions, name);
    let outcome = load::run(load, &bar).await;
    bar.finish_and_clear();
    let after = server.counters();
    Run {
        wanted: load.sessions,
        outcome,
        connections: after.accepted - before.accepted,
        logins: after.logins + after.failed_logins - before.logins - before.failed_logins,
        front_end: sockets::towards(load.address.port()),
        proxy: behind.and_then(|address| sockets::towards(address.port())),
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
        assert_eq!(parse(&["--login-cost", "0s"]).unwrap().login_cost, Duration::ZERO);
        for wrong in [["--sessions", "0"], ["--accounts", "0"], ["--concurrency", "0"], ["--login-cost", "x"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
