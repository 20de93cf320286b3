//! Whether the node can do what it is asked: what grpc.health.v1, /readyz and the service manager's watchdog are told.
//!
//! [`watch()`] looks every second, so that a cause is told within two, and so is its end. What follows from what was seen is
//! decided in [`policy`]. Sandboxes that run do not depend on the engine, so `hands.v1.Hands` is healthy as long as the
//! daemon is; while none can be made, `hands.v1.Sandboxes` and the node as a whole are not.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::engine::Engine;
use crate::metrics::metrics;
use crate::store::Store;
use crate::telemetry::chain;
use policy::{Floors, Readings, Report, Space};

pub mod policy;

/// The file in the state directory on which its daemon holds a lock.
pub const LOCK: &str = "lock";

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the engine, the store and the disk may take to answer: a hundred times as long as they take, and short enough that two
/// looks fit into the two seconds in which a cause is to be told.
const DEADLINE: Duration = Duration::from_millis(800);

/// What is written to see whether anything can be: a block of most file systems.
const PROBE: [u8; 4096] = [0; 4096];

/// What is looked at.
pub struct Watched {
    /// The state directory.
    pub state_dir: PathBuf,
    /// What has to be left of memory and disk.
    pub floors: Floors,
    /// The services that need the engine.
    pub of_engine: Vec<&'static str>,
    /// Those that need the daemon only.
    pub of_daemon: Vec<&'static str>,
}

/// Looks until it is told to stop; from when `draining` on, the node is not ready any more.
pub async fn watch(
    engine: &dyn Engine,
    store: &Store,
    watched: Watched,
    reporter: HealthReporter,
    published: watch::Sender<Report>,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let looks = async {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut disk = Disk { path: watched.state_dir.clone(), look: None };
        // As the daemon has said at its start. Who watches is told of changes only.
        let mut served = (true, false);
        loop {
            // An interval loses nothing if the other arm is taken.
            tokio::select! {
                _ = ticks.tick() => {}
                () = draining.cancelled(), if !published.borrow().is_draining() => {}
            }
            let store = async {
                let asked = Instant::now();
                let answer = store.ping().await;
                metrics().store_answered(asked.elapsed());
                answer
            };
            let (engine, store) = (timeout(DEADLINE, engine.ping()), timeout(DEADLINE, store));
            let (engine, store, disk) = tokio::join!(engine, store, disk.look());
            let readings = Readings {
                engine: engine.ok().map(|answer| answer.map_err(|error| chain(&error).to_string())),
                store: store.ok().map(|answer| answer.map_err(|error| chain(&error).to_string())),
                disk,
                memory: available_memory(),
                is_draining: draining.is_cancelled(),
            };
            let report = policy::judge(readings, &watched.floors);
            let before = published.send_replace(report.clone());
            tell(&before, &report);
            let now = (report.is_ready(), report.is_draining());
            if std::mem::replace(&mut served, now) != now {
                serve(&reporter, &watched, &report).await;
            }
        }
    };
    let _: Option<()> = stop.run_until_cancelled(looks).await;
    let last = policy::ending();
    published.send_replace(last.clone());
    serve(&reporter, &watched, &last).await;
}

/// Logs what has changed, and shows it among the metrics.
fn tell(before: &Report, now: &Report) {
    for check in &now.checks {
        metrics().checked(check.name, check.fault.is_none());
    }
    for (before, now) in before.checks.iter().zip(&now.checks) {
        match (&before.fault, &now.fault) {
            (None, Some(fault)) if now.name == policy::SERVING => tracing::info!(%fault, "the node takes no more work"),
            (None, Some(fault)) => tracing::error!(check = now.name, %fault, "the node is not ready"),
            (Some(_), None) => tracing::info!(check = now.name, "good again"),
            _ => {}
        }
    }
}

async fn serve(reporter: &HealthReporter, watched: &Watched, report: &Report) {
    let status = |good: bool| if good { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in &watched.of_engine {
        reporter.set_service_status(service, status(report.is_ready())).await;
    }
    for service in &watched.of_daemon {
        reporter.set_service_status(service, status(!report.is_draining())).await;
    }
    reporter.set_service_status("", status(report.is_ready())).await;
}

/// The disk of the state directory. A disk that hangs holds one thread, however often it is looked at.
struct Disk {
    path: PathBuf,
    look: Option<JoinHandle<io::Result<Space>>>,
}

impl Disk {
    async fn look(&mut self) -> Option<Result<Space, String>> {
        let path = self.path.clone();
        let look = self.look.get_or_insert_with(|| spawn_blocking(move || probe(&path)));
        let seen = timeout(DEADLINE, look).await.ok()?;
        self.look = None;
        Some(seen.map_err(io::Error::other).flatten().map_err(|error| error.to_string()))
    }
}

/// Writes to a file that has no name, and looks at what is left. Where the daemon's lock is gone, so is the directory that it
/// was started on, though there may be another: the store goes on in a file that nobody will find.
fn probe(directory: &Path) -> io::Result<Space> {
    if !directory.join(LOCK).exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "No such file: what was in it is gone"));
    }
    tempfile::tempfile_in(directory)?.write_all(&PROBE)?;
    let disk = nix::sys::statvfs::statvfs(directory)?;
    Ok(Space { available: disk.blocks_available().saturating_mul(disk.fragment_size()) })
}

/// Memory that can be had without swapping, as the kernel estimates it.
fn available_memory() -> Option<Space> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    policy::available_memory(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_is_gone_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = Disk { path: directory.path().join("gone"), look: None };
        assert!(disk.look().await.unwrap().unwrap_err().contains("No such file"));
        let mut disk = Disk { path: directory.path().to_owned(), look: None };
        assert!(disk.look().await.unwrap().unwrap_err().contains("No such file"), "it is another directory");
        std::fs::write(directory.path().join(LOCK), "").unwrap();
        assert!(disk.look().await.unwrap().unwrap().available > 0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "the look left something");
    }
}
