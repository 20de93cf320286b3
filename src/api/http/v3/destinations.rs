//! Destinations of webhooks, and their deliveries.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Shared;
use super::super::body::{Json, Query};
use super::super::problem::Problem;
use super::super::routes::Routes;
use super::convert;
use crate::api::convert::sessions::session_id;
use crate::ids::{DeliveryId, DestinationId, IdError};
use crate::webhook::Change;

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
    status: Option<String>,
    limit: Option<usize>,
}

fn known<T: std::str::FromStr<Err = IdError>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, format!("nothing has the id {text:.64}")))
}

async fn create(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(wish): Json<Change>,
) -> Result<(StatusCode, axum::Json<Value>), Problem> {
    let destination = surface.webhooks.create(&session_id(&id)?, wish).await?;
    Ok((StatusCode::CREATED, axum::Json(convert::destination(&destination))))
}

async fn list(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<Value>, Problem> {
    let destinations = surface.webhooks.list(&session_id(&id)?).await?;
    Ok(axum::Json(convert::page(destinations.iter().map(convert::destination).collect(), None)))
}

async fn get(
    State(surface): State<Shared>,
    Path((id, destination)): Path<(String, String)>,
) -> Result<axum::Json<Value>, Problem> {
    let found = surface.webhooks.get(&session_id(&id)?, &known(&destination)?).await?;
    Ok(axum::Json(convert::destination(&found)))
}

async fn update(
    State(surface): State<Shared>,
    Path((id, destination)): Path<(String, String)>,
    Json(change): Json<Change>,
) -> Result<axum::Json<Value>, Problem> {
    let changed = surface.webhooks.update(&session_id(&id)?, &known(&destination)?, change).await?;
    Ok(axum::Json(convert::destination(&changed)))
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
) -> Result<axum::Json<Value>, Problem> {
    let outcome = surface.webhooks.ping(&session_id(&id)?, &known(&destination)?).await?;
    let is_delivered = outcome.error.is_none();
    Ok(axum::Json(json!({ "delivered": is_delivered, "response_code": outcome.status, "error": outcome.error })))
}

async fn deliveries(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let destination: Option<DestinationId> = convert::cursor("destination", query.destination.as_deref())?;
    let limit = convert::limit(query.limit)?;
    let found = surface.webhooks.deliveries(&session_id(&id)?, destination, limit).await?;
    let mut views: Vec<Value> = found.iter().map(convert::delivery).collect();
    views.retain(|view| query.status.as_deref().is_none_or(|status| view["status"] == status));
    Ok(axum::Json(convert::page(views, None)))
}

async fn delivery(
    State(surface): State<Shared>,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<axum::Json<Value>, Problem> {
    let delivery: DeliveryId = known(&delivery)?;
    let found = surface.webhooks.delivery(&session_id(&id)?, &delivery).await?;
    Ok(axum::Json(convert::delivery(&found)))
}

async fn redeliver(
    State(surface): State<Shared>,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<axum::Json<Value>, Problem> {
    let delivery: DeliveryId = known(&delivery)?;
    let sent = surface.webhooks.redeliver(&session_id(&id)?, &delivery).await?;
    Ok(axum::Json(convert::delivery(&sent)))
}
