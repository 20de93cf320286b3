//! The events of the node, and how it is emptied.

use std::time::Duration;

use super::network::port_message;
use super::runtime::runtime_status;
use super::sandboxes::{failure, tier_message};
use crate::api::proto;
use crate::api::status::Fault;
use crate::sandbox::Progress;
use crate::sandbox::record::Told;
use crate::store::StoredEvent;

/// How long those in use are waited for, if not said otherwise, and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(24 * 3600));

/// An event as it was stored.
#[must_use]
pub fn node_event(event: StoredEvent) -> proto::NodeEvent {
    let StoredEvent { seq, at, sandbox, kind, body } = event;
    // What a newer daemon wrote is told as far as it is understood.
    let told = serde_json::from_str::<Told>(&body).ok().unwrap_or_default();
    proto::NodeEvent {
        seq,
        at: Some(at.into()),
        kind,
        sandbox_id: sandbox.map(String::from).unwrap_or_default(),
        generation: told.generation,
        tier: tier_message(told.tier).into(),
        failure: told.failure.as_ref().map(failure),
        port: told.port.as_ref().map(port_message),
        runtime: told.runtime.as_ref().map(runtime_status),
    }
}

/// How long those in use are waited for.
///
/// # Errors
/// It is negative or too long.
pub fn patience(timeout: Option<prost_types::Duration>) -> Result<Duration, Fault> {
    let Some(timeout) = timeout else { return Ok(PATIENCE.0) };
    let timeout = super::span(timeout).filter(|timeout| *timeout <= PATIENCE.1);
    timeout.ok_or_else(|| Fault::argument("timeout", format!("is 0 to {} s", PATIENCE.1.as_secs())))
}

/// How the emptying goes.
#[must_use]
pub fn drain_progress(progress: Progress) -> proto::DrainProgress {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    proto::DrainProgress { awake: count(progress.awake), running: count(progress.running), done: progress.is_done }
}
