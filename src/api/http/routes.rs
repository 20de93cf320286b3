//! The routes, and the document that lists them: one table for both, so that neither can forget one. What a route reads
//! and answers is that of its handler's types.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State, WebSocketUpgrade};
use axum::handler::Handler;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, any, on};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::body::{Json, Query};
use super::problem::{self, Problem, Verbatim};
use super::{Shared, schema};

/// Routes that are being collected.
#[derive(Default)]
pub struct Routes {
    router: Router<Shared>,
    operations: Vec<Operation>,
}

/// What can be asked for.
#[derive(Debug, Clone)]
pub struct Operation {
    /// With what.
    pub method: Method,
    /// Where; parameters in braces.
    pub path: &'static str,
    /// A sentence on it.
    pub summary: &'static str,
    /// The schema of its query, or null.
    pub query: Value,
    /// The schema of its body, or null; bytes have none.
    pub body: Value,
    /// The schema of what is answered, or null; bytes, streams and nothing have none.
    pub reply: Value,
    /// The answer may be a stream of events instead.
    pub is_stream: bool,
}

/// What a part of a handler's input says of the request.
pub trait Input {
    /// Notes it; nothing, if it is not the caller's to give or stands in the path.
    fn note(_operation: &mut Operation) {}
}

impl<S> Input for State<S> {}
impl<T> Input for Path<T> {}
impl Input for HeaderMap {}
impl Input for Body {}
impl Input for WebSocketUpgrade {}
impl Input for Request {}

impl<T: DeserializeOwned> Input for Json<T> {
    fn note(operation: &mut Operation) {
        operation.body = schema::of::<T>();
    }
}

impl<T: DeserializeOwned> Input for Query<T> {
    fn note(operation: &mut Operation) {
        operation.query = schema::of::<T>();
    }
}

/// What a handler answers.
pub trait Reply {
    /// Notes it; nothing, if it has no body, or one that is no JSON.
    fn note(_operation: &mut Operation) {}
}

impl Reply for StatusCode {}
impl Reply for Response {}

impl<T: DeserializeOwned> Reply for axum::Json<T> {
    fn note(operation: &mut Operation) {
        operation.reply = schema::of_reply::<T>();
    }
}

impl<R: Reply> Reply for Verbatim<R> {
    fn note(operation: &mut Operation) {
        R::note(operation);
    }
}

impl<R: Reply> Reply for (StatusCode, R) {
    fn note(operation: &mut Operation) {
        R::note(operation);
    }
}

impl<R: Reply> Reply for (HeaderMap, R) {
    fn note(operation: &mut Operation) {
        R::note(operation);
    }
}

impl<R: Reply> Reply for Result<R, Problem> {
    fn note(operation: &mut Operation) {
        R::note(operation);
    }
}

/// A list as it is, or as a stream of events with all that comes.
pub enum Listing<R> {
    /// As it is.
    Whole(R),
    /// As a stream.
    Stream(Response),
}

impl<R: Reply> Reply for Listing<R> {
    fn note(operation: &mut Operation) {
        R::note(operation);
        operation.is_stream = true;
    }
}

impl<R: IntoResponse> IntoResponse for Listing<R> {
    fn into_response(self) -> Response {
        match self {
            Self::Whole(list) => list.into_response(),
            Self::Stream(stream) => stream,
        }
    }
}

/// A handler by what it reads and answers, as the router knows it: so whoever adds one has documented it.
pub trait Described<T> {
    /// Notes what it reads and answers.
    fn note(operation: &mut Operation);
}

macro_rules! described {
    ($($part:ident)*) => {
        impl<F, W, M, $($part),*> Described<(M, $($part,)*)> for F
        where
            F: Fn($($part),*) -> W,
            W: Future<Output: Reply>,
            $($part: Input,)*
        {
            fn note(operation: &mut Operation) {
                $($part::note(operation);)*
                <W::Output as Reply>::note(operation);
            }
        }
    };
}

described!();
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);

impl Routes {
    /// Adds a GET.
    #[must_use]
    pub fn get<H: Handler<T, Shared> + Described<T>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.add((Method::GET, MethodFilter::GET), path, summary, handler)
    }

    /// Adds a POST.
    #[must_use]
    pub fn post<H: Handler<T, Shared> + Described<T>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.add((Method::POST, MethodFilter::POST), path, summary, handler)
    }

    /// Adds a PUT.
    #[must_use]
    pub fn put<H: Handler<T, Shared> + Described<T>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.add((Method::PUT, MethodFilter::PUT), path, summary, handler)
    }

    /// Adds a PATCH.
    #[must_use]
    pub fn patch<H: Handler<T, Shared> + Described<T>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.add((Method::PATCH, MethodFilter::PATCH), path, summary, handler)
    }

    /// Adds a DELETE.
    #[must_use]
    pub fn delete<H: Handler<T, Shared> + Described<T>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.add((Method::DELETE, MethodFilter::DELETE), path, summary, handler)
    }

    /// Adds what answers every method, and is in no document.
    #[must_use]
    pub fn unlisted<H: Handler<T, Shared>, T: 'static>(mut self, path: &'static str, handler: H) -> Self {
        self.router = self.router.route(path, any(handler));
        self
    }

    /// Puts a layer around those that are there so far.
    #[must_use]
    pub fn layer(mut self, limit: DefaultBodyLimit) -> Self {
        self.router = self.router.layer(limit);
        self
    }

    fn add<H: Handler<T, Shared> + Described<T>, T: 'static>(
        mut self,
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.router = self.router.route(path, on(filter, handler));
        let (query, body, reply) = (Value::Null, Value::Null, Value::Null);
        let mut operation = Operation { method, path, summary, query, body, reply, is_stream: false };
        H::note(&mut operation);
        self.operations.push(operation);
        self
    }

    /// Adds those of another file.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// The router, and what it answers.
    pub fn finish(self) -> (Router<Shared>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

/// The OpenAPI document of these operations.
#[must_use]
pub fn document(operations: &[Operation]) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        let method = operation.method.as_str().to_ascii_lowercase();
        paths.entry(operation.path).or_default().insert(method, described(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "handsd", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer" },
            "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
        } },
        "security": [{ "bearer": [] }, { "key": [] }],
    })
}

fn described(operation: &Operation) -> Value {
    let Operation { path, summary, query, body, reply, is_stream, .. } = operation;
    let in_path = parameters(path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = query["properties"].as_object().into_iter().flatten();
    let in_query = in_query.map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema }));
    let mut done = json!({ "description": "done" });
    if !reply.is_null() {
        done["content"] = json!({ "application/json": { "schema": reply } });
    }
    if *is_stream {
        done["content"]["text/event-stream"] = json!({ "schema": { "type": "string" } });
    }
    let error = json!({ "application/json": { "schema": problem::schema(path) } });
    let mut described = json!({
        "summary": summary,
        "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
        "responses": { "2XX": done, "default": { "description": "an error", "content": error } },
    });
    if !body.is_null() {
        described["requestBody"] = json!({ "content": { "application/json": { "schema": body } } });
    }
    described
}

/// What stands in braces.
fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}
