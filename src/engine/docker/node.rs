//! What Docker and its node can do.

use std::path::Path;

use bollard::models::SystemInfo;

use super::settings::CONTAINERD;
use super::{UserNamespace, seccomp};
use crate::engine::{EngineError, LimitSupport};

/// What Docker and its node can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Which limits it can enforce.
    pub support: LimitSupport,
    /// The system call filter, if Docker would apply its own default.
    pub seccomp: Option<String>,
    /// Who the sandboxes' root is on the node.
    pub root: (u32, u32),
}

impl Node {
    /// As Docker says it.
    pub fn of(info: &SystemInfo, user_namespace: UserNamespace) -> Self {
        let options = info.security_options.as_deref().unwrap_or_default();
        let has = |wanted: &str| options.iter().any(|option| option.split(',').any(|part| part == wanted));
        // The default is called so up to version 20.10, and builtin from then on. Any other is the operator's choice.
        let is_default = has("name=seccomp") && (has("profile=default") || has("profile=builtin"));
        let is_remapped = has("name=userns") && user_namespace == UserNamespace::Engine;
        Self {
            support: LimitSupport {
                memory: info.memory_limit.unwrap_or_default(),
                cpus: info.cpu_cfs_quota.unwrap_or_default(),
                pids: info.pids_limit.unwrap_or_default(),
                disk: false,
            },
            seccomp: is_default.then(seccomp::profile),
            root: info.docker_root_dir.as_deref().filter(|_| is_remapped).and_then(remapped_root).unwrap_or((0, 0)),
        }
    }
}

/// Sees to it that Docker knows a runtime.
///
/// # Errors
/// [`EngineError::RuntimeUnknown`]
pub fn check_runtime(info: &SystemInfo, runtime: &str) -> Result<(), EngineError> {
    let known = info.runtimes.iter().flatten().map(|(name, _)| name.clone());
    let mut known: Vec<String> = known.collect();
    // By its whole name, a runtime of containerd needs nobody to have told Docker of it.
    if runtime.starts_with(CONTAINERD) || known.iter().any(|name| name == runtime) {
        return Ok(());
    }
    known.sort_unstable();
    Err(EngineError::RuntimeUnknown { runtime: runtime.to_owned(), known })
}

/// Docker that remaps users keeps its data in a directory that is named after the ids of their root.
fn remapped_root(data: &str) -> Option<(u32, u32)> {
    let (uid, gid) = Path::new(data).file_name()?.to_str()?.split_once('.')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(options: &[&str], data: &str) -> Node {
        let info = SystemInfo {
            security_options: Some(options.iter().map(|&option| option.to_owned()).collect()),
            docker_root_dir: Some(data.to_owned()),
            memory_limit: Some(true),
            ..SystemInfo::default()
        };
        Node::of(&info, UserNamespace::Engine)
    }

    #[test]
    fn only_dockers_own_default_filter_is_replaced() {
        assert!(node(&["name=seccomp,profile=default"], "/d").seccomp.is_some());
        assert!(node(&["name=apparmor", "name=seccomp,profile=builtin"], "/d").seccomp.is_some());
        assert!(node(&["name=seccomp,profile=/etc/ours.json"], "/d").seccomp.is_none());
        assert!(node(&[], "/d").seccomp.is_none());
    }

    #[test]
    fn a_remapped_root_is_told_by_dockers_directory() {
        assert_eq!(node(&["name=userns"], "/var/lib/docker/231072.231072").root, (231_072, 231_072));
        assert_eq!(node(&[], "/var/lib/docker/231072.231072").root, (0, 0));
        assert_eq!(node(&["name=userns"], "/var/lib/docker").root, (0, 0));
    }

    #[test]
    fn a_runtime_is_known_by_the_name_that_docker_was_told_or_by_its_whole_one() {
        let names = ["runc", "own"].map(|name| (name.to_owned(), bollard::models::Runtime::default()));
        let info = SystemInfo { runtimes: Some(names.into()), ..SystemInfo::default() };
        for runtime in ["runc", "own", "io.containerd.runsc.v1"] {
            assert!(check_runtime(&info, runtime).is_ok(), "{runtime}");
        }
        let refused = check_runtime(&info, "runsc").unwrap_err();
        let said = "engine.docker.runtime: Docker has no runtime \"runsc\"; it has own, runc";
        assert_eq!(refused.to_string(), said);
    }

    #[test]
    fn a_limit_that_docker_does_not_speak_of_is_not_supported() {
        assert_eq!(node(&[], "/d").support, LimitSupport { memory: true, cpus: false, pids: false, disk: false });
    }
}
