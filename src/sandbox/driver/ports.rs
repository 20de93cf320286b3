//! Which ports are listened on inside, told as events of the node.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Driver;
use crate::network::port_changes;

/// Between two looks at a sandbox that is awake: as soon as people expect to hear of a server.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// How long a number of sockets that does not change stands for ports that do not: who closes one and opens another at once
/// is heard later. The tables themselves cost milliseconds.
const LONGEST: Duration = Duration::from_secs(30);

/// The last look.
pub(super) struct Looked {
    /// When the tables were read.
    at: Instant,
    /// How many sockets there were.
    sockets: u64,
}

impl Looked {
    /// Before the first.
    pub(super) fn never() -> Self {
        Self { at: Instant::now(), sockets: u64::MAX }
    }
}

impl Driver {
    /// Looks which ports are listened on, and tells what has changed since the last look. What is told is in the record, so
    /// that the next daemon does not tell it again.
    pub(super) async fn look_at_ports(&mut self) {
        self.next_look = Instant::now() + INTERVAL;
        let Some(network) = self.body.network() else { return };
        // If the guest is gone, that is told by itself.
        let Ok(sockets) = network.sockets() else { return };
        let has_none = sockets == 0 && self.record.ports.is_empty();
        if has_none || (sockets == self.looked.sockets && self.looked.at.elapsed() < LONGEST) {
            return;
        }
        let Ok(seen) = network.first_ports() else { return };
        self.looked = Looked { at: Instant::now(), sockets };
        let changes = port_changes(&self.record.ports, &seen);
        for change in &changes {
            self.record.apply(change);
            self.hand_over(self.record.port_event(change, SystemTime::now())).await;
        }
        if !changes.is_empty() {
            self.ports.send_replace(self.record.ports.clone());
        }
    }
}
