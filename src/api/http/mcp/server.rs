//! The tools, as rmcp asks for them.
//!
//! A call is carried out by the code that carries out those of brains: it wakes its sandbox, its result is bounded, and
//! the end of a command that fails is a result like any other. A client that cancels ends the command; so does, from
//! version 2026-07-28 on, one that hangs up, as that is how such a client cancels. The end of the daemon ends no command.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::ids::{RequestId, SandboxId, SessionId};
use crate::runtime::{self, Answer, Call};
use crate::sandbox::{Sandbox, Sandboxes};
use crate::session::Sessions;
use crate::session::tools::{Bench, Note, Outcome, of_hands, unknown};
use crate::telemetry::chain;

/// The longest call: a long build. What takes longer is started in the background.
pub const CALL_DEADLINE: Duration = Duration::from_secs(3600);

/// Notes of a call that may wait for its client.
const NOTES: usize = 16;

/// How long a client may take to read of progress, which is a courtesy: then it is not told.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(1);

/// In front of the keys of runs: it is no session's id, so that they are no session's runs.
const CALLER: &str = "mcp";

/// What a request is about.
#[derive(Debug, Clone)]
pub enum Place {
    /// A sandbox.
    Sandbox(SandboxId),
    /// The hands of a session.
    Session(SessionId),
}

/// The server. What it is asked about stands with each request.
#[derive(Clone)]
pub struct Server {
    /// Where sandboxes are.
    pub sandboxes: Sandboxes,
    /// And sessions.
    pub sessions: Sessions,
    /// The daemon ends.
    pub stop: CancellationToken,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("handsd", env!("CARGO_PKG_VERSION")))
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(of_hands().into_iter().map(tool).collect()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        of_hands().into_iter().find(|tool| tool.name == name).map(tool)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if self.get_tool(&request.name).is_none() {
            return Err(ErrorData::invalid_params(format!("there is no tool {:.64}", request.name), None));
        }
        let input = Value::Object(request.arguments.unwrap_or_default());
        let call = Call { id: RequestId::random().to_string(), tool: request.name.into_owned(), input };
        let answer = match self.sandbox(&context).await {
            Ok(sandbox) => self.carry_out(sandbox, call, context).await,
            Err(answer) => answer,
        };
        let content = vec![ContentBlock::text(answer.text)];
        let result = if answer.is_ok { CallToolResult::success(content) } else { CallToolResult::error(content) };
        Ok(result.into())
    }
}

impl Server {
    /// The sandbox that a request is about, as it is now.
    async fn sandbox(&self, context: &RequestContext<RoleServer>) -> Result<Sandbox, Answer> {
        let parts = context.extensions.get::<axum::http::request::Parts>();
        let id = match parts.and_then(|parts| parts.extensions.get::<Place>()) {
            Some(Place::Sandbox(id)) => id.clone(),
            Some(Place::Session(id)) => {
                let session = self.sessions.get(id).await.map_err(|error| failed(&error))?;
                let (_, hands) = session.sandboxes;
                hands.ok_or_else(|| {
                    Answer::error("the session has no sandbox: it gets one with its first message, and has none when it is archived")
                })?
            }
            None => return Err(Answer::error("the request is about nothing")),
        };
        self.sandboxes.get(&id).map_err(|error| failed(&error))
    }

    async fn carry_out(&self, sandbox: Sandbox, call: Call, context: RequestContext<RoleServer>) -> Answer {
        let (notes, told) = mpsc::channel(NOTES);
        let bench = Bench {
            sandbox,
            notes,
            stop: CancellationToken::new(),
            until: SystemTime::now() + CALL_DEADLINE,
            session: CALLER.to_owned(),
            forgets_after: self.sandboxes.defaults().runs.retention,
        };
        let stop = bench.stop.clone();
        let telling = tell(told, &context);
        let cancelling = async {
            context.ct.cancelled().await;
            // Both end what is served; only one of them is about the call.
            if !self.stop.is_cancelled() {
                stop.cancel();
            }
            std::future::pending().await
        };
        let finished = tokio::select! {
            finished = bench.carry_out(call) => finished,
            () = telling => return unknown(),
            () = cancelling => return unknown(),
        };
        match finished.outcome {
            Outcome::Done { answer, .. } => answer,
            Outcome::NoHands(_) => Answer::error("the sandbox has failed, or is being removed"),
            Outcome::Void => unknown(),
        }
    }
}

/// Tells the client of what its command writes, if it wants to know: how many bytes, and the last of them. Does not end.
async fn tell(mut told: mpsc::Receiver<Note>, context: &RequestContext<RoleServer>) {
    let token = context.meta.get_progress_token();
    while let Some(note) = told.recv().await {
        let (Some(token), Note::Output(_, cursor, body)) = (&token, note) else { continue };
        let text = body["text"].as_str().unwrap_or_default();
        let progress = ProgressNotificationParam::new(token.clone(), cursor as f64).with_message(text);
        // One that cannot be told hears the end.
        let _ = timeout(PROGRESS_DEADLINE, context.peer.notify_progress(progress)).await;
    }
    std::future::pending().await
}

/// One of our tools in the words of the protocol.
fn tool(tool: runtime::Tool) -> Tool {
    let schema = match tool.input {
        Value::Object(schema) => schema,
        _ => serde_json::Map::new(),
    };
    Tool::new(tool.name, tool.description, Arc::new(schema))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Answer {
    Answer::error(chain(error).to_string())
}
