//! Which sandboxes there are, making them, and taking them over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::driver::{Beginning, Driver};
use super::idle::Activity;
use super::live::Tools;
use super::record::{Claim, Record};
use super::reserve::Reserve;
use super::secret_env::SecretEnv;
use super::state::{FailureKind, Phase};
use super::{
    DEFAULT_WORKSPACE, Defaults, ORDERS, Profile, Sandbox, SandboxError, Snapshot, Wish, first_limits, not_kept,
};
use crate::engine::{Engine, Limits};
use crate::ids::SandboxId;
use crate::network::policy::Policy;
use crate::network::secrets::{self, Binding, MAX_SECRETS, Secrets};
use crate::seal::Sealer;
use crate::store::{Store, StoreError};

/// The sandboxes of the node: a table of handles, locked for a few instructions at a time.
#[derive(Clone)]
pub struct Sandboxes {
    shared: Arc<Shared>,
}

struct Shared {
    tools: Arc<Tools>,
    table: Mutex<Table>,
    reserve: Reserve,
    /// Owns the drivers.
    drivers: TaskTracker,
    /// How many were ever added.
    added: watch::Sender<u64>,
}

#[derive(Default)]
struct Table {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    keys: HashMap<String, (Wish, Sandbox)>,
    closed: bool,
}

/// The making of a sandbox, to be waited for.
type Making = oneshot::Receiver<Result<(), SandboxError>>;

impl Sandboxes {
    /// The sandboxes of the store, taken over as the engine has them. `boot` names this boot of the node.
    ///
    /// # Errors
    /// Those of reading the store.
    pub async fn open(
        engine: Arc<dyn Engine>,
        store: Store,
        sealer: Arc<Sealer>,
        defaults: Defaults,
        boot: String,
    ) -> Result<Self, StoreError> {
        let (wakes, reserve) = (Semaphore::new(defaults.max_wakes), Reserve::new(defaults.reserve));
        let records = store.sandboxes().await?;
        let tools =
            Arc::new(Tools { engine, store, sealer, defaults, wakes, boot, draining: CancellationToken::new() });
        let this = Self {
            shared: Arc::new(Shared {
                tools,
                table: Mutex::default(),
                reserve,
                drivers: TaskTracker::new(),
                added: watch::Sender::new(0),
            }),
        };
        let taking: Vec<_> = records.iter().filter_map(|(id, text)| this.take_over(id, text)).collect();
        // One whose driver does not say so is being destroyed.
        join_all(taking).await;
        Ok(this)
    }

    /// What keeps them.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        &*self.shared.tools.engine
    }

    /// What outlives the daemon.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.tools.store
    }

    /// What requests that leave it out get.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.shared.tools.defaults
    }

    /// Told when the node is to be emptied.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.shared.tools.draining
    }

    /// Has a task done that nobody waits for, and that ends with the sandboxes.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.drivers.spawn(task);
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

    /// The sandbox of the key, or a new one and its making.
    fn claim(&self, mut wish: Wish, key: Option<String>) -> Result<(Sandbox, Option<Making>), SandboxError> {
        let sealer = &self.shared.tools.sealer;
        let (secrets, env) = (std::mem::take(&mut wish.secrets), std::mem::take(&mut wish.secret_env));
        wish.secrets_digest = digest(sealer, &secrets, &env);
        let mut table = self.lock();
        if let Some((first, sandbox)) = key.as_ref().and_then(|key| table.keys.get(key)) {
            return if *first == wish { Ok((sandbox.clone(), None)) } else { Err(SandboxError::Conflict) };
        }
        let Tools { engine, defaults, boot, .. } = &*self.shared.tools;
        if table.closed {
            return Err(SandboxError::ShuttingDown);
        }
        if self.draining().is_cancelled() {
            return Err(SandboxError::Draining);
        }
        if table.sandboxes.len() >= defaults.max_sandboxes {
            return Err(SandboxError::TooMany { limit: defaults.max_sandboxes });
        }
        let limits = first_limits(wish.limits, defaults.limits, engine.support());
        let policy = defaults.network.choose(wish.network.clone()).map_err(SandboxError::Network)?;
        let secrets = secrets_of(&policy, &secrets)?;
        let mut profile = Profile { secret_env: env.names(), ..self.profile(&wish) };
        let ready = self.shared.reserve.take(&profile.spec(limits, &policy));
        if let Some(ready) = &ready {
            profile.id = ready.spec.id.clone();
        }
        let claim = key.map(|key| Claim { key, wish });
        let (made, making) = oneshot::channel();
        let mut record = Record::new(Arc::new(profile), claim, limits, policy, boot.clone());
        if let Err(error) = keep(&mut record, sealer, secrets.as_ref(), &env) {
            ready.into_iter().for_each(|ready| self.shared.reserve.give_back(ready));
            return Err(error);
        }
        Ok((self.begin(&mut table, record, Beginning::Make(ready.map(Box::new), made)), Some(making)))
    }

    /// Begins to take over a sandbox of an earlier daemon; what it answers is told when that is done.
    fn take_over(&self, id: &SandboxId, text: &str) -> Option<oneshot::Receiver<()>> {
        let Some(mut record) = Record::of_text(text) else {
            tracing::error!(sandbox.id = %id, "a sandbox's record cannot be read; it is left alone");
            return None;
        };
        if record.profile.engine != self.engine().name() {
            tracing::warn!(sandbox.id = %id, engine = record.profile.engine, "a sandbox of another engine is left alone");
            return None;
        }
        if record.phase == Phase::Creating {
            // Its maker has not heard of it, and it is about to go: a second try with the same key makes another.
            record.claim = None;
        }
        let (taken, taking) = oneshot::channel();
        self.begin(&mut self.lock(), record, Beginning::TakeOver(taken));
        Some(taking)
    }

    /// Puts a sandbox into the table, and its driver to work.
    fn begin(&self, table: &mut Table, record: Record, beginning: Beginning) -> Sandbox {
        let profile = Arc::clone(&record.profile);
        let Record { generation, limits, .. } = record;
        let (phase, policy, idle) = (record.phase.clone(), record.policy.clone(), record.idle());
        let runtime = record.supervised.clone();
        // The driver opens them.
        let secrets = Arc::default();
        let first = Snapshot { generation, phase, limits, idle, policy, secrets, hands: None, network: None, runtime };
        let (publisher, snapshot) = watch::channel(first);
        let (publish_ports, ports) = watch::channel(record.ports.clone());
        let (destroy, requests) = watch::channel(0);
        let (orders, queue) = mpsc::channel(ORDERS);
        let activity = Activity::new();
        let sandbox = {
            let (profile, activity) = (Arc::clone(&profile), activity.clone());
            Sandbox { profile, snapshot, ports, destroy, orders, activity }
        };
        table.sandboxes.insert(profile.id.clone(), sandbox.clone());
        self.shared.added.send_modify(|count| *count += 1);
        let key = record.claim.as_ref().map(|claim| claim.key.clone());
        if let Some(Claim { key, wish }) = &record.claim {
            table.keys.insert(key.clone(), (wish.clone(), sandbox.clone()));
        }
        let driver = Driver::new(Arc::clone(&self.shared.tools), record, publisher, publish_ports, requests, activity);
        let this = self.clone();
        self.shared.drivers.spawn(async move {
            let id = driver.live(beginning, queue).await;
            this.forget(&id, key.as_deref());
        });
        sandbox
    }

    fn profile(&self, wish: &Wish) -> Profile {
        let Defaults { image, idle, .. } = self.defaults();
        Profile {
            id: SandboxId::random(),
            image: wish.image.clone().unwrap_or_else(|| image.clone()),
            env: wish.env.clone(),
            labels: wish.labels.clone(),
            user: wish.user.clone(),
            workspace: wish.workspace.clone().unwrap_or_else(|| DEFAULT_WORKSPACE.to_owned()),
            idle: wish.idle.unwrap_or(*idle),
            created_at: SystemTime::now(),
            engine: self.engine().name().to_owned(),
            runtime: wish.runtime.clone(),
            secret_env: BTreeSet::new(),
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

    /// Changes what a sandbox may reach, as far as the node gives it, and its secrets.
    ///
    /// # Errors
    /// [`SandboxError::Network`]; [`SandboxError::NetworkMode`]; [`SandboxError::NoSecrets`];
    /// [`SandboxError::TooManySecrets`]; [`SandboxError::NotRunning`].
    pub async fn set_network(
        &self,
        sandbox: &Sandbox,
        policy: Policy,
        secrets: Vec<Binding>,
    ) -> Result<(), SandboxError> {
        let policy = self.defaults().network.choose(Some(policy)).map_err(SandboxError::Network)?;
        sandbox.set_network(policy, secrets).await
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

    /// Tells whenever one is added, by how many ever were. What happens to one then, its own handle tells.
    #[must_use]
    pub fn added(&self) -> watch::Receiver<u64> {
        self.shared.added.subscribe()
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

    /// Keeps sandboxes of the node's defaults in reserve, until `stop`.
    pub async fn keep_reserve(self, stop: CancellationToken) {
        let Tools { engine, defaults, .. } = &*self.shared.tools;
        let Ok(policy) = defaults.network.choose(None) else { return };
        let limits = first_limits(Limits::default(), defaults.limits, engine.support());
        let template = || self.profile(&Wish::default()).spec(limits, &policy);
        self.shared.reserve.keep(&**engine, template, stop).await;
    }

    /// Whether it is one of them, or made to be.
    #[must_use]
    pub fn knows(&self, id: &SandboxId) -> bool {
        self.get(id).is_ok() || self.shared.reserve.holds(id)
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
        join_all(destroying).await;
        self.shared.drivers.close();
    }
}

/// Keeps what is secret of a new sandbox in its record.
fn keep(record: &mut Record, sealer: &Sealer, secrets: Option<&Secrets>, env: &SecretEnv) -> Result<(), SandboxError> {
    if let Some(secrets) = secrets {
        record.keep_secrets(sealer, secrets).map_err(not_kept)?;
    }
    if !env.is_empty() {
        record.keep_secret_env(sealer, env).map_err(not_kept)?;
    }
    Ok(())
}

/// By which a wish with other secrets is told; empty without any.
fn digest(sealer: &Sealer, secrets: &[Binding], env: &SecretEnv) -> String {
    let mut digest = String::new();
    if !secrets.is_empty() {
        digest.push_str(&sealer.digest("sandbox/secrets", &secrets::bytes(secrets)));
    }
    if !env.is_empty() {
        digest.push_str(&sealer.digest("sandbox/env", &env.bytes()));
    }
    digest
}

/// The secrets of a new sandbox, if it is to have any.
fn secrets_of(policy: &Policy, wanted: &[Binding]) -> Result<Option<Secrets>, SandboxError> {
    let wanted = secrets::changed(Vec::new(), wanted);
    match policy {
        _ if wanted.is_empty() => Ok(None),
        Policy::Proxy(_) if wanted.len() > MAX_SECRETS => Err(SandboxError::TooManySecrets),
        Policy::Proxy(_) => Secrets::new(wanted).map(Some).map_err(not_kept),
        other => Err(SandboxError::SecretsWithoutProxy(other.name())),
    }
}
