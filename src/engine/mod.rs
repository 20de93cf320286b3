//! What makes containers.
//!
//! An engine makes the container, starts the guest in it as PID 1, says when it ends, and removes it. All else goes
//! through the guest. [`native`] is the embedded one; [`docker`] drives a Docker engine.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::guest::readiness;
use crate::ids::SandboxId;
use crate::image::{ImageError, ImageRef};
use crate::network::Counter;
use crate::telemetry::chain;

pub mod cgroup;
pub mod docker;
mod limits;
pub mod nat;
pub mod native;

pub use limits::{LimitSupport, Limits};

/// What a sandbox is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Its name.
    pub id: SandboxId,
    /// What its root file system is made of.
    pub image: ImageRef,
    /// Bounds of all its processes together.
    pub limits: Limits,
    /// Its working directory, absolute; the engine makes it if it is missing.
    pub workspace: PathBuf,
    /// Its own wish for a user; else the image's counts.
    pub user: Option<String>,
    /// How it is attached to the world.
    pub uplink: Uplink,
}

/// How a sandbox is attached to the world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Uplink {
    /// Not at all: it has a loopback.
    #[default]
    None,
    /// By an address of its own.
    Nat,
    /// As the node itself is.
    Host,
}

/// What the image says about runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Who commands run as.
    pub user: Option<String>,
}

/// A sandbox whose guest runs, or is starting.
#[derive(Debug)]
pub struct Started {
    /// The guest's process on the node.
    pub init: Process,
    /// Its process id on the node.
    pub pid: u32,
    /// The guest's socket on the node.
    pub socket: PathBuf,
    /// Who listens on it: the guest, or the relay that stands for it.
    pub listener: u32,
    /// Where the runs' cgroups are made, if they can be, and where the kernel counts; `None` where the host has neither.
    pub cgroup: Option<cgroup::Sandbox>,
    /// What is counted of its connections; `None` if it has no address of its own.
    pub counter: Option<Arc<dyn Counter>>,
}

/// How guests are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// By a unix socket, through which descriptors are passed.
    Socket,
    /// By the stdin and stdout of the container.
    Stdio,
}

impl Passage {
    /// "socket" or "stdio".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Stdio => "stdio",
        }
    }
}

/// What there is of a sandbox.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, for as long as it takes to look at it")]
pub enum Found {
    /// Its processes, and its files.
    Alive {
        /// Its first process.
        started: Started,
        /// They stand still.
        is_frozen: bool,
    },
    /// Its files.
    Dead,
    /// Nothing that it could be started from.
    Nothing,
}

/// What an engine tells without having been asked. It is a reason to look, and may be of the daemon's own doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Something has happened to a sandbox.
    To(SandboxId, Change),
    /// Something may have happened to any of them while nobody could tell.
    Missed,
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its processes have ended.
    Ended,
    /// It is gone, files and all.
    Removed,
    /// The kernel has ended one of its processes for want of memory.
    OutOfMemory,
    /// Its processes stand still.
    Frozen,
    /// They go on.
    Thawed,
    /// Nobody can tell.
    Unknown,
}

/// A process on the node, by its descriptor.
#[derive(Debug)]
pub struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Takes over a descriptor of pidfd_open(2).
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn new(pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self(readiness::watch(pidfd, Interest::READABLE)?))
    }

    /// The process that has this id now.
    ///
    /// # Errors
    /// Those of pidfd_open(2) and epoll_ctl(2).
    pub fn open(pid: u32) -> io::Result<Self> {
        Self::new(native::sys::pidfd_open(pid)?)
    }

    /// Waits until it has ended and says how, as far as that is known: only a parent is told. Cancel-safe.
    pub async fn ended(&self) -> String {
        // A descriptor that cannot be waited for is one of a process that is gone.
        if let Ok(mut ready) = self.0.readable().await {
            ready.retain_ready();
        }
        match waitid(Id::PIDFd(self.0.get_ref().as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => format!("its first process exited with code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("its first process was ended by {signal}"),
            Ok(_) | Err(_) => "its first process ended".to_owned(),
        }
    }
}

/// Makes containers. Every method may be called at any time and from any task; a caller that stops waiting does not undo
/// what was begun.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// "native" or "docker".
    fn name(&self) -> &'static str;

    /// Where the guest's program is in a sandbox; everybody there may execute it.
    fn guest_path(&self) -> &'static str;

    /// How its guests are reached.
    fn passage(&self) -> Passage {
        Passage::Socket
    }

    /// Which limits it can enforce here. Defaults of the node that it cannot are left out; what a caller asks for and it
    /// cannot is refused.
    fn support(&self) -> LimitSupport;

    /// Makes a sandbox and starts its guest. On an error nothing is left of it.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn create(&self, spec: &Spec) -> Result<(Started, ImageDefaults), EngineError>;

    /// Looks for a sandbox that an earlier daemon made.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn find(&self, id: &SandboxId) -> Result<Found, EngineError>;

    /// Ends all processes of a sandbox, frozen or not, and keeps its files. Of one without processes, it does nothing.
    ///
    /// # Errors
    /// See [`EngineError`]; the files are there all the same.
    async fn stop(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// Starts the guest of a sandbox that was stopped, or whose processes have ended, on its files.
    ///
    /// # Errors
    /// See [`EngineError`]; it is stopped then, and its files are there all the same.
    async fn start(&self, spec: &Spec) -> Result<Started, EngineError>;

    /// Makes all processes of a sandbox stand still, and answers when they do. Their memory is paged out after that, where
    /// there is swap. Of a frozen one, it does nothing.
    ///
    /// # Errors
    /// See [`EngineError`]; they go on then.
    async fn freeze(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// Lets them go on. Of one that is not frozen, it does nothing.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn thaw(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// Changes limits; those that are `None` stay.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), EngineError>;

    /// Ends all processes of a sandbox and removes all that was made for it. Of one that is not there, it does nothing.
    ///
    /// # Errors
    /// See [`EngineError`]; what could be removed is gone all the same.
    async fn remove(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// Whether it can make and remove sandboxes now. Those that run do not depend on it.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`]
    async fn ping(&self) -> Result<(), EngineError>;

    /// What the engine knows about the end of a sandbox's first process, for people.
    async fn post_mortem(&self, id: &SandboxId) -> Option<String>;

    /// The sandboxes of which there is anything, running or not.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn list(&self) -> Result<Vec<SandboxId>, EngineError>;

    /// The images that it has brought itself, that no sandbox is made of, and that nobody has asked for in a long time.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn stale_images(&self) -> Result<Vec<String>, EngineError>;

    /// Removes one of them.
    ///
    /// # Errors
    /// See [`EngineError`]: something may be made of it by now.
    async fn remove_image(&self, name: &str) -> Result<(), EngineError>;

    /// Tells what happens to sandboxes, whoever does it, until nobody listens any more. Cancel-safe.
    async fn watch(&self, tell: mpsc::Sender<Happening>);
}

/// How long an image that nothing is made of is kept for whoever may want it again. Most are wanted every day or never.
const IMAGE_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Since when an image has to have been asked for, to be kept though nothing is made of it.
fn wanted_since() -> SystemTime {
    SystemTime::now().checked_sub(IMAGE_GRACE).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Undoes what has failed half-way. The first error is the one to tell; what is left all the same is found later.
async fn undo<T>(
    result: Result<T, EngineError>,
    undoing: impl Future<Output = Result<(), EngineError>>,
) -> Result<T, EngineError> {
    if result.is_err()
        && let Err(error) = undoing.await
    {
        tracing::warn!(error = %chain(&error), "what is left of a failed step could not be removed");
    }
    result
}

/// Why an engine could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The image is at fault.
    #[error("image {image}")]
    Image {
        /// As asked for.
        image: ImageRef,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// The host cannot enforce a limit that was asked for.
    #[error("this host cannot enforce limits.{field}: {lack}")]
    LimitUnsupported {
        /// Field of `Limits` in the API.
        field: &'static str,
        /// What the host lacks.
        lack: String,
    },
    /// The engine cannot attach sandboxes like that, here.
    #[error("this node has no network \"{mode}\": {lack}")]
    NetworkUnsupported {
        /// As the API calls it.
        mode: &'static str,
        /// What is missing.
        lack: String,
    },
    /// The host cannot freeze processes.
    #[error("this host cannot freeze processes: it has no cgroups that handsd may use")]
    FreezeUnsupported,
    /// This engine cannot make sandboxes of such an image.
    #[error("image {image}: the {engine} engine has no such images; name one of a registry, a tar or an archive")]
    ImageUnsupported {
        /// As asked for.
        image: ImageRef,
        /// Its name.
        engine: &'static str,
    },
    /// Docker does not know the runtime that is configured.
    #[error("engine.docker.runtime: Docker has no runtime \"{runtime}\"; it has {}", known.join(", "))]
    RuntimeUnknown {
        /// As configured.
        runtime: String,
        /// Those that it has, in order.
        known: Vec<String>,
    },
    /// The engine behind this one does not answer, or not in time. It may later.
    #[error("{step}")]
    Unavailable {
        /// What was being done.
        step: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A step failed on the host.
    #[error("{step}")]
    Step {
        /// What was being done, to what.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Gone,
}
