//! MCP: the tools of a sandbox, and of a session's hands, for any client of the Model Context Protocol.
//!
//! The protocol is rmcp's. Who may come in was decided before, and the path says what a request is about, each one anew:
//! the id of a client's conversation opens nothing. Conversations are the older versions' (before 2026-07-28); they live
//! in memory, and a client begins another when the daemon does not know its own any more. What is done here is not in the
//! log of a session, as little as what is done by the API of sandboxes: it is not its brain's work.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use rmcp::transport::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, SessionConfig};
use tokio_util::sync::CancellationToken;

use super::problem::{Problem, Verbatim};
use super::routes::Routes;
use super::{MAX_BODY, Shared};
use crate::api::convert as messages;
use crate::api::convert::sessions::session_id;
use crate::api::status::Fault;
use crate::sandbox::Sandboxes;
use crate::session::Sessions;
use server::{CALL_DEADLINE, Place, Server};

mod server;

/// Conversations at once, of all clients. Each costs some tens of kilobytes; a client has one or two.
const MAX_CONVERSATIONS: usize = 1_000;

/// How long a conversation is kept that says nothing: longer than the longest call, during which it may well be silent.
const SILENCE: Duration = CALL_DEADLINE.saturating_add(Duration::from_secs(60));

/// Between two signs of life on a quiet stream, so that nothing on the way forgets it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The header by which a client names its conversation.
const CONVERSATION: HeaderName = HeaderName::from_static("mcp-session-id");

/// Its routes: for both kinds of places, what the protocol's transport does with each method.
pub fn routes() -> Routes {
    Routes::default()
        .post("/mcp/sandboxes/{id}", "Takes a message of an MCP client to the tools of a sandbox", sandbox)
        .get("/mcp/sandboxes/{id}", "Streams to an MCP client of a sandbox", sandbox)
        .delete("/mcp/sandboxes/{id}", "Ends the conversation of an MCP client of a sandbox", sandbox)
        .post("/mcp/sessions/{id}", "Takes a message of an MCP client to the hands of a session", session)
        .get("/mcp/sessions/{id}", "Streams to an MCP client of a session", session)
        .delete("/mcp/sessions/{id}", "Ends the conversation of an MCP client of a session", session)
}

/// The server of all places.
pub struct Mcp {
    http: StreamableHttpService<Server, LocalSessionManager>,
    conversations: Arc<LocalSessionManager>,
}

impl Mcp {
    /// One whose conversations end when it is told to stop.
    pub fn new(sandboxes: Sandboxes, sessions: Sessions, stop: CancellationToken) -> Self {
        let mut conversations = LocalSessionManager::default();
        let mut kept = SessionConfig::default();
        kept.keep_alive = Some(SILENCE);
        conversations.session_config = kept;
        let conversations = Arc::new(conversations);
        // Host and Origin were checked with those of all other routes.
        let mut config = StreamableHttpServerConfig::default().disable_allowed_hosts().disable_allowed_origins();
        config.sse_keep_alive = Some(KEEP_ALIVE);
        config.max_request_body_bytes = MAX_BODY;
        config.cancellation_token = stop.clone();
        let server = Server { sandboxes, sessions, stop };
        let make = move || Ok::<_, io::Error>(server.clone());
        Self { http: StreamableHttpService::new(make, Arc::clone(&conversations), config), conversations }
    }

    async fn answer(&self, place: Place, mut request: Request) -> Result<Response, Problem> {
        let is_new = !request.headers().contains_key(CONVERSATION);
        if is_new && self.conversations.sessions.read().await.len() >= MAX_CONVERSATIONS {
            let message = format!("there are {MAX_CONVERSATIONS} conversations with MCP clients, which is the most");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, message));
        }
        request.extensions_mut().insert(place);
        let response = self.http.handle(request).await.map(Body::new);
        // The protocol has a form of its own for errors.
        Ok(Verbatim(response).into_response())
    }
}

async fn sandbox(State(surface): State<Shared>, Path(id): Path<String>, request: Request) -> Result<Response, Problem> {
    let id = messages::sandbox_id(&id)?;
    surface.sandboxes.get(&id).map_err(Fault::from)?;
    surface.mcp.answer(Place::Sandbox(id), request).await
}

async fn session(State(surface): State<Shared>, Path(id): Path<String>, request: Request) -> Result<Response, Problem> {
    let id = session_id(&id)?;
    surface.sessions.get(&id).await.map_err(Fault::from)?;
    surface.mcp.answer(Place::Session(id), request).await
}
