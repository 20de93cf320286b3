//! The log of a session: pages, and a stream that goes on.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, future};
use serde_json::json;

use super::super::Shared;
use super::super::body::Query;
use super::super::problem::Problem;
use super::super::routes::{Listing, Routes};
use super::convert::{self, EventView, EventsQuery, Page};
use crate::api::convert::sessions::session_id;
use crate::api::status::Fault;
use crate::ids::{EventId, SessionId};
use crate::session::{EventQuery, Level};

/// Between two comments on a quiet stream, so that nothing on the way forgets it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a browser that reconnects has seen last.
const LAST_EVENT_ID: &str = "last-event-id";

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .get(
            "/v3/sessions/{id}/events",
            "Lists the events; with stream=sse, all there are and then all that come",
            list,
        )
        .get("/v3/sessions/{id}/events/{event}", "Shows an event", get)
        .get("/v3/sessions/{id}/events/{event}/content", "Shows the whole body of a long event", content)
        .get("/v3/sessions/{id}/messages", "Lists what was said, by the user and the agent", messages)
}

async fn list(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Result<Listing<axum::Json<Page<EventView>>>, Problem> {
    let id = session_id(&id)?;
    match query.stream.as_deref() {
        None | Some("") => {
            Ok(Listing::Whole(axum::Json(page(&surface, &id, query.to_query(None)?, query.limit).await?)))
        }
        Some("sse") => {
            let last = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
            let last = convert::cursor("Last-Event-ID", last)?;
            Ok(Listing::Stream(stream(&surface, &id, query.to_query(last)?).await?))
        }
        Some(_) => Err(Problem::field("stream", "is \"sse\" or left out")),
    }
}

async fn messages(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
) -> Result<axum::Json<Page<EventView>>, Problem> {
    let wanted = EventQuery { level: Level::User, ..query.to_query(None)? };
    // The store knows the beginnings of types, not their ends: what is no message is left out here.
    let mut page = page(&surface, &session_id(&id)?, wanted, query.limit).await?;
    page.data.retain(EventView::is_message);
    Ok(axum::Json(page))
}

/// A page of events. One more is read than is answered, to know whether there are more.
async fn page(
    surface: &Shared,
    id: &SessionId,
    query: EventQuery,
    limit: Option<usize>,
) -> Result<Page<EventView>, Problem> {
    let limit = convert::limit(limit)?;
    let mut events = surface.sessions.events(id, query, limit + 1).await.map_err(Fault::from)?;
    let has_more = events.len() > limit;
    events.truncate(limit);
    let next_cursor = events.last().filter(|_| has_more).map(|event| event.seq.to_string());
    Ok(Page { data: events.into_iter().map(convert::event).collect(), next_cursor })
}

/// Events one by one: those there are, then those that come. A client that reads too slowly is behind, and holds up
/// nobody; one that does not read at all loses its connection, and comes back with what it has seen last.
async fn stream(surface: &Shared, id: &SessionId, query: EventQuery) -> Result<Response, Problem> {
    let events = surface.sessions.follow(id, query).await.map_err(Fault::from)?;
    let stop = surface.stop.clone();
    let frames = events
        // What cannot be read ends the stream; the client asks again, and hears why.
        .take_while(|event| future::ready(event.is_ok()))
        .filter_map(|event| future::ready(event.ok()))
        .map(|event| {
            let frame = Frame::default().id(event.seq.to_string());
            Ok::<_, Infallible>(frame.data(json!(convert::event(event)).to_string()))
        })
        .take_until(async move { stop.cancelled().await });
    Ok(Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, "no such event"))
}

async fn get(
    State(surface): State<Shared>,
    Path((id, event)): Path<(String, String)>,
) -> Result<axum::Json<EventView>, Problem> {
    let event = surface.sessions.event(&session_id(&id)?, &event_id(&event)?).await.map_err(Fault::from)?;
    Ok(axum::Json(convert::event(event)))
}

async fn content(
    State(surface): State<Shared>,
    Path((id, event)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let content = surface.sessions.content(&session_id(&id)?, &event_id(&event)?).await.map_err(Fault::from)?;
    Ok(([(CONTENT_TYPE, "application/json")], content).into_response())
}
