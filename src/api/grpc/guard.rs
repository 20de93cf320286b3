//! In front of all services: no call gets by it.
//!
//! It asks who calls and whether they may, counts the call, gives it a name and a span, and follows its reply to the last
//! byte, to know how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, Service};
use tracing::Instrument;

use super::call::{Call, Start};
use crate::api::proto::ErrorReason;
use crate::api::status::Fault;
use crate::auth::Access;
use crate::auth::policy::{self, Caller, Peer, Refusal};
use crate::auth::rate::{Excess, Meter, Ticket};
use crate::auth::token::{self, TokenHash};
use crate::ids::RequestId;
use crate::metrics::metrics;
use crate::telemetry::spans::Spans;
use crate::telemetry::trace::{self, TraceContext};

/// The layer: what it guards is built below it.
#[derive(Clone)]
pub struct Guard {
    access: watch::Receiver<Arc<Access>>,
    meter: Meter,
    spans: Spans,
}

/// A service behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

/// What a caller sends. tonic takes a stream that its caller has cancelled for one that has come to its end, and half a file
/// would pass for a whole one: here, whatever breaks off is an error.
struct Sent {
    body: Body,
    call: Call,
}

/// A reply that is followed to its end.
pub struct Followed {
    body: Body,
    call: Call,
}

impl Guard {
    /// Judges by what is in force, counts with `meter`, which all listeners share, and hands the spans of calls to `spans`.
    #[must_use]
    pub fn new(access: watch::Receiver<Arc<Access>>, meter: Meter, spans: Spans) -> Self {
        Self { access, meter, spans }
    }

    /// The call, and whether it may go on.
    fn admit(&self, request: &Request<Body>) -> (Call, Result<(), Fault>) {
        let access = Arc::clone(&self.access.borrow());
        let headers = request.headers();
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let caller = identify(&access, peer.as_deref(), headers);
        let rpc = request.uri().path().to_owned();
        let admitted: Result<Ticket, Fault> = match &caller {
            Err(refusal) => Err(refusal.clone().into()),
            Ok(caller) => policy::check(caller, &rpc)
                .map_err(Fault::from)
                .and_then(|()| self.meter.admit(&caller.name, &access.limits, Instant::now()).map_err(Fault::from)),
        };
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let given = text(trace::REQUEST_ID).and_then(trace::request_id).map(str::to_owned);
        let (ticket, verdict) = match admitted {
            Ok(ticket) => (Some(ticket), Ok(())),
            Err(fault) => (None, Err(fault)),
        };
        let call = Call::start(Start {
            rpc,
            request_id: given.unwrap_or_else(|| RequestId::random().to_string()),
            trace: text(trace::TRACEPARENT).and_then(TraceContext::parse),
            spans: self.spans.clone(),
            caller: caller.ok(),
            peer,
            ticket,
            access,
        });
        (call, verdict)
    }
}

fn identify(access: &Access, peer: Option<&Peer>, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
    let token = match headers.get("authorization") {
        None => None,
        // What is no token is a wrong one: who shows something wants to be known by it.
        Some(value) => {
            let token = value.to_str().ok().and_then(token::bearer).ok_or(Refusal::WrongToken)?;
            Some(TokenHash::of(token))
        }
    };
    access.roster.identify(peer.ok_or(Refusal::Unknown)?, token.as_ref())
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = match refusal {
            Refusal::Unknown | Refusal::WrongToken => (Code::Unauthenticated, ErrorReason::Unauthenticated),
            Refusal::Role { .. } => (Code::PermissionDenied, ErrorReason::Forbidden),
        };
        Self::new(code, reason, refusal.to_string())
    }
}

impl From<Excess> for Fault {
    fn from(excess: Excess) -> Self {
        Self::new(Code::ResourceExhausted, ErrorReason::TooManyRequests, excess.to_string())
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Followed>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (call, verdict) = self.guard.admit(&request);
        if let Err(fault) = verdict {
            let response = Status::from(fault).into_http();
            return Box::pin(async { Ok(follow(response, call)) });
        }
        request.extensions_mut().insert(call.clone());
        let request = request.map(|body| Body::new(Sent { body, call: call.clone() }));
        let (reply, span) = (self.inner.call(request), call.span().clone());
        // If the caller hangs up while there is no reply yet, this is dropped with the future.
        let unanswered = Unanswered(Some(call));
        let future = async move {
            let response = reply.await?;
            Ok(follow(response, unanswered.answered()))
        };
        Box::pin(future.instrument(span))
    }
}

/// A call without a reply, which ends when this is dropped.
struct Unanswered(Option<Call>);

impl Unanswered {
    fn answered(mut self) -> Call {
        self.0.take().expect("it is answered once")
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(call) = &self.0 {
            call.end(Code::Cancelled);
        }
    }
}

fn follow(response: Response<Body>, call: Call) -> Response<Followed> {
    let (mut head, body) = response.into_parts();
    // An error is all in the head.
    end(&call, &head.headers);
    if let Ok(id) = HeaderValue::from_str(call.request_id()) {
        head.headers.insert(trace::REQUEST_ID, id);
    }
    Response::from_parts(head, Followed { body, call })
}

/// Ends the call if these headers, the first or the last, say how.
fn end(call: &Call, headers: &HeaderMap) {
    let Some(code) = headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes())) else { return };
    if call.end(code) && code != Code::Ok {
        let info = Status::from_header_map(headers).and_then(|status| status.get_details_error_info());
        // Only reasons of the API's own list: there are not many of them.
        let reason = info.and_then(|info| ErrorReason::from_str_name(&info.reason));
        metrics().failed(reason.map_or("OTHER", |reason| reason.as_str_name()));
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|status| {
                self.call.end(Code::Cancelled);
                Status::aborted(format!("what the caller sent broke off: {}", status.message()))
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = this.call.span().in_scope(|| Pin::new(&mut this.body).poll_frame(cx));
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    end(&this.call, trailers);
                }
            }
            Some(Err(status)) => {
                this.call.end(status.code());
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // It counts if no end was seen before: the caller has hung up.
        self.call.end(Code::Cancelled);
    }
}
