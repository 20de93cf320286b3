//! Which ports are listened on inside, told as events of the node.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Driver;
use crate::network::port_changes;

/// Between two looks at a sandbox that is awake: as soon as people expect to hear of a server, and 40 µs each.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

impl Driver {
    /// Looks which ports are listened on, and tells what has changed since the last look. What is told is in the record, so
    /// that the next daemon does not tell it again.
    pub(super) async fn look_at_ports(&mut self) {
        self.next_look = Instant::now() + INTERVAL;
        let Some(network) = self.body.network() else { return };
        // If the guest is gone, that is told by itself.
        let Ok(seen) = network.first_ports() else { return };
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
