//! Destinations and deliveries. Pure.

use serde_json::{Value, json};

use crate::api::http::convert::time;
use crate::ids::EventId;
use crate::webhook::{Delivery, Destination};

/// A destination. Its secret is told to nobody.
#[must_use]
pub fn destination(destination: &Destination) -> Value {
    let record = &destination.record;
    json!({
        "id": destination.id.as_str(),
        "session": destination.session.as_str(),
        "kind": "webhook",
        "url": record.url,
        "level": record.level,
        "types": record.types,
        "include_raw": record.include_raw,
        "enabled": record.enabled,
        "has_secret": record.has_secret(),
        "created_after_seq": record.created_after_seq,
        "created_at": moment(record.created_at_ms),
        "updated_at": moment(record.updated_at_ms),
    })
}

/// A delivery.
#[must_use]
pub fn delivery(delivery: &Delivery) -> Value {
    let record = &delivery.record;
    json!({
        "id": delivery.id.as_str(),
        "session": delivery.session.as_str(),
        "destination": delivery.destination.as_str(),
        "event_id": EventId::of(&delivery.session, delivery.seq).to_string(),
        "event_seq": delivery.seq,
        "status": record.status,
        "attempts": record.attempts,
        "last_attempt_at": record.last_attempt_at_ms.map(moment),
        "response_code": record.response_code,
        "error": record.error,
        "created_at": moment(record.created_at_ms),
    })
}

/// A time in milliseconds since 1970, as RFC 3339 writes it.
fn moment(millis: u64) -> String {
    time(std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis))
}
