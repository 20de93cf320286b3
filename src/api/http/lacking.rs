//! What the client can ask of the hosted service and this node does not have. It says so, in the form of an error.

use axum::http::Uri;

use super::problem::Problem;
use super::routes::Routes;

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .lacking("/api/agents/{*rest}")
        .lacking("/api/browsers/{*rest}")
        .lacking("/api/sandboxes/checkpoints/{*rest}")
        .lacking("/api/sandboxes/from-checkpoint/{id}")
        .lacking("/api/sandboxes/{id}/agent/{*rest}")
        .lacking("/api/sandboxes/{id}/allowed-hosts")
        .lacking("/api/sandboxes/{id}/autoscale")
        .lacking("/api/sandboxes/{id}/checkpoints")
        .lacking("/api/sandboxes/{id}/checkpoints/{*rest}")
        .lacking("/api/sandboxes/{id}/files/download-url")
        .lacking("/api/sandboxes/{id}/files/upload-url")
        .lacking("/api/sandboxes/{id}/logs")
        .lacking("/api/sandboxes/{id}/migrate")
        .lacking("/api/sandboxes/{id}/mounts")
        .lacking("/api/sandboxes/{id}/power-cycle")
        .lacking("/api/sandboxes/{id}/preview")
        .lacking("/api/sandboxes/{id}/preview/{*rest}")
        .lacking("/api/sandboxes/{id}/reboot")
        .lacking("/api/sandboxes/{id}/scaling-lock")
        .lacking("/api/sandboxes/{id}/usage")
        .lacking("/api/secret-stores")
        .lacking("/api/secret-stores/{*rest}")
        .lacking("/api/snapshots")
        .lacking("/api/snapshots/{*rest}")
        .lacking("/api/tags")
        .lacking("/api/templates")
        .lacking("/api/usage")
        .lacking("/api/webhooks")
        .lacking("/api/webhooks/{*rest}")
}

/// Answers for all of them.
pub async fn answer(uri: Uri) -> Problem {
    let what = uri.path().rsplit('/').next().unwrap_or_default();
    Problem::lacking(what)
}
