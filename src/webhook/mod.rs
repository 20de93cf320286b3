//! Webhooks: the events of sessions, sent to where somebody waits for them.
//!
//! A destination reads the log of its session behind a cursor of its own, which is stored: the log is the outbox. One task
//! per destination sends one event after the other, so each has them in order, and none waits for another. An event is sent
//! until it is taken or given up, at least once; whoever has taken it before knows it by its id.
//!
//! | file | owns |
//! |---|---|
//! | `destination`, `delivery` | what is stored of each |
//! | `plan` | retries, filters, and which addresses are private (pure) |
//! | `envelope` | the body and its signature |
//! | `post` | one request |
//! | `outbox` | the task of a destination |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ids::{DeliveryId, DestinationId, EventId, SessionId};
use crate::seal::{SealError, Sealer, Secret};
use crate::session::{Page, SessionError, Sessions};
use crate::store::{Store, StoreError, StoredDestination};
use delivery::delivery_of_stored;
use destination::of_stored;
use post::{Letter, Outcome, Postman};

mod delivery;
mod destination;
pub mod envelope;
mod outbox;
pub mod plan;
mod post;

pub use delivery::{Delivery, DeliveryFilter, DeliveryRecord, DeliveryStatus};
pub use destination::{Change, Destination, DestinationRecord, Prepared};

/// Destinations of one session.
pub const MAX_DESTINATIONS: usize = 16;

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
    sealer: Arc<Sealer>,
    postman: Postman,
    settings: Settings,
    /// Owns the tasks of destinations.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Tells the task of a destination to look at what is stored of it again. A leaf, locked for a few instructions.
    changed: Mutex<HashMap<DestinationId, Arc<Notify>>>,
}

impl Webhooks {
    /// Those of the store, which go on where they were.
    ///
    /// # Errors
    /// [`WebhookError::Store`].
    pub async fn open(
        store: Store,
        sessions: Sessions,
        sealer: Arc<Sealer>,
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
            changed: Mutex::default(),
        };
        let this = Self { shared: Arc::new(shared) };
        for stored in this.shared.store.destinations(None).await.map_err(WebhookError::Store)? {
            this.begin(stored.session, stored.id);
        }
        Ok(this)
    }

    /// Ends all tasks. What was not taken is sent by the next daemon.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Checks a destination of a session that there is not yet. It is stored with it, in one write.
    ///
    /// # Errors
    /// [`WebhookError::Invalid`], [`WebhookError::Seal`].
    pub fn prepare(&self, wish: Change) -> Result<Prepared, WebhookError> {
        let id = DestinationId::random();
        let record = self.record(&id, wish, 0)?;
        Ok(Prepared { id, record })
    }

    /// Begins to send to destinations that were stored with their session.
    pub fn attach(&self, session: &SessionId, prepared: Vec<Prepared>) {
        prepared.into_iter().for_each(|Prepared { id, .. }| self.begin(session.clone(), id));
    }

    /// Makes a destination, for the events that come from now on.
    ///
    /// # Errors
    /// [`WebhookError::Invalid`], [`WebhookError::TooMany`], [`WebhookError::Session`], [`WebhookError::Store`].
    pub async fn create(&self, session: &SessionId, wish: Change) -> Result<Destination, WebhookError> {
        let head = self.shared.sessions.get(session).await.map_err(WebhookError::Session)?.head;
        if self.list(session).await?.len() >= MAX_DESTINATIONS {
            return Err(WebhookError::TooMany);
        }
        let id = DestinationId::random();
        let record = self.record(&id, wish, head)?;
        let destination = Destination { id, session: session.clone(), record, cursor: head };
        self.put(&destination).await?;
        self.begin(session.clone(), destination.id.clone());
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

    /// Changes a destination, from the next attempt on. One that is enabled again goes on where it was.
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
        let mut record = self.changed(id, found.record.clone(), change)?;
        record.updated_at_ms = now_ms();
        let destination = Destination { record, ..found };
        self.put(&destination).await?;
        self.tell(id);
        Ok(destination)
    }

    /// Removes a destination and its deliveries.
    ///
    /// # Errors
    /// [`WebhookError::NotFound`], [`WebhookError::Store`].
    pub async fn remove(&self, session: &SessionId, id: &DestinationId) -> Result<(), WebhookError> {
        self.get(session, id).await?;
        self.shared.store.remove_destination(id).await.map_err(WebhookError::Store)?;
        self.tell(id);
        Ok(())
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

    /// A page of deliveries of a session, newest first.
    ///
    /// # Errors
    /// [`WebhookError::Store`].
    pub async fn deliveries(
        &self,
        session: &SessionId,
        filter: DeliveryFilter,
        limit: usize,
    ) -> Result<Page<Delivery>, WebhookError> {
        let DeliveryFilter { destination, status, mut before } = filter;
        let (mut items, most) = (Vec::new(), limit.saturating_add(1));
        loop {
            let found = self.shared.store.deliveries(session, destination.clone(), before, most).await;
            let found = found.map_err(WebhookError::Store)?;
            let is_last = found.len() < most;
            before = found.last().map(|delivery| delivery.id.clone());
            for stored in found {
                let delivery = delivery_of_stored(stored)?;
                if status.is_none_or(|status| delivery.record.status == status) {
                    items.push(delivery);
                }
            }
            if is_last || items.len() > limit {
                break;
            }
        }
        let has_more = items.len() > limit;
        items.truncate(limit);
        Ok(Page { items, has_more })
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
        let delivery = self.attempt(&destination, &event, delivery, DeliveryStatus::Failed).await?;
        // If this is what its task was about to try again, it need not.
        self.tell(&destination.id);
        Ok(delivery)
    }

    /// Starts the task of a destination that is stored.
    fn begin(&self, session: SessionId, id: DestinationId) {
        let changed = Arc::new(Notify::new());
        self.lock().insert(id.clone(), Arc::clone(&changed));
        let (this, stop) = (self.clone(), self.shared.stop.clone());
        self.shared.tasks.spawn(async move {
            stop.run_until_cancelled(outbox::serve(&this, &session, &id, &changed)).await;
            this.lock().remove(&id);
        });
    }

    fn tell(&self, id: &DestinationId) {
        if let Some(changed) = self.lock().get(id) {
            changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DestinationId, Arc<Notify>>> {
        self.shared.changed.lock().unwrap_or_else(PoisonError::into_inner)
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
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
