//! What a brain hears when its request did not reach a model.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::models::AskError;
use crate::credential::CredentialError;

/// Why a request was not answered by the provider.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is for something else than the model.
    #[error("only the model can be asked for here, not {0}")]
    NotTheModel(String),
    /// The session has used its tokens.
    #[error("the session has used all the tokens that it may use")]
    Spent,
    /// Nobody gave a credential.
    #[error("the agent names no credential, and {0} has no default")]
    NoCredential(&'static str),
    /// The credential that the agent names cannot be had.
    #[error("the credential of the agent")]
    Credential(#[source] CredentialError),
    /// The credential cannot be sent.
    #[error("the credential for {0} is none")]
    BadCredential(&'static str),
    /// It is too long, or did not come whole.
    #[error("the request cannot be read: {0}")]
    Unreadable(String),
    /// The provider did not answer.
    #[error(transparent)]
    Unanswered(AskError),
}

impl Refusal {
    /// In the form that both providers' clients understand.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let (status, kind) = match self {
            Self::NotTheModel(_) => (StatusCode::NOT_FOUND, "not_found_error"),
            Self::Spent => (StatusCode::FORBIDDEN, "permission_error"),
            Self::NoCredential(_) | Self::BadCredential(_) | Self::Credential(CredentialError::NotFound(_)) => {
                (StatusCode::UNAUTHORIZED, "authentication_error")
            }
            Self::Credential(_) => (StatusCode::INTERNAL_SERVER_ERROR, "api_error"),
            Self::Unreadable(_) => (StatusCode::BAD_REQUEST, "invalid_request_error"),
            Self::Unanswered(AskError::Client(_) | AskError::Unreachable(_)) => (StatusCode::BAD_GATEWAY, "api_error"),
            Self::Unanswered(AskError::Silent(_)) => (StatusCode::GATEWAY_TIMEOUT, "timeout_error"),
        };
        let body = json!({ "type": "error", "error": { "type": kind, "code": kind, "message": self.to_string() } });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status.is_client_error() {
            // To ask again would be answered the same.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}
