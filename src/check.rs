//! What this host can do for sandboxes, what it lacks, and what to do about it.
//!
//! [`probe()`] looks at the host and changes nothing on it: it reads files and asks Docker's socket for a sign of life.
//! [`report()`] judges what was seen and is pure, and so is [`render()`], which prints the judgement for people.
//! [`brains()`] asks the programs that think for their versions.

use std::fmt;
use std::path::PathBuf;

pub use brains::brains;
pub use docker::Docker;
pub use probe::probe;
pub use render::render;
pub use report::{Finding, State, report};

mod brains;
mod docker;
mod probe;
mod proc;
mod render;
mod report;

/// What was seen of a host. What could not be read counts as missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// The processor's architecture, as Rust names it.
    pub architecture: String,
    /// Who this process is.
    pub user: User,
    /// Whether users of their own can be made.
    pub user_namespaces: UserNamespaces,
    /// Whether directories can be stacked.
    pub overlayfs: Overlayfs,
    /// The cgroup hierarchies.
    pub cgroups: Cgroups,
    /// Where memory can be put that nobody uses.
    pub swap: Swap,
    /// What a system call filter can do; empty if there are none.
    pub seccomp: Vec<String>,
    /// The kernel lets this process make rules for packets (nf_tables).
    pub nftables: bool,
    /// Packets that are passed on go through a filter of iptables-legacy, too.
    pub legacy_filter: bool,
    /// Where state is kept.
    pub state: StateDir,
    /// Whether there is a Docker engine.
    pub docker: Docker,
}

/// Who a process is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Root, and may mount.
    Root,
    /// Root by number only, without CAP_SYS_ADMIN: a container's.
    WeakRoot,
    /// Anybody else; sandboxes then hold one user only.
    Rootless,
}

/// Whether users of their own can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserNamespaces {
    /// The kernel was built with them.
    pub built: bool,
    /// How many there may be at once (`user.max_user_namespaces`).
    pub max: u64,
    /// Debian's switch forbids them to all but root (`kernel.unprivileged_userns_clone` is 0).
    pub debian_forbids: bool,
    /// AppArmor forbids them to unconfined programs other than root's (`kernel.apparmor_restrict_unprivileged_userns`).
    pub apparmor_forbids: bool,
}

/// Whether the kernel has overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlayfs {
    /// It is there.
    Present,
    /// The first mount loads it.
    Module,
    /// It is not.
    Missing,
}

/// The cgroup hierarchies that are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// The unified one.
    pub v2: Option<Hierarchy>,
    /// Those of version 1 that have controllers.
    pub v1: Vec<Hierarchy>,
    /// The unified one has `cgroup.kill`, which ends all processes of a cgroup at once.
    pub kill: bool,
}

/// A cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What it can limit, here: for root at its top, for others in their own cgroup.
    pub controllers: Vec<String>,
    /// Cgroups can be made there.
    pub writable: bool,
}

/// Which versions of cgroups a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Version 1 only.
    V1,
    /// Version 2 only.
    V2,
    /// Controllers on version 1, and the unified hierarchy beside it.
    Hybrid,
    /// Neither.
    None,
}

/// Where memory can be put that nobody uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    /// All of it, in bytes.
    pub bytes: u64,
    /// Some of it is compressed memory.
    pub zram: bool,
}

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    /// The directory, or what is there of the way to it.
    pub path: PathBuf,
    /// Bytes that may still be written there.
    pub free: Option<u64>,
    /// Type of its file system.
    pub filesystem: Option<String>,
    /// Its file system is mounted with project quotas, which bound a directory.
    pub project_quotas: bool,
}

impl Host {
    /// Which versions of cgroups there are.
    #[must_use]
    pub fn cgroup_mode(&self) -> CgroupMode {
        match (&self.cgroups.v2, self.cgroups.v1.is_empty()) {
            (Some(_), true) => CgroupMode::V2,
            (Some(_), false) => CgroupMode::Hybrid,
            (None, false) => CgroupMode::V1,
            (None, true) => CgroupMode::None,
        }
    }

    /// What this host lacks, one sentence each.
    #[must_use]
    pub fn lacks(&self) -> Vec<String> {
        let lacking = report(self).into_iter().filter(|finding| finding.state == State::Lacking);
        lacking.map(|finding| finding.detail).collect()
    }

    /// The kernel's version, major and minor.
    fn kernel_version(&self) -> Option<(u32, u32)> {
        proc::kernel_version(&self.kernel)
    }
}

impl Cgroups {
    /// The hierarchy in which a controller can be used.
    fn usable(&self, controller: &str) -> Option<&Hierarchy> {
        let mut hierarchies = self.v2.iter().chain(&self.v1).filter(|hierarchy| hierarchy.writable);
        hierarchies.find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }
}

impl fmt::Display for CgroupMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::None => "none",
        })
    }
}
