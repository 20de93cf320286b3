//! A delivery: an event on its way to a destination.

use serde::{Deserialize, Serialize};

use super::WebhookError;
use crate::ids::{DeliveryId, DestinationId, SessionId};
use crate::store::StoredDelivery;

/// A delivery.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// Where to.
    pub destination: DestinationId,
    /// Of which session.
    pub session: SessionId,
    /// The event's place.
    pub seq: u64,
    /// How it goes.
    pub record: DeliveryRecord,
}

/// What is stored of a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryRecord {
    /// How it stands.
    pub status: DeliveryStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When last, in milliseconds since 1970.
    pub last_attempt_at_ms: Option<u64>,
    /// What was answered.
    pub response_code: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// When it began, in milliseconds since 1970.
    pub created_at_ms: u64,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// It is being sent.
    Delivering,
    /// It was taken.
    Delivered,
    /// It failed and is tried again.
    Failed,
    /// It was given up.
    DeadLetter,
}

/// Which deliveries are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// To this destination.
    pub destination: Option<DestinationId>,
    /// That stand so.
    pub status: Option<DeliveryStatus>,
    /// That began before this one.
    pub before: Option<DeliveryId>,
}

/// The delivery of a row.
pub(super) fn delivery_of_stored(stored: StoredDelivery) -> Result<Delivery, WebhookError> {
    let StoredDelivery { id, destination, session, seq, record } = stored;
    let unknown = |_| WebhookError::NotFound { what: "delivery that this version can read:", id: id.to_string() };
    let record = serde_json::from_str(&record).map_err(unknown)?;
    Ok(Delivery { id, destination, session, seq, record })
}
