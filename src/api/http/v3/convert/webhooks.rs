//! Destinations and deliveries. Pure.

use serde::{Deserialize, Serialize};

use crate::api::http::convert::time;
use crate::ids::EventId;
use crate::session::Level;
use crate::webhook::{Delivery, DeliveryStatus, Destination};

/// A destination. Its secret is told to nobody.
#[derive(Debug, Serialize, Deserialize)]
pub struct DestinationView {
    id: String,
    session: String,
    kind: String,
    url: String,
    level: Level,
    types: Option<Vec<String>>,
    include_raw: bool,
    enabled: bool,
    has_secret: bool,
    created_after_seq: u64,
    created_at: String,
    updated_at: String,
}

/// A destination.
#[must_use]
pub fn destination(destination: Destination) -> DestinationView {
    let Destination { id, session, record, .. } = destination;
    DestinationView {
        id: id.to_string(),
        session: session.to_string(),
        kind: "webhook".to_owned(),
        has_secret: record.has_secret(),
        url: record.url,
        level: record.level,
        types: record.types,
        include_raw: record.include_raw,
        enabled: record.enabled,
        created_after_seq: record.created_after_seq,
        created_at: moment(record.created_at_ms),
        updated_at: moment(record.updated_at_ms),
    }
}

/// A delivery.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeliveryView {
    id: String,
    session: String,
    destination: String,
    event_id: String,
    event_seq: u64,
    status: DeliveryStatus,
    attempts: u32,
    last_attempt_at: Option<String>,
    response_code: Option<u16>,
    error: Option<String>,
    created_at: String,
}

/// A delivery.
#[must_use]
pub fn delivery(delivery: Delivery) -> DeliveryView {
    let Delivery { id, destination, session, seq, record } = delivery;
    DeliveryView {
        id: id.to_string(),
        destination: destination.to_string(),
        event_id: EventId::of(&session, seq).to_string(),
        session: session.to_string(),
        event_seq: seq,
        status: record.status,
        attempts: record.attempts,
        last_attempt_at: record.last_attempt_at_ms.map(moment),
        response_code: record.response_code,
        error: record.error,
        created_at: moment(record.created_at_ms),
    }
}

/// A time in milliseconds since 1970, as RFC 3339 writes it.
fn moment(millis: u64) -> String {
    time(std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis))
}
