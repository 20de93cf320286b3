//! The task of a destination: reads the log behind its cursor, and sends.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::delivery::delivery_of_stored;
use super::plan::{self, Next};
use super::post::Letter;
use super::{Delivery, DeliveryRecord, DeliveryStatus, Destination, WebhookError, Webhooks, envelope, now_ms};
use crate::ids::{DeliveryId, DestinationId, SessionId};
use crate::seal::Secret;
use crate::session::{Event, EventQuery};
use crate::store::StoredDelivery;
use crate::telemetry::chain;

/// Before the log or the store is tried again after it has failed: long enough not to add to its trouble.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// Sends what a destination wants until it is removed. It is read again whenever it was changed: so what was stored last is
/// what holds, and an attempt is never cut off half-way by a change.
pub async fn serve(webhooks: &Webhooks, session: &SessionId, id: &DestinationId, changed: &Notify) {
    loop {
        let followed = match webhooks.get(session, id).await {
            Ok(destination) => follow(webhooks, &destination, changed).await,
            Err(WebhookError::NotFound { .. }) => return,
            Err(error) => Err(error),
        };
        match followed {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return,
            Err(error) => {
                tracing::error!(destination.id = %id, error = %chain(&error), "a webhook waits");
                sleep(AFTER_FAULT).await;
            }
        }
    }
}

/// Follows the log until the destination is changed, or, which breaks it off, the daemon ends.
async fn follow(
    webhooks: &Webhooks,
    destination: &Destination,
    changed: &Notify,
) -> Result<ControlFlow<()>, WebhookError> {
    let Destination { record, cursor, .. } = destination;
    if !record.enabled {
        changed.notified().await;
        return Ok(ControlFlow::Continue(()));
    }
    let query = EventQuery { after: *cursor, level: record.level, kind: None, turn: None };
    let events = webhooks.shared.sessions.follow(&destination.session, query).await.map_err(WebhookError::Session)?;
    let mut events = pin!(events);
    loop {
        // Both are cancel-safe: the log keeps what was not taken, and what was told and not heard is told again.
        let event = tokio::select! {
            biased;
            () = changed.notified() => return Ok(ControlFlow::Continue(())),
            event = events.next() => event,
        };
        let Some(event) = event else { return Ok(ControlFlow::Break(())) };
        let event = event.map_err(WebhookError::Session)?;
        if plan::wants(record.types.as_deref(), &event.kind) {
            deliver(webhooks, destination, &event, changed).await?;
        }
    }
}

/// Sends one event until it is taken or given up, or the destination is changed.
async fn deliver(
    webhooks: &Webhooks,
    destination: &Destination,
    event: &Event,
    changed: &Notify,
) -> Result<(), WebhookError> {
    let store = &webhooks.shared.store;
    let known = store.delivery_of(&destination.id, event.seq).await.map_err(WebhookError::Store)?;
    let mut delivery = match known {
        // It was begun with before: by an earlier daemon, or before a change.
        Some(stored) => delivery_of_stored(stored)?,
        None => new_delivery(destination, event),
    };
    loop {
        // Whether it is the last one is known before it is made.
        let mut random = [0];
        getrandom::fill(&mut random).expect("the kernel gives random bytes once it has booted");
        let next = plan::after_failure(delivery.record.attempts + 1, webhooks.shared.settings.first_retry, random[0]);
        let failed = if next == Next::Never { DeliveryStatus::DeadLetter } else { DeliveryStatus::Failed };
        delivery = webhooks.attempt(destination, event, delivery, failed).await?;
        let Next::After(pause) = next else { return Ok(()) };
        if delivery.record.status != DeliveryStatus::Failed {
            return Ok(());
        }
        if timeout(pause, changed.notified()).await.is_ok() {
            // For the one who reads the destination again.
            changed.notify_one();
            return Ok(());
        }
    }
}

fn new_delivery(destination: &Destination, event: &Event) -> Delivery {
    let record = DeliveryRecord {
        status: DeliveryStatus::Delivering,
        attempts: 0,
        last_attempt_at_ms: None,
        response_code: None,
        error: None,
        created_at_ms: now_ms(),
    };
    Delivery {
        id: DeliveryId::random(),
        destination: destination.id.clone(),
        session: destination.session.clone(),
        seq: event.seq,
        record,
    }
}

impl Webhooks {
    /// Sends an event once, and stores how it went. If it was taken or is given up, the cursor moves behind it in the same
    /// write; `failed` is what it is otherwise.
    pub(super) async fn attempt(
        &self,
        destination: &Destination,
        event: &Event,
        mut delivery: Delivery,
        failed: DeliveryStatus,
    ) -> Result<Delivery, WebhookError> {
        let session = self.shared.sessions.get(&destination.session).await.map_err(WebhookError::Session)?;
        let secret = self.secret(destination)?;
        delivery.record.attempts += 1;
        delivery.record.last_attempt_at_ms = Some(now_ms());
        delivery.record.status = DeliveryStatus::Delivering;
        self.store_delivery(&delivery, None).await?;
        let id = event.id.to_string();
        let letter = Letter {
            url: &destination.record.url,
            id: &id,
            delivery: delivery.id.as_str(),
            session: destination.session.as_str(),
            body: envelope::body(&session, event, destination.record.include_raw),
            secret: secret.as_ref().map(Secret::expose),
        };
        let outcome = self.shared.postman.send(letter).await;
        delivery.record.status = if outcome.error.is_none() { DeliveryStatus::Delivered } else { failed };
        delivery.record.response_code = outcome.status;
        delivery.record.error = outcome.error;
        let is_over = delivery.record.status != DeliveryStatus::Failed;
        self.store_delivery(&delivery, is_over.then_some(event.seq)).await?;
        Ok(delivery)
    }

    async fn store_delivery(&self, delivery: &Delivery, cursor: Option<u64>) -> Result<(), WebhookError> {
        let stored = StoredDelivery {
            id: delivery.id.clone(),
            destination: delivery.destination.clone(),
            session: delivery.session.clone(),
            seq: delivery.seq,
            record: serde_json::to_string(&delivery.record).expect("texts and numbers are JSON"),
        };
        self.shared.store.put_delivery(stored, cursor).await.map_err(WebhookError::Store)
    }
}
