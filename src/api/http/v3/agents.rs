//! Agents.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::super::Shared;
use super::super::body::{Json, Query};
use super::super::problem::Problem;
use super::super::routes::Routes;
use super::convert::{self, AgentView, CreateAgent, Page, UpdateAgent};
use crate::api::status::Fault;

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .post("/v3/agents", "Makes an agent; the same one again is the same agent", create)
        .get("/v3/agents", "Lists the agents, newest first", list)
        .get("/v3/agents/{agent}", "Shows an agent, by its id or name", get)
        .patch("/v3/agents/{agent}", "Changes an agent; its sessions keep it as it was", update)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn create(
    State(surface): State<Shared>,
    Json(body): Json<CreateAgent>,
) -> Result<(StatusCode, axum::Json<AgentView>), Problem> {
    let (spec, key) = body.into_spec()?;
    let made = surface.sessions.create_agent(spec, key).await.map_err(Fault::from)?;
    let status = if made.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(convert::agent(&made.agent))))
}

async fn list(
    State(surface): State<Shared>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<AgentView>>, Problem> {
    let before = convert::cursor("cursor", query.cursor.as_deref())?;
    let page = surface.sessions.agents(before, convert::limit(query.limit)?).await.map_err(Fault::from)?;
    let next_cursor = page.items.last().filter(|_| page.has_more).map(|agent| agent.id.to_string());
    Ok(axum::Json(Page { data: page.items.iter().map(convert::agent).collect(), next_cursor }))
}

async fn get(State(surface): State<Shared>, Path(name): Path<String>) -> Result<axum::Json<AgentView>, Problem> {
    let agent = surface.sessions.agent(&convert::agent_name(name)).await.map_err(Fault::from)?;
    Ok(axum::Json(convert::agent(&agent)))
}

async fn update(
    State(surface): State<Shared>,
    Path(name): Path<String>,
    Json(body): Json<UpdateAgent>,
) -> Result<axum::Json<AgentView>, Problem> {
    let agent = surface.sessions.update_agent(&convert::agent_name(name), body.into_change()?).await;
    let agent = agent.map_err(Fault::from)?;
    Ok(axum::Json(convert::agent(&agent)))
}
