//! The task that owns a sandbox: it makes it or takes it over, watches it, puts it to sleep and wakes it, and removes it
//! when asked to.
//!
//! What is about to be done is on the disk before it is begun, but for what the next daemon undoes or sees by itself: a
//! making that was cut off, and a wake. What was seen is handed to the store and not waited for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::idle::Activity;
use super::live::{Body, Tools, connect};
use super::record::Record;
use super::reserve::Ready;
use super::runtime::state::Ending;
use super::state::{Observation, Phase, Tier};
use super::{IdleTimeout, Order, SandboxError, Snapshot, not_kept};
use crate::crash;
use crate::engine::{EngineError, Limits, Spec, Started};
use crate::hands::remove_spools;
use crate::ids::SandboxId;
use crate::metrics::{LifeStep, metrics};
use crate::network::Port;
use crate::network::policy::Policy;
use crate::network::secrets::{Binding, MAX_SECRETS, Secrets};
use crate::store::StoreError;
use crate::telemetry::chain;

mod adoption;
mod look;
mod ports;
mod sleep;
mod supervision;

/// How long the engine may take to say more about the end of a sandbox. It is worth little, and its runs wait for it.
const POST_MORTEM_DEADLINE: Duration = Duration::from_secs(2);

/// Between two looks for what an earlier daemon left, while the engine does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a wake may wait for others to be done. A caller who waits for longer is better told so.
const WAKE_QUEUE_DEADLINE: Duration = Duration::from_secs(30);

/// The task.
pub struct Driver {
    tools: Arc<Tools>,
    record: Record,
    publisher: watch::Sender<Snapshot>,
    /// Counts requests to destroy the sandbox: a channel of its own, which wins.
    requests: watch::Receiver<u64>,
    activity: Activity,
    body: Body,
    /// When it fell asleep.
    asleep_since: Instant,
    /// Its secrets, opened.
    secrets: Option<Arc<Secrets>>,
    /// Publishes which ports are listened on.
    ports: watch::Sender<Vec<Port>>,
    /// When it is looked for them again.
    next_look: Instant,
    /// Waits for the end of the runtime, while that runs.
    watch: JoinSet<Ending>,
}

/// How a driver begins.
pub enum Beginning {
    /// It makes the sandbox, unless one was made before; the sender hears how that went.
    Make(Option<Box<Ready>>, oneshot::Sender<Result<(), SandboxError>>),
    /// It takes over what an earlier daemon kept; the sender hears when it has.
    TakeOver(oneshot::Sender<()>),
}

/// What the driver has to deal with.
enum Event {
    Destroy,
    GuestGone(String),
    Order(Order),
    Idle,
    LongAsleep,
    Look,
    RuntimeDue,
    RuntimeEnded(Ending),
}

impl Driver {
    /// A driver of a sandbox with this record.
    pub fn new(
        tools: Arc<Tools>,
        record: Record,
        publisher: watch::Sender<Snapshot>,
        ports: watch::Sender<Vec<Port>>,
        requests: watch::Receiver<u64>,
        activity: Activity,
    ) -> Self {
        let now = Instant::now();
        let (asleep_since, next_look) = (now, now + ports::INTERVAL);
        let (body, watch) = (Body::Gone, JoinSet::new());
        let secrets = record.secrets(&tools.sealer).map(Arc::new);
        Self { tools, record, publisher, requests, activity, body, asleep_since, secrets, ports, next_look, watch }
    }

    /// The sandbox's whole life. Answers its id when it is gone.
    pub async fn live(mut self, beginning: Beginning, orders: mpsc::Receiver<Order>) -> SandboxId {
        let is_kept = match beginning {
            Beginning::Make(ready, made) => {
                let result = self.make(ready).await;
                let is_made = result.is_ok();
                // A caller that has left does not undo the making.
                let _ = made.send(result);
                is_made
            }
            Beginning::TakeOver(taken) => {
                let is_kept = self.take_over().await;
                let _ = taken.send(());
                is_kept
            }
        };
        if is_kept {
            self.keep(orders).await;
        } else {
            drop(orders);
        }
        self.remove_until_gone().await;
        self.record.profile.id.clone()
    }

    fn id(&self) -> &SandboxId {
        &self.record.profile.id
    }

    fn spec(&self) -> Spec {
        self.record.profile.spec(self.record.limits, &self.record.policy)
    }

    async fn make(&mut self, ready: Option<Box<Ready>>) -> Result<(), SandboxError> {
        let made = self.try_make(ready).await;
        if let Err(error) = &made {
            let why = chain(error).to_string();
            self.observe(Observation::CreateFailed(why.into())).await;
        }
        made
    }

    async fn try_make(&mut self, ready: Option<Box<Ready>>) -> Result<(), SandboxError> {
        // Not waited for: what was being made is removed by the next daemon, on record or not.
        self.seen().await;
        crash::point("create.intended");
        let _timing = metrics().step(LifeStep::Create);
        let is_taken = match ready {
            Some(ready) => self.take(*ready).await?,
            None => false,
        };
        if !is_taken {
            let (started, image) = self.tools.engine.create(&self.spec()).await.map_err(create_failed)?;
            self.record.image = image;
            crash::point("create.made");
            self.connect(started).await.map_err(|(error, _)| error)?;
        }
        crash::point("create.connected");
        // Not only handed over: the next daemon removes what was being made, so its maker hears of it after the disk has.
        self.intend(Observation::GuestReady).await?;
        crash::point("create.stored");
        Ok(())
    }

    /// Takes one that was made before as the sandbox's own; whether it could. One that is of no use is gone then.
    async fn take(&mut self, ready: Ready) -> Result<bool, SandboxError> {
        let Ready { spec, started, image } = ready;
        if spec.limits != self.record.limits {
            self.tools.engine.set_limits(self.id(), &self.record.limits).await.map_err(create_failed)?;
        }
        self.record.image = image;
        let Err((error, _)) = self.connect(started).await else { return Ok(true) };
        tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "it has died in reserve, and is made anew");
        self.tools.engine.remove(self.id()).await.map_err(create_failed)?;
        Ok(false)
    }

    async fn connect(&mut self, started: Started) -> Result<(), (SandboxError, Started)> {
        let live = connect(&self.tools, &self.record, self.secrets.clone(), &self.activity, started).await?;
        self.body = Body::Live(live);
        Ok(())
    }

    /// Keeps a sandbox until it is to be destroyed; its runs are over then, and orders that were not served are dropped,
    /// which tells those who gave them.
    async fn keep(&mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            self.attend().await;
            match self.next_event(&mut orders).await {
                Event::Destroy => break,
                Event::GuestGone(why) => {
                    let why = self.explain(why).await;
                    self.crash(why).await;
                }
                Event::Order(order) => self.serve(order).await,
                Event::Idle => self.fall_asleep().await,
                Event::LongAsleep => self.sink().await,
                Event::Look => self.look_at_ports().await,
                Event::RuntimeDue => self.start_runtime().await,
                Event::RuntimeEnded(ending) => self.runtime_ended(ending).await,
            }
        }
    }

    async fn next_event(&mut self, orders: &mut mpsc::Receiver<Order>) -> Event {
        let idle = async {
            match (&self.record.phase, self.record.idle()) {
                (Phase::Running, IdleTimeout::After(timeout)) => self.activity.idle(timeout).await,
                _ => std::future::pending().await,
            }
        };
        let long_asleep = async {
            match (&self.record.phase, self.tools.defaults.stop_after) {
                (Phase::Hibernated(Tier::Frozen), Some(after)) => sleep_until(self.asleep_since + after).await,
                _ => std::future::pending().await,
            }
        };
        let look = async {
            match self.record.phase {
                Phase::Running => sleep_until(self.next_look).await,
                _ => std::future::pending().await,
            }
        };
        let longest = self.tools.defaults.restarts.longest;
        let runtime_due = Self::runtime_due(self.record.supervised.as_ref(), &self.record.phase, longest);
        // All are cancel-safe: an order that was not received stays in the queue, the others wait for what stays.
        tokio::select! {
            biased;
            () = requested(&mut self.requests) => Event::Destroy,
            why = self.body.ended() => Event::GuestGone(why),
            Some(order) = orders.recv() => Event::Order(order),
            Some(Ok(ending)) = self.watch.join_next() => Event::RuntimeEnded(ending),
            () = runtime_due => Event::RuntimeDue,
            () = idle => Event::Idle,
            () = long_asleep => Event::LongAsleep,
            () = look => Event::Look,
        }
    }

    /// How the sandbox ended, with what the engine adds to it.
    async fn explain(&self, ended: String) -> String {
        match timeout(POST_MORTEM_DEADLINE, self.tools.engine.post_mortem(self.id())).await {
            Ok(Some(more)) => format!("{ended}; {more}"),
            Ok(None) | Err(_) => ended,
        }
    }

    /// Its processes are gone, or cannot be reached any more. Its files are kept.
    async fn crash(&mut self, why: String) {
        crash::point("crash.seen");
        self.activity.close();
        let mut body = std::mem::replace(&mut self.body, Body::Gone);
        self.observe(Observation::GuestGone(why.into())).await;
        body.close().await;
    }

    /// Serves an order. Whoever gave it may have left, which undoes nothing.
    async fn serve(&mut self, order: Order) {
        let (result, reply) = match order {
            Order::Hibernate(tier, reply) => (self.hibernate_now(tier).await, reply),
            Order::Wake(reply) => (self.wake().await, reply),
            Order::Look(change, reply) => (self.look(change).await, reply),
            Order::Retry(reply) => (self.retry_runtime().await, reply),
            Order::SetLimits(limits, reply) => (self.set_limits(limits).await, reply),
            Order::SetNetwork(policy, secrets, reply) => (self.set_network(policy, &secrets).await, reply),
            Order::SetIdle(idle, reply) => (self.set_idle(idle).await, reply),
        };
        let _ = reply.send(result);
    }

    async fn set_limits(&mut self, limits: Limits) -> Result<(), SandboxError> {
        // One without processes gets them with its next.
        if self.record.phase.has_guest() {
            let set = self.tools.engine.set_limits(self.id(), &limits).await;
            set.map_err(|error| self.failed("set the limits of", error))?;
        }
        self.change(|record| record.limits = limits.or(record.limits)).await
    }

    async fn set_idle(&mut self, idle: IdleTimeout) -> Result<(), SandboxError> {
        self.change(|record| record.idle = Some(idle)).await
    }

    /// Stores and publishes what was changed without a change of phase.
    async fn change(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), SandboxError> {
        let mut record = self.record.clone();
        change(&mut record);
        record.generation += 1;
        self.store(&record).await?;
        self.record = record;
        self.publish();
        Ok(())
    }

    async fn set_network(&mut self, policy: Policy, changes: &[Binding]) -> Result<(), SandboxError> {
        let (made, asked) = (self.record.policy.name(), policy.name());
        if made != asked {
            return Err(SandboxError::NetworkMode { id: self.id().clone(), made, asked });
        }
        let secrets = self.changed_secrets(changes)?;
        let mut sealed = self.record.clone();
        if let Some(secrets) = &secrets {
            sealed.keep_secrets(&self.tools.sealer, secrets).map_err(not_kept)?;
        }
        self.change(|record| (record.policy, record.secrets) = (policy, sealed.secrets)).await?;
        let network = self.body.network();
        if let Some(network) = &network {
            network.set_policy(self.record.policy.clone());
        }
        if let Some(secrets) = secrets.map(Arc::new) {
            network.inspect(|network| network.set_secrets(Arc::clone(&secrets)));
            self.secrets = Some(secrets);
        }
        Ok(())
    }

    /// Its secrets with some changes; `None` if there are none to make.
    fn changed_secrets(&self, changes: &[Binding]) -> Result<Option<Secrets>, SandboxError> {
        if changes.is_empty() {
            return Ok(None);
        }
        let secrets = self.secrets.as_ref().ok_or_else(|| SandboxError::NoSecrets(self.id().clone()))?;
        let changed = secrets.with(changes).map_err(not_kept)?;
        if changed.count() > MAX_SECRETS { Err(SandboxError::TooManySecrets) } else { Ok(Some(changed)) }
    }

    fn failed(&self, verb: &'static str, error: EngineError) -> SandboxError {
        SandboxError::Engine { verb, id: self.id().clone(), source: Arc::new(error) }
    }

    fn not_running(&self) -> SandboxError {
        SandboxError::NotRunning { id: self.id().clone(), why: super::describe(&self.record.phase) }
    }

    /// Removes the sandbox; if that fails, again with every further request.
    async fn remove_until_gone(&mut self) {
        self.activity.close();
        let mut body = std::mem::replace(&mut self.body, Body::Gone);
        loop {
            self.requests.borrow_and_update();
            // To remove it takes no disk, and gives some back.
            if let Err(error) = self.intend(Observation::DestroyRequested).await {
                tracing::warn!(error = %chain(&error), "a sandbox is destroyed all the same");
                self.step(Observation::DestroyRequested);
                self.publish();
            }
            crash::point("destroy.intended");
            body.close().await;
            let timing = metrics().step(LifeStep::Destroy);
            let removed = self.tools.engine.remove(self.id()).await;
            timing.observe_duration();
            match removed {
                Ok(()) => break,
                Err(error) => {
                    let message = chain(&error).to_string();
                    tracing::error!(sandbox.id = %self.id(), error = %message, "a sandbox could not be removed");
                    self.observe(Observation::RemoveFailed(message.into())).await;
                }
            }
            if self.requests.changed().await.is_err() {
                return;
            }
        }
        crash::point("destroy.removed");
        remove_spools(self.tools.defaults.spools.join(self.id().as_str())).await;
        crash::point("destroy.cleared");
        self.step(Observation::Removed);
        let forgotten = self.tools.store.remove_sandbox(self.id(), self.record.event(SystemTime::now())).await;
        if let Err(error) = forgotten {
            tracing::error!(sandbox.id = %self.id(), error = %chain(&error), "a removed sandbox is still on record");
        }
        self.publish();
    }

    /// Stores and publishes what is about to be done, or what nobody may hear of before it is stored.
    ///
    /// # Errors
    /// [`SandboxError::Store`]; nothing has changed then.
    async fn intend(&mut self, observation: Observation) -> Result<(), SandboxError> {
        let before = self.record.clone();
        if self.step(observation)
            && let Err(error) = self.store(&self.record).await
        {
            self.record = before;
            return Err(error);
        }
        self.publish();
        Ok(())
    }

    /// Publishes what was seen, and hands it to the store.
    async fn observe(&mut self, observation: Observation) {
        if self.step(observation) {
            self.seen().await;
        }
    }

    async fn seen(&self) {
        let (text, event) = (self.record.to_text(), self.record.event(SystemTime::now()));
        match self.tools.store.hand_over_sandbox(self.id(), text, event).await {
            // The daemon is ending; the next one looks for itself.
            Ok(()) | Err(StoreError::Gone) => {}
            Err(error) => tracing::error!(sandbox.id = %self.id(), error = %chain(&error), "a change is not stored"),
        }
        self.publish();
    }

    /// Whether an observation changes anything; the record says it then.
    fn step(&mut self, observation: Observation) -> bool {
        let Some(phase) = self.record.phase.after(observation) else { return false };
        tracing::info!(sandbox.id = %self.id(), phase = phase.name(), "sandbox");
        self.record.phase = phase;
        self.record.generation += 1;
        true
    }

    async fn store(&self, record: &Record) -> Result<(), SandboxError> {
        let stored = self.tools.store.put_sandbox(self.id(), record.to_text(), record.event(SystemTime::now())).await;
        stored.map_err(|source| SandboxError::Store { id: self.id().clone(), source })
    }

    fn publish(&self) {
        let (hands, network) = (self.body.hands(), self.body.network());
        let (Record { generation, phase, limits, policy, supervised, .. }, idle) = (&self.record, self.record.idle());
        self.publisher.send_if_modified(|snapshot| {
            let is_news = snapshot.generation != *generation;
            let (phase, policy, runtime) = (phase.clone(), policy.clone(), supervised.clone());
            *snapshot =
                Snapshot { generation: *generation, phase, limits: *limits, idle, policy, hands, network, runtime };
            is_news
        });
    }
}

/// Waits until there was a request to destroy. Requests are counted, so that none is missed.
async fn requested(requests: &mut watch::Receiver<u64>) {
    // Every handle gone is a request too: nobody could ever make one.
    let _ = requests.wait_for(|count| *count > 0).await;
}

fn create_failed(error: EngineError) -> SandboxError {
    SandboxError::Create(Arc::new(error))
}
