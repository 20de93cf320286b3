//! Webhooks: the events of sessions, sent to where somebody waits for them.
//!
//! A destination reads the log of its session behind a cursor of its own, which is stored: the log is the outbox. One task
//! per destination sends one event after the other, so each has them in order, and none waits for another. An event is sent
//! until it is taken or given up, at least once; whoever has taken it before knows it by its id.
//!
//! | file | owns |
//! |---|---|
//! | `plan` | retries, filters, and which addresses are private (pure) |
//! | `envelope` | the body and its signature |
//! | `post` | one request |
//! | `outbox` | the task of a destination |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ids::{DeliveryId, DestinationId, EventId, SessionId};
use crate::seal::{SealError, Sealer, Secret};
use crate::session::{Level, SessionError, Sessions};
use crate::store::{Store, StoreError, StoredDelivery, StoredDestination};
use post::{Letter, Outcome, Postman};

pub mod envelope;
mod outbox;
pub mod plan;
mod post;

/// Destinations of one session.
const MAX_DESTINATIONS: usize = 16;
/// Types that a destination may name.
const MAX_TYPES: usize = 64;
/// Longest secret, in bytes.
const MAX_SECRET: usize = 512;

/// Where events may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To the open internet, over TLS.
    Public,
    /// Anywhere: private addresses too, and without TLS.
    Anywhere,
}

/// How webhooks are sent.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Where to.
    pub reach: Reach,
    /// The pause before the first retry.
    pub first_retry: Duration,
}

/// A destination that is wanted, or what is to be changed of one: what is `None` stays.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Change {
    url: Option<String>,
    secret: Option<String>,
    level: Option<String>,
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
    cursor: u64,
}

/// What is stored of a destination.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// Where events are sent.
    pub url: String,
    /// The least important level.
    pub level: String,
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

/// Why something could not be done with a destination.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// An argument is none.
    #[error("{field} {message}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What was expected.
        message: String,
    },
    /// There is no such destination or delivery.
    #[error("no {what} {id}")]
    NotFound {
        /// What it was to be.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// There are as many destinations as there may be.
    #[error("the session has {MAX_DESTINATIONS} destinations, which is the most it may have")]
    TooMany,
    /// The session cannot be read.
    #[error("the session of a destination")]
    Session(#[source] SessionError),
    /// The store failed.
    #[error("the store of destinations")]
    Store(#[source] StoreError),
    /// A secret cannot be sealed or opened.
    #[error("the secret of a destination")]
    Seal(#[source] SealError),
}

/// The webhooks of the node. A handle; clones share it.
#[derive(Clone)]
pub struct Webhooks {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    sessions: Sessions,
    sealer: Sealer,
    postman: Postman,
    settings: Settings,
    /// Owns the tasks of destinations.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the task of a destination. A leaf, locked for a few instructions.
    running: Mutex<HashMap<DestinationId, CancellationToken>>,
}

impl Webhooks {
    /// Those of the store, which go on where they were.
    ///
    /// # Errors
    /// [`WebhookError::Store`].
    pub async fn open(
        store: Store,
        sessions: Sessions,
        sealer: Sealer,
        settings: Settings,
    ) -> Result<Self, WebhookError> {
        let shared = Shared {
            postman: Postman::new(settings.reach),
            store,
            sessions,
            sealer,
            settings,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            running: Mutex::default(),
        };
        let this = Self { shared: Arc::new(shared) };
        for stored in this.shared.store.destinations(None).await.map_err(WebhookError::Store)? {
            this.begin(&of_stored(stored)?);
        }
        Ok(this)
    }

    /// Ends all tasks. What was not taken is sent by the next daemon.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Makes a destination, for the events that come from now on.
    ///
    /// # Errors
    /// [`WebhookError::Invalid`], [`WebhookError::TooMany`], [`WebhookError::Session`], [`WebhookError::Store`].
    pub async fn create(&self, session: &SessionId, wish: Change) -> Result<Destination, WebhookError> {
        let head = self.shared.sessions.get(session).await.map_err(WebhookError::Session)?.head;
        self.create_after(session, wish, head).await
    }

    /// The same, for the events behind a `seq`.
    ///
    /// # Errors
    /// As [`Webhooks::create`].
    pub async fn create_after(&self, session: &SessionId, wish: Change, seq: u64) -> Result<Destination, WebhookError> {
        if wish.url.is_none() {
            return Err(WebhookError::Invalid { field: "url", message: "is missing".to_owned() });
        }
        if self.list(session).await?.len() >= MAX_DESTINATIONS {
            return Err(WebhookError::TooMany);
        }
        let (id, now) = (DestinationId::random(), now_ms());
        let empty = DestinationRecord {
            url: String::new(),
            level: Level::User.name().to_owned(),
            types: None,
            include_raw: false,
            enabled: true,
            sealed: None,
            created_after_seq: seq,
            created_at_ms: now,
            updated_at_ms: now,
        };
        let record = self.changed(&id, empty, wish)?;
        let destination = Destination { id, session: session.clone(), record, cursor: seq };
        self.put(&destination).await?;
        self.begin(&destination);
        Ok(destination)
    }

    /// The destinations of a session, oldest first.
    ///
    /// # Errors
    /// [`WebhookError::Store`].
    pub async fn list(&self, session: &SessionId) -> Result<Vec<Destination>, WebhookError> {
        let found = self.shared.store.destinations(Some(session.clone())).await.map_err(WebhookError::Store)?;
        found.into_iter().map(of_stored).collect()
    }

    /// A destination of a session.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Store`].
    pub async fn get(&self, session: &SessionId, id: &DestinationId) -> Result<Destination, WebhookError> {
        let found = self.list(session).await?.into_iter().find(|destination| destination.id == *id);
        found.ok_or_else(|| WebhookError::NotFound { what: "destination", id: id.to_string() })
    }

    /// Changes a destination. One that is enabled again goes on where it was.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Invalid`], [`WebhookError::Store`].
    pub async fn update(
        &self,
        session: &SessionId,
        id: &DestinationId,
        change: Change,
    ) -> Result<Destination, WebhookError> {
        let found = self.get(session, id).await?;
        let record = DestinationRecord { updated_at_ms: now_ms(), ..self.changed(id, found.record.clone(), change)? };
        let destination = Destination { record, ..found };
        self.put(&destination).await?;
        self.end(id);
        self.begin(&destination);
        Ok(destination)
    }

    /// Removes a destination and its deliveries.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Store`].
    pub async fn remove(&self, session: &SessionId, id: &DestinationId) -> Result<(), WebhookError> {
        self.get(session, id).await?;
        self.end(id);
        self.shared.store.remove_destination(id).await.map_err(WebhookError::Store)
    }

    /// Sends a test, once, and says how it went.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Seal`], [`WebhookError::Store`].
    pub async fn ping(&self, session: &SessionId, id: &DestinationId) -> Result<Outcome, WebhookError> {
        let destination = self.get(session, id).await?;
        let secret = self.secret(&destination)?;
        let name = DeliveryId::random();
        let body = serde_json::json!({ "type": "ping", "sessionId": session.as_str(), "metadata": null }).to_string();
        let letter = Letter {
            url: &destination.record.url,
            id: name.as_str(),
            delivery: name.as_str(),
            session: session.as_str(),
            body,
            secret: secret.as_ref().map(Secret::expose),
        };
        Ok(self.shared.postman.send(letter).await)
    }

    /// The deliveries of a session, newest first.
    ///
    /// # Errors
    /// [`WebhookError::Store`].
    pub async fn deliveries(
        &self,
        session: &SessionId,
        destination: Option<DestinationId>,
        limit: usize,
    ) -> Result<Vec<Delivery>, WebhookError> {
        let found = self.shared.store.deliveries(session, destination, limit).await.map_err(WebhookError::Store)?;
        found.into_iter().map(delivery_of_stored).collect()
    }

    /// A delivery of a session.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Store`].
    pub async fn delivery(&self, session: &SessionId, id: &DeliveryId) -> Result<Delivery, WebhookError> {
        let found = self.shared.store.delivery(session, id).await.map_err(WebhookError::Store)?;
        let missing = || WebhookError::NotFound { what: "delivery", id: id.to_string() };
        delivery_of_stored(found.ok_or_else(missing)?)
    }

    /// Sends an event again, once, whatever became of it before.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Session`], [`WebhookError::Store`].
    pub async fn redeliver(&self, session: &SessionId, id: &DeliveryId) -> Result<Delivery, WebhookError> {
        let delivery = self.delivery(session, id).await?;
        let destination = self.get(session, &delivery.destination).await?;
        let event = self.shared.sessions.event(session, &EventId::of(session, delivery.seq)).await;
        let event = event.map_err(WebhookError::Session)?;
        self.attempt(&destination, &event, delivery, DeliveryStatus::Failed).await
    }

    fn begin(&self, destination: &Destination) {
        if !destination.record.enabled {
            return;
        }
        let ended = self.shared.stop.child_token();
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(destination.id.clone(), ended.clone());
        let (this, destination) = (self.clone(), destination.clone());
        self.shared.tasks.spawn(async move { ended.run_until_cancelled(outbox::serve(this, destination)).await });
    }

    fn end(&self, id: &DestinationId) {
        let task = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(task) = task {
            task.cancel();
        }
    }

    async fn put(&self, destination: &Destination) -> Result<(), WebhookError> {
        let stored = StoredDestination {
            id: destination.id.clone(),
            session: destination.session.clone(),
            record: serde_json::to_string(&destination.record).expect("texts and numbers are JSON"),
            cursor: destination.cursor,
        };
        self.shared.store.put_destination(stored).await.map_err(WebhookError::Store)
    }

    /// A record with a change made to it.
    fn changed(
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
        if let Some(level) = change.level {
            Level::named(&level).ok_or_else(|| invalid("level", "is user, progress, internal or output"))?;
            record.level = level;
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
        record.include_raw = change.include_raw.unwrap_or(record.include_raw);
        record.enabled = change.enabled.unwrap_or(record.enabled);
        Ok(record)
    }

    fn secret(&self, destination: &Destination) -> Result<Option<Secret>, WebhookError> {
        let Some(sealed) = &destination.record.sealed else { return Ok(None) };
        let sealed = STANDARD.decode(sealed).unwrap_or_default();
        self.shared.sealer.open(destination.id.as_str(), &sealed).map(Some).map_err(WebhookError::Seal)
    }
}

impl DestinationRecord {
    /// What is sent is signed.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        self.sealed.is_some()
    }
}

fn of_stored(stored: StoredDestination) -> Result<Destination, WebhookError> {
    let StoredDestination { id, session, record, cursor } = stored;
    let unknown = |_| WebhookError::NotFound { what: "destination that this version can read:", id: id.to_string() };
    let record = serde_json::from_str(&record).map_err(unknown)?;
    Ok(Destination { id, session, record, cursor })
}

fn delivery_of_stored(stored: StoredDelivery) -> Result<Delivery, WebhookError> {
    let StoredDelivery { id, destination, session, seq, record } = stored;
    let unknown = |_| WebhookError::NotFound { what: "delivery that this version can read:", id: id.to_string() };
    let record = serde_json::from_str(&record).map_err(unknown)?;
    Ok(Delivery { id, destination, session, seq, record })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
