//! Which processes belong to a run, and how they are ended.
//!
//! The ladder: SIGTERM to all, a grace, SIGKILL to all, and then it is looked whether they are really gone. With a cgroup
//! that is exact (`cgroup.kill` also gets what is being forked at that moment). Without one, the guest walks the process
//! tree below the run's keeper, again and again until nothing is left.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until, timeout};

use super::outcome::Killed;
use crate::engine::cgroup::{self, Member};
use crate::guest::client::Guest;
use crate::guest::wire::Process;
use crate::ids::RunId;

/// How long processes may take to be gone after SIGKILL. Only one that is stuck in the kernel takes longer than some
/// milliseconds, and nothing can be done about that one.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Between two walks of the process tree.
const SWEEP_AGAIN: Duration = Duration::from_millis(20);

/// How the processes of a run are found.
#[derive(Debug)]
pub enum Reach {
    /// They are in its cgroup.
    Cgroup(cgroup::Run),
    /// They are below its keeper.
    Keeper(Guest, RunId),
}

impl Reach {
    /// The processes are found by walking the process tree.
    pub fn is_degraded(&self) -> bool {
        matches!(self, Self::Keeper(..))
    }

    /// Nothing of the run is alive. If that cannot be told, the sandbox is going, and with it the run.
    pub async fn is_empty(&self) -> bool {
        match self {
            Self::Cgroup(cgroup) => cgroup.is_empty().unwrap_or(true),
            Self::Keeper(guest, run) => guest.sweep(run, 0).await.is_ok_and(|left| left.is_empty()),
        }
    }

    /// Ends all processes of the run; answers which there were.
    pub async fn end(&self, grace: Duration) -> Vec<Killed> {
        let mut killed = Vec::new();
        note(&mut killed, self.signal(Signal::SIGTERM).await);
        if self.empties_within(grace).await {
            return killed;
        }
        note(&mut killed, self.members().await);
        self.kill().await;
        if !self.empties_within(KILL_DEADLINE).await {
            tracing::error!(?self, "processes of a run outlived SIGKILL");
        }
        killed
    }

    /// Waits until nothing of the run is alive.
    pub async fn wait_empty(&self) {
        match self {
            // If it cannot be watched, it is not there any more.
            Self::Cgroup(cgroup) => cgroup.wait_empty().await.unwrap_or(()),
            Self::Keeper(..) => {
                while !self.is_empty().await && !self.is_lost() {
                    sleep_until(Instant::now() + SWEEP_AGAIN).await;
                }
            }
        }
    }

    /// Removes the cgroup, when it is empty.
    pub fn remove(&self) -> io::Result<()> {
        match self {
            Self::Cgroup(cgroup) => cgroup.remove(),
            Self::Keeper(..) => Ok(()),
        }
    }

    async fn empties_within(&self, limit: Duration) -> bool {
        timeout(limit, self.wait_empty()).await.is_ok()
    }

    fn is_lost(&self) -> bool {
        matches!(self, Self::Keeper(guest, _) if guest.is_lost())
    }

    async fn signal(&self, signal: Signal) -> Vec<Killed> {
        match self {
            Self::Cgroup(cgroup) => cgroup.signal(signal).unwrap_or_default().into_iter().map(from_member).collect(),
            Self::Keeper(guest, run) => {
                let found = guest.sweep(run, signal as i32).await.unwrap_or_default();
                found.into_iter().map(from_process).collect()
            }
        }
    }

    async fn members(&self) -> Vec<Killed> {
        match self {
            Self::Cgroup(cgroup) => cgroup.members().unwrap_or_default().into_iter().map(from_member).collect(),
            Self::Keeper(guest, run) => {
                guest.sweep(run, 0).await.unwrap_or_default().into_iter().map(from_process).collect()
            }
        }
    }

    async fn kill(&self) {
        match self {
            Self::Cgroup(cgroup) => {
                if let Err(error) = cgroup.kill() {
                    tracing::error!(%error, "the processes of a run could not be killed");
                }
            }
            Self::Keeper(guest, run) => {
                let until = Instant::now() + KILL_DEADLINE;
                while Instant::now() < until && guest.sweep(run, libc::SIGKILL).await.is_ok_and(|left| !left.is_empty())
                {
                    sleep_until(Instant::now() + SWEEP_AGAIN).await;
                }
            }
        }
    }
}

/// Adds those that are not there yet.
fn note(killed: &mut Vec<Killed>, more: Vec<Killed>) {
    for process in more {
        if !killed.contains(&process) {
            killed.push(process);
        }
    }
}

fn from_member(member: Member) -> Killed {
    Killed { pid: member.pid, name: member.name }
}

fn from_process(process: Process) -> Killed {
    Killed { pid: process.pid.unsigned_abs(), name: process.name }
}
