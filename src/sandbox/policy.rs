//! When what crashed is started again, and when that is given up. Pure.
//!
//! After each crash the wait doubles, up to a cap. What has then been up for a while starts with a clean slate. Too many
//! crashes in a window are the end.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// How patient to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Wait after the first crash.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
    /// Crashes within `window` that are too many.
    pub budget: usize,
    /// Over which crashes are counted.
    pub window: Duration,
    /// Uptime after which earlier crashes no longer count.
    pub stable: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            budget: 8,
            window: Duration::from_secs(600),
            stable: Duration::from_secs(120),
        }
    }
}

/// The crashes that still count, oldest first. It is stored, so that a restart of the daemon does not forget them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    crashes: Vec<SystemTime>,
}

/// What to do after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it again after so long.
    RestartAfter(Duration),
    /// Leave it.
    GiveUp {
        /// So many crashes in the window.
        crashes: usize,
    },
}

impl History {
    /// Notes a crash at `now` of what had been started at `started`.
    pub fn crashed(&mut self, policy: &Policy, started: SystemTime, now: SystemTime) -> Decision {
        let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
        if since(started) >= policy.stable {
            self.crashes.clear();
        }
        self.crashes.retain(|crash| since(*crash) < policy.window);
        self.crashes.push(now);
        let crashes = self.crashes.len();
        if crashes >= policy.budget {
            return Decision::GiveUp { crashes };
        }
        let doublings = u32::try_from(crashes - 1).unwrap_or(u32::MAX);
        let wait = policy.first.saturating_mul(2_u32.saturating_pow(doublings));
        Decision::RestartAfter(wait.min(policy.longest))
    }

    /// Forgets them all, because somebody asked for another try.
    pub fn clear(&mut self) {
        self.crashes.clear();
    }

    /// How many still count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.crashes.len()
    }

    /// None counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.crashes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> Policy {
        Policy { first: SECOND, longest: 8 * SECOND, budget: 6, window: 100 * SECOND, stable: 30 * SECOND }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_wait_doubles_up_to_its_cap_and_then_it_gives_up() {
        let mut history = History::default();
        let decisions: Vec<Decision> =
            (1..=6).map(|crash| history.crashed(&policy(), at(crash), at(crash + 1))).collect();
        let waits = [1, 2, 4, 8, 8].map(|seconds| Decision::RestartAfter(seconds * SECOND));
        assert_eq!(decisions[..5], waits);
        assert_eq!(decisions[5], Decision::GiveUp { crashes: 6 });
    }

    #[test]
    fn what_was_up_for_a_while_starts_anew() {
        let mut history = History::default();
        history.crashed(&policy(), at(0), at(1));
        history.crashed(&policy(), at(2), at(3));
        assert_eq!(history.crashed(&policy(), at(10), at(40)), Decision::RestartAfter(SECOND));
    }

    #[test]
    fn crashes_before_the_window_do_not_count() {
        let mut history = History::default();
        for second in [0, 10, 20, 30, 101] {
            history.crashed(&policy(), at(second), at(second));
        }
        assert_eq!(history.len(), 4);
    }

    proptest! {
        #[test]
        fn no_history_waits_longer_than_the_cap_or_counts_above_the_budget(gaps in prop::collection::vec(0_u64..50, 0..60)) {
            let (mut history, mut now) = (History::default(), 0);
            for gap in gaps {
                let started = now;
                now += gap;
                match history.crashed(&policy(), at(started), at(now)) {
                    Decision::RestartAfter(wait) => {
                        prop_assert!(wait >= SECOND && wait <= 8 * SECOND);
                        prop_assert!(history.len() < 6);
                    }
                    Decision::GiveUp { crashes } => {
                        prop_assert!(crashes >= 6);
                        history.clear();
                    }
                }
            }
        }
    }
}
