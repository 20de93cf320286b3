//! What the host offers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

/// A controller that a limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// `limits.memory_bytes`
    Memory,
    /// `limits.cpus`
    Cpu,
    /// `limits.pids`
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// Which versions are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Version 1 only.
    V1,
    /// Version 2 only.
    V2,
    /// Controllers in version 1, and a version 2 tree beside it.
    Hybrid,
    /// None, or turned off.
    None,
}

impl Mode {
    /// As Node.Info shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::None => "none",
        }
    }
}

/// Below which cgroup ours are, if nobody says otherwise.
pub const PARENT: &str = "handsd";

/// Where the trees are mounted, and which controllers are where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Below which cgroup ours are to be, relative to every mount.
    parent: PathBuf,
    unified: Option<PathBuf>,
    unified_controllers: Vec<Controller>,
    v1: BTreeMap<Controller, PathBuf>,
}

impl Host {
    /// Looks at this host.
    ///
    /// # Errors
    /// Those of reading /proc/self/mountinfo.
    pub fn probe() -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let mut host = Self::from_mountinfo(&mountinfo);
        if let Some(unified) = &host.unified {
            let controllers = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            let has = |controller: &Controller| controllers.split_whitespace().any(|name| name == controller.name());
            host.unified_controllers = Controller::ALL.into_iter().filter(has).collect();
        }
        Ok(host)
    }

    /// The mounts in a mountinfo (proc_pid_mountinfo(5)).
    pub(super) fn from_mountinfo(mountinfo: &str) -> Self {
        let mut host = Self { parent: PathBuf::from(PARENT), ..Self::default() };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) if host.unified.is_none() => host.unified = Some(mount),
                (Some("cgroup"), Some(options)) => {
                    let names = |controller: &Controller| options.split(',').any(|name| name == controller.name());
                    for controller in Controller::ALL.into_iter().filter(names) {
                        host.v1.entry(controller).or_insert_with(|| mount.clone());
                    }
                }
                _ => {}
            }
        }
        host
    }

    /// Mounts version 2 at `place` if it is not mounted anywhere, which a version 1 host can have beside its own trees
    /// (cgroups(7), "Cgroups v2 hybrid"): it has no controllers there, but holds runs together. Without the right to do
    /// so, the host stays as it is.
    ///
    /// # Errors
    /// Those of making the directory.
    pub fn mount_unified(&mut self, place: &Path) -> io::Result<()> {
        if self.unified.is_none() && !self.v1.is_empty() {
            fs::create_dir_all(place)?;
            match mount(Some("cgroup2"), place, Some("cgroup2"), MsFlags::empty(), None::<&str>) {
                Ok(()) => self.unified = Some(place.to_owned()),
                Err(error) => tracing::warn!(%error, "cgroup2 could not be mounted; runs are ended without it"),
            }
        }
        Ok(())
    }

    /// The same host, with our cgroups below another one: a path that is relative and leads nowhere else.
    #[must_use]
    pub fn below(self, parent: PathBuf) -> Self {
        Self { parent, ..self }
    }

    /// Below which cgroup ours are to be, relative to every mount.
    #[must_use]
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// Which versions there are.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (self.unified.is_some(), self.v1.is_empty()) {
            (true, true) => Mode::V2,
            (true, false) => Mode::Hybrid,
            (false, false) => Mode::V1,
            (false, true) => Mode::None,
        }
    }

    /// Where version 2 is mounted.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Where a controller is to be had.
    #[must_use]
    pub fn mount(&self, controller: Controller) -> Option<&Path> {
        let v2 = || self.unified().filter(|_| self.unified_controllers.contains(&controller));
        self.v1.get(&controller).map(PathBuf::as_path).or_else(v2)
    }

    /// A controller is in a version 1 tree.
    #[must_use]
    pub fn is_v1(&self, controller: Controller) -> bool {
        self.v1.contains_key(&controller)
    }

    /// The version 1 trees that limits need, each once: controllers may share one.
    pub fn v1_mounts(&self) -> impl Iterator<Item = &Path> {
        let mut mounts: Vec<&Path> = self.v1.values().map(PathBuf::as_path).collect();
        mounts.sort_unstable();
        mounts.dedup();
        mounts.into_iter()
    }

    /// Hands the controllers of a version 2 cgroup down to its children. One that cannot be handed down, because processes
    /// are in the cgroup itself or it is not ours to change, limits nothing below it.
    pub(super) fn delegate_controllers(&mut self, directory: &Path) {
        let Self { unified_controllers, v1, .. } = self;
        unified_controllers.retain(|controller| {
            let file = directory.join("cgroup.subtree_control");
            let handed = v1.contains_key(controller) || super::write(&file, &format!("+{}", controller.name())).is_ok();
            if !handed {
                tracing::warn!(controller = controller.name(), ?directory, "the controller cannot be handed down");
            }
            handed
        });
    }
}

/// There is swap, on disk or in compressed memory.
pub(super) fn has_swap() -> bool {
    // The first line is the heading (proc_swaps(5)).
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_is_told_from_its_mounts() {
        let host = Host::from_mountinfo(HYBRID);
        assert_eq!(host.mode(), Mode::Hybrid);
        assert_eq!(host.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(host.mount(Controller::Cpu), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(host.mount(Controller::Pids), None);
        assert!(host.is_v1(Controller::Memory));
    }

    #[test]
    fn a_version_2_host_has_its_controllers_in_one_tree() {
        let mut host = Host::from_mountinfo("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        host.unified_controllers = vec![Controller::Memory];
        assert_eq!(host.mode(), Mode::V2);
        assert_eq!(host.mount(Controller::Memory), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(host.mount(Controller::Cpu), None);
    }

    #[test]
    fn no_mounts_are_no_cgroups() {
        assert_eq!(Host::from_mountinfo("22 1 8:1 / / rw - ext4 /dev/vda rw\nnonsense\n").mode(), Mode::None);
    }
}
