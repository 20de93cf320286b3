//! What the client can ask of the hosted service and this node does not have. It says so, in the form of an error.

use axum::http::Uri;

use super::problem::Problem;
use super::routes::Routes;

/// Where.
const PATHS: &[&str] = &[
    "/api/agents/{*rest}",
    "/api/browsers/{*rest}",
    "/api/sandboxes/checkpoints/{*rest}",
    "/api/sandboxes/from-checkpoint/{id}",
    "/api/sandboxes/{id}/agent/{*rest}",
    "/api/sandboxes/{id}/allowed-hosts",
    "/api/sandboxes/{id}/autoscale",
    "/api/sandboxes/{id}/checkpoints",
    "/api/sandboxes/{id}/checkpoints/{*rest}",
    "/api/sandboxes/{id}/files/download-url",
    "/api/sandboxes/{id}/files/upload-url",
    "/api/sandboxes/{id}/logs",
    "/api/sandboxes/{id}/migrate",
    "/api/sandboxes/{id}/mounts",
    "/api/sandboxes/{id}/power-cycle",
    "/api/sandboxes/{id}/preview",
    "/api/sandboxes/{id}/preview/{*rest}",
    "/api/sandboxes/{id}/reboot",
    "/api/sandboxes/{id}/scaling-lock",
    "/api/sandboxes/{id}/usage",
    "/api/secret-stores",
    "/api/secret-stores/{*rest}",
    "/api/snapshots",
    "/api/snapshots/{*rest}",
    "/api/tags",
    "/api/templates",
    "/api/usage",
    "/api/webhooks",
    "/api/webhooks/{*rest}",
];

/// Their routes.
pub fn routes() -> Routes {
    PATHS.iter().fold(Routes::default(), |routes, path| routes.unlisted(path, answer))
}

/// Answers for all of them.
async fn answer(uri: Uri) -> Problem {
    let what = uri.path().rsplit('/').next().unwrap_or_default();
    Problem::lacking(what)
}
