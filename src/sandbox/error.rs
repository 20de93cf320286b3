//! Why a sandbox could not be made, found or used.

use std::sync::Arc;

use crate::engine::EngineError;
use crate::hands::files::FileError;
use crate::ids::SandboxId;
use crate::network::policy::Beyond;
use crate::network::secrets::MAX_SECRETS;
use crate::store::StoreError;
use crate::telemetry::chain;

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

/// Secrets could not be sealed, or have no authority.
pub(super) fn not_kept(error: impl std::error::Error) -> SandboxError {
    SandboxError::Secrets(chain(&error).to_string().into())
}
