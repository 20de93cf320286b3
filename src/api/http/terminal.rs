//! Terminals: a shell with a PTY, over a WebSocket.

use axum::extract::{Path, State, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Shared;
use super::body::Json;
use super::convert::{RunView, Terminal};
use super::exec::{find_run, start_run, view};
use super::problem::Problem;
use super::routes::Routes;
use super::socket::{self, Framing};
use crate::api::convert::{self as messages, InputAction};
use crate::api::proto;
use crate::api::status::Fault;

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .post("/api/sandboxes/{id}/pty", "Starts a shell in a terminal", create)
        .get("/api/sandboxes/{id}/pty/{run}", "Attaches to a terminal, over a WebSocket", attach)
        .post("/api/sandboxes/{id}/pty/{run}/resize", "Changes the size of a terminal", resize)
        .delete("/api/sandboxes/{id}/pty/{run}", "Ends the shell of a terminal and all it has started", remove)
}

#[derive(Debug, Deserialize)]
struct Size {
    cols: u32,
    rows: u32,
}

async fn create(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<Terminal>,
) -> Result<(StatusCode, axum::Json<RunView>), Problem> {
    let run = start_run(&surface, body.into_message(id.clone())).await?;
    Ok((StatusCode::CREATED, axum::Json(view(&surface, &id, &run)?)))
}

async fn attach(
    State(surface): State<Shared>,
    Path((id, run)): Path<(String, String)>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let (_, run) = find_run(&surface, &id, &run).await?;
    socket::attach(&surface, upgrade, run, 0, Framing::Raw)
}

async fn resize(
    State(surface): State<Shared>,
    Path((id, run)): Path<(String, String)>,
    Json(Size { cols, rows }): Json<Size>,
) -> Result<StatusCode, Problem> {
    let (_, run) = find_run(&surface, &id, &run).await?;
    let resize = proto::input_request::Input::Resize(proto::Resize { rows, cols });
    if let Some(InputAction::Write(input)) = messages::input(Some(resize))? {
        run.input(input).await.map_err(Fault::from)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(State(surface): State<Shared>, Path((id, run)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    let (_, run) = find_run(&surface, &id, &run).await?;
    // One that has ended is as removed as can be; its output stays for the retention time.
    let _ = run.cancel(surface.sandboxes.defaults().runs.kill_grace).await;
    Ok(StatusCode::NO_CONTENT)
}
