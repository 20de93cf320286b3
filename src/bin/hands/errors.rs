//! How `hands` fails: one line on stderr, and an exit code.
//!
//! Every error of `hands` itself is exit code 125, as of `timeout` and `docker run`, so that it cannot be taken for the
//! command's own; 126 and 127 are a program that cannot be executed and one that is not there, as in every shell.

use handsd::client::ClientError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::output::{StdoutClosed, printable};
use crate::terminal;

/// `hands` itself failed.
pub const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// As if SIGPIPE had ended us: 128 and its number.
const STDOUT_CLOSED: u8 = 141;

/// The exit code for an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<StdoutClosed>() {
        return STDOUT_CLOSED;
    }
    match status_of(error).and_then(reason).as_deref() {
        Some("PROGRAM_NOT_FOUND") => NOT_FOUND,
        Some("PROGRAM_NOT_EXECUTABLE" | "PROGRAM_FORMAT") => NOT_EXECUTABLE,
        _ => FAILED,
    }
}

/// Says on stderr what went wrong, unless it is that nobody listens.
pub fn report(error: &anyhow::Error) {
    if error.is::<StdoutClosed>() {
        return;
    }
    note(&describe(error));
    let unreachable = |status: &Status| status.code() == Code::Unavailable && reason(status).is_none();
    if error.chain().any(|cause| cause.is::<ClientError>()) || status_of(error).is_some_and(unreachable) {
        note("is handsd running? start it, or give its address by --addr or HANDS_ADDR");
    }
}

/// A line of our own on stderr, between the lines of the run.
pub fn note(text: &str) {
    // A raw terminal does not return the carriage by itself.
    let end = if terminal::is_raw() { "\r\n" } else { "\n" };
    let line = format!("hands: {text}{end}");
    // If stderr is closed, then there is nobody to tell.
    let _closed = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

/// The reason of an error that the node reported. An error without one did not come from the node: the connection broke.
pub fn reason(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}

fn status_of(error: &anyhow::Error) -> Option<&Status> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// The whole chain in one line: what was tried, what happened, and the reason in parentheses.
fn describe(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(status) = cause.downcast_ref::<Status>() {
            // Its own causes are the transport's words for the same thing.
            parts.push(describe_status(status));
            break;
        }
        // Says nothing but "transport error"; its cause says which.
        if cause.is::<tonic::transport::Error>() && cause.source().is_some() {
            continue;
        }
        let text = cause.to_string();
        // Some errors of libraries repeat their cause.
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    printable(&parts.join(": "))
}

fn describe_status(status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = status.message().to_owned();
    if text.is_empty() {
        text.push_str(status.code().description());
    }
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        if violation.description != status.message() && !text.contains(&violation.field) {
            text.push_str(&format!(": {}: {}", violation.field, violation.description));
        }
    }
    let name = details.error_info().map_or_else(|| code_name(status.code()).to_owned(), |info| info.reason.clone());
    match details.error_info().and_then(|info| info.metadata.get("errno")) {
        Some(errno) => format!("{text} ({name}, {errno})"),
        None => format!("{text} ({name})"),
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use anyhow::Context as _;
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn status(code: Code, message: &str, reason: &str, errno: Option<&str>) -> Status {
        let metadata: HashMap<_, _> = errno.map(|name| ("errno".to_owned(), name.to_owned())).into_iter().collect();
        let details = ErrorDetails::with_error_info(reason, "hands.v1", metadata);
        Status::with_error_details(code, message, details)
    }

    #[test]
    fn the_line_ends_with_the_reason_and_the_errno() {
        let status = status(Code::NotFound, "no such file: a", "FILE_NOT_FOUND", Some("ENOENT"));
        let error = Err::<(), _>(status).context("cannot read a").expect_err("it is one");
        assert_eq!(describe(&error), "cannot read a: no such file: a (FILE_NOT_FOUND, ENOENT)");
        assert_eq!(exit_code(&error), FAILED);
    }

    #[test]
    fn a_bad_argument_names_its_field_once() {
        let mut details = ErrorDetails::with_error_info("ENV_INVALID", "hands.v1", HashMap::new());
        details.set_bad_request(vec![FieldViolation::new("env", "a key is empty")]);
        let bare = Status::with_error_details(Code::InvalidArgument, "bad request", details.clone());
        assert_eq!(describe_status(&bare), "bad request: env: a key is empty (ENV_INVALID)");
        let named = Status::with_error_details(Code::InvalidArgument, "env: a key is empty", details);
        assert_eq!(describe_status(&named), "env: a key is empty (ENV_INVALID)");
    }

    #[test]
    fn an_error_without_a_reason_shows_its_code() {
        assert_eq!(describe_status(&Status::unavailable("broken pipe")), "broken pipe (UNAVAILABLE)");
        assert_eq!(reason(&Status::unavailable("broken pipe")), None);
    }

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let error = anyhow::Error::from(Status::unknown("a\x1b[2Jb\nc"));
        assert_eq!(describe(&error), "a?[2Jb?c (UNKNOWN)");
    }

    #[test]
    fn a_program_that_is_missing_is_127_and_one_that_cannot_run_126() {
        let code = |reason| exit_code(&status(Code::NotFound, "", reason, None).into());
        assert_eq!(code("PROGRAM_NOT_FOUND"), 127);
        assert_eq!(code("PROGRAM_NOT_EXECUTABLE"), 126);
        assert_eq!(code("PROGRAM_FORMAT"), 126);
        assert_eq!(code("SANDBOX_NOT_FOUND"), 125);
    }

    #[test]
    fn a_closed_stdout_is_found_below_a_context() {
        let error = Err::<(), _>(StdoutClosed).context("while writing").expect_err("it is one");
        assert_eq!(exit_code(&error), 141);
    }
}
