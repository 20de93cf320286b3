//! How much one caller may ask for: calls a second, and calls at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Bounds of the calls of one caller, and of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Calls at once, of all callers.
    pub calls: usize,
    /// Calls at once, of one caller; streams that are open are calls.
    pub calls_per_client: usize,
    /// Calls a second of one caller, which may be saved up for one second; `None` is unlimited.
    pub rate: Option<u32>,
}

/// A bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Of calls at once, of all callers.
    #[error("the node has {0} calls under way, which is as many as it takes")]
    Calls(usize),
    /// Of calls at once, of this caller.
    #[error("the caller has {0} calls under way, which is as many as one may have")]
    CallsOfClient(usize),
    /// Of calls a second.
    #[error("the caller may make {0} calls a second")]
    Rate(u32),
}

/// Counts calls by their caller. There are as many entries as there are callers in the configuration, and a few more.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    clients: HashMap<String, Count>,
}

#[derive(Debug)]
struct Count {
    calls: usize,
    bucket: Bucket,
}

/// A call under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    meter: Meter,
    client: String,
}

impl Meter {
    /// Lets a call in.
    ///
    /// # Errors
    /// See [`Excess`].
    pub fn admit(&self, client: &str, limits: &Limits, now: Instant) -> Result<Ticket, Excess> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= limits.calls {
            return Err(Excess::Calls(limits.calls));
        }
        if !counts.clients.contains_key(client) {
            let bucket = Bucket::full(limits.rate, now);
            counts.clients.insert(client.to_owned(), Count { calls: 0, bucket });
        }
        let count = counts.clients.get_mut(client).expect("it is there by now");
        if count.calls >= limits.calls_per_client {
            return Err(Excess::CallsOfClient(limits.calls_per_client));
        }
        if let Some(rate) = limits.rate
            && !count.bucket.take(rate, now)
        {
            return Err(Excess::Rate(rate));
        }
        count.calls += 1;
        counts.all += 1;
        Ok(Ticket { meter: self.clone(), client: client.to_owned() })
    }

    /// Calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.meter.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(count) = counts.clients.get_mut(&self.client) {
            count.calls -= 1;
        }
    }
}

/// Calls that may be made now: it fills with time, up to those of one second.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    calls: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Option<u32>, now: Instant) -> Self {
        Self { calls: rate.map_or(0.0, f64::from), at: now }
    }

    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.calls = (self.calls + grown).min(rate);
        self.at = now;
        let is_there = self.calls >= 1.0;
        if is_there {
            self.calls -= 1.0;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits { calls: 3, calls_per_client: 2, rate: None };

    #[test]
    fn one_caller_leaves_room_for_another() {
        let (meter, now) = (Meter::default(), Instant::now());
        let first: Vec<_> = (0..2).map(|_| meter.admit("a", &LIMITS, now).unwrap()).collect();
        assert_eq!(meter.admit("a", &LIMITS, now).unwrap_err(), Excess::CallsOfClient(2));
        let other = meter.admit("b", &LIMITS, now).unwrap();
        assert_eq!(meter.admit("b", &LIMITS, now).unwrap_err(), Excess::Calls(3));
        drop(first);
        assert_eq!(meter.calls(), 1);
        assert!(meter.admit("b", &LIMITS, now).is_ok());
        drop(other);
        assert_eq!(meter.calls(), 0);
    }

    #[test]
    fn calls_beyond_the_rate_wait_for_time_to_pass() {
        let limits = Limits { rate: Some(2), ..LIMITS };
        let (meter, start) = (Meter::default(), Instant::now());
        let admit = |after: u64| meter.admit("a", &limits, start + Duration::from_millis(after)).map(drop);
        assert_eq!([admit(0), admit(0), admit(0)], [Ok(()), Ok(()), Err(Excess::Rate(2))]);
        assert_eq!([admit(499), admit(500), admit(501)], [Err(Excess::Rate(2)), Ok(()), Err(Excess::Rate(2))]);
        // What is saved up is never more than a second's.
        assert_eq!([admit(9000), admit(9000), admit(9000)], [Ok(()), Ok(()), Err(Excess::Rate(2))]);
    }
}
