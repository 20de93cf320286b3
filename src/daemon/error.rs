//! Why the daemon could not start.

use std::io;
use std::path::PathBuf;

use super::front::FrontError;
use crate::api::http::key::KeyError;
use crate::engine::EngineError;
use crate::image::ImageRefError;
use crate::network::policy::Beyond;
use crate::seal;
use crate::session::SessionError;
use crate::store::StoreError;
use crate::telemetry::TelemetryError;
use crate::webhook::WebhookError;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon uses the state directory.
    #[error("another handsd uses the state directory {}", .0.display())]
    StateInUse(PathBuf),
    /// The state directory cannot be used.
    #[error("state directory {}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory is another user's, who could change what is in it.
    #[error("state directory {}: belongs to user {owner}, and the daemon runs as another", path.display())]
    StateForeign {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The default image is none.
    #[error("sandbox.image")]
    Image(#[source] ImageRefError),
    /// The network that sandboxes get is beyond the most that they may have.
    #[error("network.default")]
    Network(#[source] Beyond),
    /// The image store cannot be opened.
    #[error("the image store")]
    Images(#[source] crate::image::ImageError),
    /// The engine cannot be started.
    #[error("the engine")]
    Engine(#[source] EngineError),
    /// There are sandboxes, and nothing that says whose they are.
    #[error(
        "{} is gone, and {} has sandboxes: put it back, or have `handsd gc` remove them",
        store.display(),
        sandboxes.display()
    )]
    StoreLost {
        /// Where the store should be.
        store: PathBuf,
        /// Where the sandboxes are.
        sandboxes: PathBuf,
    },
    /// The store cannot be opened.
    #[error("the store {}", path.display())]
    StoreFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The store cannot be read.
    #[error("the store")]
    Store(#[source] StoreError),
    /// gRPC cannot be served as configured.
    #[error(transparent)]
    Front(FrontError),
    /// The webhooks cannot be read.
    #[error("the webhooks")]
    Webhooks(#[source] WebhookError),
    /// There is no key to seal secrets with.
    #[error("the key for secrets")]
    Seal(#[source] seal::KeyError),
    /// There is no key for the HTTP surface.
    #[error("the HTTP surface")]
    Key(#[source] KeyError),
    /// The sessions cannot be read.
    #[error("the sessions")]
    Sessions(#[source] SessionError),
    /// No spans can be sent.
    #[error(transparent)]
    Telemetry(TelemetryError),
    /// Reflection refuses the descriptors.
    #[error("gRPC reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
}
