//! The HTTP surface: probes.

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// /livez: the daemon answers. /readyz: it takes requests.
pub fn router() -> Router {
    Router::new().route("/livez", get(alive)).route("/readyz", get(alive))
}

async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
