//! What the client can ask of the hosted service and this node does not have. It says so, in the form of an error.

use axum::http::Uri;

use super::problem::Problem;
use super::routes::Routes;

/// Where.
const PATHS: &[&str] = &[
    "/api/agents/{*rest}",
    "/api/sandboxes/checkpoints/{*rest}",
    "/api/sandboxes/from-checkpoint/{id}",
    "/api/sandboxes/{id}/agent",
    "/api/sandboxes/{id}/agent/{*rest}",
    "/api/sandboxes/{id}/allowed-hosts",
    "/api/sandboxes/{id}/autoscale",
    "/api/sandboxes/{id}/checkpoints",
    "/api/sandboxes/{id}/checkpoints/{*rest}",
    "/api/sandboxes/{id}/files/download-url",
    "/api/sandboxes/{id}/files/upload-url",
    "/api/sandboxes/{id}/limits",
    "/api/sandboxes/{id}/logs",
    "/api/sandboxes/{id}/migrate",
    "/api/sandboxes/{id}/mounts",
    "/api/sandboxes/{id}/power-cycle",
    "/api/sandboxes/{id}/preview",
    "/api/sandboxes/{id}/preview/{*rest}",
    "/api/sandboxes/{id}/reboot",
    "/api/sandboxes/{id}/scaling-lock",
    "/api/sandboxes/{id}/tags",
    "/api/sandboxes/{id}/usage",
    "/api/secret-stores",
    "/api/secret-stores/{*rest}",
    "/api/snapshots",
    "/api/snapshots/{*rest}",
    "/api/tags",
    "/api/templates",
    "/api/templates/{name}",
    "/api/usage",
    "/api/v1/{*rest}",
    "/api/webhooks",
    "/api/webhooks/{*rest}",
    "/v3/agents/import",
    "/v3/agents/{agent}/{*rest}",
    "/v3/github/{*rest}",
    "/v3/repos",
    "/v3/repos/{*rest}",
    "/v3/sessions/{id}/watches",
    "/v3/sessions/{id}/watches/{watch}",
    "/v3/slack/{*rest}",
];

/// Their routes.
pub fn routes() -> Routes {
    PATHS.iter().fold(Routes::default(), |routes, path| routes.unlisted(path, answer))
}

/// Answers for all of them.
async fn answer(uri: Uri) -> Problem {
    Problem::lacking(uri.path())
}
