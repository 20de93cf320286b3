//! The span of a request: in the log, and for a collector of traces.

use std::time::{Duration, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use tracing::field::{Empty, display as shown};

use crate::ids::{RequestId, RunId, SandboxId, SessionId};
use crate::telemetry::spans::Span;
use crate::telemetry::trace::{TRACEPARENT, TraceContext};

/// A request under way.
pub struct Asked {
    method: Method,
    /// Without the query, which may hold a key.
    path: String,
    /// The path's pattern, if it is one of ours.
    route: Option<String>,
    trace: Option<TraceContext>,
    began: SystemTime,
    sandbox: Option<SandboxId>,
    run: Option<RunId>,
    session: Option<SessionId>,
}

impl Asked {
    /// What a request says of itself.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let path = request.uri().path();
        let header = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        Self {
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned()),
            trace: header.and_then(TraceContext::parse),
            began: SystemTime::now(),
            // No two kinds of ids look the same, and no file's name is in a path.
            sandbox: path.split('/').find_map(|part| part.parse().ok()),
            run: path.split('/').find_map(|part| part.parse().ok()),
            session: path.split('/').find_map(|part| part.parse().ok()),
            path: path.to_owned(),
        }
    }

    /// What it asks for.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What its log lines are in.
    #[must_use]
    pub fn in_log(&self, id: &RequestId) -> tracing::Span {
        let span = tracing::debug_span!(
            "http", request.id = %id, method = %self.method, path = self.path, trace.id = Empty, trace.parent = Empty,
            sandbox.id = self.sandbox.as_ref().map(shown), run.id = self.run.as_ref().map(shown),
            session.id = self.session.as_ref().map(shown),
        );
        if let Some(trace) = self.trace {
            span.record("trace.id", format!("{:032x}", trace.trace_id));
            span.record("trace.parent", format!("{:016x}", trace.parent_id));
        }
        span
    }

    /// Its span once it is answered, which of a stream is when it begins.
    #[must_use]
    pub fn answered(self, id: &RequestId, status: StatusCode, taken: Duration) -> Span {
        let Self { method, route, trace, began, sandbox, run, session, .. } = self;
        // Of methods and routes that are none of ours, there are as many as callers can think of.
        let name = route.as_ref().map_or_else(|| "HTTP".to_owned(), |route| format!("{method} {route}"));
        let mut attributes =
            vec![("http.response.status_code", i32::from(status.as_u16()).into()), ("request.id", id.as_str().into())];
        attributes.extend(route.map(|route| ("http.route", route.into())));
        attributes.extend(sandbox.map(|sandbox| ("sandbox.id", sandbox.as_str().into())));
        attributes.extend(run.map(|run| ("run.id", run.as_str().into())));
        attributes.extend(session.map(|session| ("session.id", session.as_str().into())));
        Span { name, parent: trace, began, taken, attributes, is_fault: status.is_server_error() }
    }
}
