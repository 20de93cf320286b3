//! Sandboxes.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::body::{Json, Query};
use super::convert::{self, CreateSandbox, SandboxView};
use super::problem::Problem;
use super::routes::{Listing, Routes};
use super::{Shared, watch};
use crate::api::convert as messages;
use crate::api::proto;
use crate::api::status::Fault;
use crate::ids::SandboxId;
use crate::sandbox::state::Tier;
use crate::sandbox::{Sandbox, SandboxError};

/// Makes a repeated request for a sandbox the same request.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .post("/api/sandboxes", "Makes a sandbox", create)
        .get("/api/sandboxes", "Lists the sandboxes; with stream=sse, tells of every change to them", list)
        .get("/api/sandboxes/{id}", "Shows a sandbox", get)
        .delete("/api/sandboxes/{id}", "Ends and removes a sandbox", destroy)
        .post("/api/sandboxes/{id}/hibernate", "Puts a sandbox to sleep", hibernate)
        .post("/api/sandboxes/{id}/wake", "Wakes a sandbox", wake)
        .post("/api/sandboxes/{id}/timeout", "Sets after how many seconds without use it goes to sleep", set_timeout)
        .post("/api/sandboxes/{id}/scale", "Changes the memory of a sandbox", scale)
}

/// What is asked of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    stream: String,
    limit: u32,
    cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Timeout {
    timeout: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Scale {
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
}

/// A sandbox that was put to sleep.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HibernatedView {
    #[serde(rename = "sandboxID")]
    id: String,
    hibernation_key: String,
    status: String,
}

/// A sandbox whose memory was changed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaledView {
    #[serde(rename = "sandboxID")]
    id: String,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    cpu_percent: f64,
}

/// A list of sandboxes. The client wants a bare array, so where it goes on stands in a header.
type Sandboxes = (HeaderMap, axum::Json<Vec<SandboxView>>);

/// The key that makes a request that comes again the same request.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let key = headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str().map(str::to_owned)).transpose();
    key.map_err(|_| Problem::field("Idempotency-Key", "is no visible ASCII"))
}

/// A sandbox by the id in the path.
pub fn find(surface: &Shared, id: &str) -> Result<Sandbox, Problem> {
    Ok(surface.sandboxes.get(&messages::sandbox_id(id)?).map_err(Fault::from)?)
}

fn view(sandbox: &Sandbox) -> SandboxView {
    convert::sandbox(sandbox, &sandbox.snapshot())
}

async fn create(
    State(surface): State<Shared>,
    headers: HeaderMap,
    Json(body): Json<CreateSandbox>,
) -> Result<(StatusCode, axum::Json<SandboxView>), Problem> {
    let key = idempotency_key(&headers)?.unwrap_or_default();
    let (wish, key) = messages::wish(body.into_message(key)?).map_err(convert::renamed)?;
    let sandbox = surface.sandboxes.create(wish, key).await.map_err(|error| convert::renamed(error.into()))?;
    Ok((StatusCode::CREATED, axum::Json(view(&sandbox))))
}

async fn list(State(surface): State<Shared>, Query(query): Query<ListQuery>) -> Result<Listing<Sandboxes>, Problem> {
    match query.stream.as_str() {
        "" => {}
        "sse" => return Ok(Listing::Stream(watch::sandboxes(&surface).into_response())),
        _ => return Err(Problem::field("stream", "is \"sse\" or left out")),
    }
    let request =
        proto::ListSandboxesRequest { page_size: query.limit, page_token: query.cursor, ..Default::default() };
    let (after, limit) = messages::sandbox_page(&request)?;
    let (page, has_more) = surface.sandboxes.list(after.as_ref(), limit, &request.labels);
    let mut headers = HeaderMap::new();
    if let Some(last) = page.last().filter(|_| has_more) {
        let cursor = last.profile().id.as_str().parse().expect("an id is letters and digits");
        headers.insert("x-next-cursor", cursor);
    }
    Ok(Listing::Whole((headers, axum::Json(page.iter().map(view).collect()))))
}

async fn get(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<SandboxView>, Problem> {
    Ok(axum::Json(view(&find(&surface, &id)?)))
}

async fn destroy(State(surface): State<Shared>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    // One that is gone, or never was, is as destroyed as can be.
    let Ok(id) = id.parse::<SandboxId>() else { return Ok(StatusCode::NO_CONTENT) };
    match surface.sandboxes.get(&id) {
        Err(SandboxError::NotFound(_)) => {}
        sandbox => sandbox.map_err(Fault::from)?.destroy().await.map_err(Fault::from)?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn hibernate(
    State(surface): State<Shared>,
    Path(id): Path<String>,
) -> Result<axum::Json<HibernatedView>, Problem> {
    let sandbox = find(&surface, &id)?;
    sandbox.hibernate(Tier::Frozen).await.map_err(Fault::from)?;
    Ok(axum::Json(HibernatedView { hibernation_key: id.clone(), id, status: "hibernated".to_owned() }))
}

async fn wake(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<Timeout>,
) -> Result<axum::Json<SandboxView>, Problem> {
    let sandbox = find(&surface, &id)?;
    sandbox.wake().await.map_err(Fault::from)?;
    set_idle(&sandbox, body.timeout).await?;
    Ok(axum::Json(view(&sandbox)))
}

async fn set_timeout(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<Timeout>,
) -> Result<StatusCode, Problem> {
    let sandbox = find(&surface, &id)?;
    if body.timeout.is_none() {
        return Err(Problem::field("timeout", "is missing"));
    }
    set_idle(&sandbox, body.timeout).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_idle(sandbox: &Sandbox, seconds: Option<u64>) -> Result<(), Problem> {
    let Some(seconds) = seconds else { return Ok(()) };
    sandbox.set_idle(convert::idle(seconds)?).await.map_err(|error| Fault::from(error).into())
}

async fn scale(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(Scale { memory_mb }): Json<Scale>,
) -> Result<axum::Json<ScaledView>, Problem> {
    let sandbox = find(&surface, &id)?;
    let limits = messages::limits(&convert::memory(memory_mb)).map_err(convert::renamed)?;
    sandbox.set_limits(limits).await.map_err(Fault::from)?;
    let cpus = sandbox.snapshot().limits.cpus.unwrap_or(surface.cpus);
    Ok(axum::Json(ScaledView { id, memory_mb, cpu_percent: cpus * 100.0 }))
}
