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
use super::{IdleTimeout, Order, SandboxError, Snapshot};
use crate::crash;
use crate::engine::{EngineError, Spec, Started};
use crate::ids::SandboxId;
use crate::metrics::metrics;
use crate::network::Port;
use crate::network::secrets::Secrets;
use crate::store::{NewEvent, StoreError};
use crate::telemetry::chain;

mod adoption;
mod change;
mod look;
mod make;
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
    /// What the last look saw.
    looked: ports::Looked,
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
        let (body, watch, looked) = (Body::Gone, JoinSet::new(), ports::Looked::never());
        let secrets = record.secrets(&tools.sealer).map(Arc::new);
        let driver = Self {
            tools,
            record,
            publisher,
            requests,
            activity,
            body,
            asleep_since,
            secrets,
            ports,
            next_look,
            looked,
            watch,
        };
        driver.publish();
        driver
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
        metrics().crashed();
        self.end_body(Observation::GuestGone(why.into())).await;
    }

    /// Its files are gone too, and nobody asked for that.
    async fn lose(&mut self) {
        self.end_body(Observation::FilesGone).await;
    }

    /// What was alive of it has ended, as was observed.
    async fn end_body(&mut self, observation: Observation) {
        self.activity.close();
        let mut body = std::mem::replace(&mut self.body, Body::Gone);
        self.observe(observation).await;
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

    fn failed(&self, verb: &'static str, error: EngineError) -> SandboxError {
        SandboxError::Engine { verb, id: self.id().clone(), source: Arc::new(error) }
    }

    fn not_running(&self) -> SandboxError {
        SandboxError::NotRunning { id: self.id().clone(), why: super::describe(&self.record.phase) }
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
        self.hand_over(self.record.event(SystemTime::now())).await;
        self.publish();
    }

    /// Hands the record to the store, with an event that tells what is new in it.
    async fn hand_over(&self, event: NewEvent) {
        match self.tools.store.hand_over_sandbox(self.id(), self.record.to_text(), event).await {
            // The daemon is ending; the next one looks for itself.
            Ok(()) | Err(StoreError::Gone) => {}
            Err(error) => tracing::error!(sandbox.id = %self.id(), error = %chain(&error), "a change is not stored"),
        }
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
        let secrets = self.secrets.as_ref().map(|secrets| secrets.places()).unwrap_or_default();
        let (Record { generation, phase, limits, policy, supervised, .. }, idle) = (&self.record, self.record.idle());
        self.publisher.send_if_modified(|snapshot| {
            let is_news = snapshot.generation != *generation;
            let (generation, limits) = (*generation, *limits);
            let (phase, policy, runtime) = (phase.clone(), policy.clone(), supervised.clone());
            *snapshot = Snapshot { generation, phase, limits, idle, policy, secrets, hands, network, runtime };
            is_news
        });
    }
}

/// Waits until there was a request to destroy. Requests are counted, so that none is missed.
async fn requested(requests: &mut watch::Receiver<u64>) {
    // Every handle gone is a request too: nobody could ever make one.
    let _ = requests.wait_for(|count| *count > 0).await;
}
