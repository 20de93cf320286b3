//! Sessions, their turns and their messages.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::super::Shared;
use super::super::body::{Json, Query};
use super::super::problem::Problem;
use super::super::routes::Routes;
use super::super::token::Scope;
use super::convert::{self, CreateSession, EventView, Page, SendMessage, SessionView, TurnView};
use super::tokens;
use crate::api::convert::sessions::session_id;
use crate::api::http::sandboxes::idempotency_key;
use crate::api::status::Fault;
use crate::ids::TurnId;
use crate::session::{Session, SessionFilter, Status};
use crate::webhook::{Change, MAX_DESTINATIONS, Prepared};

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .post("/v3/sessions", "Makes a session, which begins to work", create)
        .get("/v3/sessions", "Lists the sessions, newest first", list)
        .get("/v3/sessions/{id}", "Shows a session", get)
        .post("/v3/sessions/{id}/cancel", "Has the turn that is under way end", cancel)
        .post("/v3/sessions/{id}/archive", "Ends a session; its log can still be read", archive)
        .get("/v3/sessions/{id}/result", "Shows the last turn and its result", result)
        .get("/v3/sessions/{id}/turns", "Lists the turns, newest first", turns)
        .get("/v3/sessions/{id}/turns/{turn}", "Shows a turn", turn)
        .get("/v3/sessions/{id}/sources", "Lists the sources of a session, of which there are none", sources)
        .post("/v3/sessions/{id}/messages", "Sends a message, which wakes or steers the session", send)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    status: Option<Status>,
    agent: Option<String>,
    key: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PageQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// A session that was made, or was there.
#[derive(Debug, Serialize, Deserialize)]
struct CreatedView {
    session: SessionView,
    client_token: String,
    /// This node brings no files into sessions.
    sources: Vec<()>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ResultView {
    last_turn: Option<TurnView>,
    result: Option<EventView>,
}

/// A message that was taken.
#[derive(Debug, Serialize, Deserialize)]
struct SentView {
    event: EventRef,
    session: SessionRef,
}

#[derive(Debug, Serialize, Deserialize)]
struct EventRef {
    id: String,
    seq: u64,
}

/// What is told of a session where it is not what was asked for.
#[derive(Debug, Serialize, Deserialize)]
struct SessionRef {
    id: String,
    status: Status,
    head: u64,
}

async fn create(
    State(surface): State<Shared>,
    headers: HeaderMap,
    Json(mut body): Json<CreateSession>,
) -> Result<(StatusCode, axum::Json<CreatedView>), Problem> {
    let destinations = std::mem::take(&mut body.destinations);
    let destinations = prepare(&surface, destinations)?;
    let wish = body.into_wish(idempotency_key(&headers)?, &destinations)?;
    let created = surface.sessions.create(wish).await.map_err(Fault::from)?;
    let session = created.session;
    // Those of a request that came before are there already.
    if created.is_new {
        surface.webhooks.attach(&session.id, destinations);
    }
    let minted = tokens::mint(&surface, &session.id, &Scope::USUAL, tokens::DEFAULT_TTL);
    let status = if created.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let session = convert::session(&session);
    Ok((status, axum::Json(CreatedView { session, client_token: minted.token, sources: Vec::new() })))
}

/// What is to be stored with a session. All of them are checked before there is one.
fn prepare(surface: &Shared, wishes: Vec<Change>) -> Result<Vec<Prepared>, Problem> {
    if wishes.len() > MAX_DESTINATIONS {
        return Err(Problem::field("destinations", format!("are more than {MAX_DESTINATIONS}")));
    }
    let prepare = |(index, wish)| {
        let within = |problem: Problem| problem.within(&format!("destinations[{index}]"));
        surface.webhooks.prepare(wish).map_err(Problem::from).map_err(within)
    };
    wishes.into_iter().enumerate().map(prepare).collect()
}

async fn list(
    State(surface): State<Shared>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<SessionView>>, Problem> {
    let agent = match query.agent {
        Some(name) => Some(surface.sessions.agent(&convert::agent_name(name)).await.map_err(Fault::from)?.id),
        None => None,
    };
    let filter = SessionFilter { status: query.status, agent, key: query.key, ..SessionFilter::default() };
    let before = convert::cursor("cursor", query.cursor.as_deref())?;
    let page = surface.sessions.list(filter, before, convert::limit(query.limit)?).await.map_err(Fault::from)?;
    let next_cursor = page.items.last().filter(|_| page.has_more).map(|session| session.id.to_string());
    Ok(axum::Json(Page { data: page.items.iter().map(convert::session).collect(), next_cursor }))
}

async fn get(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<SessionView>, Problem> {
    let session = surface.sessions.get(&session_id(&id)?).await.map_err(Fault::from)?;
    Ok(axum::Json(convert::session(&session)))
}

async fn cancel(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<SessionView>, Problem> {
    let session = surface.sessions.cancel(&session_id(&id)?).await.map_err(Fault::from)?;
    Ok(axum::Json(convert::session(&session)))
}

async fn archive(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<SessionView>, Problem> {
    let session = surface.sessions.archive(&session_id(&id)?).await.map_err(Fault::from)?;
    Ok(axum::Json(convert::session(&session)))
}

async fn result(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<ResultView>, Problem> {
    let found = surface.sessions.result(&session_id(&id)?).await.map_err(Fault::from)?;
    let last_turn = found.last_turn.as_ref().map(convert::turn);
    Ok(axum::Json(ResultView { last_turn, result: found.result.map(convert::event) }))
}

async fn turns(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<TurnView>>, Problem> {
    let before = convert::cursor("cursor", query.cursor.as_deref())?;
    let limit = convert::limit(query.limit)?;
    let page = surface.sessions.turns(&session_id(&id)?, before, limit).await.map_err(Fault::from)?;
    let next_cursor = page.items.last().filter(|_| page.has_more).map(|turn| turn.number.to_string());
    Ok(axum::Json(Page { data: page.items.iter().map(convert::turn).collect(), next_cursor }))
}

async fn turn(
    State(surface): State<Shared>,
    Path((id, turn)): Path<(String, String)>,
) -> Result<axum::Json<TurnView>, Problem> {
    let turn: TurnId = turn.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, "no such turn"))?;
    let turn = surface.sessions.turn(&session_id(&id)?, &turn).await.map_err(Fault::from)?;
    Ok(axum::Json(convert::turn(&turn)))
}

async fn sources(State(surface): State<Shared>, Path(id): Path<String>) -> Result<axum::Json<Vec<()>>, Problem> {
    surface.sessions.get(&session_id(&id)?).await.map_err(Fault::from)?;
    Ok(axum::Json(Vec::new()))
}

async fn send(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<SendMessage>,
) -> Result<(StatusCode, axum::Json<SentView>), Problem> {
    let (message, key) = body.into_message()?;
    let sent = surface.sessions.send(&session_id(&id)?, message, key).await.map_err(Fault::from)?;
    let status = if sent.is_new { StatusCode::ACCEPTED } else { StatusCode::OK };
    let event = EventRef { id: sent.event.to_string(), seq: sent.event.seq() };
    let Session { id, status: stands, head, .. } = sent.session;
    let session = SessionRef { id: id.to_string(), status: stands, head };
    Ok((status, axum::Json(SentView { event, session })))
}
