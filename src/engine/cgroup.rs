//! Control groups: what the host offers, a sandbox's, and a run's.
//!
//! Limits go through whichever version holds the controller. Everything else needs a version 2 tree, with or without
//! controllers, as hybrid hosts have it too: there a sandbox has one cgroup, in which the guest lives, and below it one
//! for every run, by which the run's processes are found and killed together (cgroups(7)).
//!
//! ```text
//! <cgroup2>/<parent>/<instance>/<sandbox>             the guest; limits, if the controllers are here
//! <cgroup2>/<parent>/<instance>/<sandbox>/<run>       a run
//! <v1 controller>/<parent>/<instance>/<sandbox>       limits, if the controllers are there
//! ```
//!
//! The parent is "handsd" if it is not configured, and under systemd a slice, so that the node can bound all sandboxes.
//!
//! That is [`Tree`]. A container that another engine has made keeps the cgroups and limits that this gave it, and
//! [`Containers`] finds a place for its runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use tokio::time::timeout;

pub use container::Containers;
pub use host::{Controller, Host, Mode, PARENT};
pub use run::{Member, Run};

use super::Limits;
use crate::ids::{RunId, SandboxId};

mod container;
mod events;
mod host;
mod run;

/// How long processes may take to stand still, or to go on. They take some microseconds; 50 that spin, some milliseconds.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

/// Period over which processor time is counted, in microseconds: the kernel's own default.
const CPU_PERIOD: f64 = 100_000.0;

/// The cgroups of one daemon's sandboxes. Their place is removed with this, unless a sandbox is left in it.
#[derive(Debug)]
pub struct Tree {
    host: Host,
    /// Where version 2 is mounted.
    unified: PathBuf,
    /// Path of ours below every mount.
    base: PathBuf,
}

/// A sandbox's cgroups.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// In the version 2 tree.
    unified: PathBuf,
    /// Runs can be placed there; else it is good for the kernel's counts only.
    takes_runs: bool,
    /// In the version 1 trees of the controllers that limit something.
    v1: Vec<PathBuf>,
    /// Where the kernel counts processes that it killed for want of memory.
    oom_counter: Option<PathBuf>,
    /// Where the kernel is asked to reclaim memory, and what to write there.
    reclaim: Option<(PathBuf, &'static str)>,
    /// Who the guest is on the node: it must be able to place runs.
    owner: Uid,
}

impl Tree {
    /// Makes the place for sandboxes. `instance` tells this daemon's from those of another on the same host. `None` if
    /// the host has no version 2 tree that we may write to.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn open(mut host: Host, instance: &str) -> io::Result<Option<Self>> {
        let Some(unified) = host.unified().map(Path::to_owned) else { return Ok(None) };
        let base = host.parent().join(instance);
        match fs::create_dir_all(unified.join(&base)) {
            Ok(()) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let mut levels: Vec<&Path> = base.ancestors().collect();
        levels.reverse();
        for level in levels {
            host.delegate_controllers(&unified.join(level));
        }
        Ok(Some(Self { host, unified, base }))
    }

    /// The controllers that limits go through.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes a sandbox's cgroups with its limits. Processes enter them by [`Sandbox::v1_tasks`] and by being cloned into
    /// [`Sandbox::directory`].
    ///
    /// # Errors
    /// Those of the cgroup file system; nothing is left then.
    pub fn create(&self, id: &SandboxId, limits: &Limits, owner: Uid) -> io::Result<Sandbox> {
        let sandbox = self.sandbox(id, owner);
        let made = self.make(&sandbox, id, limits);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = sandbox.remove();
        }
        made.map(|()| sandbox)
    }

    fn make(&self, sandbox: &Sandbox, id: &SandboxId, limits: &Limits) -> io::Result<()> {
        for directory in sandbox.v1.iter().chain([&sandbox.unified]) {
            fs::create_dir_all(directory)?;
        }
        chown(&sandbox.unified.join("cgroup.procs"), sandbox.owner)?;
        self.set_limits(id, limits)
    }

    /// Sets limits; those that are `None` stay.
    ///
    /// # Errors
    /// Those of the cgroup file system: `Unsupported` without the controller, `EBUSY` for less memory than is in use.
    pub fn set_limits(&self, id: &SandboxId, limits: &Limits) -> io::Result<()> {
        for (controller, file, value) in settings(limits, &self.host) {
            let mount = self.host.mount(controller).ok_or(io::ErrorKind::Unsupported)?;
            write(&mount.join(&self.base).join(id.as_str()).join(file), &value)?;
        }
        Ok(())
    }

    /// A sandbox's cgroups as they are named, made or not.
    #[must_use]
    pub fn sandbox(&self, id: &SandboxId, owner: Uid) -> Sandbox {
        let below = self.base.join(id.as_str());
        let unified = self.unified.join(&below);
        let v1 = self.host.v1_mounts().map(|mount| mount.join(&below)).collect();
        let memory = self.host.mount(Controller::Memory);
        let (counter, reclaim) = if self.host.is_v1(Controller::Memory) {
            ("memory.oom_control", ("memory.force_empty", "0"))
        } else {
            // More than there is: as much as can be.
            ("memory.events", ("memory.reclaim", "1T"))
        };
        let file = |name: &str| memory.map(|mount| mount.join(&below).join(name));
        let reclaim = file(reclaim.0).map(|path| (path, reclaim.1));
        Sandbox { unified, takes_runs: true, v1, oom_counter: file(counter), reclaim, owner }
    }

    /// The sandboxes that have a cgroup.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn list(&self) -> io::Result<Vec<SandboxId>> {
        let entries = fs::read_dir(self.unified.join(&self.base))?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for mount in self.host.v1_mounts().chain([self.unified.as_path()]) {
            // What is not empty waits for the next start, and what was never made needs nothing. The parent stays: other
            // daemons may use it.
            let _ = fs::remove_dir(mount.join(&self.base));
        }
    }
}

/// What to write where for limits.
fn settings(limits: &Limits, host: &Host) -> Vec<(Controller, &'static str, String)> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory {
        let file = if host.is_v1(Controller::Memory) { "memory.limit_in_bytes" } else { "memory.max" };
        settings.push((Controller::Memory, file, bytes.to_string()));
    }
    if let Some(pids) = limits.pids {
        settings.push((Controller::Pids, "pids.max", pids.to_string()));
    }
    if let Some(cpus) = limits.cpus {
        let quota = (cpus * CPU_PERIOD).round();
        if host.is_v1(Controller::Cpu) {
            settings.push((Controller::Cpu, "cpu.cfs_quota_us", format!("{quota}")));
        } else {
            settings.push((Controller::Cpu, "cpu.max", format!("{quota} {CPU_PERIOD}")));
        }
    }
    settings
}

impl Sandbox {
    /// The directory into which the guest is cloned.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.unified
    }

    /// The `tasks` files of the version 1 trees, by which the first process moves itself in. A thread that does so takes no
    /// lock of the whole node; whoever writes to `cgroup.procs` does, and waits 10 ms for it if that is rarely done.
    pub fn v1_tasks(&self) -> impl Iterator<Item = PathBuf> {
        self.v1.iter().map(|directory| directory.join("tasks"))
    }

    /// Makes a run's cgroup.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn create_run(&self, id: &RunId) -> io::Result<Run> {
        let run = self.run(id);
        fs::create_dir(run.path())?;
        match chown(&run.path().join("cgroup.procs"), self.owner) {
            Ok(()) => Ok(run),
            Err(error) => {
                let _ = run.remove();
                Err(error)
            }
        }
    }

    /// Whether runs can have cgroups in it.
    #[must_use]
    pub fn takes_runs(&self) -> bool {
        self.takes_runs
    }

    /// A run's cgroup as it is named, made or not.
    #[must_use]
    pub fn run(&self, id: &RunId) -> Run {
        Run::new(self.unified.join(id.as_str()))
    }

    /// How many processes the kernel has killed so far because the sandbox's memory was used up.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let text = self.oom_counter.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Makes every process in it stand still, and waits until they do.
    ///
    /// # Errors
    /// Those of the cgroup file system; `TimedOut` if they do not in time. They go on then.
    pub async fn freeze(&self) -> io::Result<()> {
        write(&self.unified.join("cgroup.freeze"), "1")?;
        let frozen = timeout(FREEZE_DEADLINE, events::wait(&self.unified, "frozen 1")).await;
        let result = frozen.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if result.is_err() {
            write(&self.unified.join("cgroup.freeze"), "0")?;
        }
        result
    }

    /// They stand still.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn is_frozen(&self) -> io::Result<bool> {
        let events = fs::read_to_string(self.unified.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "frozen 1"))
    }

    /// Lets them go on, and waits until they do.
    ///
    /// # Errors
    /// As [`Sandbox::freeze`].
    pub async fn thaw(&self) -> io::Result<()> {
        write(&self.unified.join("cgroup.freeze"), "0")?;
        let thawed = timeout(FREEZE_DEADLINE, events::wait(&self.unified, "frozen 0")).await;
        thawed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Has the kernel page its memory out, as far as there is swap. Takes some 2 ms a MiB.
    pub fn page_out(&self) {
        if let Some((file, value)) = self.reclaim.as_ref().filter(|_| host::has_swap()) {
            // EAGAIN says that less went than was asked for, which is all there was.
            let _ = write(file, value);
        }
    }

    /// Kills every process in it.
    ///
    /// # Errors
    /// Those of the cgroup file system; of a cgroup that is not there, it does nothing.
    pub fn kill(&self) -> io::Result<()> {
        for run in self.runs()? {
            ignore_missing(run.kill())?;
        }
        ignore_missing(Run::new(self.unified.clone()).kill())
    }

    /// Removes the cgroups, which must be empty.
    ///
    /// # Errors
    /// Those of the cgroup file system; what is not there is fine.
    pub fn remove(&self) -> io::Result<()> {
        for run in self.runs()? {
            ignore_missing(run.remove())?;
        }
        for directory in self.v1.iter().chain([&self.unified]) {
            ignore_missing(fs::remove_dir(directory))?;
        }
        Ok(())
    }

    fn runs(&self) -> io::Result<Vec<Run>> {
        let entries = match fs::read_dir(&self.unified) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let directories = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(directories.map(|entry| Run::new(entry.path())).collect())
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A cgroup that is removed while its file is open.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result,
    }
}

/// Cgroup files take one value a write, and are never created.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

fn chown(path: &Path, owner: Uid) -> io::Result<()> {
    Ok(nix::unistd::chown(path, Some(owner), Some(Gid::from_raw(owner.as_raw())))?)
}

/// As a process of a cgroup is signalled; it may be gone by then.
fn signal(pid: i32, signal: Signal) {
    // The only errors are that it is gone or that it is not ours, and it is in a cgroup of ours.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}
