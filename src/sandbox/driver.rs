//! The task that owns a sandbox: it makes it, watches it, puts it to sleep and wakes it, and removes it when asked to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::idle::Activity;
use super::state::{Observation, Phase, Tier};
use super::{Defaults, IdleTimeout, Order, Profile, SandboxError, Snapshot};
use crate::engine::{Engine, EngineError, Limits, Process, Spec, Started};
use crate::guest::client::Guest;
use crate::hands::{self, Hands};
use crate::ids::SandboxId;
use crate::telemetry::chain;

/// How long the engine may take to say more about the end of a sandbox. It is worth little, and its runs wait for it.
const POST_MORTEM_DEADLINE: Duration = Duration::from_secs(2);

/// The task.
pub struct Driver {
    engine: Arc<dyn Engine>,
    profile: Arc<Profile>,
    defaults: Defaults,
    publisher: watch::Sender<Snapshot>,
    /// Counts requests to destroy the sandbox: a channel of its own, which wins.
    requests: watch::Receiver<u64>,
    activity: Activity,
}

/// A sandbox whose guest has answered.
struct Live {
    hands: Hands,
    init: Process,
    /// The connection to the guest.
    connection: JoinSet<()>,
}

/// What the driver has to deal with.
enum Event {
    Destroy,
    GuestGone(String),
    Order(Order),
    Idle,
}

impl Driver {
    /// A driver of a sandbox that is to be made.
    pub fn new(
        engine: Arc<dyn Engine>,
        profile: Arc<Profile>,
        defaults: Defaults,
        publisher: watch::Sender<Snapshot>,
        requests: watch::Receiver<u64>,
        activity: Activity,
    ) -> Self {
        Self { engine, profile, defaults, publisher, requests, activity }
    }

    /// The sandbox's whole life; `made` hears how the first part went. Answers its id when it is gone.
    pub async fn live(
        mut self,
        made: oneshot::Sender<Result<(), SandboxError>>,
        orders: mpsc::Receiver<Order>,
    ) -> SandboxId {
        match self.make().await {
            Ok(live) => {
                self.activity.touch();
                self.publish(Observation::GuestReady, |_| Some(live.hands.clone()));
                // A caller that has left does not undo the making.
                let _ = made.send(Ok(()));
                self.keep(live, orders).await;
                requested(&mut self.requests).await;
            }
            Err(error) => {
                self.observe(Observation::CreateFailed(chain(&error).to_string().into()));
                let _ = made.send(Err(error));
            }
        }
        self.remove_until_gone().await;
        self.profile.id.clone()
    }

    async fn make(&self) -> Result<Live, SandboxError> {
        let Profile { id, image, user, workspace, .. } = &*self.profile;
        let spec = Spec {
            id: id.clone(),
            image: image.clone(),
            limits: self.publisher.borrow().limits,
            workspace: workspace.into(),
            user: user.clone(),
        };
        let started = self.engine.create(&spec).await.map_err(|error| SandboxError::Create(Arc::new(error)))?;
        let Started { init, pid, socket, image, cgroup } = started;
        let connected = Guest::connect(&socket, pid).await;
        let (guest, task) = connected.map_err(|error| SandboxError::Guest(chain(&error).to_string().into()))?;
        let mut connection = JoinSet::new();
        connection.spawn(task.serve());
        let mut settings = hands::Settings {
            env: image.env,
            user: user.clone().or(image.user).unwrap_or_default(),
            workspace: workspace.clone(),
            ..self.defaults.runs.clone()
        };
        settings.env.extend(self.profile.env.clone());
        let hands = Hands::new(guest, socket, cgroup, self.defaults.spools.join(id.as_str()), settings);
        Ok(Live { hands, init, connection })
    }

    /// Keeps a sandbox until it is to be destroyed or has crashed; its runs are over then, and orders that were not served
    /// are dropped, which tells those who gave them.
    async fn keep(&mut self, live: Live, mut orders: mpsc::Receiver<Order>) {
        let Live { hands, init, mut connection } = live;
        let last = loop {
            match self.next_event(&init, &mut connection, &mut orders).await {
                Event::Destroy => break Observation::DestroyRequested,
                Event::GuestGone(why) => break Observation::GuestGone(self.explain(why).await.into()),
                Event::Order(order) => self.serve(order).await,
                Event::Idle => self.fall_asleep().await,
            }
        };
        self.publish(last, |_| None);
        drop(orders);
        // The processes are gone with the guest, or are about to be; what waits for them must not wait longer.
        connection.shutdown().await;
        hands.close().await;
    }

    async fn next_event(
        &mut self,
        init: &Process,
        connection: &mut JoinSet<()>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Event {
        let timeout = match self.profile.idle {
            IdleTimeout::After(timeout) if self.is_awake() => Some(timeout),
            IdleTimeout::After(_) | IdleTimeout::Never => None,
        };
        let idle = async {
            match timeout {
                Some(timeout) => self.activity.idle(timeout).await,
                None => std::future::pending().await,
            }
        };
        // All are cancel-safe: an order that was not received stays in the queue, the others wait for what stays.
        tokio::select! {
            biased;
            () = requested(&mut self.requests) => Event::Destroy,
            why = init.ended() => Event::GuestGone(why),
            _ = connection.join_next() => Event::GuestGone("the guest closed its connection".to_owned()),
            Some(order) = orders.recv() => Event::Order(order),
            () = idle => Event::Idle,
        }
    }

    /// How the sandbox ended, with what the engine adds to it.
    async fn explain(&self, ended: String) -> String {
        match timeout(POST_MORTEM_DEADLINE, self.engine.post_mortem(&self.profile.id)).await {
            Ok(Some(more)) => format!("{ended}; {more}"),
            Ok(None) | Err(_) => ended,
        }
    }

    fn is_awake(&self) -> bool {
        matches!(self.publisher.borrow().phase, Phase::Running)
    }

    /// Serves an order. Whoever gave it may have left, which undoes nothing.
    async fn serve(&mut self, order: Order) {
        match order {
            Order::Hibernate(reply) => {
                let result = if !self.is_awake() {
                    Ok(())
                } else if self.activity.close_if_idle(std::time::Duration::ZERO) {
                    self.hibernate().await
                } else {
                    Err(SandboxError::Busy(self.profile.id.clone()))
                };
                let _ = reply.send(result);
            }
            Order::Wake(reply) => {
                let result = if self.is_awake() { Ok(()) } else { self.wake().await };
                let _ = reply.send(result);
            }
            Order::SetLimits(limits, reply) => {
                let _ = reply.send(self.set_limits(limits).await);
            }
        }
    }

    async fn set_limits(&mut self, limits: Limits) -> Result<(), SandboxError> {
        let set = self.engine.set_limits(&self.profile.id, &limits).await;
        set.map_err(|error| self.failed("set the limits of", error))?;
        self.publisher.send_modify(|snapshot| {
            snapshot.generation += 1;
            snapshot.limits = limits.or(snapshot.limits);
        });
        Ok(())
    }

    /// Goes to sleep if nobody came in the meantime.
    async fn fall_asleep(&mut self) {
        let IdleTimeout::After(timeout) = self.profile.idle else { return };
        if self.activity.close_if_idle(timeout)
            && let Err(error) = self.hibernate().await
        {
            tracing::warn!(sandbox.id = %self.profile.id, error = %chain(&error), "an idle sandbox stays awake");
        }
    }

    /// Puts the sandbox to sleep; the activity is closed.
    async fn hibernate(&mut self) -> Result<(), SandboxError> {
        self.observe(Observation::HibernateBegun);
        match self.engine.freeze(&self.profile.id).await {
            Ok(()) => {
                self.observe(Observation::Asleep(Tier::Frozen));
                Ok(())
            }
            Err(error) => {
                self.observe(Observation::HibernateFailed);
                self.activity.open();
                Err(self.failed("hibernate", error))
            }
        }
    }

    async fn wake(&mut self) -> Result<(), SandboxError> {
        self.observe(Observation::WakeBegun);
        match self.engine.thaw(&self.profile.id).await {
            Ok(()) => {
                self.observe(Observation::Awake);
                self.activity.open();
                Ok(())
            }
            Err(error) => {
                self.observe(Observation::WakeFailed);
                Err(self.failed("wake", error))
            }
        }
    }

    fn failed(&self, verb: &'static str, error: EngineError) -> SandboxError {
        SandboxError::Engine { verb, id: self.profile.id.clone(), source: Arc::new(error) }
    }

    /// Removes the sandbox; if that fails, again with every further request.
    async fn remove_until_gone(&mut self) {
        loop {
            self.requests.borrow_and_update();
            self.observe(Observation::DestroyRequested);
            match self.engine.remove(&self.profile.id).await {
                Ok(()) => return self.observe(Observation::Removed),
                Err(error) => {
                    let message = chain(&error).to_string();
                    tracing::error!(sandbox.id = %self.profile.id, error = %message, "a sandbox could not be removed");
                    self.observe(Observation::RemoveFailed(message.into()));
                }
            }
            if self.requests.changed().await.is_err() {
                return;
            }
        }
    }

    /// Publishes what follows from an observation; the hands stay as they are.
    fn observe(&self, observation: Observation) {
        self.publish(observation, |hands| hands);
    }

    fn publish(&self, observation: Observation, hands: impl FnOnce(Option<Hands>) -> Option<Hands>) {
        self.publisher.send_if_modified(|snapshot| match snapshot.phase.after(observation) {
            Some(phase) => {
                tracing::info!(sandbox.id = %self.profile.id, phase = name(&phase), "sandbox");
                let hands = hands(snapshot.hands.take());
                *snapshot = Snapshot { generation: snapshot.generation + 1, phase, hands, ..*snapshot };
                true
            }
            None => false,
        });
    }
}

/// Waits until there was a request to destroy. Requests are counted, so that none is missed.
async fn requested(requests: &mut watch::Receiver<u64>) {
    // Every handle gone is a request too: nobody could ever make one.
    let _ = requests.wait_for(|count| *count > 0).await;
}

fn name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Running => "running",
        Phase::Hibernating => "hibernating",
        Phase::Hibernated(Tier::Frozen) => "hibernated",
        Phase::Waking(_) => "waking",
        Phase::Crashed(_) => "crashed",
        Phase::Failed(_) => "failed",
        Phase::Destroying => "destroying",
        Phase::Destroyed => "destroyed",
    }
}
