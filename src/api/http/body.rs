//! What a request brings: JSON and queries, whose errors name the field.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A body in JSON. An empty one is an empty object, so that a request without any field needs no body.
#[derive(Debug)]
pub struct Json<T>(pub T);

/// The fields of the query.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
        match bytes.as_ref() {
            b"" => parse(b"{}").map(Self),
            _ if !is_json => {
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected content-type application/json"))
            }
            // Of a list, serde would make the fields in the order in which they are declared.
            bytes if !bytes.trim_ascii_start().starts_with(b"{") => Err(Problem::field("", "expected an object")),
            bytes => parse(bytes).map(Self),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let text = rejection.body_text();
                // "Failed to deserialize query string: field: why"
                let (_, rest) = text.split_once(": ").unwrap_or(("", &text));
                match rest.split_once(": ") {
                    Some((field, why)) if !field.contains(' ') => Err(wrong(field, why)),
                    _ => Err(wrong("", rest)),
                }
            }
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        // "." is the whole body, and "?" is in what is no JSON.
        wrong(if [".", "?"].contains(&path.as_str()) { "" } else { &path }, &error.inner().to_string())
    })?;
    json.end().map_err(|error| Problem::field("", error.to_string()))?;
    Ok(value)
}

/// What is wrong in an object: with which field, and what, in serde's words.
fn wrong(path: &str, why: &str) -> Problem {
    // "missing field `a`"; the path is that of the object.
    if let Some((field, _)) = why.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        let field = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        return Problem::field(field, "is missing");
    }
    // Where in the text a value stands, its path says better.
    let why = if path.is_empty() { why } else { why.split(" at line ").next().unwrap_or(why) };
    Problem::field(path, why)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn unread(rejection: BytesRejection) -> Problem {
    let status = rejection.into_response().status();
    let message = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too long",
        _ => "the body could not be read",
    };
    Problem::new(status, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::body::Body;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Wanted {
        envs: BTreeMap<String, String>,
        timeout: u64,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    struct Needed {
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    struct Inner {
        text: String,
    }

    async fn read(kind: &str, body: &'static str) -> Result<Wanted, Problem> {
        let request = Request::builder().header(CONTENT_TYPE, kind).body(Body::from(body)).unwrap();
        Json::from_request(request, &()).await.map(|Json(wanted)| wanted)
    }

    #[tokio::test]
    async fn an_error_names_the_field() {
        let problem = read("application/json", r#"{"envs": {"A": 1}}"#).await.unwrap_err();
        assert_eq!(problem.param.as_deref(), Some("envs.A"));
        assert_eq!(problem.message, "envs.A: invalid type: integer `1`, expected a string");
        let problem = parse::<Needed>(br#"{"inner": {}}"#).unwrap_err();
        assert_eq!(
            (problem.param.as_deref(), problem.message.as_str()),
            (Some("inner.text"), "inner.text: is missing")
        );
        let problem = parse::<Needed>(b"{}").unwrap_err();
        assert_eq!((problem.param.as_deref(), problem.message.as_str()), (Some("inner"), "inner: is missing"));
        for body in ["[1", "[]", "[{}, 7]", "null", "7"] {
            let problem = read("application/json; charset=utf-8", body).await.unwrap_err();
            assert_eq!((problem.status, problem.message.as_str()), (StatusCode::BAD_REQUEST, "expected an object"));
        }
        let problem = read("application/json", "{} x").await.unwrap_err();
        assert_eq!((problem.status, problem.param), (StatusCode::BAD_REQUEST, None));
    }

    #[tokio::test]
    async fn nothing_is_an_empty_object_and_a_form_is_no_json() {
        assert_eq!(read("text/plain", "").await.unwrap(), Wanted::default());
        let problem = read("application/x-www-form-urlencoded", "timeout=1").await.unwrap_err();
        assert_eq!(problem.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[tokio::test]
    async fn a_query_names_its_field_too() {
        let request = Request::builder().uri("/?timeout=soon").body(Body::empty()).unwrap();
        let (mut parts, _) = request.into_parts();
        let problem = Query::<Wanted>::from_request_parts(&mut parts, &()).await.unwrap_err();
        assert_eq!(problem.param.as_deref(), Some("timeout"), "{problem:?}");
        let request = Request::builder().uri("/?other=1").body(Body::empty()).unwrap();
        let (mut parts, _) = request.into_parts();
        let problem = Query::<Inner>::from_request_parts(&mut parts, &()).await.unwrap_err();
        assert_eq!(problem.param.as_deref(), Some("text"), "{problem:?}");
    }
}
