//! Sandboxes and their lifecycle: one task per sandbox owns its state.
//!
//! [`Sandboxes`] finds and makes them; a [`Sandbox`] is a handle on one: a watch on what its `driver` publishes, and the
//! request to destroy it, which has a channel of its own and wins over whatever is under way. Callers that hang up undo
//! nothing. What follows what is decided in [`state`]; what becomes of what an earlier daemon kept, in [`recovery`].
//!
//! A sandbox outlives the daemon. Its [`record`] is stored before anything is begun that changes it, with an event of the
//! node's log, and the next daemon takes it over as it finds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::{Change, Limits};
use crate::hands::Hands;
use crate::network::policy::Policy;
use crate::network::secrets::{Binding, Place};
use crate::network::{Network, Port};
use crate::telemetry::chain;
use runtime::state::Supervised;
use state::{Failure, Phase, Tier};

mod certificates;
mod connection;
mod drain;
mod driver;
mod error;
mod happenings;
mod idle;
mod live;
pub mod policy;
pub mod pressure;
mod reconcile;
pub mod record;
pub mod recovery;
mod registry;
mod reserve;
pub mod runtime;
mod secret_env;
pub mod state;
mod wish;

pub use connection::{Connection, ForwardError};
pub use drain::Progress;
pub use error::SandboxError;
pub use happenings::attend;
pub use idle::Lease;
pub use pressure::relieve;
pub use reconcile::{reconcile, strangers};
pub use registry::Sandboxes;
pub use wish::{DEFAULT_WORKSPACE, Defaults, IdleTimeout, Profile, Wish};

use error::not_kept;
use idle::Activity;
use wish::first_limits;

/// Orders to a driver that may wait. They are served one after another, and all who want the same are served by the first.
const ORDERS: usize = 64;

/// Where an order is answered.
type Reply = oneshot::Sender<Result<(), SandboxError>>;

/// Something for the driver to do.
#[derive(Debug)]
enum Order {
    Hibernate(Tier, Reply),
    Wake(Reply),
    Look(Change, Reply),
    /// Gives a runtime that was given up another try.
    Retry(Reply),
    SetLimits(Limits, Reply),
    SetNetwork(Policy, Vec<Binding>, Reply),
    SetIdle(IdleTimeout, Reply),
}

/// What is published of a sandbox.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every change, from 1 on.
    pub generation: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Bounds in force.
    pub limits: Limits,
    /// When it goes to sleep.
    pub idle: IdleTimeout,
    /// What it may reach.
    pub policy: Policy,
    /// Where its secrets go.
    pub secrets: Arc<[Place]>,
    /// While its guest is there, awake or asleep.
    pub hands: Option<Hands>,
    /// The same.
    pub network: Option<Network>,
    /// How what it keeps running stands.
    pub runtime: Option<Supervised>,
}

/// A handle on a sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    profile: Arc<Profile>,
    snapshot: watch::Receiver<Snapshot>,
    ports: watch::Receiver<Vec<Port>>,
    /// Counts requests to destroy it.
    destroy: watch::Sender<u64>,
    orders: mpsc::Sender<Order>,
    activity: Activity,
}

impl Sandbox {
    /// What it is.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// How it stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// How it stands once its generation is above `after`; the first is 1. `None` when nothing follows.
    pub async fn wait_after(&self, after: u64) -> Option<Snapshot> {
        let mut snapshot = self.snapshot.clone();
        snapshot.wait_for(|snapshot| snapshot.generation > after).await.ok().map(|snapshot| snapshot.clone())
    }

    /// Its hands, to look at: a sandbox that sleeps goes on sleeping.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`].
    pub fn hands(&self) -> Result<Hands, SandboxError> {
        let snapshot = self.snapshot.borrow();
        snapshot.hands.clone().ok_or_else(|| self.not_running(&snapshot.phase))
    }

    /// Its hands, for a run of before: a sandbox that sleeps goes on sleeping if they are there, and wakes if they have to be
    /// made anew, because it was stopped or an earlier daemon put it to sleep.
    ///
    /// # Errors
    /// As [`Sandbox::awake`].
    pub async fn hands_of_before(&self) -> Result<Hands, SandboxError> {
        match self.hands() {
            Ok(hands) => Ok(hands),
            Err(_) => self.awake().await.map(|(hands, _)| hands),
        }
    }

    /// Its hands, to use: wakes it if it sleeps or has crashed, and keeps it awake as long as the lease is held.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`]; those of [`Sandbox::wake`].
    pub async fn awake(&self) -> Result<(Hands, Lease), SandboxError> {
        loop {
            if let Some(lease) = self.activity.lease()
                && let Ok(hands) = self.hands()
            {
                return Ok((hands, lease));
            }
            self.order(Order::Wake).await?;
        }
    }

    /// Connects to a port inside: wakes the sandbox if it sleeps. A connection that is merely open does not keep it awake.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn connect(&self, port: u16) -> Result<Connection, ForwardError> {
        let (_, _lease) = self.awake().await.map_err(ForwardError::Sandbox)?;
        let network = self.network().map_err(ForwardError::Sandbox)?;
        match network.connect(port).await {
            Ok(stream) => Ok(Connection::new(stream, self.clone())),
            Err(source) => Err(ForwardError::Connect { id: self.profile.id.clone(), source }),
        }
    }

    /// Its network, to look at: a sandbox that sleeps goes on sleeping.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`].
    pub fn network(&self) -> Result<Network, SandboxError> {
        let snapshot = self.snapshot.borrow();
        snapshot.network.clone().ok_or_else(|| self.not_running(&snapshot.phase))
    }

    /// The ports that are listened on inside, as far as that was told: looked at every second while it is awake.
    #[must_use]
    pub fn open_ports(&self) -> watch::Receiver<Vec<Port>> {
        self.ports.clone()
    }

    /// Puts it to sleep, and waits until it sleeps at least so deep. One that does already goes on.
    ///
    /// # Errors
    /// [`SandboxError::Busy`], [`SandboxError::NotRunning`], [`SandboxError::Engine`], [`SandboxError::Store`].
    pub async fn hibernate(&self, tier: Tier) -> Result<(), SandboxError> {
        self.order(|reply| Order::Hibernate(tier, reply)).await
    }

    /// Puts it to sleep as soon as nobody uses it. One that cannot be put to sleep stays as it is.
    async fn retire(&self) {
        loop {
            match self.hibernate(Tier::Frozen).await {
                Err(SandboxError::Busy(_)) => self.activity.idle(Duration::ZERO).await,
                Err(error) => {
                    tracing::warn!(sandbox.id = %self.profile.id, error = %chain(&error), "a sandbox stays awake");
                    return;
                }
                Ok(()) => return,
            }
        }
    }

    /// Wakes it, and waits until it is awake. All who ask at the same time share one wake. A runtime that was given up gets
    /// another try.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`], [`SandboxError::Engine`], [`SandboxError::Guest`], [`SandboxError::WakesFull`],
    /// [`SandboxError::Store`].
    pub async fn wake(&self) -> Result<(), SandboxError> {
        self.order(Order::Wake).await?;
        self.order(Order::Retry).await
    }

    /// Has its driver look whether somebody else has put it to sleep, woken it or ended it, unless it knows of the change.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`], [`SandboxError::Engine`], [`SandboxError::Guest`].
    async fn look(&self, change: Change) -> Result<(), SandboxError> {
        self.order(|reply| Order::Look(change, reply)).await
    }

    /// Changes its limits; those left out stay.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`], [`SandboxError::Engine`].
    pub async fn set_limits(&self, limits: Limits) -> Result<(), SandboxError> {
        self.order(|reply| Order::SetLimits(limits, reply)).await
    }

    /// Changes what it may reach, within the same mode, and its secrets. Does not wake it.
    ///
    /// # Errors
    /// [`SandboxError::NetworkMode`], [`SandboxError::NoSecrets`], [`SandboxError::TooManySecrets`], [`SandboxError::NotRunning`], [`SandboxError::Store`].
    async fn set_network(&self, policy: Policy, secrets: Vec<Binding>) -> Result<(), SandboxError> {
        self.order(|reply| Order::SetNetwork(policy, secrets, reply)).await
    }

    /// Changes when it goes to sleep. Counts as use.
    ///
    /// # Errors
    /// [`SandboxError::NotRunning`], [`SandboxError::Store`].
    pub async fn set_idle(&self, idle: IdleTimeout) -> Result<(), SandboxError> {
        self.touch();
        self.order(|reply| Order::SetIdle(idle, reply)).await
    }

    /// Counts as use.
    pub fn touch(&self) {
        self.activity.touch();
    }

    async fn order(&self, order: impl FnOnce(Reply) -> Order) -> Result<(), SandboxError> {
        let (reply, answer) = oneshot::channel();
        let gone = || self.not_running(&self.snapshot.borrow().phase);
        self.orders.send(order(reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    fn not_running(&self, phase: &Phase) -> SandboxError {
        SandboxError::NotRunning { id: self.profile.id.clone(), why: describe(phase) }
    }

    /// Ends and removes it, and waits until that is done.
    ///
    /// # Errors
    /// [`SandboxError::Destroy`]; it can be tried again.
    pub async fn destroy(&self) -> Result<(), SandboxError> {
        let before = self.snapshot.borrow().generation;
        self.destroy.send_modify(|requests| *requests += 1);
        let mut snapshot = self.snapshot.clone();
        let over = |snapshot: &Snapshot| match snapshot.phase {
            Phase::Destroyed => true,
            Phase::Failed(_) => snapshot.generation > before,
            _ => false,
        };
        // The driver ends after having published the end.
        match snapshot.wait_for(over).await.map(|snapshot| snapshot.phase.clone()) {
            Ok(Phase::Failed(Failure { message, .. })) => {
                Err(SandboxError::Destroy { id: self.profile.id.clone(), message })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn describe(phase: &Phase) -> String {
    let name = match phase {
        Phase::Creating => "it is being made",
        Phase::Running | Phase::Waking(_) => "it is starting",
        Phase::Hibernating | Phase::Hibernated(_) => "it sleeps, and has to be woken for that",
        Phase::Crashed(_) => "it has crashed",
        Phase::Failed(_) => "it has failed",
        Phase::Destroying | Phase::Destroyed => "it is being destroyed",
    };
    phase.failure().map_or_else(|| name.to_owned(), |failure| format!("{name}: {}", failure.message))
}
