//! Sandboxes, their limits and phases.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::network::{network, network_message, network_usage, secret_message, secrets};
use super::runtime::{runtime, runtime_message, runtime_status};
use super::{MAX_PATH, bounded, check_env, checked_user, key, page_size, span};
use crate::api::proto::{self, ErrorReason};
use crate::api::status::Fault;
use crate::engine::Limits;
use crate::ids::SandboxId;
use crate::sandbox::state::{Failure, FailureKind, Phase, Tier};
use crate::sandbox::{IdleTimeout, Sandbox, Snapshot, Wish};

/// Most bytes of a sandbox's environment.
const MAX_ENV_BYTES: usize = 128 << 10;
/// Most labels of a sandbox.
const MAX_LABELS: usize = 64;
/// Most bytes of a label's key.
const MAX_LABEL_KEY: usize = 128;
/// Most bytes of a label's value.
const MAX_LABEL_VALUE: usize = 1024;
/// Most bytes of an image reference.
const MAX_IMAGE: usize = 4096;
/// Least memory of a sandbox: less does not hold a shell and its children.
const MIN_MEMORY: u64 = 16 << 20;
/// Least processor time of a sandbox: the kernel's least quota is 1 ms in 100.
const MIN_CPUS: f64 = 0.01;
/// Most CPUs that can be asked for; above any machine.
const MAX_CPUS: f64 = 65_536.0;
/// Least processes of a sandbox: the guest, a shell, and a pipeline.
const MIN_PIDS: u64 = 8;
/// `PID_MAX_LIMIT` of the kernel, which a cgroup takes no more than.
const MAX_PIDS: u64 = 4 << 20;
/// Least bytes of disk of a sandbox.
const MIN_DISK: u64 = 1 << 20;
/// Least bytes a second of a sandbox: what the kernel passes on as one piece.
const MIN_BANDWIDTH: u64 = 64 << 10;
/// Directories of a sandbox that are the kernel's own.
const KERNELS: [&str; 2] = ["/proc", "/sys"];
/// Longest idle timeout.
const MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Sandboxes of a page, if not said otherwise, and at most.
const LIST_PAGE: (u32, u32) = (100, 1_000);

/// What a caller wants, and the idempotency key.
///
/// # Errors
/// The first bad field.
pub fn wish(request: proto::CreateSandboxRequest) -> Result<(Wish, Option<String>), Fault> {
    bounded("image", &request.image, MAX_IMAGE)?;
    let image = match request.image.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| Fault::argument("image", format!("{error}")))?),
    };
    let bytes = check_env("env", &request.env, MAX_ENV_BYTES)?;
    check_env("secret_env", &request.secret_env, MAX_ENV_BYTES - bytes)?;
    check_labels(&request.labels)?;
    let workspace = Some(request.workspace).filter(|path| !path.is_empty());
    workspace.as_deref().map_or(Ok(()), check_workspace)?;
    let wish = Wish {
        image,
        env: request.env,
        labels: request.labels,
        limits: limits(&request.limits.unwrap_or_default())?,
        user: checked_user(request.user)?,
        workspace,
        idle: request.idle_timeout.map(idle_timeout).transpose()?,
        network: network(request.network)?,
        runtime: request.runtime.map(runtime).transpose()?,
        secret_env: request.secret_env.into(),
        secrets: secrets(request.secrets)?,
        secrets_digest: String::new(),
    };
    Ok((wish, key(request.idempotency_key)?))
}

/// Refuses one that no directory can be made for.
fn check_workspace(path: &str) -> Result<(), Fault> {
    const FIELD: &str = "workspace";
    bounded(FIELD, path, MAX_PATH)?;
    if !path.starts_with('/') {
        return Err(Fault::argument(FIELD, "is not an absolute path"));
    }
    match KERNELS.iter().find(|root| Path::new(path).starts_with(root)) {
        Some(root) => Err(Fault::argument(FIELD, format!("is in {root}, which is the kernel's own"))),
        None => Ok(()),
    }
}

/// Refuses more or longer labels than there may be.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Fault> {
    if labels.len() > MAX_LABELS {
        return Err(Fault::argument(
            "labels",
            format!("has {} entries, at most {MAX_LABELS} are allowed", labels.len()),
        ));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE {
            let message = format!("keys have 1 to {MAX_LABEL_KEY} bytes and values up to {MAX_LABEL_VALUE}");
            return Err(Fault::argument("labels", message));
        }
    }
    Ok(())
}

/// When a sandbox goes to sleep; zero is never.
///
/// # Errors
/// It is negative or too long.
pub fn idle_timeout(timeout: prost_types::Duration) -> Result<IdleTimeout, Fault> {
    match span(timeout) {
        Some(Duration::ZERO) => Ok(IdleTimeout::Never),
        Some(timeout) if timeout <= MAX_IDLE => Ok(IdleTimeout::After(timeout)),
        Some(_) | None => Err(Fault::argument("idle_timeout", format!("is 0 to {} s", MAX_IDLE.as_secs()))),
    }
}

/// Limits; those that are 0 are left out.
///
/// # Errors
/// The first that is too low or too high.
pub fn limits(limits: &proto::Limits) -> Result<Limits, Fault> {
    let at_least = |field: &'static str, value: u64, least: u64| match value {
        0 => Ok(None),
        // What was asked for is left out: HTTP counts in mebibytes, gRPC in bytes.
        value if value < least => Err(Fault::argument(field, format!("is less than {}", size(least)))),
        value => Ok(Some(value)),
    };
    let cpus = match limits.cpus {
        0.0 => None,
        cpus if (MIN_CPUS..=MAX_CPUS).contains(&cpus) => Some(cpus),
        cpus => {
            let message = format!("is {cpus}, {MIN_CPUS} to {MAX_CPUS} are allowed");
            return Err(Fault::argument("limits.cpus", message));
        }
    };
    if limits.pids > MAX_PIDS {
        return Err(Fault::argument(
            "limits.pids",
            format!("is more than {MAX_PIDS}, which is all that Linux counts to"),
        ));
    }
    Ok(Limits {
        memory: at_least("limits.memory_bytes", limits.memory_bytes, MIN_MEMORY)?,
        cpus,
        pids: at_least("limits.pids", limits.pids, MIN_PIDS)?,
        disk: at_least("limits.disk_bytes", limits.disk_bytes, MIN_DISK)?,
        bandwidth: at_least("limits.bandwidth", limits.bandwidth, MIN_BANDWIDTH)?,
    })
}

/// A count as people write it, with a unit of bytes where it is one.
fn size(count: u64) -> String {
    match count {
        count if count >= 1 << 20 => format!("{} MiB", count >> 20),
        count if count >= 1 << 10 => format!("{} KiB", count >> 10),
        count => count.to_string(),
    }
}

/// How deep it is to sleep.
///
/// # Errors
/// It is no tier.
pub fn tier(tier: i32) -> Result<Tier, Fault> {
    match proto::Tier::try_from(tier) {
        Ok(proto::Tier::Unspecified | proto::Tier::Frozen) => Ok(Tier::Frozen),
        Ok(proto::Tier::Stopped) => Ok(Tier::Stopped),
        Err(_) => Err(Fault::argument("tier", "is not a tier of this version")),
    }
}

/// A page of sandboxes: after which, and how many.
///
/// # Errors
/// The first bad field.
pub fn sandbox_page(request: &proto::ListSandboxesRequest) -> Result<(Option<SandboxId>, usize), Fault> {
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(token.parse().map_err(|_| Fault::argument("page_token", "is no page token"))?),
    };
    Ok((after, page_size(request.page_size, LIST_PAGE)? as usize))
}

/// A sandbox as it stands.
#[must_use]
pub fn sandbox(sandbox: &Sandbox, snapshot: &Snapshot) -> proto::Sandbox {
    let profile = sandbox.profile();
    let running = snapshot.hands.as_ref().map_or(0, |hands| hands.running());
    proto::Sandbox {
        id: profile.id.to_string(),
        phase: phase(&snapshot.phase).into(),
        generation: snapshot.generation,
        image: profile.image.to_string(),
        env: profile.env.clone(),
        labels: profile.labels.clone(),
        limits: Some(proto::Limits {
            memory_bytes: snapshot.limits.memory.unwrap_or(0),
            cpus: snapshot.limits.cpus.unwrap_or(0.0),
            pids: snapshot.limits.pids.unwrap_or(0),
            disk_bytes: snapshot.limits.disk.unwrap_or(0),
            bandwidth: snapshot.limits.bandwidth.unwrap_or(0),
        }),
        user: profile.user.clone().unwrap_or_default(),
        workspace: profile.workspace.clone(),
        network: Some(network_message(&snapshot.policy)),
        network_usage: snapshot.network.as_ref().map(|network| network_usage(network.usage())),
        created_at: Some(profile.created_at.into()),
        engine: profile.engine.clone(),
        failure: snapshot.phase.failure().map(failure),
        running: u32::try_from(running).unwrap_or(u32::MAX),
        tier: tier_message(snapshot.phase.tier()).into(),
        idle_timeout: match snapshot.idle {
            IdleTimeout::After(timeout) => prost_types::Duration::try_from(timeout).ok(),
            IdleTimeout::Never => None,
        },
        runtime: profile.runtime.as_ref().map(runtime_message),
        runtime_status: snapshot.runtime.as_ref().map(runtime_status),
        secret_env: profile.secret_env.iter().cloned().collect(),
        secrets: snapshot.secrets.iter().map(secret_message).collect(),
    }
}

fn phase(phase: &Phase) -> proto::Phase {
    match phase {
        Phase::Creating => proto::Phase::Creating,
        Phase::Running => proto::Phase::Running,
        Phase::Hibernating => proto::Phase::Hibernating,
        Phase::Hibernated(_) => proto::Phase::Hibernated,
        Phase::Waking(_) => proto::Phase::Waking,
        Phase::Crashed(_) => proto::Phase::Crashed,
        Phase::Failed(_) => proto::Phase::Failed,
        Phase::Destroying => proto::Phase::Destroying,
        Phase::Destroyed => proto::Phase::Destroyed,
    }
}

/// How deep it sleeps.
pub(super) fn tier_message(tier: Option<Tier>) -> proto::Tier {
    match tier {
        Some(Tier::Frozen) => proto::Tier::Frozen,
        Some(Tier::Stopped) => proto::Tier::Stopped,
        None => proto::Tier::Unspecified,
    }
}

/// Why it is not running.
pub(super) fn failure(failure: &Failure) -> proto::Failure {
    proto::Failure {
        reason: failure_reason(failure.kind).as_str_name().to_owned(),
        message: failure.message.to_string(),
    }
}

fn failure_reason(kind: FailureKind) -> ErrorReason {
    match kind {
        FailureKind::Create => ErrorReason::SandboxCreateFailed,
        FailureKind::Lost => ErrorReason::SandboxLost,
        FailureKind::Remove | FailureKind::Missing => ErrorReason::InternalFault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_a_directory_of_files() {
        let refused = |workspace: &str| {
            let request = proto::CreateSandboxRequest { workspace: workspace.to_owned(), ..Default::default() };
            wish(request).is_err()
        };
        for workspace in ["work", "/proc", "/proc/work", "/./sys/work"] {
            assert!(refused(workspace), "{workspace}");
        }
        for workspace in ["", "/", "/work", "/process"] {
            assert!(!refused(workspace), "{workspace}");
        }
    }
}
