//! Samples, and what is taken of them.

use std::fmt;
use std::time::Duration;

/// What was measured, in rounds. A disturbance of the machine spoils a round or two; the median round is without it.
#[derive(Debug, Default)]
pub struct Series {
    rounds: Vec<Vec<Duration>>,
}

impl Series {
    /// Adds a round; one without samples is none.
    pub fn push(&mut self, mut samples: Vec<Duration>) {
        if !samples.is_empty() {
            samples.sort_unstable();
            self.rounds.push(samples);
        }
    }

    /// A quantile, 0 to 1, of the median round; `None` without a round.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let mut of_rounds: Vec<Duration> = self.rounds.iter().map(|samples| *at(samples, quantile)).collect();
        of_rounds.sort_unstable();
        (!of_rounds.is_empty()).then(|| *at(&of_rounds, 0.5))
    }

    /// Half of the samples are below.
    pub fn p50(&self) -> Option<Value> {
        self.quantile(0.5).map(Value::Time)
    }

    /// One of a hundred samples is above.
    pub fn p99(&self) -> Option<Value> {
        self.quantile(0.99).map(Value::Time)
    }
}

/// A quantile of sorted samples, of which there is at least one.
fn at<T>(sorted: &[T], quantile: f64) -> &T {
    #[expect(clippy::cast_possible_truncation, reason = "a place in a slice")]
    let place = ((sorted.len() - 1) as f64 * quantile).round() as usize;
    &sorted[place]
}

/// The median of rates, one from each round.
pub fn median_rate(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_unstable_by(f64::total_cmp);
    (!rates.is_empty()).then(|| *at(&rates, 0.5))
}

/// Something measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// How long it took.
    Time(Duration),
    /// Bytes a second.
    Speed(f64),
    /// Runs a second.
    Runs(f64),
    /// Memory in bytes.
    Memory(u64),
}

impl Value {
    /// How many times as expensive this is as `other`; of speeds, how many times slower.
    pub fn cost_over(self, other: Self) -> Option<f64> {
        match (self, other) {
            (Self::Time(this), Self::Time(other)) => Some(this.as_secs_f64() / other.as_secs_f64()),
            (Self::Speed(this), Self::Speed(other)) => Some(other / this),
            (Self::Runs(this), Self::Runs(other)) => Some(other / this),
            (Self::Memory(this), Self::Memory(other)) => Some(this as f64 / other as f64),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Time(time) if *time < Duration::from_millis(100) => format!("{:.2} ms", time.as_secs_f64() * 1e3),
            Self::Time(time) => format!("{:.0} ms", time.as_secs_f64() * 1e3),
            Self::Speed(speed) => format!("{:.2} GB/s", speed / 1e9),
            Self::Runs(runs) => format!("{runs:.0} /s"),
            Self::Memory(bytes) if *bytes < 1 << 20 => format!("{:.1} KiB", *bytes as f64 / 1024.0),
            Self::Memory(bytes) => format!("{:.1} MiB", *bytes as f64 / f64::from(1 << 20)),
        };
        formatter.pad(&text)
    }
}
