//! From the API's errors to those of HTTP. Pure.

use axum::http::StatusCode;
use tonic::Code;

use super::problem::Problem;
use crate::api::proto::ErrorReason;
use crate::api::status::Fault;
use crate::telemetry::chain;
use crate::webhook::WebhookError;

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self {
            status: status(fault.code(), fault.reason()),
            code: Some(fault.reason().as_str_name().to_ascii_lowercase()),
            message: fault.message().to_owned(),
            param: fault.field().map(str::to_owned),
        }
    }
}

impl From<WebhookError> for Problem {
    fn from(error: WebhookError) -> Self {
        let message = chain(&error).to_string();
        match error {
            WebhookError::Invalid { field, message } => Self::field(field, message),
            WebhookError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, message),
            WebhookError::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, message),
            WebhookError::Session(error) => Fault::from(error).into(),
            WebhookError::Store(_) | WebhookError::Seal(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

fn status(code: Code, reason: ErrorReason) -> StatusCode {
    match (code, reason) {
        (_, ErrorReason::DiskFull) => StatusCode::INSUFFICIENT_STORAGE,
        (_, ErrorReason::HibernateUnsupported | ErrorReason::LimitUnsupported) => StatusCode::NOT_IMPLEMENTED,
        (Code::InvalidArgument | Code::OutOfRange, _) => StatusCode::BAD_REQUEST,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (_, ErrorReason::RuntimeUnavailable) => StatusCode::UNPROCESSABLE_ENTITY,
        (Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted, _) => StatusCode::CONFLICT,
        (Code::PermissionDenied, _) => StatusCode::FORBIDDEN,
        (Code::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (Code::ResourceExhausted, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Code::Unimplemented, _) => StatusCode::NOT_IMPLEMENTED,
        (Code::DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        (Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss, _) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_keeps_its_reason_its_field_and_its_kind() {
        let problem = Problem::from(Fault::argument("timeout", "is negative"));
        assert_eq!(problem.status, StatusCode::BAD_REQUEST);
        assert_eq!(problem.code.as_deref(), Some("argument_invalid"));
        assert_eq!(problem.param.as_deref(), Some("timeout"));
        let full = Fault::new(Code::ResourceExhausted, ErrorReason::DiskFull, "full");
        assert_eq!(Problem::from(full).status, StatusCode::INSUFFICIENT_STORAGE);
    }
}
