//! An error as the HTTP surface tells it, in the form that the caller's client knows.
//!
//! Below `/v3` it is `{"error": {"type", "message", "code", "param", "request_id"}}`; elsewhere, as in the sandbox API,
//! `error` is the message, and the rest stands beside it.

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, body};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::schema;

/// Bytes of an error that was not made here, such as one of the router; its text is a line.
const FOREIGN: usize = 4 << 10;

/// How long a caller whom there is no room for shall wait, in seconds: about as long as a run takes.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// An error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// What exactly, as a word in lower case.
    pub code: Option<String>,
    /// For people.
    pub message: String,
    /// The field that it is about.
    pub param: Option<String>,
}

/// An error below `/v3`.
#[derive(Debug, Serialize, Deserialize)]
struct Enveloped {
    error: Error,
}

#[derive(Debug, Serialize, Deserialize)]
struct Error {
    r#type: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<String>,
    request_id: String,
}

/// An error elsewhere.
#[derive(Debug, Serialize, Deserialize)]
struct Flat {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<String>,
    request_id: String,
}

fn is_enveloped(path: &str) -> bool {
    path == "/v3" || path.starts_with("/v3/")
}

/// The schema of errors in the form of the API that the path belongs to.
#[must_use]
pub fn schema(path: &str) -> Value {
    if is_enveloped(path) { schema::of_reply::<Enveloped>() } else { schema::of_reply::<Flat>() }
}

impl Problem {
    /// An error without more to it.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into(), param: None }
    }

    /// A field that is wrong; `message` says what was expected.
    #[must_use]
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let (param, message) = (param.into(), message.into());
        let message = if param.is_empty() { message } else { format!("{param}: {message}") };
        Self {
            status: StatusCode::BAD_REQUEST,
            code: Some("argument_invalid".to_owned()),
            message,
            param: Some(param).filter(|param| !param.is_empty()),
        }
    }

    /// The same about a field of a part of the body.
    #[must_use]
    pub fn within(self, part: &str) -> Self {
        let Some(param) = self.param else { return self };
        let message = match self.message.strip_prefix(&param) {
            Some(rest) => format!("{part}.{param}{rest}"),
            None => self.message,
        };
        Self { message, param: Some(format!("{part}.{param}")), ..self }
    }

    /// Something that this node does not have.
    #[must_use]
    pub fn lacking(what: &str) -> Self {
        Self {
            code: Some("not_implemented".to_owned()),
            ..Self::new(StatusCode::NOT_IMPLEMENTED, format!("this node does not have {what}"))
        }
    }

    /// The word for its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            409 => "conflict_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// The body, in the form of the API that the path belongs to.
    #[must_use]
    pub fn body(&self, path: &str, request: &str) -> Value {
        let (code, param, request_id) = (self.code.clone(), self.param.clone(), request.to_owned());
        let message = self.message.clone();
        if is_enveloped(path) {
            let error = Error { r#type: self.kind().to_owned(), message, code, param, request_id };
            return json!(Enveloped { error });
        }
        json!(Flat { error: message, code, param, request_id })
    }
}

impl IntoResponse for Problem {
    /// Only the status; the frame, which knows the request, writes the body.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// An answer that tells of no problem with the request, though its code may look like it: it stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct Verbatim<R>(pub R);

#[derive(Debug, Clone, Copy)]
struct IsVerbatim;

impl<R: IntoResponse> IntoResponse for Verbatim<R> {
    fn into_response(self) -> Response {
        (Extension(IsVerbatim), self.0).into_response()
    }
}

/// Writes the body of an answer that is an error; others stay as they are.
pub async fn render(response: Response, path: &str, request: &str) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.extensions().get::<IsVerbatim>().is_some() {
        return response;
    }
    let (mut parts, text) = response.into_parts();
    let problem = match parts.extensions.remove::<Problem>() {
        Some(problem) => problem,
        // Of the router, or of what has read the request for a handler.
        None => Problem::new(status, foreign(status, text).await),
    };
    let mut answer = (status, Json(problem.body(path, request))).into_response();
    // What a header says of an error, such as which methods are allowed, stays; of the body, nothing does.
    parts.headers.remove(axum::http::header::CONTENT_TYPE);
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    answer.headers_mut().extend(parts.headers);
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        answer.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    answer
}

async fn foreign(status: StatusCode, text: body::Body) -> String {
    let text = body::to_bytes(text, FOREIGN).await.unwrap_or_default();
    match String::from_utf8_lossy(&text).trim() {
        "" => status.canonical_reason().unwrap_or("error").to_ascii_lowercase(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_own_form() {
        let problem = Problem::field("cmd", "is missing");
        assert_eq!(
            problem.body("/v3/sessions", "req_1"),
            json!({ "error": {
                "type": "invalid_request_error",
                "message": "cmd: is missing",
                "code": "argument_invalid",
                "param": "cmd",
                "request_id": "req_1",
            } })
        );
        assert_eq!(
            problem.body("/api/sandboxes", "req_1"),
            json!({ "error": "cmd: is missing", "code": "argument_invalid", "param": "cmd", "request_id": "req_1" })
        );
    }

    #[tokio::test]
    async fn an_error_of_the_router_has_the_form_too_and_an_answer_stays() {
        let found = render(StatusCode::METHOD_NOT_ALLOWED.into_response(), "/api", "req_1").await;
        let body = body::to_bytes(found.into_body(), FOREIGN).await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["error"], "method not allowed");
        let found = render("hello".into_response(), "/api", "req_1").await;
        assert_eq!(body::to_bytes(found.into_body(), FOREIGN).await.unwrap(), "hello");
    }
}
