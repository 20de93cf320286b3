//! What a sandbox has sent and got.
//!
//! Of what goes through the proxy, the daemon counts. Of a sandbox with an address of its own the kernel does, and is asked.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// What has gone out and come back so far. Connections are counted since a daemon began to serve the sandbox, and so are
/// bytes through the proxy; those of an address of its own since the sandbox has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connections that were made, and packets of UDP and ICMP that began an exchange.
    pub connected: u64,
    /// Connections that were refused by policy.
    pub refused: u64,
    /// Bytes that left the sandbox.
    pub sent: u64,
    /// Bytes that came to it.
    pub received: u64,
}

/// What is counted of the connections of a sandbox that has an address of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// As [`Usage::connected`].
    pub connected: u64,
    /// As [`Usage::refused`].
    pub refused: u64,
}

/// Who counts that.
pub trait Counter: fmt::Debug + Send + Sync {
    /// So far; at once.
    ///
    /// # Errors
    /// Those of the kernel.
    fn read(&self) -> io::Result<Counted>;
}

/// The usage of a sandbox with an address of its own, whose network /proc shows in this directory. What cannot be told,
/// because the sandbox is just gone, is zero.
pub fn of_address(proc: &Path, counter: Option<&dyn Counter>) -> Usage {
    let Counted { connected, refused } = counter.and_then(|counter| counter.read().ok()).unwrap_or_default();
    let (sent, received) = fs::read_to_string(proc.join("dev")).map(|table| bytes(&table)).unwrap_or_default();
    Usage { connected, refused, sent, received }
}

/// Bytes sent and received by all links but the loopback, in a table of proc_net(5), `dev`.
fn bytes(table: &str) -> (u64, u64) {
    let link = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let mut counts = counts.split_ascii_whitespace().map(|count| count.parse::<u64>().unwrap_or(0));
        // Eight numbers of what was received come before those of what was sent.
        let received = counts.next()?;
        (name.trim() != "lo").then_some((counts.nth(7)?, received))
    };
    table.lines().filter_map(link).fold((0, 0), |all, link| (all.0 + link.0, all.1 + link.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_not_counted_and_the_two_ways_are_told_apart() {
        let table = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0
  eth0:12345678    9000    0    0    0     0          0         0    43210     800    0    0    0     0       0          0
";
        assert_eq!(bytes(table), (43_210, 12_345_678));
        assert_eq!(bytes("eth0: 1 2"), (0, 0));
    }
}
