//! Bounds of a sandbox, and which of them a host can enforce. Pure.

use serde::{Deserialize, Serialize};

use super::EngineError;

/// Bytes that /dev/shm may hold; what Docker and most programs take for granted.
const SHARED_MEMORY: u64 = 64 << 20;

/// Bounds of a sandbox; `None` is unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// CPUs' worth of processor time.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of files written.
    pub disk: Option<u64>,
    /// Bytes a second that leave by an address of its own, and as many that come. What goes through the proxy is not the
    /// engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
}

impl Limits {
    /// Bytes that /dev/shm may hold: at most half of the memory. What is in there is freed by nobody's end, so that a
    /// sandbox which is full of it would have no room for a process that could remove it.
    #[must_use]
    pub fn shared_memory(&self) -> u64 {
        self.memory.map_or(SHARED_MEMORY, |memory| SHARED_MEMORY.min(memory / 2))
    }

    /// These, and those of `other` where there is none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory.or(other.memory),
            cpus: self.cpus.or(other.cpus),
            pids: self.pids.or(other.pids),
            disk: self.disk.or(other.disk),
            bandwidth: self.bandwidth.or(other.bandwidth),
        }
    }
}

/// Which limits the host can enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSupport {
    /// [`Limits::memory`]
    pub memory: bool,
    /// [`Limits::cpus`]
    pub cpus: bool,
    /// [`Limits::pids`]
    pub pids: bool,
    /// [`Limits::disk`]
    pub disk: bool,
}

impl LimitSupport {
    /// Checks that all of these can be enforced; what is missing is `controller` for those of cgroups, and `quota` for that of
    /// the disk.
    ///
    /// # Errors
    /// [`EngineError::LimitUnsupported`] for the first that cannot.
    pub(super) fn check(self, limits: &Limits, controller: &str, quota: &str) -> Result<(), EngineError> {
        let lacking = [
            ("memory_bytes", limits.memory.is_some() && !self.memory, controller),
            ("cpus", limits.cpus.is_some() && !self.cpus, controller),
            ("pids", limits.pids.is_some() && !self.pids, controller),
            ("disk_bytes", limits.disk.is_some() && !self.disk, quota),
        ];
        match lacking.into_iter().find(|(_, lacks, _)| *lacks) {
            Some((field, _, lack)) => Err(EngineError::LimitUnsupported { field, lack: lack.to_owned() }),
            None => Ok(()),
        }
    }
}
