//! What becomes of a cgroup, as `cgroup.events` tells it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::timeout;

use crate::guest::readiness;

/// Times that the file is read again before waiting for its notification, which the kernel delays by some 10 ms when
/// events come in quick succession.
const QUICK_READS: u32 = 8;

/// Longest wait for a notification before reading again anyway.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// The file has this line.
pub fn has(cgroup: &Path, line: &str) -> io::Result<bool> {
    let events = fs::read_to_string(cgroup.join("cgroup.events"))?;
    Ok(events.lines().any(|event| event == line))
}

/// Waits until the file has this line. Cancel-safe; the caller sets the deadline.
pub async fn wait(cgroup: &Path, line: &str) -> io::Result<()> {
    for _ in 0..QUICK_READS {
        if has(cgroup, line)? {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    let events = fs::File::open(cgroup.join("cgroup.events"))?;
    let events = readiness::watch(events.into(), Interest::PRIORITY)?;
    loop {
        if has(cgroup, line)? {
            return Ok(());
        }
        if let Ok(ready) = timeout(READ_AGAIN, events.ready(Interest::PRIORITY)).await {
            ready?.clear_ready();
        }
    }
}
