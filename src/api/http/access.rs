//! What stands before every route: whose request it is, and whether it may come in.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{Query, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tracing::Instrument;

use super::key::ApiKey;
use super::policy::{self, Need};
use super::problem::{Problem, render};
use super::span::Asked;
use super::token::Tokens;
use crate::ids::RequestId;
use crate::telemetry::spans::Spans;

/// Names a request in the answer and in the log.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where the sandbox API's clients put the key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who may come in.
#[derive(Debug)]
pub struct Access {
    /// The key.
    pub key: ApiKey,
    /// Tokens that are good for one session.
    pub tokens: Tokens,
    /// Names of this node in URLs.
    pub hosts: Vec<String>,
    /// Origins of other sites whose pages may ask.
    pub origins: Vec<String>,
}

/// Where the key may stand in a query.
#[derive(Debug, Default, Deserialize)]
struct KeyInQuery {
    api_key: Option<String>,
    token: Option<String>,
}

/// Gives a request its name, and an error its form. Outermost: whatever is answered goes through here.
pub async fn frame(State(spans): State<Spans>, request: Request, next: Next) -> Response {
    let (id, asked, begun) = (RequestId::random(), Asked::of(&request), Instant::now());
    let span = asked.in_log(&id);
    async {
        let path = asked.path();
        let response = render(next.run(request).await, path, id.as_str()).await;
        let (status, elapsed) = (response.status().as_u16(), begun.elapsed());
        if response.status().is_server_error() && response.status() != StatusCode::NOT_IMPLEMENTED {
            tracing::warn!(status, ?elapsed, path, request.id = %id, "a request failed");
        } else {
            tracing::debug!(status, ?elapsed, "answered");
        }
        if spans.are_wanted() {
            spans.ended(asked.answered(&id, response.status(), elapsed));
        }
        let value = HeaderValue::from_str(id.as_str()).expect("an id is letters and digits");
        let mut response = response;
        response.headers_mut().insert(X_REQUEST_ID, value);
        response
    }
    .instrument(span)
    .await
}

/// Lets in who may.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match access.check(&parts) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => {
            let mut response = problem.into_response();
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        Err(problem) => problem.into_response(),
    }
}

impl Access {
    /// Whether a page of this origin may ask.
    #[must_use]
    pub fn allows(&self, origin: &HeaderValue, parts: &Parts) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        policy::is_allowed_origin(origin, host(parts).as_deref(), &self.origins)
    }

    fn check(&self, parts: &Parts) -> Result<(), Problem> {
        let need = policy::need(&parts.method, parts.uri.path());
        if need == Need::Probe {
            return Ok(());
        }
        let forbidden = |message| Err(Problem::new(StatusCode::FORBIDDEN, message));
        if !host(parts).is_some_and(|host| policy::is_own_host(&host, &self.hosts)) {
            return forbidden("Host is no name of this node; see http.hosts in the configuration");
        }
        if parts.headers.get(ORIGIN).is_some_and(|origin| !self.allows(origin, parts)) {
            return forbidden("pages of this origin may not ask; see http.origins in the configuration");
        }
        let shown = shown(parts).unwrap_or_default();
        if need == Need::Page || self.key.is(&shown) {
            return Ok(());
        }
        match (self.tokens.verify(&shown, SystemTime::now()), need) {
            (None, _) => Err(Problem::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong")),
            (Some(claims), Need::Session(id, scope))
                if claims.session.as_str() == id && claims.scopes.contains(&scope) =>
            {
                Ok(())
            }
            (Some(_), _) => forbidden("a client token is good for its own session, as far as its scopes go"),
        }
    }
}

/// What the caller shows to prove who it is.
fn shown(parts: &Parts) -> Option<String> {
    let in_query = || {
        let takes = policy::takes_key_in_query(&parts.method);
        let query = takes.then(|| Query::<KeyInQuery>::try_from_uri(&parts.uri).ok()).flatten();
        query.and_then(|Query(query)| query.api_key.or(query.token))
    };
    in_header(&parts.headers).map(str::to_owned).or_else(in_query)
}

fn in_header(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer =
        bearer.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let own = || headers.get(X_API_KEY).and_then(|value| value.to_str().ok());
    bearer.map(|(_, key)| key).or_else(own)
}

/// What the client calls this node: in HTTP/2 it is part of the target.
fn host(parts: &Parts) -> Option<String> {
    let named = || parts.headers.get(HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
    parts.uri.authority().map(|authority| authority.as_str().to_owned()).or_else(named)
}
