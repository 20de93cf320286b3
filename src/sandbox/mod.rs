//! Sandboxes and their lifecycle: one task per sandbox owns its state.
//!
//! [`Sandboxes`] finds and makes them; a [`Sandbox`] is a handle on one: a watch on what its `driver` publishes, and the
//! request to destroy it, which has a channel of its own and wins over whatever is under way. Callers that hang up undo
//! nothing. What follows what is decided in [`state`]; what becomes of what an earlier daemon kept, in [`recovery`].
//!
//! A sandbox outlives the daemon. Its [`record`] is stored before anything is begun that changes it, with an event of the
//! node's log, and the next daemon takes it over as it finds it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::{Change, EngineError, LimitSupport, Limits, Spec, Uplink};
use crate::hands::files::FileError;
use crate::hands::{self, Hands};
use crate::ids::SandboxId;
use crate::image::ImageRef;
use crate::network::policy::{Beyond, Bounds, Policy};
use crate::network::secrets::{Binding, MAX_SECRETS};
use crate::network::{Network, Outside, Port};
use crate::store::StoreError;
use crate::telemetry::chain;
use runtime::Runtime;
use runtime::state::Supervised;
use state::{Failure, Phase, Tier};

mod certificates;
mod connection;
mod drain;
mod driver;
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
pub mod state;

pub use connection::{Connection, ForwardError};
pub use drain::Progress;
pub use happenings::attend;
pub use idle::Lease;
pub use pressure::relieve;
pub use reconcile::{reconcile, strangers};
pub use registry::Sandboxes;

use idle::Activity;

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

/// What a caller wants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// What its root file system is made of; `None`: the node's default.
    pub image: Option<ImageRef>,
    /// Environment of every run.
    pub env: BTreeMap<String, String>,
    /// The caller's own words on it.
    pub labels: BTreeMap<String, String>,
    /// Bounds; what is left out is the node's default.
    pub limits: Limits,
    /// Who commands run as; `None`: the image's user.
    pub user: Option<String>,
    /// Working directory; `None`: [`DEFAULT_WORKSPACE`].
    pub workspace: Option<String>,
    /// When it goes to sleep; `None`: the node's default.
    pub idle: Option<IdleTimeout>,
    /// What it may reach; `None`: the node's default.
    pub network: Option<Policy>,
    /// What it keeps running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// What its proxy puts into headers. Not kept with the wish.
    #[serde(skip)]
    pub secrets: Vec<Binding>,
    /// By which a wish with other secrets is told from this one, where it is kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secrets_digest: String,
}

/// When an idle sandbox goes to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdleTimeout {
    /// After so long.
    After(Duration),
    /// Not by itself.
    Never,
}

/// What requests that leave it out get, and the bounds of the node.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Image.
    pub image: ImageRef,
    /// Limits.
    pub limits: Limits,
    /// When a sandbox goes to sleep.
    pub idle: IdleTimeout,
    /// After how long a sleep its processes are ended; `None`: never.
    pub stop_after: Option<Duration>,
    /// How many may be woken at once.
    pub max_wakes: usize,
    /// How many sandboxes there may be.
    pub max_sandboxes: usize,
    /// How many are made before anybody asks for them.
    pub reserve: usize,
    /// Of runs; environment, user and workspace are filled in for each sandbox.
    pub runs: hands::Settings,
    /// Spools of runs are below it.
    pub spools: PathBuf,
    /// What sandboxes may reach, and the most of it.
    pub network: Bounds,
    /// The way out of the node.
    pub outside: Arc<Outside>,
    /// How patient to be with runtimes that end.
    pub restarts: policy::Policy,
}

/// Where agents work.
pub const DEFAULT_WORKSPACE: &str = "/workspace";

/// What a sandbox is; does not change.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub id: SandboxId,
    /// What its root file system is made of.
    pub image: ImageRef,
    /// Environment of every run.
    pub env: BTreeMap<String, String>,
    /// The caller's own words on it.
    pub labels: BTreeMap<String, String>,
    /// Who commands run as; `None`: the image's user.
    pub user: Option<String>,
    /// Working directory.
    pub workspace: String,
    /// When it goes to sleep, as it was asked for.
    pub idle: IdleTimeout,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// Name of its engine.
    pub engine: String,
    /// What it keeps running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

impl Profile {
    /// What the engine has to make.
    fn spec(&self, limits: Limits, policy: &Policy) -> Spec {
        Spec {
            id: self.id.clone(),
            image: self.image.clone(),
            limits,
            workspace: self.workspace.clone().into(),
            user: self.user.clone(),
            uplink: match policy {
                Policy::None | Policy::Proxy(_) => Uplink::None,
                Policy::Nat => Uplink::Nat,
                Policy::Host => Uplink::Host,
            },
        }
    }
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

/// Why a sandbox could not be made, found or used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SandboxError {
    /// No sandbox has this id.
    #[error("no sandbox {0}")]
    NotFound(SandboxId),
    /// Its phase does not allow it.
    #[error("sandbox {id} is not running: {why}")]
    NotRunning {
        /// Which.
        id: SandboxId,
        /// Its phase, and the failure if it is one.
        why: String,
    },
    /// Somebody uses it, so that it cannot be put to sleep.
    #[error("sandbox {0} is in use")]
    Busy(SandboxId),
    /// The engine could not put it to sleep, or wake it; it stays as it was.
    #[error("{verb} sandbox {id}")]
    Engine {
        /// What was being done.
        verb: &'static str,
        /// Which.
        id: SandboxId,
        /// Why it failed.
        #[source]
        source: Arc<EngineError>,
    },
    /// The idempotency key was used with another request.
    #[error("idempotency_key was used with another request")]
    Conflict,
    /// There are as many sandboxes as there may be.
    #[error("the node has {limit} sandboxes, which is the most it may have")]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// The engine could not make it.
    #[error("create the sandbox")]
    Create(#[source] Arc<EngineError>),
    /// The guest did not come up.
    #[error("reach the guest: {0}")]
    Guest(Arc<str>),
    /// The engine could not remove it.
    #[error("destroy sandbox {id}: {message}")]
    Destroy {
        /// Which.
        id: SandboxId,
        /// Why.
        message: Arc<str>,
    },
    /// So many sandboxes are being woken that this one would wait for too long.
    #[error("too many sandboxes are being woken")]
    WakesFull,
    /// It could not be stored what was about to be done, so it was not done.
    #[error("store what is done to sandbox {id}")]
    Store {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// More network is asked for than the node gives.
    #[error("the network")]
    Network(#[source] Beyond),
    /// A sandbox keeps the kind of network that it was made with.
    #[error("sandbox {id} was made with network \"{made}\" and cannot get \"{asked}\"")]
    NetworkMode {
        /// Which.
        id: SandboxId,
        /// What it has.
        made: &'static str,
        /// Asked for.
        asked: &'static str,
    },
    /// Secrets are put into what goes through the proxy, and so are of no use without.
    #[error("secrets are of network \"proxy\", and the sandbox has \"{0}\"")]
    SecretsWithoutProxy(&'static str),
    /// It was made without secrets, so that its programs do not trust its proxy.
    #[error("sandbox {0} was made without secrets and cannot get any")]
    NoSecrets(SandboxId),
    /// More secrets are bound than may be.
    #[error("more than {MAX_SECRETS} secrets")]
    TooManySecrets,
    /// Its secrets cannot be sealed, or there is no authority for them.
    #[error("keep the secrets: {0}")]
    Secrets(Arc<str>),
    /// Its programs cannot be told to trust its proxy.
    #[error("install the certificates")]
    Certificates(#[source] Arc<FileError>),
    /// The node is being emptied.
    #[error("the node is being drained: it makes and wakes no sandboxes")]
    Draining,
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
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

/// Secrets could not be sealed, or have no authority.
fn not_kept(error: impl std::error::Error) -> SandboxError {
    SandboxError::Secrets(chain(&error).to_string().into())
}

fn describe(phase: &Phase) -> String {
    let name = match phase {
        Phase::Creating => "it is being made",
        Phase::Running | Phase::Hibernating | Phase::Hibernated(_) | Phase::Waking(_) => "it is starting",
        Phase::Crashed(_) => "it has crashed",
        Phase::Failed(_) => "it has failed",
        Phase::Destroying | Phase::Destroyed => "it is being destroyed",
    };
    phase.failure().map_or_else(|| name.to_owned(), |failure| format!("{name}: {}", failure.message))
}

/// The limits of a new sandbox: what is asked for, else the node's default where the host can enforce it.
fn first_limits(asked: Limits, default: Limits, support: LimitSupport) -> Limits {
    asked.or(Limits {
        memory: default.memory.filter(|_| support.memory),
        cpus: default.cpus.filter(|_| support.cpus),
        pids: default.pids.filter(|_| support.pids),
        disk: default.disk.filter(|_| support.disk),
    })
}
