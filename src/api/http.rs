//! The HTTP surface: probes.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

/// /livez: the daemon answers. /readyz: sandboxes can be made, as `is_ready` says.
pub fn router(is_ready: watch::Receiver<bool>) -> Router {
    Router::new().route("/livez", get(alive)).route("/readyz", get(ready)).with_state(is_ready)
}

async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn ready(State(is_ready): State<watch::Receiver<bool>>) -> (StatusCode, Json<Value>) {
    if *is_ready.borrow() {
        (StatusCode::OK, Json(json!({ "status": "ok" })))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "unavailable" })))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn status(router: &Router, path: &str) -> StatusCode {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn a_node_that_is_not_ready_says_so_and_is_alive_all_the_same() {
        let ready = watch::Sender::new(true);
        let router = router(ready.subscribe());
        assert_eq!(status(&router, "/readyz").await, StatusCode::OK);
        ready.send_replace(false);
        assert_eq!(status(&router, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(&router, "/livez").await, StatusCode::OK);
        ready.send_replace(true);
        assert_eq!(status(&router, "/readyz").await, StatusCode::OK);
    }
}
