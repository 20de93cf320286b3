//! How many bytes a second may go each way, for all connections of a sandbox together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// What may go at once after a while of silence: as much as goes in so long.
const BURST: Duration = Duration::from_millis(100);

/// Both ways of a sandbox; by default, nothing waits.
#[derive(Debug, Default)]
pub struct Pace {
    /// Out of the sandbox.
    pub forth: Bucket,
    /// Into it.
    pub back: Bucket,
}

/// A bucket of bytes that fills at a rate. It may be overdrawn, and who does so waits until it is level again: so every
/// piece goes as a whole, and those that come at the same time take turns.
#[derive(Debug, Default)]
pub struct Bucket(Mutex<Level>);

#[derive(Debug, Default)]
struct Level {
    /// Bytes a second; `None`: as many as come.
    rate: Option<u64>,
    /// Bytes that may go; below zero, those that have gone too early.
    bytes: f64,
    /// When that was.
    at: Option<Instant>,
}

impl Pace {
    /// So many bytes a second each way; `None`: as many as come.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        let pace = Self::default();
        pace.set(rate);
        pace
    }

    /// Changes it, for what goes from now on.
    pub fn set(&self, rate: Option<u64>) {
        for bucket in [&self.forth, &self.back] {
            bucket.0.lock().unwrap_or_else(PoisonError::into_inner).rate = rate;
        }
    }
}

impl Bucket {
    /// Waits until so many bytes may have gone.
    pub async fn take(&self, bytes: usize) {
        let wait = self.0.lock().unwrap_or_else(PoisonError::into_inner).draw(bytes, Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

impl Level {
    /// How long it takes until the bucket is level again.
    #[expect(clippy::cast_precision_loss, reason = "a byte in 2^53 is nobody's loss")]
    fn draw(&mut self, bytes: usize, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let rate = rate as f64;
        let full = rate * BURST.as_secs_f64();
        let since = self.at.map_or(BURST, |at| now.duration_since(at));
        self.bytes = (self.bytes + rate * since.as_secs_f64()).min(full) - bytes as f64;
        self.at = Some(now);
        Duration::from_secs_f64((-self.bytes / rate).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_at_the_rate_whoever_takes_them() {
        let (pace, began) = (Pace::new(Some(1000)), Instant::now());
        let (one, other) = (
            async {
                for _ in 0..50 {
                    pace.forth.take(100).await
                }
            },
            async {
                for _ in 0..50 {
                    pace.forth.take(100).await
                }
            },
        );
        tokio::join!(one, other);
        // But for the burst at the beginning.
        assert!(
            (Duration::from_millis(9_800)..=Duration::from_millis(10_100)).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
        let began = Instant::now();
        pace.back.take(100).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "the other way is its own");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits_and_a_new_one_holds_from_now_on() {
        let (pace, began) = (Pace::default(), Instant::now());
        pace.back.take(1 << 30).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        pace.set(Some(1000));
        pace.back.take(1100).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
