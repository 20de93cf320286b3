//! Sleep for want of memory: while the node is short of it, one idle sandbox after another goes to sleep. Those in use, and
//! those that never sleep by themselves, are left alone. Who is next is decided in [`policy`].

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::registry::Sandboxes;
use super::state::{Phase, Tier};
use super::{IdleTimeout, Sandbox};
use crate::health::policy::available_memory;
use crate::telemetry::chain;
use policy::{Floors, Idle, Memory, order};

pub mod policy;

/// Between two looks, and so between two sandboxes: what one gave back is seen before the next has to go.
const INTERVAL: Duration = Duration::from_millis(500);

/// Sandboxes that are tried in one look, if those before them turn out to be in use.
const TRIES: usize = 8;

/// Looks until it is told to stop.
pub async fn relieve(sandboxes: Sandboxes, floors: Floors, stop: CancellationToken) {
    let mut gauge = Gauge::new();
    let looks = async {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let memory = gauge.read();
            if floors.is_below(&memory) {
                relieve_once(&sandboxes, &memory).await;
            }
        }
    };
    // What is cut off is a lifecycle step of a driver's, which goes on.
    stop.run_until_cancelled(looks).await;
}

/// Puts one sandbox to sleep.
async fn relieve_once(sandboxes: &Sandboxes, memory: &Memory) {
    let (all, _) = sandboxes.list(None, usize::MAX, &BTreeMap::new());
    for (id, tier) in order(all.iter().filter_map(idle).collect()).into_iter().take(TRIES) {
        let Ok(sandbox) = sandboxes.get(&id) else { continue };
        match sandbox.hibernate(tier).await {
            Ok(()) => {
                tracing::info!(sandbox.id = %id, ?tier, ?memory, "a sandbox sleeps for want of memory");
                return;
            }
            Err(error) => tracing::debug!(sandbox.id = %id, error = %chain(&error), "a sandbox does not sleep"),
        }
    }
}

fn idle(sandbox: &Sandbox) -> Option<Idle> {
    let snapshot = sandbox.snapshot();
    let is_frozen = match snapshot.phase {
        Phase::Running if snapshot.idle != IdleTimeout::Never => false,
        Phase::Hibernated(Tier::Frozen) => true,
        _ => return None,
    };
    Some(Idle { id: sandbox.profile().id.clone(), since: sandbox.activity.unused()?, is_frozen })
}

/// Reads what the kernel tells of memory.
struct Gauge {
    /// When it was read last, and for how long something had waited until then.
    last: Option<(Instant, Duration)>,
}

impl Gauge {
    fn new() -> Self {
        Self { last: stalled().map(|stalled| (Instant::now(), stalled)) }
    }

    fn read(&mut self) -> Memory {
        let now = stalled().map(|stalled| (Instant::now(), stalled));
        let stall = self.last.zip(now).map(|((then, before), (now, after))| {
            let passed = now.duration_since(then).max(Duration::from_millis(1));
            100.0 * after.saturating_sub(before).as_secs_f64() / passed.as_secs_f64()
        });
        self.last = now;
        Memory { available: available(), stall }
    }
}

/// For how long, since the boot, some process has waited for memory (Documentation/accounting/psi.rst).
fn stalled() -> Option<Duration> {
    let text = fs::read_to_string("/proc/pressure/memory").ok()?;
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.parse().ok().map(Duration::from_micros)
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    available_memory(&text).map(|space| space.available)
}
