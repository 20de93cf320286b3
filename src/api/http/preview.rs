//! Previews: what listens on a port of a sandbox, over the daemon's own HTTP listener.
//!
//! ```text
//! http://3000-sb_….localhost:7421/       by host name: an origin of its own, for browsers
//! http://…:7421/preview/sb_…/3000/       by path: for everything else
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `token` | who may see a preview |
//! | `place` | which preview a request is for (pure) |
//! | `pass` | a request into the sandbox and its answer out, WebSockets too |
//!
//! A preview has a token: in the query, once, which is answered by a cookie and a redirect, or in a header. A sandbox that
//! sleeps is woken by the request, which waits for it.
//!
//! By path, a preview would share its origin with whatever else the listener serves. So its pages are put into a sandbox
//! of the browser's own (`Content-Security-Policy: sandbox`), in which they have no origin and no cookies.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ids::SandboxId;
use crate::network::ConnectError;
use crate::sandbox::{ForwardError, Sandbox, SandboxError, Sandboxes};
use crate::telemetry::chain;
use place::{COOKIE, PARAMETER, Place, Way};
use token::Tokens;

mod pass;
mod place;
pub mod token;

/// The header that carries the token of a client that is no browser.
const TOKEN: HeaderName = HeaderName::from_static("x-hands-token");

/// What a page may do that is seen by path.
const CONFINED: HeaderValue = HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-modals");

/// Seconds after which a browser looks again at a port on which nobody listened.
const RETRY_SECONDS: u32 = 1;

/// The previews of a node.
#[derive(Clone)]
pub struct Previews {
    shared: Arc<Shared>,
}

struct Shared {
    sandboxes: Sandboxes,
    tokens: Tokens,
    /// Of which every preview is a part.
    domain: String,
    /// Where HTTP is served, if anywhere.
    address: Option<SocketAddr>,
    /// Owns the connections into sandboxes.
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Where a preview is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// For browsers, with the token; empty where no HTTP is served.
    pub url: String,
    /// The same by path, below the listener's own address.
    pub path: String,
    /// For the header `x-hands-token`.
    pub token: String,
}

impl Previews {
    /// The previews of these sandboxes, by names below `domain`, where HTTP is served; they end when `stop` is told.
    #[must_use]
    pub fn new(
        sandboxes: Sandboxes,
        tokens: Tokens,
        domain: String,
        address: Option<SocketAddr>,
        stop: CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        Self { shared: Arc::new(Shared { sandboxes, tokens, domain, address, tasks, stop }) }
    }

    /// Waits until it is told to stop and all connections have ended.
    pub async fn wait(self) {
        self.shared.stop.cancelled().await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Where a port of a sandbox is seen.
    #[must_use]
    pub fn links(&self, sandbox: &SandboxId, port: u16) -> Links {
        let Shared { tokens, domain, address, .. } = &*self.shared;
        let token = tokens.token(sandbox, port);
        let url = address.map(|at| format!("http://{port}-{sandbox}.{domain}:{}/?{PARAMETER}={token}", at.port()));
        let path = format!("/preview/{sandbox}/{port}/?{PARAMETER}={token}");
        Links { url: url.unwrap_or_default(), path, token }
    }
}

/// Puts previews in front of a router: their paths, and everything that comes by one of their names.
pub fn mount(router: Router, previews: Previews) -> Router {
    let paths = Router::new()
        .route("/preview/{sandbox}/{port}", any(by_path))
        .route("/preview/{sandbox}/{port}/", any(by_path))
        .route("/preview/{sandbox}/{port}/{*rest}", any(by_path))
        .with_state(previews.clone());
    router.merge(paths).layer(middleware::from_fn_with_state(previews, by_name))
}

async fn by_path(State(previews): State<Previews>, request: Request) -> Response {
    match place::by_path(request.uri()) {
        Some(place) => previews.show(place, request).await,
        None => Refusal::NoPreview.into_response(),
    }
}

async fn by_name(State(previews): State<Previews>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    match host.and_then(|host| place::by_name(host, &previews.shared.domain, request.uri())) {
        Some(place) => previews.show(place, request).await,
        None => next.run(request).await,
    }
}

/// Why there is nothing to see.
enum Refusal {
    /// The address is that of no preview.
    NoPreview,
    /// The token is missing or wrong.
    Token,
    /// The sandbox cannot be used, or its port cannot.
    Forward(SandboxId, u16, ForwardError),
    /// What listens there broke off.
    Broken(SandboxId, u16),
}

impl Previews {
    async fn show(&self, place: Place, mut request: Request) -> Response {
        let tokens = &self.shared.tokens;
        let is_valid = |token: &str| tokens.is_valid(&place.sandbox, place.port, token);
        if let Some((token, clean)) = place::token_in_query(request.uri()) {
            return if is_valid(&token) { enter(&place, &token, &clean) } else { Refusal::Token.into_response() };
        }
        let header = request.headers().get(TOKEN).and_then(|token| token.to_str().ok());
        let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let given: Vec<&str> = header.into_iter().chain(cookies.filter_map(place::token_in_cookie)).collect();
        if !given.into_iter().any(is_valid) {
            return Refusal::Token.into_response();
        }
        hide_token(request.headers_mut());
        let wants_page = accepts_html(request.headers());
        match self.pass(&place, request).await {
            Ok(answer) => confine(answer, &place),
            Err(Refusal::Forward(sandbox, port, error)) if wants_page && is_closed(&error) => waiting(&sandbox, port),
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn pass(&self, place: &Place, request: Request) -> Result<Response, Refusal> {
        let Place { sandbox: id, port, .. } = place;
        let failed = |error| Refusal::Forward(id.clone(), *port, error);
        let sandbox: Sandbox = self.shared.sandboxes.get(id).map_err(|error| failed(ForwardError::Sandbox(error)))?;
        let connection = sandbox.connect(*port).await.map_err(failed)?;
        let Shared { tasks, stop, .. } = &*self.shared;
        let passed = pass::pass(connection, place, request, tasks, stop).await;
        passed.map_err(|error| {
            tracing::debug!(sandbox.id = %id, port, error = %chain(&error), "a preview broke off");
            Refusal::Broken(id.clone(), *port)
        })
    }
}

/// Gives the browser the token as a cookie, and has it ask again without.
fn enter(place: &Place, token: &str, clean: &str) -> Response {
    let path = place.cookie_path();
    let cookie = format!("{COOKIE}={token}; Path={path}; HttpOnly; SameSite=Lax");
    let mut answer = StatusCode::SEE_OTHER.into_response();
    for (name, value) in [(header::SET_COOKIE, cookie), (header::LOCATION, clean.to_owned())] {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// What listens inside has no use for the token.
fn hide_token(headers: &mut HeaderMap) {
    headers.remove(TOKEN);
    let cookies: Vec<String> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .map(place::without_token)
        .filter(|cookies| !cookies.is_empty())
        .collect();
    headers.remove(header::COOKIE);
    for cookies in cookies {
        if let Ok(value) = HeaderValue::try_from(cookies) {
            headers.append(header::COOKIE, value);
        }
    }
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

fn is_closed(error: &ForwardError) -> bool {
    matches!(error, ForwardError::Connect { source: ConnectError::Closed { .. }, .. })
}

/// A page that looks again until somebody listens.
fn waiting(sandbox: &SandboxId, port: u16) -> Response {
    let page = format!(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content={RETRY_SECONDS}><title>Port {port}</title>\n\
         <p>Nobody listens on port {port} of {sandbox} yet. This page looks again by itself.\n"
    );
    (StatusCode::BAD_GATEWAY, Html(page)).into_response()
}

fn confine(mut answer: Response, place: &Place) -> Response {
    if place.way == Way::Path {
        answer.headers_mut().append(header::CONTENT_SECURITY_POLICY, CONFINED);
    }
    answer
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, reason, message, of) = match self {
            Self::NoPreview => (StatusCode::NOT_FOUND, "PREVIEW_NOT_FOUND", "no such preview".to_owned(), None),
            Self::Token => {
                let message = format!("the preview needs its token: ?{PARAMETER}=… once, or the header {TOKEN}");
                (StatusCode::UNAUTHORIZED, "PREVIEW_TOKEN_INVALID", message, None)
            }
            Self::Forward(sandbox, port, error) => {
                let (status, reason) = match &error {
                    ForwardError::Sandbox(SandboxError::NotFound(_)) => (StatusCode::NOT_FOUND, "SANDBOX_NOT_FOUND"),
                    ForwardError::Sandbox(_) => (StatusCode::SERVICE_UNAVAILABLE, "SANDBOX_NOT_RUNNING"),
                    ForwardError::Connect { .. } => (StatusCode::BAD_GATEWAY, "PORT_CLOSED"),
                };
                (status, reason, chain(&error).to_string(), Some((sandbox, port)))
            }
            Self::Broken(sandbox, port) => {
                let message = format!("what listens on port {port} of sandbox {sandbox} sent no answer");
                (StatusCode::BAD_GATEWAY, "CONNECTION_LOST", message, Some((sandbox, port)))
            }
        };
        let (sandbox, port) = of.map(|(sandbox, port)| (sandbox.to_string(), port)).unzip();
        let error = json!({ "reason": reason, "message": message, "sandbox_id": sandbox, "port": port });
        (status, Json(json!({ "error": error }))).into_response()
    }
}
