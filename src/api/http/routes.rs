//! The routes, and the document that lists them: one table for both, so that neither can forget one.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State, WebSocketUpgrade};
use axum::handler::Handler;
use axum::http::{HeaderMap, Method};
use axum::routing::{MethodFilter, any, on};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::body::{Json, Query};
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

/// All parts of a handler's input, as the router knows them: so whoever adds a handler has documented what it reads.
pub trait Inputs: 'static {
    /// Notes what they say.
    fn note(operation: &mut Operation);
}

macro_rules! inputs {
    ($($part:ident)*) => {
        impl<M: 'static, $($part: Input + 'static),*> Inputs for (M, $($part,)*) {
            fn note(_operation: &mut Operation) {
                $($part::note(_operation);)*
            }
        }
    };
}

inputs!();
inputs!(A);
inputs!(A B);
inputs!(A B C);
inputs!(A B C D);
inputs!(A B C D E);

impl Routes {
    /// Adds a GET.
    #[must_use]
    pub fn get<H: Handler<T, Shared>, T: Inputs>(self, path: &'static str, summary: &'static str, handler: H) -> Self {
        self.add((Method::GET, MethodFilter::GET), path, summary, handler)
    }

    /// Adds a POST.
    #[must_use]
    pub fn post<H: Handler<T, Shared>, T: Inputs>(self, path: &'static str, summary: &'static str, handler: H) -> Self {
        self.add((Method::POST, MethodFilter::POST), path, summary, handler)
    }

    /// Adds a PUT.
    #[must_use]
    pub fn put<H: Handler<T, Shared>, T: Inputs>(self, path: &'static str, summary: &'static str, handler: H) -> Self {
        self.add((Method::PUT, MethodFilter::PUT), path, summary, handler)
    }

    /// Adds a PATCH.
    #[must_use]
    pub fn patch<H: Handler<T, Shared>, T: Inputs>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.add((Method::PATCH, MethodFilter::PATCH), path, summary, handler)
    }

    /// Adds a DELETE.
    #[must_use]
    pub fn delete<H: Handler<T, Shared>, T: Inputs>(
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

    fn add<H: Handler<T, Shared>, T: Inputs>(
        mut self,
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.router = self.router.route(path, on(filter, handler));
        let mut operation = Operation { method, path, summary, query: Value::Null, body: Value::Null };
        T::note(&mut operation);
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
    for Operation { method, path, summary, query, body } in operations {
        let in_path = parameters(path)
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
        let in_query = query["properties"].as_object().into_iter().flatten();
        let in_query = in_query.map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema }));
        let mut operation = json!({
            "summary": summary,
            "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
            "responses": {
                "2XX": { "description": "done" },
                "default": { "description": "an error: `error`, and with it `code`, `param` and `request_id`" },
            },
        });
        if !body.is_null() {
            operation["requestBody"] = json!({ "content": { "application/json": { "schema": body } } });
        }
        paths.entry(path).or_default().insert(method.as_str().to_ascii_lowercase(), operation);
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

/// What stands in braces.
fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}
