//! Starting the engine that the configuration names.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::DaemonError;
use crate::config::{CgroupUse, Config, DockerConfig, EngineKind, NetworkConfig};
use crate::engine::docker::{self, Docker};
use crate::engine::native::{Ids, Native};
use crate::engine::{Engine, EngineError, cgroup, nat};
use crate::image::{ImageSettings, ImageStore, Ownership};
use crate::network::{REFUSED_V4, Resolver};

/// Where the version 2 tree of cgroups is mounted on hosts that have not mounted it.
const CGROUP2: &str = "/run/handsd/cgroup2";

/// The engine, and the resolver of its sandboxes if they can have addresses.
pub async fn start_engine(config: &Config, is_root: bool) -> Result<(Arc<dyn Engine>, Option<Resolver>), DaemonError> {
    let instance =
        instance(&config.state_dir).map_err(|source| DaemonError::State { path: config.state_dir.clone(), source })?;
    match config.engine.kind {
        EngineKind::Native => {
            let mut native = start_native(config, &instance, is_root)?;
            let (nat, resolver) = nat(&config.network, instance, is_root);
            native.attach_to(nat);
            Ok((Arc::new(native), resolver))
        }
        EngineKind::Docker => {
            let mut docker = start_docker(config, &instance).await?;
            if docker_network(config) != docker::Network::Own {
                return Ok((Arc::new(docker), None));
            }
            let (nat, resolver) = nat(&config.network, instance, is_root);
            docker.attach_to(nat);
            Ok((Arc::new(docker), resolver))
        }
    }
}

/// What sandboxes need to have addresses, or why they cannot; and their resolver.
fn nat(config: &NetworkConfig, instance: String, is_root: bool) -> (Result<nat::Settings, String>, Option<Resolver>) {
    match try_nat(config, instance, is_root) {
        Ok((settings, resolver)) => (Ok(settings), Some(resolver)),
        Err(lack) => (Err(lack), None),
    }
}

fn try_nat(config: &NetworkConfig, instance: String, is_root: bool) -> Result<(nat::Settings, Resolver), String> {
    if !is_root {
        return Err("only root can make links and rules".to_owned());
    }
    let reachable = config.reachable.iter().filter_map(|range| match range {
        IpNet::V4(range) => Some(*range),
        // Sandboxes have addresses of IPv4.
        IpNet::V6(_) => None,
    });
    let settings = nat::Settings {
        instance,
        subnet: config.subnet,
        refused: REFUSED_V4.iter().map(|(range, _)| *range).collect(),
        reachable: reachable.collect(),
    };
    let gateway = settings.gateway();
    match Resolver::bind(gateway) {
        Ok(resolver) => Ok((settings, resolver)),
        Err(error) => Err(format!("network.subnet is in use: listen on {gateway}: {error}")),
    }
}

fn start_native(config: &Config, instance: &str, is_root: bool) -> Result<Native, DaemonError> {
    let settings = ImageSettings {
        max_unpacked_bytes: config.image.max_unpacked,
        plain_http: config.image.plain_http.clone(),
        credentials: config.image.credentials.clone(),
        ownership: if is_root { Ownership::Keep } else { Ownership::Own },
        ..ImageSettings::default()
    };
    let images = ImageStore::open(config.state_dir.join("images"), settings).map_err(DaemonError::Images)?;
    let cgroups = open_cgroups(config, |host| cgroup::Tree::open(host, instance))?;
    let ids = if is_root { Ids::Range(config.engine.id_base) } else { Ids::Own };
    let executable = PathBuf::from("/proc/self/exe");
    Native::open(&config.state_dir, executable, images, cgroups, ids).map_err(DaemonError::Engine)
}

async fn start_docker(config: &Config, instance: &str) -> Result<Docker, DaemonError> {
    let DockerConfig { socket, runtime, guest, pull, user_namespace, credentials, .. } = config.engine.docker.clone();
    let settings = docker::Settings {
        socket,
        runtime,
        passage: guest,
        network: docker_network(config),
        pull,
        user_namespace,
        credentials,
    };
    let cgroups = open_cgroups(config, |host| cgroup::Containers::open(host, instance))?;
    Docker::open(&config.state_dir, instance, settings, cgroups).await.map_err(DaemonError::Engine)
}

fn docker_network(config: &Config) -> docker::Network {
    match config.engine.docker.network_mode.as_str() {
        "own" => docker::Network::Own,
        "none" => docker::Network::None,
        name => docker::Network::Docker(name.to_owned()),
    }
}

fn open_cgroups<T>(
    config: &Config,
    open: impl FnOnce(cgroup::Host) -> io::Result<Option<T>>,
) -> Result<Option<T>, DaemonError> {
    let opened = match config.engine.cgroup {
        CgroupUse::Auto => cgroup::Host::probe().and_then(|mut host| {
            host.mount_unified(Path::new(CGROUP2))?;
            open(host.below(config.engine.cgroup_parent.clone()))
        }),
        CgroupUse::Off => Ok(None),
    };
    opened.map_err(|source| DaemonError::Engine(EngineError::Step { step: "open the cgroup tree".to_owned(), source }))
}

/// What this daemon's cgroups and containers are known by. It is made of the state directory, so that the next daemon
/// finds them again.
fn instance(state: &Path) -> io::Result<String> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(state.canonicalize()?.as_os_str().as_encoded_bytes());
    Ok(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}
