//! A sandbox whose processes are there.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::idle::Activity;
use super::record::Record;
use super::{Defaults, SandboxError, certificates};
use crate::engine::{Engine, Process, Started};
use crate::guest::client::Guest;
use crate::hands::{self, Hands};
use crate::network::secrets::Secrets;
use crate::network::{self, Network};
use crate::seal::Sealer;
use crate::store::Store;
use crate::telemetry::chain;

/// What all drivers share.
pub struct Tools {
    /// What keeps the sandboxes.
    pub engine: Arc<dyn Engine>,
    /// What outlives the daemon.
    pub store: Store,
    /// Seals what nobody else is to know.
    pub sealer: Arc<Sealer>,
    /// Bounds of the node.
    pub defaults: Defaults,
    /// Wakes at once.
    pub wakes: Semaphore,
    /// This boot of the node.
    pub boot: String,
    /// From when the node is emptied.
    pub draining: CancellationToken,
}

/// What there is of a sandbox's processes.
pub enum Body {
    /// None.
    Gone,
    /// They stand still since an earlier daemon froze them, and nobody has talked to the guest yet.
    Dormant(Started),
    /// The guest has answered, and may stand still since.
    Live(Live),
}

/// A sandbox whose guest has answered.
pub struct Live {
    /// Its runs and files.
    pub hands: Hands,
    /// Its network.
    pub network: Network,
    /// Its first process.
    pub init: Process,
    /// The connection to the guest.
    pub connection: JoinSet<()>,
}

impl Body {
    /// Waits until its processes are gone, or the guest cannot be talked to any more; says why. Cancel-safe.
    pub async fn ended(&mut self) -> String {
        match self {
            Self::Gone => std::future::pending().await,
            Self::Dormant(started) => started.init.ended().await,
            Self::Live(Live { init, connection, .. }) => tokio::select! {
                biased;
                why = init.ended() => why,
                _ = connection.join_next() => "the guest closed its connection".to_owned(),
            },
        }
    }

    /// Its runs and files, if the guest has answered.
    pub fn hands(&self) -> Option<Hands> {
        match self {
            Self::Live(live) => Some(live.hands.clone()),
            Self::Gone | Self::Dormant(_) => None,
        }
    }

    /// Its network, if the guest has answered.
    pub fn network(&self) -> Option<Network> {
        match self {
            Self::Live(live) => Some(live.network.clone()),
            Self::Gone | Self::Dormant(_) => None,
        }
    }

    /// Lets go of it, the processes being gone or about to be: what waits for them must not wait longer.
    pub async fn close(&mut self) {
        if let Self::Live(Live { hands, network, mut connection, .. }) = std::mem::replace(self, Self::Gone) {
            connection.shutdown().await;
            network.close().await;
            hands.close().await;
        }
    }
}

/// Connects to the guest of a sandbox, and takes over the runs that an earlier daemon began.
///
/// # Errors
/// [`SandboxError::Guest`], with what was started.
pub async fn connect(
    tools: &Tools,
    record: &Record,
    secrets: Option<Arc<Secrets>>,
    activity: &Activity,
    started: Started,
) -> Result<Live, (SandboxError, Started)> {
    match try_connect(tools, record, secrets, activity, &started).await {
        Ok((hands, connection, network)) => Ok(Live { hands, network, init: started.init, connection }),
        Err(error) => Err((error, started)),
    }
}

/// Names a guest by the socket that it listens on, which is made anew for each.
fn incarnation(socket: &Path) -> String {
    let of = |made: Metadata| format!("{}.{}.{}", made.ino(), made.mtime(), made.mtime_nsec());
    fs::metadata(socket).map(of).unwrap_or_default()
}

async fn try_connect(
    tools: &Tools,
    record: &Record,
    secrets: Option<Arc<Secrets>>,
    activity: &Activity,
    started: &Started,
) -> Result<(Hands, JoinSet<()>, Network), SandboxError> {
    let failed = |error| SandboxError::Guest(chain(&error).to_string().into());
    let (guest, task) = Guest::connect(&started.socket, started.listener).await.map_err(failed)?;
    let mut connection = JoinSet::new();
    connection.spawn(task.serve());
    let profile = &record.profile;
    let mut settings = hands::Settings {
        env: record.image.env.clone(),
        user: profile.user.clone().or_else(|| record.image.user.clone()).unwrap_or_default(),
        workspace: profile.workspace.clone(),
        guest: incarnation(&started.socket),
        ..tools.defaults.runs.clone()
    };
    settings.env.extend(network::environment(&record.policy));
    if let Some(secrets) = &secrets {
        certificates::install(&started.socket, secrets.authority()).await.map_err(SandboxError::Certificates)?;
        settings.env.extend(network::certificate_environment());
    }
    settings.env.extend(profile.env.clone());
    settings.env.extend(record.secret_env(&tools.sealer).expose());
    let spools = tools.defaults.spools.join(profile.id.as_str());
    let plan = network::Plan {
        id: profile.id.clone(),
        policy: record.policy.clone(),
        secrets,
        bandwidth: record.limits.bandwidth,
        outside: Arc::clone(&tools.defaults.outside),
    };
    let network = Network::start(guest.clone(), started.pid, started.counter.clone(), plan).await;
    let network = network.map_err(|error| SandboxError::Guest(chain(&error).to_string().into()))?;
    // Runs that go on keep it awake from the start.
    activity.open();
    let hands =
        Hands::open(guest, started.socket.clone(), started.cgroup.clone(), spools, settings, || activity.lease()).await;
    match hands {
        Ok(hands) => Ok((hands, connection, network)),
        Err(error) => {
            activity.close();
            connection.shutdown().await;
            network.close().await;
            Err(failed(error))
        }
    }
}
