//! What the operator chose.

use std::path::PathBuf;

/// What the operator chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Docker's socket.
    pub socket: PathBuf,
    /// The OCI runtime, by the name that Docker knows it by; `None` is Docker's default.
    pub runtime: Option<String>,
    /// The network of sandboxes that have addresses.
    pub network: Network,
    /// When images are pulled.
    pub pull: Pull,
    /// Which user namespace sandboxes are in.
    pub user_namespace: UserNamespace,
    /// Docker's `config.json`, for the credentials of registries.
    pub credentials: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/var/run/docker.sock"),
            runtime: None,
            network: Network::Own,
            pull: Pull::Missing,
            user_namespace: UserNamespace::Engine,
            credentials: None,
        }
    }
}

/// The network of sandboxes that have addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The daemon's own, with its refusals.
    Own,
    /// One of Docker's, by its name: what is reached there is up to who made it.
    Docker(String),
    /// There is none: sandboxes have no addresses.
    None,
}

/// When images are pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// If Docker does not have them.
    Missing,
    /// Never.
    Never,
    /// For each sandbox.
    Always,
}

/// Which user namespace sandboxes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespace {
    /// The one that Docker is configured to use.
    Engine,
    /// The node's, even if Docker is configured to remap users.
    Host,
}
