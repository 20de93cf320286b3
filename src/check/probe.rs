//! Looks at the host. Reads only: nothing is mounted, made or started to see whether it would work.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};

use super::proc::{self, Mount};
use super::{Cgroups, Hierarchy, Host, Overlayfs, StateDir, Swap, User, UserNamespaces, docker};
use crate::engine::nat;

/// What this host can do. `docker_host` is the value of `DOCKER_HOST`. Takes at most a second, which an engine of Docker's
/// that does not answer is given; it blocks.
#[must_use]
pub fn probe(state_dir: &Path, docker_host: Option<&str>) -> Host {
    let user = user();
    let mounts = proc::mounts(&read("/proc/self/mountinfo"));
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    Host {
        architecture: std::env::consts::ARCH.to_owned(),
        user,
        user_namespaces: user_namespaces(),
        overlayfs: overlayfs(&kernel),
        cgroups: cgroups(&mounts, user),
        swap: swap(),
        seccomp: words("/proc/sys/kernel/seccomp/actions_avail"),
        nftables: nat::probe().is_ok(),
        legacy_filter: words("/proc/net/ip_tables_names").iter().any(|table| table == "filter"),
        state: state(state_dir, &mounts),
        docker: docker::find(docker_host),
        kernel,
    }
}

/// Missing or unreadable is as good as empty.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn words(path: impl AsRef<Path>) -> Vec<String> {
    read(path).split_whitespace().map(str::to_owned).collect()
}

fn user() -> User {
    match (geteuid().is_root(), proc::may_mount(&read("/proc/self/status"))) {
        (true, true) => User::Root,
        (true, false) => User::WeakRoot,
        (false, _) => User::Rootless,
    }
}

fn user_namespaces() -> UserNamespaces {
    UserNamespaces {
        built: Path::new("/proc/self/ns/user").exists(),
        max: read("/proc/sys/user/max_user_namespaces").trim().parse().unwrap_or(0),
        debian_forbids: read("/proc/sys/kernel/unprivileged_userns_clone").trim() == "0",
        apparmor_forbids: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").trim() == "1",
    }
}

fn overlayfs(kernel: &str) -> Overlayfs {
    if read("/proc/filesystems").lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        return Overlayfs::Present;
    }
    let modules = read(Path::new("/lib/modules").join(kernel).join("modules.dep"));
    if modules.contains("/overlayfs/overlay.ko") { Overlayfs::Module } else { Overlayfs::Missing }
}

fn cgroups(mounts: &[Mount], user: User) -> Cgroups {
    let unified = mounts.iter().find(|mount| mount.filesystem == "cgroup2");
    let v1 = mounts.iter().filter(|mount| mount.filesystem == "cgroup" && !mount.v1_controllers().is_empty());
    Cgroups {
        v2: unified.map(|mount| {
            let place = place_of_ours(mount, user);
            let controllers = words(place.join("cgroup.controllers"));
            Hierarchy { mount: mount.point.clone(), controllers, writable: writable(&place) }
        }),
        kill: unified.is_some_and(has_kill),
        v1: v1
            .map(|mount| Hierarchy {
                mount: mount.point.clone(),
                controllers: mount.v1_controllers(),
                writable: writable(&mount.point),
            })
            .collect(),
    }
}

/// Root may make cgroups anywhere, others only below their own and only if it was delegated to them.
fn place_of_ours(mount: &Mount, user: User) -> PathBuf {
    match user {
        User::Root | User::WeakRoot => mount.point.clone(),
        User::Rootless => {
            let cgroup = read("/proc/self/cgroup");
            // Without a place of its own the process has none that it may write to; the top says so.
            mount.point.join(proc::own_cgroup(&cgroup).unwrap_or_default())
        }
    }
}

fn writable(directory: &Path) -> bool {
    access(directory, AccessFlags::W_OK).is_ok() && access(&directory.join("cgroup.procs"), AccessFlags::W_OK).is_ok()
}

/// Every cgroup but the topmost has `cgroup.kill`, or none has.
fn has_kill(unified: &Mount) -> bool {
    let release = read("/proc/sys/kernel/osrelease");
    let new_enough = proc::kernel_version(&release).is_some_and(|version| version >= (5, 14));
    let children = fs::read_dir(&unified.point).into_iter().flatten().flatten();
    new_enough || children.into_iter().any(|child| child.path().join("cgroup.kill").exists())
}

fn swap() -> Swap {
    proc::swap(&read("/proc/swaps"))
}

fn state(state_dir: &Path, mounts: &[Mount]) -> StateDir {
    // Before the first start the directory is missing; it will be made on the file system of what is there of its way.
    let existing = state_dir.ancestors().find_map(|path| fs::canonicalize(path).ok());
    let path = existing.unwrap_or_else(|| state_dir.to_owned());
    let mount = proc::mount_of(mounts, &path);
    StateDir {
        free: statvfs(&path).ok().map(|stat| stat.blocks_available().saturating_mul(stat.fragment_size())),
        filesystem: mount.map(|mount| mount.filesystem.clone()),
        // ext4 says "prjquota"; XFS takes "pquota" as well, but says "prjquota" too.
        project_quotas: mount.is_some_and(|mount| mount.has_option("prjquota")),
        path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report;

    #[test]
    fn this_host_is_probed_and_judged() {
        let host = probe(Path::new("/nonexistent/handsd"), Some("unix:///nonexistent/docker.sock"));
        assert!(host.kernel_version().is_some(), "{host:?}");
        assert!(host.state.free.is_some() && host.state.filesystem.is_some(), "{host:?}");
        assert_eq!(host.state.path, Path::new("/"));
        assert_eq!(host.docker, super::super::Docker::Absent);
        assert!(!report(&host).is_empty());
    }

    #[test]
    fn a_missing_file_is_as_good_as_empty() {
        assert_eq!(read("/nonexistent"), "");
        assert!(words("/nonexistent").is_empty());
    }
}
