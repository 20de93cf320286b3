//! A call under way: who makes it, what it is about, and how it ended.
//!
//! The [guard](super::guard) makes one for each call that it lets in, and puts it into the request's extensions. Services
//! tell it which sandbox and run it is about; when the last byte of the reply has gone, it is written into the log and
//! the audit log.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tonic::{Code, Extensions};
use tracing::Span;
use tracing::field::{Empty, display};

use crate::api::proto::ErrorReason;
use crate::api::status::Fault;
use crate::auth::Access;
use crate::auth::audit::Record;
use crate::auth::policy::{Caller, Peer, least_role};
use crate::auth::rate::Ticket;
use crate::ids::{RunId, SandboxId, SessionId};
use crate::metrics::metrics;
use crate::telemetry::chain;
use crate::telemetry::spans::{Span as Done, Spans};
use crate::telemetry::trace::TraceContext;

/// A handle on a call; the call is over when it is told so.
#[derive(Clone)]
pub struct Call {
    shared: Arc<Shared>,
}

struct Shared {
    rpc: String,
    request_id: String,
    /// Nobody, if they were not known.
    caller: Option<Arc<Caller>>,
    peer: Option<Arc<Peer>>,
    /// Its place among as many as there may be; none if it was refused.
    _ticket: Option<Ticket>,
    access: Arc<Access>,
    span: Span,
    spans: Spans,
    trace: Option<TraceContext>,
    started: Instant,
    sandbox: OnceLock<SandboxId>,
    session: OnceLock<SessionId>,
    run: OnceLock<RunId>,
    ended: OnceLock<Code>,
}

/// What a call is made of.
pub struct Start {
    /// The path of the RPC.
    pub rpc: String,
    /// The caller's name for the request, or ours.
    pub request_id: String,
    /// The trace that it is a part of, if the caller keeps one.
    pub trace: Option<TraceContext>,
    /// Where its span goes.
    pub spans: Spans,
    /// Who.
    pub caller: Option<Arc<Caller>>,
    /// Where from.
    pub peer: Option<Arc<Peer>>,
    /// That it may go on.
    pub ticket: Option<Ticket>,
    /// By what it was judged.
    pub access: Arc<Access>,
}

impl Call {
    /// A call begins.
    #[must_use]
    pub fn start(start: Start) -> Self {
        metrics().call_began();
        let Start { rpc, request_id, trace, spans, caller, peer, ticket, access } = start;
        let client = caller.as_ref().map(|caller| caller.name.as_str());
        let span = tracing::info_span!(
            "call", rpc.path = %rpc, request.id = %request_id, client, trace.id = Empty, trace.parent = Empty,
            sandbox.id = Empty, run.id = Empty, session.id = Empty,
        );
        if let Some(trace) = trace {
            span.record("trace.id", format!("{:032x}", trace.trace_id));
            span.record("trace.parent", format!("{:016x}", trace.parent_id));
        }
        Self {
            shared: Arc::new(Shared {
                rpc,
                request_id,
                caller,
                peer,
                _ticket: ticket,
                access,
                span,
                spans,
                trace,
                started: Instant::now(),
                sandbox: OnceLock::new(),
                session: OnceLock::new(),
                run: OnceLock::new(),
                ended: OnceLock::new(),
            }),
        }
    }

    /// The call of a request.
    ///
    /// # Errors
    /// The request came past the guard, which is a fault of ours; it is refused.
    pub fn of(extensions: &Extensions) -> Result<Self, Fault> {
        let call = extensions.get::<Self>().cloned();
        call.ok_or_else(|| Fault::new(Code::Internal, ErrorReason::InternalFault, "a call that nobody checked"))
    }

    /// Who makes it.
    ///
    /// # Errors
    /// As [`Call::of`]: calls of nobody are not let in.
    pub fn caller(&self) -> Result<&Caller, Fault> {
        let caller = self.shared.caller.as_deref();
        caller.ok_or_else(|| Fault::new(Code::Internal, ErrorReason::InternalFault, "a call of nobody"))
    }

    /// What its log lines are in.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.shared.span
    }

    /// Its name in the logs.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.shared.request_id
    }

    /// It is about this sandbox; the first one counts.
    pub fn is_about(&self, sandbox: &SandboxId) {
        if self.shared.sandbox.set(sandbox.clone()).is_ok() {
            self.shared.span.record("sandbox.id", display(sandbox));
        }
    }

    /// It is about this session; the first one counts.
    pub fn is_about_session(&self, session: &SessionId) {
        if self.shared.session.set(session.clone()).is_ok() {
            self.shared.span.record("session.id", display(session));
        }
    }

    /// It is about this run; the first one counts.
    pub fn is_about_run(&self, run: &RunId) {
        if self.shared.run.set(run.clone()).is_ok() {
            self.shared.span.record("run.id", display(run));
        }
    }

    /// It has ended; the first end counts. Answers whether this one did.
    pub fn end(&self, code: Code) -> bool {
        let Shared { rpc, request_id, caller, peer, access, sandbox, ended, .. } = &*self.shared;
        if ended.set(code).is_err() {
            return false;
        }
        let _entered = self.shared.span.enter();
        let taken = self.shared.started.elapsed();
        // What nobody serves has as many names as callers can think of.
        let method = if least_role(rpc).is_some() { rpc.trim_start_matches('/') } else { "other" };
        metrics().call_ended(method, &Outcome(code).to_string(), taken);
        self.trace(method, code, taken);
        tracing::debug!(outcome = %Outcome(code), duration_ms = taken.as_secs_f64() * 1e3, "a call has ended");
        let Some(audit) = &access.audit else { return true };
        let record = Record {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            client: caller.as_ref().map(|caller| caller.name.as_str()),
            role: caller.as_ref().map(|caller| caller.role.to_string()),
            peer: peer.as_ref().map_or_else(|| "unknown".to_owned(), |peer| peer.to_string()),
            rpc,
            sandbox_id: sandbox.get().map(SandboxId::as_str),
            request_id,
            outcome: &Outcome(code).to_string(),
            duration_ms: u64::try_from(taken.as_millis()).unwrap_or(u64::MAX),
        };
        if let Err(error) = audit.write(&record) {
            tracing::error!(error = %chain(&error), "the audit log lacks a call");
        }
        true
    }

    /// Hands its span to whoever collects them.
    fn trace(&self, method: &str, code: Code, taken: Duration) {
        let Shared { request_id, caller, spans, trace, sandbox, session, run, .. } = &*self.shared;
        if !spans.are_wanted() {
            return;
        }
        let mut attributes = vec![
            ("rpc.system", "grpc".into()),
            ("rpc.grpc.status_code", i32::from(code).into()),
            ("request.id", request_id.as_str().into()),
        ];
        attributes.extend(caller.as_ref().map(|caller| ("client", caller.name.as_str().into())));
        attributes.extend(sandbox.get().map(|sandbox| ("sandbox.id", sandbox.as_str().into())));
        attributes.extend(session.get().map(|session| ("session.id", session.as_str().into())));
        attributes.extend(run.get().map(|run| ("run.id", run.as_str().into())));
        let began = SystemTime::now().checked_sub(taken).unwrap_or(SystemTime::UNIX_EPOCH);
        let is_fault = is_fault(code);
        spans.ended(Done { name: method.to_owned(), parent: *trace, began, taken, attributes, is_fault });
    }
}

/// Whether a call that ended so failed by a fault of the node, as OpenTelemetry has it for servers.
fn is_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// A code in lower case, as logs and metrics name it: "ok", "permission_denied".
pub struct Outcome(pub Code);

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            Code::Ok => "ok",
            Code::Cancelled => "canceled",
            Code::Unknown => "unknown",
            Code::InvalidArgument => "invalid_argument",
            Code::DeadlineExceeded => "deadline_exceeded",
            Code::NotFound => "not_found",
            Code::AlreadyExists => "already_exists",
            Code::PermissionDenied => "permission_denied",
            Code::ResourceExhausted => "resource_exhausted",
            Code::FailedPrecondition => "failed_precondition",
            Code::Aborted => "aborted",
            Code::OutOfRange => "out_of_range",
            Code::Unimplemented => "unimplemented",
            Code::Internal => "internal",
            Code::Unavailable => "unavailable",
            Code::DataLoss => "data_loss",
            Code::Unauthenticated => "unauthenticated",
        })
    }
}
