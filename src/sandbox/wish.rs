//! What a sandbox is to be: what a caller wants, what the node makes of it, and what it is then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::policy;
use super::runtime::Runtime;
use super::secret_env::SecretEnv;
use crate::engine::{LimitSupport, Limits, Spec, Uplink};
use crate::hands;
use crate::ids::SandboxId;
use crate::image::ImageRef;
use crate::network::Outside;
use crate::network::policy::{Bounds, Policy};
use crate::network::secrets::Binding;

/// Where agents work.
pub const DEFAULT_WORKSPACE: &str = "/workspace";

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
    /// Over `env`, and for nobody to read. Not kept with the wish.
    #[serde(skip)]
    pub secret_env: SecretEnv,
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
    /// Names of its secret environment; its record has the values, sealed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secret_env: BTreeSet<String>,
}

impl Profile {
    /// What the engine has to make.
    pub(super) fn spec(&self, limits: Limits, policy: &Policy) -> Spec {
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

/// The limits of a new sandbox: what is asked for, else the node's default where the host can enforce it.
pub(super) fn first_limits(asked: Limits, default: Limits, support: LimitSupport) -> Limits {
    asked.or(Limits {
        memory: default.memory.filter(|_| support.memory),
        cpus: default.cpus.filter(|_| support.cpus),
        pids: default.pids.filter(|_| support.pids),
        disk: default.disk.filter(|_| support.disk),
        bandwidth: default.bandwidth,
    })
}
