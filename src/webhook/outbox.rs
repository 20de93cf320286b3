//! The task of a destination: reads the log behind its cursor, and sends.

use std::time::Duration;

use futures_util::StreamExt;

use super::delivery::delivery_of_stored;
use super::plan::{self, Next};
use super::post::Letter;
use super::{Delivery, DeliveryRecord, DeliveryStatus, Destination, WebhookError, Webhooks, envelope, now_ms};
use crate::ids::DeliveryId;
use crate::seal::Secret;
use crate::session::{Event, EventQuery};
use crate::store::StoredDelivery;
use crate::telemetry::chain;

/// Before the log or the store is tried again after it has failed: long enough not to add to its trouble.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// Sends what the destination wants, for ever.
pub async fn serve(webhooks: Webhooks, mut destination: Destination) {
    loop {
        match follow(&webhooks, &mut destination).await {
            // The daemon ends, or the session is gone.
            Ok(()) => return,
            Err(error) => {
                tracing::error!(destination.id = %destination.id, error = %chain(&error), "a webhook waits");
                tokio::time::sleep(AFTER_FAULT).await;
            }
        }
    }
}

async fn follow(webhooks: &Webhooks, destination: &mut Destination) -> Result<(), WebhookError> {
    let query = EventQuery { after: destination.cursor, level: destination.record.level, kind: None, turn: None };
    let events = webhooks.shared.sessions.follow(&destination.session, query).await.map_err(WebhookError::Session)?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let event = event.map_err(WebhookError::Session)?;
        if plan::wants(destination.record.types.as_deref(), &event.kind) {
            deliver(webhooks, destination, &event).await?;
            destination.cursor = event.seq;
        }
    }
    Ok(())
}

/// Sends one event until it is taken or given up.
async fn deliver(webhooks: &Webhooks, destination: &Destination, event: &Event) -> Result<(), WebhookError> {
    let store = &webhooks.shared.store;
    let known = store.delivery_of(&destination.id, event.seq).await.map_err(WebhookError::Store)?;
    let mut delivery = match known {
        // An earlier daemon began with it.
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
        match next {
            Next::After(pause) if delivery.record.status == DeliveryStatus::Failed => tokio::time::sleep(pause).await,
            Next::After(_) | Next::Never => return Ok(()),
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
