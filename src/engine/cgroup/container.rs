//! Cgroups for the runs of containers that another engine has made.
//!
//! Where the controllers are in version 1 trees, the limits are there too, and the version 2 tree is free: runs are born
//! in a tree of our own, and the container's other processes stay where they are. Where all is in version 2, a process
//! that left its container's cgroup would leave its limits: runs are born below it. That needs no controllers there, and
//! so does not touch the rule that a cgroup with controllers for its children holds no processes (cgroups(7)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::{Controller, Host, Mode, Sandbox, Tree, ignore_missing};
use crate::ids::SandboxId;

/// Where the runs of containers are.
#[derive(Debug)]
pub enum Containers {
    /// In a tree of our own.
    Beside(Tree),
    /// Below the container's own cgroup.
    Below(Host),
}

impl Containers {
    /// Chooses the place. `None` if the host has none.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn open(host: Host, instance: &str) -> io::Result<Option<Self>> {
        match host.mode() {
            Mode::V2 => Ok(Some(Self::Below(host))),
            Mode::Hybrid => Ok(Tree::open(host, instance)?.map(Self::Beside)),
            Mode::V1 | Mode::None => Ok(None),
        }
    }

    /// The cgroups of the sandbox whose first process this is; it must be root on the node, too, to place runs.
    ///
    /// # Errors
    /// Those of the cgroup file system, and of reading the process's /proc/PID/cgroup.
    pub fn adopt(&self, id: &SandboxId, pid: u32) -> io::Result<Sandbox> {
        let sandbox = self.of(id, pid)?;
        if let Self::Beside(_) = self {
            fs::create_dir_all(&sandbox.unified)?;
        }
        Ok(sandbox)
    }

    /// The same where runs cannot be placed: the kernel's counts are all that it is good for, and nothing is made.
    ///
    /// # Errors
    /// Those of reading the process's /proc/PID/cgroup.
    pub fn watch(&self, id: &SandboxId, pid: u32) -> io::Result<Sandbox> {
        Ok(Sandbox { takes_runs: false, ..self.of(id, pid)? })
    }

    fn of(&self, id: &SandboxId, pid: u32) -> io::Result<Sandbox> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Ok(self.sandbox(id, &membership).ok_or(io::ErrorKind::NotFound)?)
    }

    /// The cgroups of a sandbox with this /proc/PID/cgroup. `None` if it is in none of its own.
    fn sandbox(&self, id: &SandboxId, membership: &str) -> Option<Sandbox> {
        let host = self.host();
        let unified = match self {
            Self::Beside(tree) => tree.sandbox(id, Uid::from_raw(0)).unified,
            Self::Below(host) => below(host.unified()?, unified_path(membership)?)?,
        };
        let (file, path) = if host.is_v1(Controller::Memory) {
            ("memory.oom_control", controller_path(membership, Controller::Memory))
        } else {
            ("memory.events", unified_path(membership))
        };
        let memory = host.mount(Controller::Memory).zip(path).and_then(|(mount, path)| below(mount, path));
        let oom_counter = memory.map(|directory| directory.join(file));
        let owner = Uid::from_raw(0);
        Some(Sandbox { unified, takes_runs: true, v1: Vec::new(), oom_counter, reclaim: None, owner })
    }

    /// Removes what [`Containers::adopt`] made of a container that is gone.
    ///
    /// # Errors
    /// Those of the cgroup file system; what is not there is fine.
    pub fn remove(&self, id: &SandboxId) -> io::Result<()> {
        match self {
            Self::Beside(tree) => {
                let sandbox = tree.sandbox(id, Uid::from_raw(0));
                ignore_missing(Sandbox { v1: Vec::new(), ..sandbox }.remove())
            }
            // It went with the container's.
            Self::Below(_) => Ok(()),
        }
    }

    /// The sandboxes of which there is a cgroup that [`Containers::remove`] would remove.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn list(&self) -> io::Result<Vec<SandboxId>> {
        match self {
            Self::Beside(tree) => tree.list(),
            Self::Below(_) => Ok(Vec::new()),
        }
    }

    fn host(&self) -> &Host {
        match self {
            Self::Beside(tree) => tree.host(),
            Self::Below(host) => host,
        }
    }
}

/// A cgroup below a mount; `None` for the mount itself, which is nobody's own.
fn below(mount: &Path, path: &str) -> Option<PathBuf> {
    let relative = path.trim_start_matches('/');
    (!relative.is_empty() && !relative.starts_with("..")).then(|| mount.join(relative))
}

/// The version 2 path in /proc/PID/cgroup (cgroups(7)).
fn unified_path(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The path in the version 1 tree of a controller.
fn controller_path(membership: &str, controller: Controller) -> Option<&str> {
    membership.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller.name()).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERSHIP: &str = "\
5:freezer:/docker/c0ffee
4:memory:/docker/c0ffee
3:cpu,cpuacct:/docker/c0ffee
1:name=systemd:/system.slice/docker.service
0::/system.slice/docker-c0ffee.scope
";

    fn id() -> SandboxId {
        SandboxId::random()
    }

    #[test]
    fn of_a_version_2_host_runs_are_below_the_container() {
        let host = Host::from_mountinfo("30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n");
        let containers = Containers::open(host, "0123").unwrap().unwrap();
        let sandbox = containers.sandbox(&id(), MEMBERSHIP).unwrap();
        assert_eq!(sandbox.unified, Path::new("/cg/system.slice/docker-c0ffee.scope"));
    }

    #[test]
    fn a_container_in_the_root_has_no_place_for_runs() {
        let host = Host::from_mountinfo("30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n");
        let containers = Containers::open(host, "0123").unwrap().unwrap();
        assert!(containers.sandbox(&id(), "0::/\n").is_none());
        assert!(containers.sandbox(&id(), "0::/../outside\n").is_none());
        assert!(containers.sandbox(&id(), "").is_none());
    }

    #[test]
    fn a_version_1_path_is_found_by_its_controller() {
        assert_eq!(controller_path(MEMBERSHIP, Controller::Cpu), Some("/docker/c0ffee"));
        assert_eq!(controller_path(MEMBERSHIP, Controller::Pids), None);
    }

    #[test]
    fn a_host_without_version_2_has_no_place() {
        let host = Host::from_mountinfo("27 25 0:24 / /cg/memory rw - cgroup cgroup rw,memory\n");
        assert!(Containers::open(host, "0123").unwrap().is_none());
    }
}
