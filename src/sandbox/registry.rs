//! Which sandboxes there are, and making them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::driver::Driver;
use super::idle::Activity;
use super::state::{FailureKind, Phase};
use super::{DEFAULT_WORKSPACE, Defaults, ORDERS, Profile, Sandbox, SandboxError, Snapshot, Wish, first_limits};
use crate::engine::Engine;
use crate::ids::SandboxId;

/// The sandboxes of the node: a table of handles, locked for a few instructions at a time.
#[derive(Clone)]
pub struct Sandboxes {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    defaults: Defaults,
    table: Mutex<Table>,
    /// Owns the drivers.
    drivers: TaskTracker,
}

#[derive(Default)]
struct Table {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    keys: HashMap<String, (Wish, Sandbox)>,
    closed: bool,
}

impl Sandboxes {
    /// No sandboxes.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, defaults: Defaults) -> Self {
        let shared = Shared { engine, defaults, table: Mutex::default(), drivers: TaskTracker::new() };
        Self { shared: Arc::new(shared) }
    }

    /// What keeps them.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        &*self.shared.engine
    }

    /// What requests that leave it out get.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.shared.defaults
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No change is made in more than one step that could panic.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a sandbox and waits until commands can run in it; the making does not depend on the caller any more. The
    /// same key and wish again are the same sandbox.
    ///
    /// # Errors
    /// See [`SandboxError`]; nothing is left behind then.
    pub async fn create(&self, wish: Wish, key: Option<String>) -> Result<Sandbox, SandboxError> {
        let (sandbox, making) = self.claim(wish, key)?;
        match making {
            Some(made) => made.await.unwrap_or(Err(SandboxError::ShuttingDown))?,
            // Somebody else's making; how it failed is theirs to hear in full.
            None => match sandbox.wait_after(1).await.map(|snapshot| snapshot.phase) {
                Some(phase @ (Phase::Failed(_) | Phase::Destroying | Phase::Destroyed)) => {
                    return Err(sandbox.not_running(&phase));
                }
                Some(_) => {}
                None => return Err(SandboxError::ShuttingDown),
            },
        }
        Ok(sandbox)
    }

    /// The sandbox of the key, or a new one and when it is made.
    #[expect(clippy::type_complexity, reason = "a pair of what `create` needs")]
    fn claim(
        &self,
        wish: Wish,
        key: Option<String>,
    ) -> Result<(Sandbox, Option<oneshot::Receiver<Result<(), SandboxError>>>), SandboxError> {
        let mut table = self.lock();
        if let Some((first, sandbox)) = key.as_ref().and_then(|key| table.keys.get(key)) {
            return if *first == wish { Ok((sandbox.clone(), None)) } else { Err(SandboxError::Conflict) };
        }
        let limit = self.shared.defaults.max_sandboxes;
        if table.closed {
            return Err(SandboxError::ShuttingDown);
        }
        if table.sandboxes.len() >= limit {
            return Err(SandboxError::TooMany { limit });
        }
        let limits = first_limits(wish.limits, self.shared.defaults.limits, self.shared.engine.support());
        let profile = Arc::new(self.profile(&wish));
        let (publisher, snapshot) =
            watch::channel(Snapshot { generation: 1, phase: Phase::Creating, limits, hands: None });
        let (destroy, requests) = watch::channel(0);
        let (orders, queue) = mpsc::channel(ORDERS);
        let activity = Activity::new();
        let sandbox = Sandbox { profile: Arc::clone(&profile), snapshot, destroy, orders, activity: activity.clone() };
        table.sandboxes.insert(profile.id.clone(), sandbox.clone());
        if let Some(key) = &key {
            table.keys.insert(key.clone(), (wish, sandbox.clone()));
        }
        let (sender, made) = oneshot::channel();
        let engine = Arc::clone(&self.shared.engine);
        let driver = Driver::new(engine, profile, self.shared.defaults.clone(), publisher, requests, activity);
        let this = self.clone();
        self.shared.drivers.spawn(async move {
            let id = driver.live(sender, queue).await;
            this.forget(&id, key.as_deref());
        });
        Ok((sandbox, Some(made)))
    }

    fn profile(&self, wish: &Wish) -> Profile {
        let Defaults { image, .. } = &self.shared.defaults;
        Profile {
            id: SandboxId::random(),
            image: wish.image.clone().unwrap_or_else(|| image.clone()),
            env: wish.env.clone(),
            labels: wish.labels.clone(),
            user: wish.user.clone(),
            workspace: wish.workspace.clone().unwrap_or_else(|| DEFAULT_WORKSPACE.to_owned()),
            idle: wish.idle.unwrap_or(self.shared.defaults.idle),
            created_at: SystemTime::now(),
            engine: self.shared.engine.name(),
        }
    }

    fn forget(&self, id: &SandboxId, key: Option<&str>) {
        let mut table = self.lock();
        table.sandboxes.remove(id);
        if let Some(key) = key {
            table.keys.remove(key);
        }
    }

    /// A sandbox.
    ///
    /// # Errors
    /// [`SandboxError::NotFound`].
    pub fn get(&self, id: &SandboxId) -> Result<Sandbox, SandboxError> {
        self.lock().sandboxes.get(id).cloned().ok_or_else(|| SandboxError::NotFound(id.clone()))
    }

    /// Sandboxes by id: those after one, at most so many, that have all of some labels; and whether there are more.
    #[must_use]
    pub fn list(
        &self,
        after: Option<&SandboxId>,
        limit: usize,
        labels: &BTreeMap<String, String>,
    ) -> (Vec<Sandbox>, bool) {
        let table = self.lock();
        let has_labels =
            |sandbox: &&Sandbox| labels.iter().all(|(key, value)| sandbox.profile().labels.get(key) == Some(value));
        let is_after = |sandbox: &&Sandbox| after.is_none_or(|after| sandbox.profile().id > *after);
        let mut rest = table.sandboxes.values().filter(is_after).filter(has_labels);
        let page: Vec<Sandbox> = rest.by_ref().take(limit).cloned().collect();
        (page, rest.next().is_some())
    }

    /// Those that have failed in one way.
    #[must_use]
    pub fn failed(&self, kind: FailureKind) -> Vec<Sandbox> {
        let is_failed =
            |sandbox: &&Sandbox| matches!(sandbox.snapshot().phase, Phase::Failed(failure) if failure.kind == kind);
        self.lock().sandboxes.values().filter(is_failed).cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().sandboxes.len()
    }

    /// How many runs have not ended, in all of them.
    #[must_use]
    pub fn running(&self) -> usize {
        let (all, _) = self.list(None, usize::MAX, &BTreeMap::new());
        all.iter().filter_map(|sandbox| sandbox.hands().ok()).map(|hands| hands.running()).sum()
    }

    /// Destroys all of them, and takes no more.
    pub async fn close(&self) {
        self.lock().closed = true;
        let (all, _) = self.list(None, usize::MAX, &BTreeMap::new());
        let destroying = all.iter().map(|sandbox| async {
            if let Err(error) = sandbox.destroy().await {
                tracing::error!(sandbox.id = %sandbox.profile().id, %error, "a sandbox is left behind");
            }
        });
        futures_util::future::join_all(destroying).await;
        self.shared.drivers.close();
    }
}
