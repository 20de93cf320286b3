//! When memory is short, and which sandbox then sleeps. Pure.

use std::cmp::Reverse;
use std::time::Duration;

use crate::ids::SandboxId;
use crate::sandbox::state::Tier;

/// How long a sandbox has to be idle before it sleeps for others: one between two commands would be woken at once.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// From when on memory is short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floors {
    /// Less than so many bytes are available; 0: however few.
    pub available: u64,
    /// In more than so many percent of the time something waited for memory; `None`: however long.
    pub stall: Option<f64>,
}

/// What was read of the node's memory; `None` where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// Bytes that are available.
    pub available: Option<u64>,
    /// Percent of the time since the last look in which something waited for memory.
    pub stall: Option<f64>,
}

/// A sandbox that nobody uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// Which.
    pub id: SandboxId,
    /// Since when nobody has.
    pub since: Duration,
    /// It stands still already.
    pub is_frozen: bool,
}

impl Floors {
    /// Memory is short.
    #[must_use]
    pub fn is_below(&self, memory: &Memory) -> bool {
        let is_little = memory.available.is_some_and(|available| available < self.available);
        let is_stalled = memory.stall.zip(self.stall).is_some_and(|(stall, most)| stall > most);
        is_little || is_stalled
    }
}

/// Who sleeps, and how deep, in the order in which it is to be tried: first all that are awake freeze, then all that are
/// frozen are stopped, each time the one first that nobody has used for longest.
#[must_use]
pub fn order(mut idle: Vec<Idle>) -> Vec<(SandboxId, Tier)> {
    idle.retain(|sandbox| sandbox.since >= LEAST_IDLE);
    idle.sort_by_key(|sandbox| (sandbox.is_frozen, Reverse(sandbox.since)));
    idle.into_iter().map(|sandbox| (sandbox.id, if sandbox.is_frozen { Tier::Stopped } else { Tier::Frozen })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOORS: Floors = Floors { available: 100, stall: Some(20.0) };

    fn idle(seconds: u64, is_frozen: bool) -> Idle {
        Idle { id: SandboxId::random(), since: Duration::from_secs(seconds), is_frozen }
    }

    #[test]
    fn either_floor_is_enough_and_what_is_not_told_is_none() {
        let memory = |available, stall| Memory { available, stall };
        assert!(FLOORS.is_below(&memory(Some(99), Some(0.0))));
        assert!(FLOORS.is_below(&memory(Some(1000), Some(20.1))));
        assert!(!FLOORS.is_below(&memory(Some(100), Some(20.0))));
        assert!(!FLOORS.is_below(&Memory::default()));
        let none = Floors { available: 0, stall: None };
        assert!(!none.is_below(&memory(Some(0), Some(100.0))));
    }

    #[test]
    fn the_longest_idle_freezes_first_and_is_stopped_when_all_are_frozen() {
        let all = [idle(5, false), idle(90, true), idle(60, false), idle(0, false), idle(9, true)];
        let ids = all.clone().map(|sandbox| sandbox.id);
        let expected = [(2, Tier::Frozen), (0, Tier::Frozen), (1, Tier::Stopped), (4, Tier::Stopped)];
        assert_eq!(order(all.to_vec()), expected.map(|(index, tier)| (ids[index].clone(), tier)));
    }
}
