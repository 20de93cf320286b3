//! handsd: the daemon that gives AI agents their hands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use handsd::check;
use handsd::config::{Config, ConfigError, Environment, Overrides};
use handsd::daemon::{self, Daemon, Sweep, Swept};
use handsd::engine::native::zygote;
use handsd::notify;
use handsd::telemetry::{self, Colour, LogFilter};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};

mod demo;

/// Keeps sandboxes for AI agents on this machine, and runs their commands over gRPC.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Serve {
        /// Configuration file (TOML); without one, everything has its default
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print the configuration in force and exit
        #[arg(long)]
        print_config: bool,
        /// Remove all sandboxes at the end, instead of leaving them to the next daemon
        #[arg(long)]
        ephemeral: bool,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Say what this host can do, and how to mend what it cannot
    Check {
        /// The configuration, of which it is told whether the runtimes in it would start
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where state is to be kept
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
    /// Take a tour of what it does, with a daemon of its own that is gone afterwards
    Demo,
    /// Remove what belongs to no sandbox on record, and images that nothing is made of, while no daemon runs; one that runs does so itself
    Gc {
        /// Configuration file (TOML)
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Also the sandboxes that the next daemon would take over
        #[arg(long)]
        all: bool,
        /// Only print what would be removed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// The process that makes sandboxes; the daemon starts it
    #[command(hide = true, name = zygote::ARGUMENT)]
    Zygote,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // Before there is any other thread.
    if let Command::Zygote = command {
        return zygote::process::main();
    }
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("handsd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { config, print_config, ephemeral, overrides } => {
            let load = || Config::load(config.as_deref(), &overrides, &Environment::current());
            let config = load()?;
            if print_config {
                print!("{}", config.to_toml());
                return Ok(ExitCode::SUCCESS);
            }
            // Whoever starts it may have one that would keep sandboxes from their own files. What is private has a mode of
            // its own.
            umask(Mode::from_bits_truncate(0o022));
            raise_open_files().context("raise the limit of open files")?;
            let filter = telemetry::init(&config.log)?;
            let end = if ephemeral { End::Remove } else { End::Leave };
            runtime()?.block_on(serve(&config, load, &filter, end))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { config, state_dir } => {
            let overrides = Overrides { state_dir, ..Overrides::default() };
            let environment = Environment::current();
            let config = Config::load(config.as_deref(), &overrides, &environment)?;
            let docker_host = std::env::var("DOCKER_HOST").ok();
            let mut findings = check::report(&check::probe(&config.state_dir, docker_host.as_deref()));
            let cages = daemon::cages(&config, environment.is_root);
            findings.extend(runtime()?.block_on(check::brains(&cages)));
            print!("{}", check::render(&findings, Colour::of(&std::io::stdout())));
            let is_lacking = findings.iter().any(|finding| finding.state == check::State::Lacking);
            Ok(if is_lacking { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Command::Demo => runtime()?.block_on(demo::run()),
        Command::Gc { config, all, dry_run, overrides } => {
            let config = Config::load(config.as_deref(), &overrides, &Environment::current())?;
            let sweep = if dry_run { Sweep::DryRun } else { Sweep::Remove };
            let swept = if all { Swept::All } else { Swept::Strangers };
            runtime()?.block_on(daemon::sweep(&config, sweep, swept, |found| println!("{found}")))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Zygote => unreachable!("handled before there is a runtime"),
    }
}

/// Each run and each sandbox takes a few, and a shell lets a program have 1,024 unless it asks for more.
fn raise_open_files() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

/// What becomes of the sandboxes at the end.
enum End {
    /// The next daemon takes them over.
    Leave,
    Remove,
}

async fn serve(
    config: &Config,
    load: impl Fn() -> Result<Config, ConfigError>,
    filter: &LogFilter,
    end: End,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let mut daemon = Daemon::start(config).await?;
    for address in daemon.grpc() {
        tracing::info!(%address, "serving gRPC");
    }
    if let Some(address) = daemon.http() {
        tracing::info!(%address, "serving HTTP");
    }
    notify::ready();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = daemon.told_to_end() => break,
            _ = hangup.recv() => {}
        }
        notify::reloading();
        match reload(&mut daemon, &load, filter) {
            Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration is in force"),
            Ok(waiting) => tracing::warn!(?waiting, "the configuration is in force, but for what takes a restart"),
            Err(error) => tracing::error!(error = format!("{error:#}"), "the configuration stays as it was"),
        }
        notify::ready();
    }
    tracing::info!("stopping");
    notify::stopping();
    if let End::Remove = end {
        daemon.remove_all().await;
    }
    daemon.stop().await;
    Ok(())
}

/// Reads the configuration again and puts in force what can change; answers what cannot.
fn reload(
    daemon: &mut Daemon,
    load: impl Fn() -> Result<Config, ConfigError>,
    filter: &LogFilter,
) -> anyhow::Result<Vec<&'static str>> {
    let config = load()?;
    let waiting = daemon.reload(&config)?;
    filter.set(&config.log.filter)?;
    Ok(waiting)
}
