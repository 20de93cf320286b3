//! A destination: where the events of a session are sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{WebhookError, Webhooks, now_ms};
use crate::ids::{DestinationId, SessionId};
use crate::seal::Secret;
use crate::session::Level;
use crate::store::StoredDestination;

/// Types that a destination may name.
const MAX_TYPES: usize = 64;
/// Longest secret, in bytes.
const MAX_SECRET: usize = 512;

/// A destination that is wanted, or what is to be changed of one: what is `None` stays.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Change {
    url: Option<String>,
    secret: Option<String>,
    level: Option<Level>,
    types: Option<Vec<String>>,
    include_raw: Option<bool>,
    enabled: Option<bool>,
}

/// A destination.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its id.
    pub id: DestinationId,
    /// Of which session.
    pub session: SessionId,
    /// What it is.
    pub record: DestinationRecord,
    /// Up to which `seq` events were taken, given up or not wanted.
    pub(super) cursor: u64,
}

/// A destination that was checked, of a session that there is not yet.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(super) id: DestinationId,
    pub(super) record: DestinationRecord,
}

/// What is stored of a destination.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// Where events are sent.
    pub url: String,
    /// The least important level.
    pub level: Level,
    /// Which types; `None`: all.
    pub types: Option<Vec<String>>,
    /// With what a message came from.
    pub include_raw: bool,
    /// Events are sent; if not, they wait.
    pub enabled: bool,
    /// The secret, sealed.
    sealed: Option<String>,
    /// Only events behind this one are sent.
    pub created_after_seq: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub updated_at_ms: u64,
}

impl DestinationRecord {
    /// One that nobody has said anything of, for the events behind a `seq`.
    pub(super) fn empty(after: u64, now_ms: u64) -> Self {
        Self {
            url: String::new(),
            level: Level::User,
            types: None,
            include_raw: false,
            enabled: true,
            sealed: None,
            created_after_seq: after,
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
        }
    }

    /// What is sent is signed.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        self.sealed.is_some()
    }
}

impl Prepared {
    /// What is stored of it.
    #[must_use]
    pub fn to_row(&self) -> (DestinationId, String) {
        (self.id.clone(), serde_json::to_string(&self.record).expect("texts and numbers are JSON"))
    }
}

impl Webhooks {
    /// The record of a new destination, for the events behind a `seq`.
    pub(super) fn record(
        &self,
        id: &DestinationId,
        wish: Change,
        after: u64,
    ) -> Result<DestinationRecord, WebhookError> {
        if wish.url.is_none() {
            return Err(WebhookError::Invalid { field: "url", message: "is missing".to_owned() });
        }
        self.changed(id, DestinationRecord::empty(after, now_ms()), wish)
    }

    /// A record with a change made to it.
    pub(super) fn changed(
        &self,
        id: &DestinationId,
        mut record: DestinationRecord,
        change: Change,
    ) -> Result<DestinationRecord, WebhookError> {
        let invalid = |field, message: &str| WebhookError::Invalid { field, message: message.to_owned() };
        if let Some(url) = change.url {
            self.shared.postman.check(&url)?;
            record.url = url;
        }
        if let Some(types) = change.types {
            if types.len() > MAX_TYPES || types.iter().any(|kind| kind.is_empty() || kind.len() > 64) {
                return Err(invalid("types", "are at most 64 names of at most 64 bytes"));
            }
            record.types = Some(types);
        }
        if let Some(secret) = change.secret {
            if secret.is_empty() || secret.len() > MAX_SECRET {
                return Err(invalid("secret", "has 1 to 512 bytes"));
            }
            let sealed = self.shared.sealer.seal(id.as_str(), &secret.into()).map_err(WebhookError::Seal)?;
            record.sealed = Some(STANDARD.encode(sealed));
        }
        record.level = change.level.unwrap_or(record.level);
        record.include_raw = change.include_raw.unwrap_or(record.include_raw);
        record.enabled = change.enabled.unwrap_or(record.enabled);
        Ok(record)
    }

    /// What its deliveries are signed with.
    pub(super) fn secret(&self, destination: &Destination) -> Result<Option<Secret>, WebhookError> {
        let Some(sealed) = &destination.record.sealed else { return Ok(None) };
        let sealed = STANDARD.decode(sealed).unwrap_or_default();
        self.shared.sealer.open(destination.id.as_str(), &sealed).map(Some).map_err(WebhookError::Seal)
    }
}

/// The destination of a row.
pub(super) fn of_stored(stored: StoredDestination) -> Result<Destination, WebhookError> {
    let StoredDestination { id, session, record, cursor } = stored;
    let unknown = |_| WebhookError::NotFound { what: "destination that this version can read:", id: id.to_string() };
    let record = serde_json::from_str(&record).map_err(unknown)?;
    Ok(Destination { id, session, record, cursor })
}
