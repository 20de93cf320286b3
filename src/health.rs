//! Whether the node can do what it is asked: what grpc.health.v1 and /readyz say.
//!
//! Sandboxes that run do not depend on the engine, so `hands.v1.Hands` is healthy as long as the daemon is. While the
//! engine does not answer, none can be made or removed, and `hands.v1.Sandboxes` says so.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::engine::Engine;
use crate::telemetry::chain;

/// Between two looks at the engine.
const INTERVAL: Duration = Duration::from_secs(5);

/// Looks at the engine from time to time, until it is told to stop; the service `S` is as healthy as the engine, and the node
/// as ready.
pub async fn watch_engine<S: NamedService>(
    engine: &dyn Engine,
    reporter: HealthReporter,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looks = async {
        let mut was_serving = true;
        loop {
            ticks.tick().await;
            let answer = engine.ping().await;
            let is_serving = answer.is_ok();
            if is_serving == was_serving {
                continue;
            }
            match answer {
                Ok(()) => tracing::info!("the engine answers again"),
                Err(error) => tracing::error!(error = %chain(&error), "the engine does not answer"),
            }
            let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status(S::NAME, status).await;
            ready.send_replace(is_serving);
            was_serving = is_serving;
        }
    };
    stop.run_until_cancelled(looks).await;
    ready.send_replace(false);
}
