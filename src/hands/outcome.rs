//! How a run ended, decided from what was seen. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guest::client::ExitStatus;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// How its leader ended, as waitid(2) told it; `None` if that was lost with the sandbox.
    pub status: Option<ExitStatus>,
    /// Why.
    pub reason: Reason,
    /// All bytes written, kept or not.
    pub output_bytes: u64,
    /// Processes that were ended by us.
    pub killed: Vec<Killed>,
    /// Its processes were found by walking the process tree.
    pub degraded: bool,
    /// From its start to the end of its leader.
    pub elapsed: Duration,
}

impl Exited {
    /// Of a run whose task went with its sandbox.
    #[must_use]
    pub fn lost() -> Self {
        Self {
            status: None,
            reason: Reason::SandboxLost,
            output_bytes: 0,
            killed: Vec::new(),
            degraded: false,
            elapsed: Duration::ZERO,
        }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// By itself.
    Exited,
    /// By a signal that was not ours.
    Signaled,
    /// At its deadline.
    TimedOut,
    /// By a caller.
    Canceled,
    /// By the kernel, for want of memory.
    OomKilled,
    /// With the sandbox.
    SandboxLost,
}

impl Reason {
    /// Its name on every wire of text, and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::OomKilled => "oom_killed",
            Self::SandboxLost => "sandbox_lost",
        }
    }
}

/// A process that was ended by us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// Its id inside the sandbox; 0 if it was gone before it could be read.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// Why we ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its deadline passed.
    Deadline,
    /// A caller asked for it.
    Cancel,
}

/// What a shell answers for a child that SIGKILL ended.
const SHELL_SIGKILL: i32 = 128 + libc::SIGKILL;

/// Decides the reason: what we did ourselves comes first; a kill by the kernel is told from one by somebody else by the
/// sandbox's count of such kills having grown during the run.
#[must_use]
pub fn reason(status: Option<ExitStatus>, cause: Option<Cause>, oom_kills: u64) -> Reason {
    match (status, cause) {
        (None, _) => Reason::SandboxLost,
        (Some(_), Some(Cause::Deadline)) => Reason::TimedOut,
        (Some(_), Some(Cause::Cancel)) => Reason::Canceled,
        (Some(ExitStatus::Signal(libc::SIGKILL) | ExitStatus::Code(SHELL_SIGKILL)), None) if oom_kills > 0 => {
            Reason::OomKilled
        }
        (Some(ExitStatus::Signal(_)), None) => Reason::Signaled,
        (Some(ExitStatus::Code(_)), None) => Reason::Exited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_and_a_signal_are_told_apart() {
        assert_eq!(reason(Some(ExitStatus::Code(137)), None, 0), Reason::Exited);
        assert_eq!(reason(Some(ExitStatus::Signal(9)), None, 0), Reason::Signaled);
    }

    #[test]
    fn what_we_did_comes_before_what_the_kernel_did() {
        assert_eq!(reason(Some(ExitStatus::Signal(15)), Some(Cause::Deadline), 1), Reason::TimedOut);
        assert_eq!(reason(Some(ExitStatus::Code(0)), Some(Cause::Cancel), 0), Reason::Canceled);
    }

    #[test]
    fn a_kill_for_want_of_memory_is_known_by_the_count() {
        assert_eq!(reason(Some(ExitStatus::Signal(9)), None, 1), Reason::OomKilled);
        assert_eq!(reason(Some(ExitStatus::Code(137)), None, 2), Reason::OomKilled);
        // Something else was killed, and the command coped.
        assert_eq!(reason(Some(ExitStatus::Code(0)), None, 1), Reason::Exited);
        assert_eq!(reason(Some(ExitStatus::Signal(11)), None, 1), Reason::Signaled);
    }

    #[test]
    fn a_status_that_was_lost_is_never_an_exit() {
        for cause in [None, Some(Cause::Deadline), Some(Cause::Cancel)] {
            assert_eq!(reason(None, cause, 1), Reason::SandboxLost);
        }
    }
}
