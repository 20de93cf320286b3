//! What the engine tells without having been asked, brought to those whom it concerns.
//!
//! It is taken for a hint only: the driver looks for itself, and acts on what it sees. So a hint may come late, twice, or
//! of what the daemon itself has done.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Sandbox;
use super::registry::Sandboxes;
use crate::engine::{Change, Happening};
use crate::telemetry::chain;

/// Happenings that wait to be heard; the engine waits then.
const BACKLOG: usize = 64;

/// Looks at once. After a loss of the engine there is one at every sandbox.
const LOOKS: usize = 8;

/// How long one sandbox may hold up the look at another: it may be in the middle of a step.
const LOOK_DEADLINE: Duration = Duration::from_secs(30);

/// Has drivers look at what happens to their sandboxes, until it is told to stop.
pub async fn attend(sandboxes: Sandboxes, stop: CancellationToken) {
    let (tell, told) = mpsc::channel(BACKLOG);
    let heard = ReceiverStream::new(told).flat_map(|happening| stream::iter(concerned(&sandboxes, happening)));
    let looking = heard.for_each_concurrent(LOOKS, |(sandbox, change)| async move {
        if let Ok(Err(error)) = timeout(LOOK_DEADLINE, sandbox.look(change)).await {
            tracing::debug!(sandbox.id = %sandbox.profile().id, error = %chain(&error), "a sandbox was not looked at");
        }
    });
    stop.run_until_cancelled(async { tokio::join!(sandboxes.engine().watch(tell), looking) }).await;
}

/// Whom it concerns, and what each is told.
fn concerned(sandboxes: &Sandboxes, happening: Happening) -> Vec<(Sandbox, Change)> {
    match happening {
        Happening::To(id, Change::OutOfMemory) => {
            tracing::warn!(sandbox.id = %id, "the kernel has ended a process of a sandbox for want of memory");
            Vec::new()
        }
        Happening::To(id, change) => sandboxes.get(&id).into_iter().map(|sandbox| (sandbox, change)).collect(),
        Happening::Missed => {
            let (all, _) = sandboxes.list(None, usize::MAX, &BTreeMap::new());
            all.into_iter().map(|sandbox| (sandbox, Change::Unknown)).collect()
        }
    }
}
