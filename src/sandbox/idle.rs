//! When a sandbox is idle.
//!
//! Whoever uses a sandbox holds a [`Lease`]: a run for as long as it runs, a file operation, a stream with input. Looking
//! at it takes none. A sandbox is idle when nobody has held a lease for a while; to put it to sleep, the driver closes the
//! [`Activity`] under its lock, so that nobody can take a lease between the decision and the deed, and whoever comes then
//! has to wake it first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Who uses a sandbox, and since when nobody does. A leaf, locked for a few instructions.
#[derive(Debug, Clone)]
pub struct Activity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when the last lease is returned.
    returned: Notify,
}

#[derive(Debug)]
struct State {
    leases: usize,
    last: Instant,
    asleep: bool,
}

/// Somebody uses the sandbox.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
}

impl Activity {
    /// Of a sandbox that nobody can use yet.
    #[must_use]
    pub fn new() -> Self {
        let state = State { leases: 0, last: Instant::now(), asleep: true };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), returned: Notify::new() }) }
    }

    /// Takes a lease; `None` if the sandbox is asleep.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        let mut state = self.shared.lock();
        if state.asleep {
            return None;
        }
        state.leases += 1;
        Some(Lease { shared: Arc::clone(&self.shared) })
    }

    /// Counts as use.
    pub fn touch(&self) {
        self.shared.lock().last = Instant::now();
    }

    /// For how long nobody has used the sandbox; `None` while somebody does.
    #[must_use]
    pub fn unused(&self) -> Option<Duration> {
        let state = self.shared.lock();
        (state.leases == 0).then(|| state.last.elapsed())
    }

    /// Lets nobody in any more, if nobody is in and nobody has been for `timeout`.
    #[must_use]
    pub fn close_if_idle(&self, timeout: Duration) -> bool {
        let mut state = self.shared.lock();
        let is_idle = state.leases == 0 && state.last.elapsed() >= timeout;
        state.asleep |= is_idle;
        is_idle
    }

    /// Lets nobody in any more, whoever is in.
    pub fn close(&self) {
        self.shared.lock().asleep = true;
    }

    /// Lets everybody in again; counts as use.
    pub fn open(&self) {
        let mut state = self.shared.lock();
        state.asleep = false;
        state.last = Instant::now();
    }

    /// Waits until nobody has used the sandbox for `timeout`. Cancel-safe.
    pub async fn idle(&self, timeout: Duration) {
        loop {
            // Heard from here on, so that a return after the look is not missed.
            let mut returned = std::pin::pin!(self.shared.returned.notified());
            returned.as_mut().enable();
            let until = {
                let state = self.shared.lock();
                (state.leases == 0).then(|| state.last + timeout)
            };
            match until {
                Some(until) if until <= Instant::now() => return,
                // Use in the meantime is seen then; it does not have to wake us each time.
                Some(until) => sleep_until(until).await,
                None => returned.await,
            }
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    /// No change is made in more than one step that could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.leases -= 1;
        state.last = Instant::now();
        if state.leases == 0 {
            self.shared.returned.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn awake() -> Activity {
        let activity = Activity::new();
        activity.open();
        activity
    }

    #[tokio::test(start_paused = true)]
    async fn a_sandbox_in_use_is_not_idle_however_long() {
        let activity = awake();
        let lease = activity.lease().unwrap();
        assert!(tokio::time::timeout(TIMEOUT * 100, activity.idle(TIMEOUT)).await.is_err());
        assert!(!activity.close_if_idle(Duration::ZERO));
        drop(lease);
        let before = Instant::now();
        activity.idle(TIMEOUT).await;
        assert_eq!(before.elapsed(), TIMEOUT);
        assert!(activity.close_if_idle(TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_the_last_lease_hear_of_its_return() {
        let activity = awake();
        let lease = activity.lease().unwrap();
        let both = async { tokio::join!(activity.idle(Duration::ZERO), activity.idle(Duration::ZERO)) };
        tokio::join!(both, async { drop(lease) });
    }

    #[tokio::test(start_paused = true)]
    async fn use_in_the_meantime_begins_the_wait_anew() {
        let activity = awake();
        let idle = activity.idle(TIMEOUT);
        let user = async {
            sleep_until(Instant::now() + TIMEOUT / 2).await;
            drop(activity.lease());
        };
        let before = Instant::now();
        tokio::join!(idle, user);
        assert_eq!(before.elapsed(), TIMEOUT * 3 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_before_it_sleeps_keeps_it_awake() {
        let activity = awake();
        activity.idle(TIMEOUT).await;
        let lease = activity.lease();
        assert!(lease.is_some());
        assert!(!activity.close_if_idle(TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gets_in_while_it_sleeps() {
        let activity = awake();
        assert!(activity.close_if_idle(Duration::ZERO));
        assert!(activity.lease().is_none());
        activity.open();
        assert!(activity.lease().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_touch_counts_as_use() {
        let activity = awake();
        tokio::time::advance(TIMEOUT).await;
        activity.touch();
        assert!(!activity.close_if_idle(TIMEOUT));
    }
}
