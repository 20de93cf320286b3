//! From the configuration to what the floors below take.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::DaemonError;
use super::directory::spools;
use crate::api::proto::{Defaults as DefaultsMessage, NodeInfo};
use crate::check;
use crate::config::{CgroupUse, Config};
use crate::engine::{Engine, Limits};
use crate::hands;
use crate::image::ImageRef;
use crate::network::Outside;
use crate::network::policy::Bounds;
use crate::sandbox::{Defaults, IdleTimeout};

/// What requests that leave it out get.
///
/// # Errors
/// [`DaemonError::Image`], [`DaemonError::Network`].
pub fn defaults(config: &Config) -> Result<Defaults, DaemonError> {
    let image: ImageRef = config.sandbox.image.parse().map_err(DaemonError::Image)?;
    let network = &config.network;
    Ok(Defaults {
        image,
        limits: Limits {
            memory: config.sandbox.memory,
            cpus: config.sandbox.cpus,
            pids: config.sandbox.pids,
            disk: None,
            bandwidth: config.sandbox.bandwidth,
        },
        idle: config.sandbox.idle_timeout.map_or(IdleTimeout::Never, IdleTimeout::After),
        stop_after: config.sandbox.stop_after,
        max_wakes: config.sandbox.max_wakes,
        max_sandboxes: config.sandbox.max_sandboxes,
        reserve: config.sandbox.reserve,
        runs: hands::Settings {
            env: Default::default(),
            user: String::new(),
            workspace: String::new(),
            kill_grace: config.run.kill_grace,
            retention: config.run.retention,
            retained_runs: config.run.retained_runs,
            max_runs: config.run.max_runs,
            output_cap: config.run.output_cap,
            guest: String::new(),
        },
        spools: spools(&config.state_dir),
        network: Bounds::new(network.default.clone(), network.ceiling.clone()).map_err(DaemonError::Network)?,
        outside: Arc::new(Outside::new(network.reachable.clone(), config.limits.silence)),
        restarts: config.runtime,
    })
}

/// What does not change of the node while the daemon runs.
pub fn node_info(
    config: &Config,
    host: &check::Host,
    engine: &dyn Engine,
    is_root: bool,
    http: Option<SocketAddr>,
) -> NodeInfo {
    let system = nix::sys::sysinfo::sysinfo().ok();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    NodeInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: engine.name().to_owned(),
        guest_passage: engine.passage().name().to_owned(),
        kernel: host.kernel.clone(),
        cgroup: match config.engine.cgroup {
            CgroupUse::Auto => host.cgroup_mode().to_string(),
            CgroupUse::Off => "none".to_owned(),
        },
        rootless: !is_root,
        lacks: host.lacks(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_bytes: system.map_or(0, |system| system.ram_total()),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
        started_at: Some(SystemTime::now().into()),
        sandboxes: 0,
        running: 0,
        defaults: Some(DefaultsMessage {
            image: config.sandbox.image.clone(),
            timeout: prost_types::Duration::try_from(config.run.timeout).ok(),
            kill_grace: prost_types::Duration::try_from(config.run.kill_grace).ok(),
            retention: prost_types::Duration::try_from(config.run.retention).ok(),
            output_cap_bytes: config.run.output_cap,
        }),
        http_address: http.map(|address| address.to_string()).unwrap_or_default(),
        http_key_file: match config.http.key {
            Some(_) => String::new(),
            None => config.http.key_file.display().to_string(),
        },
    }
}
