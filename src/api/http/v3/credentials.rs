//! Keys of model providers. What comes in here never goes out.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::super::Shared;
use super::super::body::Json;
use super::super::problem::Problem;
use super::super::routes::Routes;
use super::convert::{self, CreateCredential, CredentialView, Page};
use crate::api::status::Fault;
use crate::ids::CredentialId;
use crate::seal::Secret;

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .post("/v3/credentials", "Keeps the key of a model provider, sealed", create)
        .get("/v3/credentials", "Lists the credentials, newest first, without their keys", list)
        .put("/v3/credentials/default", "Has a credential be used by agents that name none", set_default)
        .patch("/v3/credentials/{credential}", "Replaces a key; sessions under way use it from then on", replace)
        .delete("/v3/credentials/{credential}", "Forgets a key", remove)
}

#[derive(Debug, Deserialize)]
struct Replacement {
    key: Secret,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    credential: String,
    provider: Option<String>,
}

/// The id of the credential that is meant.
async fn known(surface: &Shared, text: &str) -> Result<CredentialId, Problem> {
    Ok(surface.sessions.credentials().get(text).await.map_err(Fault::from)?.id)
}

async fn create(
    State(surface): State<Shared>,
    Json(body): Json<CreateCredential>,
) -> Result<(StatusCode, axum::Json<CredentialView>), Problem> {
    let made = surface.sessions.credentials().create(body.into()).await.map_err(Fault::from)?;
    Ok((StatusCode::CREATED, axum::Json(convert::credential(&made))))
}

async fn list(State(surface): State<Shared>) -> Result<axum::Json<Page<CredentialView>>, Problem> {
    let found = surface.sessions.credentials().list().await.map_err(Fault::from)?;
    Ok(axum::Json(Page { data: found.iter().map(convert::credential).collect(), next_cursor: None }))
}

async fn set_default(State(surface): State<Shared>, Json(wanted): Json<Wanted>) -> Result<StatusCode, Problem> {
    let all = surface.sessions.credentials();
    let found = all.get(&wanted.credential).await.map_err(Fault::from)?;
    if wanted.provider.is_some_and(|provider| provider != found.provider) {
        return Err(Problem::field("provider", format!("is another; the credential is of {}", found.provider)));
    }
    all.set_default(&found.id).await.map_err(Fault::from)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn replace(
    State(surface): State<Shared>,
    Path(credential): Path<String>,
    Json(Replacement { key }): Json<Replacement>,
) -> Result<axum::Json<CredentialView>, Problem> {
    let id = known(&surface, &credential).await?;
    let replaced = surface.sessions.credentials().replace(&id, &key).await.map_err(Fault::from)?;
    Ok(axum::Json(convert::credential(&replaced)))
}

async fn remove(State(surface): State<Shared>, Path(credential): Path<String>) -> Result<StatusCode, Problem> {
    let id = known(&surface, &credential).await?;
    surface.sessions.credentials().remove(&id).await.map_err(Fault::from)?;
    Ok(StatusCode::NO_CONTENT)
}
