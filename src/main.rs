//! The command line.

mod logging;
mod reference;

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory as _, Parser, Subcommand};
use imapool::app::Proxy;
use imapool::config::{Config, ConfigError, ListenAddr, Log};
use imapool::demo::{DemoArgs, Front};
use imapool::lifecycle;

/// glibc's allocator keeps what a burst of sessions once used; this one gives it back.
#[cfg(all(feature = "jemalloc", not(target_env = "msvc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
  imapool check --config /etc/imapool/imapool.toml   is this configuration right?
  imapool run --config /etc/imapool/imapool.toml     serve

Exit status: 0 done, 1 failed while running, 2 wrong configuration or command line.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; commands that run then may finish.
    ///
    /// The log goes to standard error: one line "listening" for each listener, with its real address. The environment
    /// variable RUST_LOG goes before the level in the configuration.
    #[command(after_help = "Example:\n  RUST_LOG=debug imapool run --config imapool.toml")]
    Run(ConfigFile),
    /// Tell whether a configuration is right, without running it.
    ///
    /// Opens no port and asks no server. What is wrong is told on standard error as FILE:LINE:COLUMN: MESSAGE, all of it at
    /// once, and the exit status is 2. Warnings do not change the exit status.
    #[command(after_help = "Example:\n  imapool check --config imapool.toml && systemctl restart imapool")]
    Check(ConfigFile),
    /// Show what imapool does, on this host alone and without any IMAP server.
    ///
    /// Starts an IMAP server in memory with imapool in front of it. Short sessions run first directly, then through imapool:
    /// from few ports, which shows what goes wrong without it, and from all, which shows what either way costs. The exit
    /// status is 1 if a session through imapool failed.
    #[command(after_help = "Example:\n  imapool demo --keep")]
    Demo(DemoArgs),
    /// Make a configuration of up-imapproxy's.
    ///
    /// Reads an imapproxy.conf and writes an imapool.toml. What has no counterpart is listed in comments at its end. No
    /// secret is taken over.
    #[command(after_help = "Example:\n  imapool import /etc/imapproxy.conf --output /etc/imapool/imapool.toml")]
    Import(ImportArgs),
    /// Write the man pages, the shells' completions or the schema of the configuration.
    #[command(hide = true)]
    Reference(reference::Args),
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// up-imapproxy's configuration.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to write, instead of standard output; must not exist yet.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration, a TOML file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// How a command fails.
enum Failure {
    /// By the configuration.
    Config(ConfigError),
    /// Anything else.
    Runtime(anyhow::Error),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Config(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Runtime(error)
    }
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Run(ConfigFile { config }) => run(&config),
        Command::Check(ConfigFile { config }) => check(&config),
        Command::Demo(args) => demo(args),
        Command::Import(args) => import(&args),
        Command::Reference(args) => reference::write(&args, &CommandLine::command()).map_err(Failure::from),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(error)) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(Failure::Runtime(error)) => {
            eprintln!("imapool: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file)?;
    logging::start(&config.log).map_err(anyhow::Error::from)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    block_on(serve(config))??;
    Ok(())
}

fn demo(args: DemoArgs) -> Result<(), Failure> {
    logging::start(&Log { level: "warn".to_owned(), ..Log::default() }).map_err(anyhow::Error::from)?;
    raise_descriptor_limit();
    block_on(show(args))??;
    Ok(())
}

fn import(args: &ImportArgs) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let conf = std::fs::read(&args.file).with_context(|| name.clone())?;
    let toml = imapool::import::imapproxy(&String::from_utf8_lossy(&conf), &name).context(name)?;
    match &args.output {
        // A configuration that somebody has worked on is not to be lost by a slip of the hand.
        Some(path) => File::create_new(path)
            .and_then(|mut file| file.write_all(toml.as_bytes()))
            .with_context(|| path.display().to_string())?,
        None => std::io::stdout().write_all(toml.as_bytes()).context("cannot print")?,
    }
    Ok(())
}

fn check(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file)?;
    for warning in config.warnings() {
        eprintln!("{}: warning: {warning}", file.display());
    }
    println!("{}: ok", file.display());
    for listener in &config.listeners {
        println!("  listener \"{}\" on {}, TLS: {}", listener.name, listener.address, listener.tls.as_str());
    }
    for backend in &config.backends {
        println!("  backend \"{}\" at {}, TLS: {}", backend.name, backend.address(), backend.tls.as_str());
    }
    println!(
        "  at most {} connections for each account, mode: {}",
        config.pool.max_per_account,
        config.pool.mode.as_str()
    );
    match config.admin.address {
        Some(address) => println!("  admin address {address}"),
        None => println!("  no admin address"),
    }
    Ok(())
}

/// Runs a future to its end on a runtime with a thread for each core.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("imapool")
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(future))
}

/// Every session and every connection takes a file descriptor, and the soft limit is often just 1,024. The hard
/// limit is what the administrator means.
#[cfg(unix)]
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| (soft, hard)));
    match raised {
        Ok((soft, hard)) => tracing::debug!(soft, hard, "raised the limit of file descriptors"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of file descriptors"),
    }
}

/// Windows has no such limit.
#[cfg(not(unix))]
fn raise_descriptor_limit() {}

/// Serves until a signal ends it.
async fn serve(config: Config) -> anyhow::Result<()> {
    let proxy = Proxy::start(config).await?;
    let signal = lifecycle::termination().await.context("cannot wait for signals")?;
    tracing::info!(signal, "shutting down");
    proxy.drain().await;
    Ok(())
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
