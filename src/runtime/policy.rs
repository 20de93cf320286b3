//! When a brain that crashed is started again, and when that is given up. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How crashes are dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Before the first start after a crash; doubles with each further one.
    pub first_delay: Duration,
    /// What it grows to at most.
    pub max_delay: Duration,
    /// So many crashes ...
    pub budget: u32,
    /// ... within so long are one too many.
    pub window: Duration,
}

impl Default for Policy {
    /// 1, 2, 4, 8 s, and the sixth crash within five minutes is the last. The first restart does not wait long: most
    /// crashes are single.
    fn default() -> Self {
        Self {
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(30),
            budget: 5,
            window: Duration::from_secs(300),
        }
    }
}

/// The crashes of a brain within the window. It is stored, so that a new daemon does not begin with a new budget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// In milliseconds since 1970, oldest first.
    crashes: Vec<u64>,
}

/// What is to be done about a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it again, after so long.
    RestartAfter(Duration),
    /// It crashes too often.
    GiveUp,
}

impl Policy {
    /// Enters a crash and decides. Crashes that are longer ago than the window are forgotten, so that one that has run
    /// well for so long begins anew.
    pub fn crashed(&self, history: &mut History, now: SystemTime) -> Decision {
        let now = u64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        history.crashes.retain(|at| now.saturating_sub(*at) < window);
        history.crashes.push(now);
        let count = u32::try_from(history.crashes.len()).unwrap_or(u32::MAX);
        if count > self.budget {
            return Decision::GiveUp;
        }
        let doublings = (count - 1).min(16);
        Decision::RestartAfter((self.first_delay * (1 << doublings)).min(self.max_delay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn delays_double_up_to_a_bound_and_then_it_is_given_up() {
        let policy = Policy { max_delay: Duration::from_secs(5), ..Policy::default() };
        let mut history = History::default();
        let decisions: Vec<_> = (0..6).map(|second| policy.crashed(&mut history, at(second))).collect();
        let after = |seconds| Decision::RestartAfter(Duration::from_secs(seconds));
        assert_eq!(decisions, [after(1), after(2), after(4), after(5), after(5), Decision::GiveUp]);
    }

    #[test]
    fn one_that_ran_well_for_the_window_begins_anew() {
        let policy = Policy::default();
        let mut history = History::default();
        for second in 0..5 {
            policy.crashed(&mut history, at(second));
        }
        assert_eq!(policy.crashed(&mut history, at(1000)), Decision::RestartAfter(Duration::from_secs(1)));
    }
}
