//! The page: the node at a glance, for a browser. It is one document without outside parts, and uses this API only.

use std::sync::LazyLock;

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::routes::Routes;

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// One script in parts, the last of which begins.
const SCRIPT: &str = concat!(
    include_str!("page/api.js"),
    include_str!("page/dom.js"),
    include_str!("page/node.js"),
    include_str!("page/sandboxes.js"),
    include_str!("page/sessions.js"),
    include_str!("page/main.js"),
);

struct Page {
    html: String,
    /// No script but ours, nothing from elsewhere, nowhere else to, and no frame around it.
    policy: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    html: FRAME.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT),
    policy: format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        STANDARD.encode(Sha256::digest(SCRIPT))
    ),
});

/// Its route.
pub fn routes() -> Routes {
    Routes::default().get("/", "The page", page)
}

async fn page() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, &PAGE.policy),
        (CACHE_CONTROL, "no-cache"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE.html.as_str()).into_response()
}
