//! What the service manager is told (sd_notify(3)). Without one, nothing is.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::health::policy::Report;
use crate::sandbox::Sandboxes;

/// Between two statuses, where no watchdog asks for more.
const INTERVAL: Duration = Duration::from_secs(10);

/// The daemon serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon reads its configuration again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager does not hear of a reload"),
    }
}

/// The daemon ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells from time to time how many sandboxes there are; and the watchdog, as long as the looks at the node's health go on
/// and find that the store and the engine answer. A daemon that hangs is ended by its manager and started anew, and takes its
/// sandboxes over.
pub async fn keep(sandboxes: Sandboxes, mut health: watch::Receiver<Report>, stop: CancellationToken) {
    let watchdog = sd_notify::watchdog_enabled();
    // Twice as often as is asked for, as sd_watchdog_enabled(3) advises.
    let period = watchdog.map_or(INTERVAL, |watchdog| watchdog / 2);
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let status = || format!("{} sandboxes, {} runs", sandboxes.count(), sandboxes.running());
    tell(&[NotifyState::Status(&status())]);
    let telling = async {
        loop {
            ticks.tick().await;
            let status = status();
            // A look is taken every second: none since the last tick means that there are no more.
            let is_looked_at = health.has_changed().unwrap_or(false);
            let is_alive = health.borrow_and_update().is_alive() && is_looked_at;
            match watchdog {
                Some(_) if is_alive => tell(&[NotifyState::Status(&status), NotifyState::Watchdog]),
                Some(_) => {
                    tracing::error!("the engine or the store does not answer, so the watchdog is not told");
                    tell(&[NotifyState::Status("the engine or the store does not answer")]);
                }
                None => tell(&[NotifyState::Status(&status)]),
            }
        }
    };
    let _: Option<()> = stop.run_until_cancelled(telling).await;
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
