//! What the engine has and nobody knows of, and what should be gone and is not.
//!
//! A pass compares the engine's list with the table. What only the engine has is removed in the second pass in a row that
//! sees it, a few at a time: by then nobody can be in the middle of making or removing it, and a fault of ours does not
//! empty the node at once. Of sandboxes whose removal failed, it is tried again. Images that the engine has brought and
//! nothing is made of any more go too.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::registry::Sandboxes;
use super::state::FailureKind;
use crate::engine::{Engine, EngineError};
use crate::ids::SandboxId;
use crate::telemetry::chain;

/// Between two passes, and so the least age of what is removed.
const INTERVAL: Duration = Duration::from_secs(60);

/// Removals in one pass.
const MOST: usize = 16;

/// Removals of images in one pass: they are large, and a file system is slow at it.
const MOST_IMAGES: usize = 2;

/// Events of the node that are kept, at least: two weeks of a busy one, some 30 MB.
const EVENTS_KEPT: usize = 100_000;

/// How long the removal of one sandbox holds up the rest.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(90);

/// What was seen in the last pass and known to nobody.
#[derive(Debug, Default)]
struct Suspects(BTreeSet<SandboxId>);

impl Suspects {
    /// What to remove now that the engine has `present`, which nobody knows but those that `is_known` says.
    fn pass(&mut self, present: Vec<SandboxId>, is_known: impl Fn(&SandboxId) -> bool) -> Vec<SandboxId> {
        let unknown: BTreeSet<SandboxId> = present.into_iter().filter(|id| !is_known(id)).collect();
        let doomed = unknown.intersection(&self.0).take(MOST).cloned().collect();
        self.0 = unknown;
        doomed
    }
}

/// Makes a pass from time to time, until it is told to stop.
pub async fn reconcile(sandboxes: Sandboxes, stop: CancellationToken) {
    let mut suspects = Suspects::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let passes = async {
        loop {
            ticks.tick().await;
            if let Err(error) = pass(&sandboxes, &mut suspects).await {
                tracing::warn!(error = %chain(&error), "a look for forgotten sandboxes failed");
            }
        }
    };
    // What is cut off is found by the next start.
    stop.run_until_cancelled(passes).await;
}

async fn pass(sandboxes: &Sandboxes, suspects: &mut Suspects) -> Result<(), EngineError> {
    let engine = sandboxes.engine();
    // The table is asked after the engine, so that what is made meanwhile is known.
    let present = engine.list().await?;
    for id in suspects.pass(present, |id| sandboxes.knows(id)) {
        tracing::warn!(sandbox.id = %id, "removing a sandbox that nobody knows");
        if let Err(error) = remove(engine, &id).await {
            tracing::error!(sandbox.id = %id, error = %chain(&error), "it cannot be removed");
        }
    }
    if let Err(error) = sandboxes.store().trim_events(EVENTS_KEPT).await {
        tracing::warn!(error = %chain(&error), "old events of the node could not be forgotten");
    }
    for sandbox in sandboxes.failed(FailureKind::Remove).into_iter().take(MOST) {
        // The driver logs how it goes, and goes on if this does not wait any longer.
        let _ = timeout(REMOVAL_DEADLINE, sandbox.destroy()).await;
    }
    for image in engine.stale_images().await?.iter().take(MOST_IMAGES) {
        match engine.remove_image(image).await {
            Ok(()) => tracing::info!(image, "an image that nothing is made of is removed"),
            Err(error) => tracing::warn!(image, error = %chain(&error), "an image is not removed"),
        }
    }
    Ok(())
}

/// Those of `present` that no record names: a daemon died in the middle of making or removing them.
#[must_use]
pub fn strangers(present: Vec<SandboxId>, recorded: &[(SandboxId, String)]) -> Vec<SandboxId> {
    let recorded: BTreeSet<&SandboxId> = recorded.iter().map(|(id, _)| id).collect();
    present.into_iter().filter(|id| !recorded.contains(id)).collect()
}

async fn remove(engine: &dyn Engine, id: &SandboxId) -> Result<(), EngineError> {
    timeout(REMOVAL_DEADLINE, engine.remove(id)).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<SandboxId> {
        (0..count).map(|_| SandboxId::random()).collect()
    }

    #[test]
    fn what_nobody_knows_is_removed_when_it_is_seen_twice_in_a_row() {
        let (mut suspects, all) = (Suspects::default(), ids(2));
        let known = all[0].clone();
        let is_known = |id: &SandboxId| *id == known;
        assert!(suspects.pass(all.clone(), is_known).is_empty());
        assert_eq!(suspects.pass(all.clone(), is_known), [all[1].clone()]);
        // Gone in between: it has to be seen twice again.
        assert!(suspects.pass(Vec::new(), is_known).is_empty());
        assert!(suspects.pass(all, is_known).is_empty());
    }

    #[test]
    fn what_becomes_known_in_between_stays() {
        let (mut suspects, all) = (Suspects::default(), ids(1));
        assert!(suspects.pass(all.clone(), |_| false).is_empty());
        assert!(suspects.pass(all, |_| true).is_empty());
    }

    #[test]
    fn a_pass_removes_a_few_only() {
        let (mut suspects, all) = (Suspects::default(), ids(3 * MOST));
        suspects.pass(all.clone(), |_| false);
        assert_eq!(suspects.pass(all, |_| false).len(), MOST);
    }
}
