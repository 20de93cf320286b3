//! Client tokens: what a browser is given so that it can follow and steer one session.

use std::time::{Duration, SystemTime};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::super::Shared;
use super::super::body::Json;
use super::super::convert::time;
use super::super::problem::Problem;
use super::super::routes::Routes;
use super::super::token::{Claims, Scope};
use crate::api::convert::sessions::session_id;
use crate::api::status::Fault;
use crate::ids::{SessionId, TokenId};

/// How long a token of a new session is good for.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Shortest and longest that a token is good for; what is asked for beyond is brought there.
const TTL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// Their routes.
pub fn routes() -> Routes {
    Routes::default().post("/v3/sessions/{id}/client-tokens", "Makes a token for one session", create).delete(
        "/v3/sessions/{id}/client-tokens/{token}",
        "Revokes a token, by its id",
        revoke,
    )
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    scopes: Option<Vec<String>>,
    ttl: Option<u64>,
}

/// A token, under both names that the client knows it by.
#[derive(Debug, Serialize, Deserialize)]
struct TokenView {
    id: String,
    token: String,
    client_token: String,
    scopes: Vec<String>,
    expires_at: String,
}

/// A token that was made.
pub struct Minted {
    /// Its text.
    pub token: String,
    claims: Claims,
}

/// Makes a token.
pub fn mint(surface: &Shared, session: &SessionId, scopes: &[Scope], ttl: Duration) -> Minted {
    let expires_at = SystemTime::now() + ttl.clamp(TTL.0, TTL.1);
    let claims = Claims::new(session.clone(), scopes, expires_at);
    Minted { token: surface.access.tokens.sign(&claims), claims }
}

async fn create(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, axum::Json<TokenView>), Problem> {
    let id = session_id(&id)?;
    surface.sessions.get(&id).await.map_err(Fault::from)?;
    let scopes = match &wanted.scopes {
        None => Scope::USUAL.to_vec(),
        Some(names) => {
            let named =
                |name: &String| Scope::named(name).ok_or_else(|| Problem::field("scopes", "are read, steer and tools"));
            names.iter().map(named).collect::<Result<Vec<_>, _>>()?
        }
    };
    let ttl = wanted.ttl.map_or(DEFAULT_TTL, Duration::from_secs);
    let Minted { token, claims } = mint(&surface, &id, &scopes, ttl);
    let answer = TokenView {
        id: claims.id.to_string(),
        client_token: token.clone(),
        token,
        scopes: scopes.into_iter().map(|scope| scope.name().to_owned()).collect(),
        expires_at: time(claims.expires_at()),
    };
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

async fn revoke(
    State(surface): State<Shared>,
    Path((id, token)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    session_id(&id)?;
    let token: TokenId = token.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, "no such token"))?;
    // Nobody knows until when it is good, but no longer than this.
    let expires_at = SystemTime::now() + TTL.1;
    surface.access.tokens.revoke(token, expires_at).await.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, crate::telemetry::chain(&error).to_string())
    })?;
    Ok(StatusCode::NO_CONTENT)
}
