//! What the operator chose.

use std::path::PathBuf;

use crate::engine::Passage;

/// What the operator chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Docker's socket.
    pub socket: PathBuf,
    /// The OCI runtime, by the name that Docker knows it by; `None` is Docker's default.
    pub runtime: Option<String>,
    /// How guests are reached; `None`: as the runtime lets them be.
    pub passage: Option<Passage>,
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
            passage: None,
            network: Network::Own,
            pull: Pull::Missing,
            user_namespace: UserNamespace::Engine,
            credentials: None,
        }
    }
}

/// How the whole names of containerd's runtimes begin.
pub(super) const CONTAINERD: &str = "io.containerd.";

/// Runtimes that keep sandboxes behind a kernel of their own, by how their names begin.
const OWN_KERNEL: [&str; 2] = ["runsc", "kata"];

impl Settings {
    /// How guests are reached.
    #[must_use]
    pub fn passage(&self) -> Passage {
        let runtime = self.runtime.as_deref().unwrap_or_default();
        // By its whole name, a runtime of containerd is called such as io.containerd.kata.v2.
        let name = runtime.strip_prefix(CONTAINERD).unwrap_or(runtime);
        let has_own_kernel = OWN_KERNEL.iter().any(|beginning| name.starts_with(beginning));
        self.passage.unwrap_or(if has_own_kernel { Passage::Stdio } else { Passage::Socket })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_with_a_kernel_of_its_own_is_reached_by_stdio_unless_somebody_knows_better() {
        let of = |runtime: Option<&str>, passage| {
            Settings { runtime: runtime.map(str::to_owned), passage, ..Settings::default() }.passage()
        };
        for runtime in ["runsc", "runsc-kvm", "kata", "kata-qemu", "io.containerd.kata.v2", "io.containerd.runsc.v1"] {
            assert_eq!(of(Some(runtime), None), Passage::Stdio, "{runtime}");
            assert_eq!(of(Some(runtime), Some(Passage::Socket)), Passage::Socket, "{runtime}");
        }
        for runtime in [None, Some("runc"), Some("crun"), Some("io.containerd.runc.v2")] {
            assert_eq!(of(runtime, None), Passage::Socket, "{runtime:?}");
        }
        assert_eq!(of(None, Some(Passage::Stdio)), Passage::Stdio);
    }
}
