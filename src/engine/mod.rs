//! What makes containers.
//!
//! An engine makes the container, starts the guest in it as PID 1, says when it ends, and removes it. All else goes
//! through the guest. [`native`] is the embedded one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::ids::SandboxId;
use crate::image::{ImageError, ImageRef};

pub mod cgroup;
pub mod native;

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
}

/// Bounds of a sandbox; `None` is unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// CPUs' worth of processor time.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of files written.
    pub disk: Option<u64>,
}

/// What the image says about runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Who commands run as.
    pub user: Option<String>,
}

/// A sandbox whose guest is starting.
#[derive(Debug)]
pub struct Started {
    /// The guest's process on the node; readable when it has ended (pidfd_open(2)).
    pub init: OwnedFd,
    /// Its process id on the node.
    pub pid: u32,
    /// The guest's socket on the node.
    pub socket: PathBuf,
    /// What the image says about runs.
    pub image: ImageDefaults,
    /// Where the runs' cgroups are made; `None` where the host has none to offer.
    pub cgroup: Option<cgroup::Sandbox>,
}

/// Makes containers. Every method may be called at any time and from any task; a caller that stops waiting does not undo
/// what was begun.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// "native" or "docker".
    fn name(&self) -> &'static str;

    /// Makes a sandbox and starts its guest. On an error nothing is left of it.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn create(&self, spec: &Spec) -> Result<Started, EngineError>;

    /// Ends all processes of a sandbox and removes all that was made for it. Of one that is not there, it does nothing.
    ///
    /// # Errors
    /// See [`EngineError`]; what could be removed is gone all the same.
    async fn remove(&self, id: &SandboxId) -> Result<(), EngineError>;

    /// The sandboxes of which there is anything, running or not.
    ///
    /// # Errors
    /// See [`EngineError`].
    async fn list(&self) -> Result<Vec<SandboxId>, EngineError>;
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
    /// A step failed on the host.
    #[error("{step}")]
    Step {
        /// What was being done, to what.
        step: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Gone,
}
