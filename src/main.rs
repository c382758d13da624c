//! The command line.

mod allocator;
mod cli;
mod logging;
mod reference;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory as _, Parser, Subcommand};
use imapool::app::{Checked, Proxy};
use imapool::config::{Config, ConfigError, ListenAddr, Log, Places};
use imapool::demo::{DemoArgs, Front};
use imapool::import::{self, Format, Source};
use imapool::listener::Inherited;
use imapool::net::Net;
use imapool::platform::signals::Signals;
use imapool::platform::{Request, manager, raise_descriptor_limit, told};
use tokio::runtime::Runtime;

use self::cli::check::{self, CheckArgs};
use self::cli::ctl::Order;
use self::cli::lists::List;
use self::cli::route::{self, RouteArgs};
use self::cli::{ConfigFile, Target, print, service};

/// An IMAP proxy that keeps a few logged-in connections for each account and lets any number of short client
/// sessions use them.
#[derive(Debug, Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  imapool demo                                       see what it does, without any IMAP server
  imapool check                                      is /etc/imapool/imapool.toml right?
  imapool check --config imapool.toml --connect      is this file, and do the servers answer?
  imapool run                                        serve

Exit status: 0 done, 1 failed while running, 2 wrong configuration or command line.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; commands that run then may finish.
    ///
    /// The log goes to standard error: one line "listening" for each listener, with its real address. The environment
    /// variable RUST_LOG goes before the level in the configuration.
    ///
    /// SIGHUP: read the configuration again. SIGUSR1: no new sessions, end when those that are open have ended, at
    /// the latest after limits.drain_timeout; for a new process that takes over (see reuse_port). Sockets are taken
    /// from systemd.
    #[command(after_help = "Example:\n  RUST_LOG=debug imapool run --config imapool.toml")]
    Run(ConfigFile),
    /// Tell whether a configuration is right, without running it.
    ///
    /// Certificates, keys and authorities are loaded as by run; no port is opened, and no server is asked but with
    /// --connect. What is wrong is told on standard error as FILE:LINE:COLUMN: MESSAGE, all of it at once, and the exit
    /// status is 2. Warnings do not change the exit status.
    #[command(after_help = check::EXAMPLES)]
    Check(CheckArgs),
    /// Tell how a running imapool is, by its admin address.
    ///
    /// The exit status is 0 when it is ready for sessions, and 1 when it is not, or cannot be reached.
    #[command(
        after_help = "Examples:\n  imapool status --json | jq .upstream.budget\n  imapool status --list connections"
    )]
    Status {
        #[command(flatten)]
        target: Target,
        /// As JSON, with everything that is known.
        #[arg(long)]
        json: bool,
        /// A list instead: the first thousand of its rows.
        #[arg(long, value_name = "LIST")]
        list: Option<List>,
    },
    /// Show accounts, sessions, hubs (mailboxes that sessions share), connections and backends of a running imapool,
    /// live.
    ///
    /// Keys: Tab for the next list, s to sort, / to filter, arrows and Page Up/Down to scroll, q to quit.
    Top {
        #[command(flatten)]
        target: Target,
    },
    /// Change something in a running imapool.
    ///
    /// Needs the admin token: from the token_file of --config, or the environment variable IMAPOOL_ADMIN_TOKEN.
    #[command(after_help = CTL_EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
    Ctl {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        order: Order,
    },
    /// Tell which backend a user's sessions go to, and which rule says so.
    ///
    /// Reads the configuration and the files of its routes, and asks the service that a route names, without a
    /// password; no imapool that runs is asked. Prints "backend NAME", or "refused" with the exit status 1, then the
    /// rule. An account that has sessions, or had some not long ago, may be at another backend of the same group:
    /// `imapool top` shows where.
    #[command(after_help = route::EXAMPLES)]
    Route(RouteArgs),
    /// Show what imapool does, on this host alone and without any IMAP server.
    ///
    /// Starts an IMAP server in memory with imapool in front of it. Short sessions run first directly, then through
    /// imapool: from few ports, which shows what goes wrong without it, and from all, which shows what either way
    /// costs. The exit status is 1 if a session through imapool failed.
    #[command(after_help = "Example:\n  imapool demo --keep")]
    Demo(DemoArgs),
    /// Install, remove, start or stop the service of Windows.
    ///
    /// It starts with the host, is restarted when it fails, and runs under an account of its own
    /// (NT SERVICE\imapool). Its log is in %ProgramData%\imapool\log, files of bounded size.
    #[command(hide = !service::AVAILABLE, subcommand_required = true, arg_required_else_help = true)]
    Service {
        #[command(subcommand)]
        action: service::Action,
    },
    /// Make a configuration of another proxy's: up-imapproxy, nginx, Perdition, Dovecot.
    ///
    /// Reads it and writes an imapool.toml. What has no counterpart is listed in comments at its end. No secret is
    /// taken over. Accounts (of a popmap or a passwd-file) are written to a file beside it, whose name ends in .map.
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(ImportArgs),
    /// Write the man pages, the shells' completions or the schema of the configuration.
    #[command(hide = true)]
    Reference(reference::Args),
}

const IMPORT_EXAMPLES: &str = "\
Examples:
  imapool import /etc/imapproxy.conf --output /etc/imapool/imapool.toml
  nginx -T > nginx.txt && imapool import nginx.txt
  imapool import /etc/perdition/perdition.conf --accounts /etc/perdition/popmap --output imapool.toml
  doveconf -nP > dovecot.txt && imapool import dovecot.txt --output imapool.toml";

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The other proxy's configuration.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose it is, where that is not clear.
    #[arg(long, value_name = "PROXY", value_parser = ["imapproxy", "nginx", "perdition", "dovecot"])]
    from: Option<String>,
    /// The popmap or passwd-file, where it is not where the configuration says.
    #[arg(long, value_name = "FILE")]
    accounts: Option<PathBuf>,
    /// Where to write, instead of standard output; must not exist yet.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

const CTL_EXAMPLES: &str = "\
Examples:
  imapool ctl --config /etc/imapool.toml reload
  imapool ctl retire u8@example.org
  imapool ctl drain main && imapool top";

/// How a command ends: its exit status.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Well = 0,
    /// It failed, imapool runs and cannot serve, or a server does not answer.
    Failed = 1,
    /// The configuration is wrong.
    Misconfigured = 2,
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Run(ConfigFile { config }) => run(&config),
        Command::Check(args) => check::run(&args),
        Command::Route(args) => route::run(&args),
        Command::Status { target, json, list } => status(&target, json, list),
        Command::Top { target } => top(&target),
        Command::Ctl { target, order } => ctl(&target, &order),
        Command::Demo(args) => demo(args),
        Command::Service { action } => service::run(action),
        Command::Import(args) => import(&args),
        Command::Reference(args) => reference::write(&args, &CommandLine::command()).map(|()| Outcome::Well),
    };
    let outcome = result.unwrap_or_else(|error| match error.downcast_ref::<ConfigError>() {
        Some(fault) => {
            print::error(&fault.to_string());
            Outcome::Misconfigured
        }
        None => {
            print::error(&format!("imapool: {error:#}"));
            Outcome::Failed
        }
    });
    ExitCode::from(outcome as u8)
}

fn run(file: &Path) -> anyhow::Result<Outcome> {
    let (config, places) = Config::load_with_places(file)?;
    let level = logging::start(&config.log)?;
    run_with(file, config, places, level)
}

/// Serves, once there is a log.
fn run_with(file: &Path, config: Config, places: Places, level: logging::Level) -> anyhow::Result<Outcome> {
    for warning in Checked::new(&config).warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    block_on(serve(file.to_owned(), config, places, level))?;
    Ok(Outcome::Well)
}

fn demo(args: DemoArgs) -> anyhow::Result<Outcome> {
    let log = Log { level: "warn".to_owned(), ..Log::default() };
    logging::start(&log)?;
    raise_descriptor_limit();
    block_on(show(args))?;
    Ok(Outcome::Well)
}

fn import(args: &ImportArgs) -> anyhow::Result<Outcome> {
    let name = args.file.display().to_string();
    let conf = import::read(&args.file).with_context(|| name.clone())?;
    let map = args.output.as_ref().map(|output| output.with_extension("map"));
    // Whatever folder it is run from later.
    let map = map.map(|map| std::path::absolute(&map).unwrap_or(map));
    let format = Format::ALL.iter().find(|(word, _)| args.from.as_deref() == Some(word)).map(|(_, format)| *format);
    let source = Source {
        conf: &conf,
        name: &name,
        accounts: args.accounts.as_deref(),
        read: &import::read,
        map: &map.as_ref().map_or_else(String::new, |map| map.display().to_string()),
    };
    let imported = import::import(format, &source).context(name.clone())?;
    match (&args.output, map) {
        (Some(path), Some(map)) => import::write(&imported, path, &map).context(name)?,
        _ if imported.accounts.is_some() => {
            let why = "it has accounts, which are written to a file beside the configuration: name that by --output";
            return Err(anyhow::anyhow!(why).context(name));
        }
        _ => print::text(&imported.toml)?,
    }
    Ok(Outcome::Well)
}

fn status(target: &Target, json: bool, list: Option<List>) -> anyhow::Result<Outcome> {
    let client = target.client()?;
    let summary = block_on(client.get("summary"))?;
    let rows = list.map(|list| block_on(client.get(&list.call()))).transpose()?;
    print::text(&match list {
        _ if json => format!("{:#}\n", rows.as_ref().unwrap_or(&summary)),
        Some(list) => list.table(&rows.unwrap_or_default()),
        None => cli::status::text(&summary),
    })?;
    Ok(if summary["ready"] == true { Outcome::Well } else { Outcome::Failed })
}

fn ctl(target: &Target, order: &Order) -> anyhow::Result<Outcome> {
    let told = match order {
        Order::Reload { pid: Some(pid) } => told::ask(*pid)?,
        _ => block_on(cli::ctl::run(&target.client()?, order))?,
    };
    print::text(&format!("{told}\n"))?;
    Ok(Outcome::Well)
}

fn top(target: &Target) -> anyhow::Result<Outcome> {
    cli::top::run(&runtime()?, &target.client()?)?;
    Ok(Outcome::Well)
}

/// A runtime with a thread for each core.
fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("imapool").build().context("cannot start the runtime")
}

/// Runs a future to its end. What it left behind is not waited for: a resolver may take its time.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime()?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    output
}

/// Serves until a signal ends it.
async fn serve(file: PathBuf, config: Config, places: Places, level: logging::Level) -> anyhow::Result<()> {
    let inherited = Inherited::from_environment();
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let proxy = match Proxy::start_over(config.clone(), inherited, Net::System).await {
        Ok(proxy) => proxy,
        Err(error) => anyhow::bail!("{}: {error}", error.place(&config, &places)),
    };
    proxy.set_source(file);
    proxy.watch(move |config| level.apply(&config.log));
    manager::ready();
    tokio::spawn(manager::watchdog());
    loop {
        match signals.next().await {
            Request::Reload => {
                manager::reloading();
                reload(&proxy).await;
                manager::ready();
            }
            Request::Shutdown(signal) => {
                tracing::info!(signal, "shutting down");
                manager::stopping();
                manager::until(proxy.drain()).await;
                return Ok(());
            }
            Request::HandOver => {
                manager::stopping();
                return end_after(proxy, &mut signals).await;
            }
        }
    }
}

/// What comes of it is in the log, and those who have asked for it are told.
async fn reload(proxy: &Proxy) {
    let askers = told::Askers::waiting();
    let result = proxy.reload_file().await;
    match &result {
        Ok(changes) => askers.tell(Ok(&cli::ctl::reloaded(changes))),
        Err(error) => askers.tell(Err(&error.to_string())),
    }
}

/// Hands over; who cannot wait for that says so by SIGTERM.
async fn end_after(proxy: Proxy, signals: &mut Signals) -> anyhow::Result<()> {
    let handing_over = proxy.clone().hand_over();
    tokio::pin!(handing_over);
    loop {
        tokio::select! {
            () = &mut handing_over => return Ok(()),
            signal = signals.next() => if let Request::Shutdown(signal) = signal {
                tracing::info!(signal, "shutting down");
                manager::until(proxy.drain()).await;
                return Ok(());
            },
        }
    }
}

/// Runs the demonstration.
async fn show(args: DemoArgs) -> anyhow::Result<()> {
    let start = async |toml: String| {
        let proxy = Proxy::start(Config::parse(&toml, "demo")?).await?;
        let listeners = proxy.listener_addresses();
        let Some((_, ListenAddr::Tcp(listener))) = listeners.into_iter().next() else {
            return Err("the demo's listener is a TCP listener".into());
        };
        Ok(Front { listener, admin: proxy.admin_address(), stop: Box::pin(proxy.drain()) })
    };
    Ok(imapool::demo::run_with(args, start).await?)
}
