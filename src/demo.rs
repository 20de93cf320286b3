//! `handsd demo`: a daemon of its own for a few seconds, and a tour of what it does, over gRPC as any client would.
//!
//! Everything is kept below one temporary directory, which is gone afterwards, whether the tour ends, fails or is
//! interrupted.

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use handsd::check;
use handsd::client::Address;
use handsd::config::{Config, Environment, HttpAddress, ListenAddress, Overrides};
use handsd::daemon::Daemon;
use handsd::telemetry::{self, Colour};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use timeline::{Step, Timeline};

mod follow;
mod session;
mod timeline;
mod tour;

/// The tour takes some six seconds. What takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a shell adds to the number of a signal.
const SIGNALED: u8 = 128;

/// How the tour ended, unless it failed.
enum End {
    Finished,
    /// A signal came, with this number.
    Interrupted(u8),
}

/// Takes the tour and clears up after it.
///
/// # Errors
/// The temporary directory cannot be made, or something in it cannot be removed. A tour that fails is told on standard
/// error, with what the host lacks, and is an exit code.
pub async fn run() -> anyhow::Result<ExitCode> {
    // Before there is anything to clear up.
    let interrupted = interrupted()?;
    let directory = tempfile::Builder::new().prefix("handsd-demo-").tempdir().context("make a temporary directory")?;
    let config = config(directory.path())?;
    telemetry::init(&config.log)?;
    let mut timeline = Timeline::new(std::io::stdout(), Colour::of(&std::io::stdout()));
    let ended = take(&config, &mut timeline, interrupted).await;
    let lacks = if ended.is_err() { lacks(&config.state_dir).await } else { String::new() };
    let removed = remove(directory).await;
    match ended {
        Ok(End::Finished) => {
            removed?;
            timeline.say(Step::Stop, "the daemon has ended, and its directory is gone")?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(End::Interrupted(number)) => {
            removed?;
            eprintln!("handsd: interrupted; the daemon has ended, and its directory is gone");
            Ok(ExitCode::from(SIGNALED + number))
        }
        Err(error) => {
            eprintln!("handsd: the demo failed: {error:#}");
            if !lacks.is_empty() {
                eprint!("What this host lacks, which may be why:\n{lacks}");
            }
            removed?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The configuration of a daemon that is all below `directory`.
fn config(directory: &Path) -> anyhow::Result<Config> {
    let overrides = Overrides {
        state_dir: Some(directory.join("state")),
        grpc: vec![ListenAddress::Unix(directory.join("handsd.sock"))],
        http: Some(HttpAddress::Off),
        ..Overrides::default()
    };
    let mut config = Config::load(None, &overrides, &Environment::current())?;
    // The timeline tells what goes well.
    config.log.filter = "warn".to_owned();
    Ok(config)
}

/// Starts the daemon, takes the tour and stops the daemon, in whatever way the tour ended.
async fn take(config: &Config, timeline: &mut Timeline, interrupted: impl Future<Output = u8>) -> anyhow::Result<End> {
    let version = env!("CARGO_PKG_VERSION");
    timeline.say(Step::Start, &format!("handsd {version} in {}", config.state_dir.display()))?;
    let daemon = Daemon::start(config).await.context("start the daemon")?;
    let ended = async {
        let address = match daemon.grpc() {
            [ListenAddress::Unix(path)] => Address::Unix(path.clone()),
            other => bail!("the daemon listens on {other:?}"),
        };
        timeline.say(Step::Start, &format!("serving gRPC on {address}"))?;
        // Dropping the tour hangs up; the daemon's own end then ends what it left running.
        tokio::select! {
            toured = timeout(DEADLINE, tour::take(&address, timeline)) => {
                toured.with_context(|| format!("it did not end within {} s", DEADLINE.as_secs()))??;
                Ok(End::Finished)
            }
            number = interrupted => Ok(End::Interrupted(number)),
        }
    }
    .await;
    daemon.remove_all().await;
    daemon.stop().await;
    ended
}

/// Waits for a signal that asks to end, from now on; answers its number.
fn interrupted() -> anyhow::Result<impl Future<Output = u8>> {
    let catch = |kind| signal(kind).context("catch signals");
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let mut hangup = catch(SignalKind::hangup())?;
    Ok(async move {
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
        };
        kind.as_raw_value().unsigned_abs().to_le_bytes()[0]
    })
}

/// What the host check finds lacking, as a table for standard error.
async fn lacks(state_dir: &Path) -> String {
    let state_dir = state_dir.to_owned();
    let report = tokio::task::spawn_blocking(move || check::report(&check::probe(&state_dir, None)));
    let mut findings = report.await.unwrap_or_default();
    // The tour asks for no limit of disk.
    findings.retain(|finding| finding.state == check::State::Lacking && finding.name != "disk limits");
    check::render(&findings, Colour::of(&std::io::stderr()))
}

async fn remove(directory: TempDir) -> anyhow::Result<()> {
    let path = directory.path().to_owned();
    let removed = tokio::task::spawn_blocking(move || directory.close()).await?;
    removed.with_context(|| format!("remove {}", path.display()))
}
