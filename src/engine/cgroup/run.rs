//! A run's cgroup: who is in it, and the end of them all.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::events;

/// What `cgroup.events` says of a cgroup in which nothing is alive.
const EMPTY: &str = "populated 0";

/// The cgroup of one run. Nothing in the sandbox can make cgroups below it.
#[derive(Debug, Clone)]
pub struct Run {
    path: PathBuf,
}

/// A process in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id on the node.
    pub node_pid: i32,
    /// Its id inside the sandbox; 0 if it was gone before it could be read.
    pub pid: u32,
    /// Its name, as in /proc/PID/comm.
    pub name: String,
}

impl Run {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For the guest, which clones the run's leader into it.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// Who is in it.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn members(&self) -> io::Result<Vec<Member>> {
        let procs = fs::read_to_string(self.path.join("cgroup.procs"))?;
        Ok(procs.lines().filter_map(|line| line.parse().ok()).map(member).collect())
    }

    /// Sends a signal to all of them; answers who they were.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn signal(&self, signal: Signal) -> io::Result<Vec<Member>> {
        let members = self.members()?;
        for member in &members {
            super::signal(member.node_pid, signal);
        }
        Ok(members)
    }

    /// Kills all of them at once, those that are being forked too (`cgroup.kill`, since Linux 5.14; before, one by one:
    /// call it again until it is empty).
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn kill(&self) -> io::Result<()> {
        match super::write(&self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.signal(Signal::SIGKILL).map(drop),
            result => result,
        }
    }

    /// Nothing alive is in it.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn is_empty(&self) -> io::Result<bool> {
        events::has(&self.path, EMPTY)
    }

    /// Waits until nothing alive is in it. Cancel-safe; the caller sets the deadline.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub async fn wait_empty(&self) -> io::Result<()> {
        events::wait(&self.path, EMPTY).await
    }

    /// Removes it; it must be empty.
    ///
    /// # Errors
    /// Those of the cgroup file system.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }
}

fn member(node_pid: i32) -> Member {
    let read = |file: &str| fs::read_to_string(format!("/proc/{node_pid}/{file}")).unwrap_or_default();
    Member { node_pid, pid: innermost_pid(&read("status")), name: read("comm").trim_end().to_owned() }
}

/// The last number of `NSpid` in /proc/PID/status: the id in the innermost PID namespace.
fn innermost_pid(status: &str) -> u32 {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_pid_is_the_last_one() {
        assert_eq!(innermost_pid("Name:\tsleep\nNSpid:\t4711\t12\nThreads:\t1\n"), 12);
        assert_eq!(innermost_pid("NSpid:\t4711\n"), 4711);
        assert_eq!(innermost_pid(""), 0);
    }
}
