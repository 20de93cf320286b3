//! Commands.

use std::time::Duration;

use axum::extract::{Path, State, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use tokio::time::timeout;

use super::Shared;
use super::body::{Json, Query};
use super::convert::{self, Exec, HandleView, ResultView, RunView};
use super::problem::Problem;
use super::routes::Routes;
use super::sandboxes::find;
use super::socket::{self, Framing};
use crate::api::convert as messages;
use crate::api::proto::BashRequest;
use crate::api::status::Fault;
use crate::hands::output::Stream;
use crate::hands::{Event, Events, Hands, Run, RunError};
use crate::sandbox::runtime::is_check;

/// How long a request for a result waits for it: long enough that most commands need one request. The client looks whether
/// its caller has given up only between two requests, so no longer.
const RESULT_WAIT: Duration = Duration::from_millis(500);

/// Bytes of a result, of each stream. What is beyond it can be read by attaching.
const RESULT_BYTES: usize = 4 << 20;

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .post("/api/sandboxes/{id}/exec", "Starts a command to attach to", start)
        .get("/api/sandboxes/{id}/exec", "Lists the commands that run and those that are retained", list)
        .post("/api/sandboxes/{id}/exec/run", "Runs a command and answers its result", run)
        .post("/api/sandboxes/{id}/exec/run-async", "Starts a command whose result is asked for later", run_async)
        .get("/api/sandboxes/{id}/exec/{run}", "Attaches to a command, over a WebSocket", attach)
        .get("/api/sandboxes/{id}/exec/{run}/result", "Waits a while for the result of a command", result)
        .post("/api/sandboxes/{id}/exec/{run}/kill", "Ends a command, or sends it a signal", kill)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AttachQuery {
    /// The position in the output to begin at.
    cursor: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kill {
    signal: Option<u32>,
}

/// A run by the ids in the path. A sandbox that sleeps goes on sleeping, if that keeps nothing from being seen.
pub async fn find_run(surface: &Shared, sandbox: &str, run: &str) -> Result<(Hands, Run), Problem> {
    let hands = find(surface, sandbox)?.hands_of_before().await.map_err(Fault::from)?;
    let run = hands.run(&messages::run_id(run)?).map_err(Fault::from)?;
    Ok((hands, run))
}

/// Starts a run. Nothing undoes it when the caller leaves.
pub async fn start_run(surface: &Shared, message: BashRequest) -> Result<Run, Problem> {
    let (sandbox, command, key) = messages::command(message, surface.deadlines).map_err(convert::renamed)?;
    let sandbox = surface.sandboxes.get(&sandbox).map_err(Fault::from)?;
    let (hands, lease) = sandbox.awake().await.map_err(Fault::from)?;
    hands.start(command, key, Some(lease)).await.map_err(|error| convert::renamed(error.into()))
}

/// A run as it stands.
pub fn view(surface: &Shared, sandbox: &str, run: &Run) -> Result<RunView, Problem> {
    let id = messages::sandbox_id(sandbox)?;
    let view = convert::run(&id, run, surface.viewers.of(run.id()));
    view.ok_or_else(|| Fault::from(RunError::NotFound(run.id().clone())).into())
}

async fn start(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<Exec>,
) -> Result<(StatusCode, axum::Json<RunView>), Problem> {
    let run = start_run(&surface, body.into_attachable(id.clone())?).await?;
    Ok((StatusCode::CREATED, axum::Json(view(&surface, &id, &run)?)))
}

async fn list(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<Vec<RunView>>, Problem> {
    let sandbox = find(&surface, &id)?;
    // One that is being made, or removed, has none.
    let runs = sandbox.hands().map(|hands| hands.runs()).unwrap_or_default();
    let views = runs
        .iter()
        .filter(|run| !is_check(run))
        .filter_map(|run| convert::run(&sandbox.profile().id, run, surface.viewers.of(run.id())));
    Ok(axum::Json(views.collect()))
}

async fn run(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<Exec>,
) -> Result<axum::Json<ResultView>, Problem> {
    let run = start_run(&surface, body.into_awaited(id)).await?;
    Ok(axum::Json(collect(run).await?))
}

async fn run_async(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<Exec>,
) -> Result<(StatusCode, axum::Json<HandleView>), Problem> {
    let run = start_run(&surface, body.into_awaited(id)).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(convert::handle(&run))))
}

async fn result(
    State(surface): State<Shared>,
    Path((id, run)): Path<(String, String)>,
) -> Result<axum::Json<ResultView>, Problem> {
    let (_, run) = find_run(&surface, &id, &run).await?;
    match timeout(RESULT_WAIT, run.wait_exited()).await {
        Ok(_) => Ok(axum::Json(collect(run).await?)),
        Err(_) => Ok(axum::Json(ResultView { running: true, ..ResultView::default() })),
    }
}

async fn kill(
    State(surface): State<Shared>,
    Path((id, run)): Path<(String, String)>,
    Json(body): Json<Kill>,
) -> Result<StatusCode, Problem> {
    let (hands, run) = find_run(&surface, &id, &run).await?;
    let signal = body.signal.map(messages::signal).transpose()?;
    let killed = match signal {
        None => run.cancel(surface.sandboxes.defaults().runs.kill_grace).await.map(drop),
        // Everything that it has started, too, and not only its leader.
        Some(libc::SIGKILL) => run.cancel(Duration::ZERO).await.map(drop),
        Some(signal) => hands.signal(&run, signal).await,
    };
    match killed {
        // It has ended in the meantime, which is what was wanted.
        Err(RunError::NotFound(_)) => {}
        killed => killed.map_err(Fault::from)?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn attach(
    State(surface): State<Shared>,
    Path((id, run)): Path<(String, String)>,
    Query(query): Query<AttachQuery>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let (_, run) = find_run(&surface, &id, &run).await?;
    socket::attach(&surface, upgrade, run, query.cursor, Framing::Numbered)
}

/// What a run has written, as far as a result holds it, and how it has ended. Waits for the end.
async fn collect(run: Run) -> Result<ResultView, Problem> {
    let mut events = Events::from(run, 0).map_err(Fault::from)?;
    let (mut stdout, mut stderr, mut is_truncated) = (Vec::new(), Vec::new(), false);
    let mut view = ResultView::default();
    while let Some(event) = events.next().await.map_err(Fault::from)? {
        match event {
            Event::Started(_) => {}
            Event::Gap { .. } => is_truncated = true,
            Event::Output { stream, data, .. } => {
                let kept = match stream {
                    Stream::Stdout => &mut stdout,
                    Stream::Stderr => &mut stderr,
                };
                let room = RESULT_BYTES.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(&data[..room]);
                is_truncated |= room < data.len();
            }
            Event::Exited(exited) => {
                view.exit_code = Some(convert::exit_code(&exited));
                view.reason = Some(exited.reason.name().to_owned());
                view.error = exited.status.is_none().then(|| "the sandbox was lost while the command ran".to_owned());
                view.command_ms = u64::try_from(exited.elapsed.as_millis()).ok();
            }
        }
    }
    view.stdout = text(stdout);
    view.stderr = text(stderr);
    view.truncated = is_truncated.then_some(true);
    Ok(view)
}

/// Output as text, which is what the client takes; what is no UTF-8 is replaced.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
