//! What a sandbox is in Docker's words. Pure.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerState, ContainerSummary, ContainerUpdateBody, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::{Network, Settings, UserNamespace};
use crate::engine::{Limits, Passage, Spec, Uplink};
use crate::guest::agent::options;
use crate::ids::SandboxId;

/// Names the daemon whose container it is.
pub const INSTANCE: &str = "dev.handsd.instance";
/// Names the sandbox.
pub const SANDBOX: &str = "dev.handsd.sandbox";

/// Where the guest's binary is in a sandbox.
pub const GUEST: &str = "/.hands/guest";
/// And the directory of its socket.
const IO: &str = "/.hands/io";
/// The socket's name there.
pub const SOCKET: &str = "guest.sock";

/// The network that has a loopback only.
const NO_NETWORK: &str = "none";

/// One processor, as Docker counts them.
const NANO_CPUS: f64 = 1e9;

/// A sandbox's processes are ended before the daemon and the engine when the node's memory is used up.
const OOM_SCORE: i64 = 500;

/// What a container is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What it is to be.
    pub spec: &'a Spec,
    /// Docker's id of its image.
    pub image: &'a str,
    /// The owner of the workspace.
    pub user: &'a str,
    /// The daemon that it belongs to.
    pub instance: &'a str,
    /// The guest's binary on the node.
    pub guest: &'a Path,
    /// The directory on the node in which the guest makes its socket.
    pub io: &'a Path,
    /// The system call filter, if it is ours to choose.
    pub seccomp: Option<&'a str>,
    /// Where it finds its resolver, if that is not Docker's business.
    pub resolver: Option<Ipv4Addr>,
    /// What the operator chose.
    pub settings: &'a Settings,
}

/// The container's name.
pub fn name(instance: &str, id: &SandboxId) -> String {
    format!("handsd-{instance}-{id}")
}

/// The labels by which containers are found: of a daemon, or of one sandbox.
pub fn labels(instance: &str, id: Option<&SandboxId>) -> Vec<String> {
    let sandbox = id.map(|id| format!("{SANDBOX}={id}"));
    [format!("{INSTANCE}={instance}")].into_iter().chain(sandbox).collect()
}

/// The request that makes it.
pub fn body(parts: &Parts<'_>) -> ContainerCreateBody {
    let Parts { spec, image, instance, .. } = *parts;
    ContainerCreateBody {
        hostname: Some(spec.id.to_string()),
        image: Some(image.to_owned()),
        // The guest is root, whoever the image's user is: that one is who commands run as.
        user: Some("0:0".to_owned()),
        entrypoint: Some(vec![GUEST.to_owned()]),
        cmd: Some(arguments(parts)),
        open_stdin: Some(parts.settings.passage() == Passage::Stdio),
        working_dir: Some("/".to_owned()),
        // A check would be an exec of Docker's.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        labels: Some(HashMap::from([
            (INSTANCE.to_owned(), instance.to_owned()),
            (SANDBOX.to_owned(), spec.id.to_string()),
        ])),
        host_config: Some(host_config(parts)),
        ..ContainerCreateBody::default()
    }
}

fn arguments(parts: &Parts<'_>) -> Vec<String> {
    let workspace = parts.spec.workspace.to_string_lossy().into_owned();
    let mut arguments = match parts.settings.passage() {
        Passage::Socket => vec![options::LISTEN.to_owned(), format!("{IO}/{SOCKET}")],
        Passage::Stdio => vec![options::STDIO.to_owned()],
    };
    arguments.extend([options::WORKSPACE.to_owned(), workspace]);
    if !parts.user.is_empty() {
        arguments.extend([options::USER.to_owned(), parts.user.to_owned()]);
    }
    if parts.seccomp.is_some() {
        arguments.push(options::DENY_CLONE3.to_owned());
    }
    arguments
}

/// Docker's own choice of capabilities, masked paths and devices is left as it is.
fn host_config(parts: &Parts<'_>) -> HostConfig {
    let Limits { memory, cpus, pids, .. } = parts.spec.limits;
    let settings = parts.settings;
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    HostConfig {
        memory: memory.map(whole),
        shm_size: Some(whole(parts.spec.limits.shared_memory())),
        // Swap is the node's own business, as it is with the native engine.
        memory_swap: memory.map(|_| -1),
        nano_cpus: cpus.map(nano_cpus),
        pids_limit: pids.map(whole),
        oom_score_adj: Some(OOM_SCORE),
        mounts: Some(mounts(parts)),
        network_mode: Some(network_mode(parts.spec.uplink, settings).to_owned()),
        dns: parts.resolver.map(|address| vec![address.to_string()]),
        runtime: settings.runtime.clone(),
        userns_mode: (settings.user_namespace == UserNamespace::Host).then(|| "host".to_owned()),
        security_opt: Some(security_options(parts.seccomp)),
        // The guest is the init, and says nothing that would be worth a log.
        init: Some(false),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        ..HostConfig::default()
    }
}

fn mounts(parts: &Parts<'_>) -> Vec<Mount> {
    let io = (parts.settings.passage() == Passage::Socket).then(|| bind(parts.io, IO, false));
    [bind(parts.guest, GUEST, true)].into_iter().chain(io).collect()
}

/// Other limits for a container that runs; those that are left out stay.
pub fn update(limits: &Limits) -> ContainerUpdateBody {
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    ContainerUpdateBody {
        memory: limits.memory.map(whole),
        memory_swap: limits.memory.map(|_| -1),
        nano_cpus: limits.cpus.map(nano_cpus),
        pids_limit: limits.pids.map(whole),
        ..ContainerUpdateBody::default()
    }
}

/// The network in Docker's words. To a sandbox of the daemon's own network, Docker has nothing to attach.
fn network_mode(uplink: Uplink, settings: &Settings) -> &str {
    match (uplink, &settings.network) {
        (Uplink::Nat, Network::Docker(name)) => name,
        (Uplink::None, _) | (Uplink::Nat, Network::Own | Network::None) => NO_NETWORK,
        (Uplink::Host, _) => "host",
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the configuration and the API bound it far below")]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * NANO_CPUS).round() as i64
}

fn security_options(seccomp: Option<&str>) -> Vec<String> {
    let mut list = vec!["no-new-privileges".to_owned()];
    list.extend(seccomp.map(|profile| format!("seccomp={profile}")));
    list
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    let propagation = Some(MountBindOptionsPropagationEnum::PRIVATE);
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions { propagation, ..MountBindOptions::default() }),
        ..Mount::default()
    }
}

/// Which sandbox a container is, if it is one.
pub fn sandbox_of(container: &ContainerSummary) -> Option<SandboxId> {
    container.labels.as_ref()?.get(SANDBOX)?.parse().ok()
}

/// The id of a container's first process.
///
/// # Errors
/// It has none, because it has ended.
pub fn first_pid(state: ContainerState) -> io::Result<u32> {
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    pid.ok_or_else(|| {
        let code = state.exit_code.unwrap_or_default();
        let said = state.error.filter(|error| !error.is_empty()).unwrap_or_else(|| "nothing".to_owned());
        io::Error::other(format!("it has ended with code {code}; Docker says {said}"))
    })
}

/// How a container ended, for people.
pub fn describe_end(state: &ContainerState) -> String {
    let how = if state.oom_killed == Some(true) { "the kernel killed it for want of memory" } else { "it ended" };
    let code = state.exit_code.unwrap_or_default();
    let error = state.error.as_deref().filter(|error| !error.is_empty());
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
    if state.running == Some(true) {
        "Docker takes it for running still".to_owned()
    } else {
        format!("Docker says that {how} with code {code}{error}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageRef;

    fn spec() -> Spec {
        Spec {
            id: SandboxId::random(),
            image: ImageRef::Registry("debian:12".to_owned()),
            limits: Limits { memory: Some(64 << 20), cpus: Some(0.5), pids: Some(100), ..Limits::default() },
            workspace: "/workspace".into(),
            user: None,
            uplink: Uplink::None,
        }
    }

    fn made(spec: &Spec, settings: &Settings, seccomp: Option<&str>) -> ContainerCreateBody {
        body(&Parts {
            spec,
            image: "sha256:1",
            user: "ada",
            instance: "0123456789ab",
            guest: Path::new("/state/guest"),
            io: Path::new("/state/io"),
            seccomp,
            resolver: None,
            settings,
        })
    }

    #[test]
    fn limits_are_in_dockers_units() {
        let host = made(&spec(), &Settings::default(), None).host_config.unwrap();
        assert_eq!((host.memory, host.nano_cpus, host.pids_limit), (Some(64 << 20), Some(500_000_000), Some(100)));
    }

    #[test]
    fn nothing_is_gained_and_nothing_of_the_node_is_inside_but_the_guest_and_its_directory() {
        let host = made(&spec(), &Settings::default(), Some("{}")).host_config.unwrap();
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges", "seccomp={}"]);
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert!(host.privileged.is_none() && host.cap_add.is_none() && host.binds.is_none());
        let mounts: Vec<_> = host.mounts.unwrap().into_iter().map(|mount| (mount.target, mount.read_only)).collect();
        assert_eq!(mounts, [(Some(GUEST.to_owned()), Some(true)), (Some(IO.to_owned()), Some(false))]);
    }

    #[test]
    fn the_guest_takes_clone3_away_where_the_profile_is_ours() {
        let has = |body: ContainerCreateBody| body.cmd.unwrap().contains(&options::DENY_CLONE3.to_owned());
        assert!(has(made(&spec(), &Settings::default(), Some("{}"))));
        assert!(!has(made(&spec(), &Settings::default(), None)));
    }

    #[test]
    fn the_end_of_a_container_is_told_with_its_reason() {
        let ended = ContainerState { running: Some(false), exit_code: Some(137), ..ContainerState::default() };
        assert_eq!(describe_end(&ended), "Docker says that it ended with code 137");
        let killed = ContainerState { oom_killed: Some(true), error: Some("no".to_owned()), ..ended };
        assert_eq!(describe_end(&killed), "Docker says that the kernel killed it for want of memory with code 137: no");
    }

    #[test]
    fn what_the_operator_chose_is_passed_on() {
        let settings = Settings {
            runtime: Some("runsc".to_owned()),
            network: Network::Docker("bridge".to_owned()),
            user_namespace: UserNamespace::Host,
            ..Settings::default()
        };
        let attached = Spec { uplink: Uplink::Nat, ..spec() };
        let host = made(&attached, &settings, None).host_config.unwrap();
        assert_eq!(host.runtime.as_deref(), Some("runsc"));
        assert_eq!(host.network_mode.as_deref(), Some("bridge"));
        assert_eq!(host.userns_mode.as_deref(), Some("host"));
        let host = made(&spec(), &settings, None).host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"), "who asks for no network has none");
    }

    #[test]
    fn what_has_ended_has_no_first_process_and_says_why() {
        let state = |pid, error: &str| ContainerState {
            pid: Some(pid),
            exit_code: Some(127),
            error: Some(error.to_owned()),
            ..ContainerState::default()
        };
        assert_eq!(first_pid(state(7, "")).unwrap(), 7);
        assert_eq!(first_pid(state(0, "")).unwrap_err().to_string(), "it has ended with code 127; Docker says nothing");
        assert!(first_pid(state(0, "no such file")).unwrap_err().to_string().ends_with("Docker says no such file"));
    }
}
