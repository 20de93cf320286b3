//! Sandboxes that are made before anybody asks for them, so that who asks waits for the disk only.
//!
//! They are as the node's defaults say. Environment, labels and idle timeout are no part of a container, so that a request
//! may name these and still get one. Nobody has them on record: what a killed daemon leaves of them is removed like all that
//! no record names.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, EngineError, ImageDefaults, Spec, Started};
use crate::ids::SandboxId;
use crate::telemetry::chain;

/// How long nobody must have asked for one before the next is made: a burst of requests needs the processors itself.
const PAUSE: Duration = Duration::from_millis(50);

/// After one could not be made. Whatever is wrong, who asks is told of it at once; the reserve can wait.
const RETRY: Duration = Duration::from_secs(60);

/// One that waits to be asked for.
#[derive(Debug)]
pub struct Ready {
    /// As what it was made.
    pub spec: Spec,
    /// Its processes.
    pub started: Started,
    /// What its image says about runs.
    pub image: ImageDefaults,
}

impl Ready {
    /// Whether it is what is wanted, but for its name and what [`Engine::set_limits`] can change without a trace.
    fn serves(&self, wanted: &Spec) -> bool {
        let Spec { id: _, image, limits, workspace, user, uplink } = &self.spec;
        (image, workspace, user, *uplink) == (&wanted.image, &wanted.workspace, &wanted.user, wanted.uplink)
            && (limits.memory, limits.disk) == (wanted.limits.memory, wanted.limits.disk)
    }

    fn is_alive(&self) -> bool {
        self.started.init.ended().now_or_never().is_none()
    }
}

/// The reserve.
#[derive(Debug)]
pub struct Reserve {
    size: usize,
    shelf: Mutex<Shelf>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: Vec<Ready>,
    making: Option<SandboxId>,
}

impl Reserve {
    /// An empty one that is to hold so many.
    pub fn new(size: usize) -> Self {
        Self { size, shelf: Mutex::default(), asked: Notify::new() }
    }

    /// One that is what is wanted, if there is one. It is the caller's from now on.
    pub fn take(&self, wanted: &Spec) -> Option<Ready> {
        let mut shelf = self.lock();
        let place = shelf.ready.iter().position(|ready| ready.serves(wanted) && ready.is_alive());
        self.asked.notify_one();
        place.map(|place| shelf.ready.swap_remove(place))
    }

    /// Takes one back that is of no use to who has taken it.
    pub fn give_back(&self, ready: Ready) {
        self.lock().ready.push(ready);
    }

    /// Whether it holds this one, or makes it.
    pub fn holds(&self, id: &SandboxId) -> bool {
        let shelf = self.lock();
        shelf.making.as_ref() == Some(id) || shelf.ready.iter().any(|ready| ready.spec.id == *id)
    }

    /// Fills it with what `template` makes, and again whenever one was taken, until `stop`; removes what it holds then.
    pub async fn keep(&self, engine: &dyn Engine, template: impl Fn() -> Spec, stop: CancellationToken) {
        // What is begun is not cut off: only the waits are.
        while stop.run_until_cancelled(self.lacks_one()).await.is_some() {
            if let Err(error) = self.make(engine, template()).await {
                tracing::warn!(error = %chain(&error), "no sandbox can be made in reserve");
                stop.run_until_cancelled(sleep(RETRY)).await;
            }
        }
        let left = std::mem::take(&mut self.lock().ready);
        for ready in left {
            if let Err(error) = engine.remove(&ready.spec.id).await {
                tracing::warn!(error = %chain(&error), "a sandbox in reserve is left to the next start");
            }
        }
    }

    /// Waits until one is missing, and nobody has asked for one for a while.
    async fn lacks_one(&self) {
        loop {
            while self.count() >= self.size {
                self.asked.notified().await;
            }
            if timeout(PAUSE, self.asked.notified()).await.is_err() {
                return;
            }
        }
    }

    /// How many there are. Those that have died meanwhile are none.
    fn count(&self) -> usize {
        self.lock().ready.iter().filter(|ready| ready.is_alive()).count()
    }

    async fn make(&self, engine: &dyn Engine, spec: Spec) -> Result<(), EngineError> {
        self.lock().making = Some(spec.id.clone());
        let made = engine.create(&spec).await;
        let mut shelf = self.lock();
        shelf.making = None;
        let (started, image) = made?;
        tracing::debug!(sandbox.id = %spec.id, "made in reserve");
        shelf.ready.push(Ready { spec, started, image });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // No change is made in more than one step that could panic.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
