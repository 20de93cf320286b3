//! Destinations of webhooks, and their deliveries.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::super::Shared;
use super::super::body::{Json, Query};
use super::super::problem::Problem;
use super::super::routes::Routes;
use super::convert::{self, DeliveryView, DestinationView, Page};
use crate::api::convert::sessions::session_id;
use crate::ids::{DeliveryId, DestinationId, IdError};
use crate::webhook::{Change, DeliveryFilter, DeliveryStatus};

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .post("/v3/sessions/{id}/destinations", "Has the events that come be sent to a URL", create)
        .get("/v3/sessions/{id}/destinations", "Lists the destinations", list)
        .get("/v3/sessions/{id}/destinations/{destination}", "Shows a destination", get)
        .patch("/v3/sessions/{id}/destinations/{destination}", "Changes a destination", update)
        .delete("/v3/sessions/{id}/destinations/{destination}", "Removes a destination and its deliveries", remove)
        .post("/v3/sessions/{id}/destinations/{destination}/ping", "Sends a test, once, and says how it went", ping)
        .get("/v3/sessions/{id}/deliveries", "Lists the deliveries, newest first", deliveries)
        .get("/v3/sessions/{id}/deliveries/{delivery}", "Shows a delivery", delivery)
        .post("/v3/sessions/{id}/deliveries/{delivery}/redeliver", "Sends an event again, once", redeliver)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DeliveriesQuery {
    destination: Option<String>,
    status: Option<DeliveryStatus>,
    /// A delivery, behind which the page begins.
    after: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// How a test went.
#[derive(Debug, Serialize, Deserialize)]
struct PingView {
    delivered: bool,
    response_code: Option<u16>,
    error: Option<String>,
}

fn known<T: std::str::FromStr<Err = IdError>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, format!("nothing has the id {text:.64}")))
}

async fn create(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(wish): Json<Change>,
) -> Result<(StatusCode, axum::Json<DestinationView>), Problem> {
    let destination = surface.webhooks.create(&session_id(&id)?, wish).await?;
    Ok((StatusCode::CREATED, axum::Json(convert::destination(destination))))
}

async fn list(
    State(surface): State<Shared>,
    Path(id): Path<String>,
) -> Result<axum::Json<Page<DestinationView>>, Problem> {
    let destinations = surface.webhooks.list(&session_id(&id)?).await?;
    Ok(axum::Json(Page { data: destinations.into_iter().map(convert::destination).collect(), next_cursor: None }))
}

async fn get(
    State(surface): State<Shared>,
    Path((id, destination)): Path<(String, String)>,
) -> Result<axum::Json<DestinationView>, Problem> {
    let found = surface.webhooks.get(&session_id(&id)?, &known(&destination)?).await?;
    Ok(axum::Json(convert::destination(found)))
}

async fn update(
    State(surface): State<Shared>,
    Path((id, destination)): Path<(String, String)>,
    Json(change): Json<Change>,
) -> Result<axum::Json<DestinationView>, Problem> {
    let changed = surface.webhooks.update(&session_id(&id)?, &known(&destination)?, change).await?;
    Ok(axum::Json(convert::destination(changed)))
}

async fn remove(
    State(surface): State<Shared>,
    Path((id, destination)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    surface.webhooks.remove(&session_id(&id)?, &known(&destination)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn ping(
    State(surface): State<Shared>,
    Path((id, destination)): Path<(String, String)>,
) -> Result<axum::Json<PingView>, Problem> {
    let outcome = surface.webhooks.ping(&session_id(&id)?, &known(&destination)?).await?;
    let delivered = outcome.error.is_none();
    Ok(axum::Json(PingView { delivered, response_code: outcome.status, error: outcome.error }))
}

async fn deliveries(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<axum::Json<Page<DeliveryView>>, Problem> {
    let after = query.after.as_deref().or(query.cursor.as_deref());
    let filter = DeliveryFilter {
        destination: query.destination.as_deref().map(known::<DestinationId>).transpose()?,
        status: query.status,
        before: convert::cursor("after", after)?,
    };
    let page = surface.webhooks.deliveries(&session_id(&id)?, filter, convert::limit(query.limit)?).await?;
    let next_cursor = page.items.last().filter(|_| page.has_more).map(|delivery| delivery.id.to_string());
    Ok(axum::Json(Page { data: page.items.into_iter().map(convert::delivery).collect(), next_cursor }))
}

async fn delivery(
    State(surface): State<Shared>,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<axum::Json<DeliveryView>, Problem> {
    let delivery: DeliveryId = known(&delivery)?;
    let found = surface.webhooks.delivery(&session_id(&id)?, &delivery).await?;
    Ok(axum::Json(convert::delivery(found)))
}

async fn redeliver(
    State(surface): State<Shared>,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<axum::Json<DeliveryView>, Problem> {
    let delivery: DeliveryId = known(&delivery)?;
    let sent = surface.webhooks.redeliver(&session_id(&id)?, &delivery).await?;
    Ok(axum::Json(convert::delivery(sent)))
}
