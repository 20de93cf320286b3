//! A model that says what a test wants, over the Messages and the Responses API.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use axum::routing::any;
use axum::{Json, Router};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{SOON, eventually, expect};

mod messages;
mod responses;

/// What it does with one request.
#[derive(Debug, Clone)]
pub enum Step {
    /// Says something, and that was all.
    Say(&'static str),
    /// Uses a tool of ours.
    Call(&'static str, Value),
    /// Uses one by a name that is none of ours.
    Foreign(&'static str, Value),
    /// Says the first text, and the second once the test lets it.
    Hold(&'static str, &'static str),
    /// Says nothing until the test lets it, and hangs up then.
    Hang,
    /// Refuses.
    Refuse(u16),
    /// Begins to speak, and hangs up.
    Cut,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its path, and what follows it.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Value,
}

/// The model. Its steps are taken in order, one a request; without one it says "out of script".
pub struct Model {
    /// Where it is.
    pub url: String,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

struct Shared {
    steps: Mutex<VecDeque<Step>>,
    asked: Mutex<Vec<Asked>>,
    /// How many holds may go on.
    released: watch::Sender<usize>,
    holds: Mutex<usize>,
}

/// A piece of an answer; `None`: the end of the connection.
type Pieces = BoxStream<'static, Option<Bytes>>;

/// How an API tells a text in pieces, of which the second does not come with the first three events.
type Say = fn(usize, &[&str]) -> Vec<Bytes>;
/// How an API tells that a tool is used.
type Call = fn(usize, &str, &Value) -> Vec<Bytes>;

impl Model {
    /// Starts one.
    pub async fn start(steps: impl IntoIterator<Item = Step>) -> Self {
        let shared = Arc::new(Shared {
            steps: Mutex::new(steps.into_iter().collect()),
            asked: Mutex::default(),
            released: watch::Sender::new(0),
            holds: Mutex::new(0),
        });
        let router = Router::new()
            .route("/v1/messages", any(answer))
            .route("/v1/responses", any(answer))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, shared, _server: server }
    }

    /// What it does instead of all that it was to do.
    pub fn instead(&self, steps: impl IntoIterator<Item = Step>) {
        *self.shared.steps.lock().expect("no panic") = steps.into_iter().collect();
    }

    /// What it does next.
    pub fn then(&self, steps: impl IntoIterator<Item = Step>) {
        self.shared.steps.lock().expect("no panic").extend(steps);
    }

    /// Lets the oldest hold go on.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic").clone()
    }

    /// Waits until it was asked so many times.
    pub async fn until_asked(&self, times: usize) -> Vec<Asked> {
        eventually(SOON, || async {
            let asked = self.asked();
            expect(asked.len() >= times, format!("asked {} times", asked.len())).map(|()| asked)
        })
        .await
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response<Body> {
    let number = {
        let mut asked = shared.asked.lock().expect("no panic");
        asked.push(Asked { uri: uri.clone(), headers, body: body.clone() });
        asked.len()
    };
    let step = shared.steps.lock().expect("no panic").pop_front().unwrap_or(Step::Say("out of script"));
    let is_stream = body["stream"] == true;
    let (say, call): (Say, Call) = match uri.path() {
        "/v1/messages" => (messages::text, messages::call),
        _ => (responses::text, responses::call),
    };
    match step {
        Step::Refuse(status) => {
            let error =
                json!({ "type": "error", "error": { "type": "scripted", "code": "scripted", "message": "scripted" } });
            let mut response = Response::new(Body::from(error.to_string()));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a value"));
            response
        }
        Step::Hang => {
            held(&shared).await;
            Response::new(Body::from_stream(stream::iter([Err::<Bytes, _>(std::io::Error::other("hung up"))])))
        }
        Step::Say(text) if !is_stream => document(messages::document(number, text)),
        Step::Say(text) => events(say(number, &[text])),
        Step::Call(tool, input) => events(call(number, &offered(&body, tool), &input)),
        Step::Foreign(tool, input) => events(call(number, tool, &input)),
        Step::Cut => {
            let begun = say(number, &["cut"]).into_iter().take(3).map(Some);
            respond(stream::iter(begun.chain([None])).boxed())
        }
        Step::Hold(first, second) => {
            let pieces = say(number, &[first, second]);
            let (before, after) = pieces.split_at(3);
            let waiting = stream::once(async move { held(&shared).await }).filter_map(|()| async { None });
            let (before, after) = (stream::iter(before.to_vec()), stream::iter(after.to_vec()));
            respond(before.map(Some).chain(waiting).chain(after.map(Some)).boxed())
        }
    }
}

/// The name by which the program offers a tool of ours to its model; one with tools of its own has a shell.
fn offered(body: &Value, tool: &str) -> String {
    let offers = |name: &String| body["tools"].as_array().into_iter().flatten().any(|tool| tool["name"] == **name);
    let names = [format!("{}{tool}", messages::PREFIX), tool.to_owned(), "shell".to_owned()];
    names.into_iter().find(offers).unwrap_or_else(|| tool.to_owned())
}

/// Waits for its turn to go on.
async fn held(shared: &Shared) {
    let place = {
        let mut holds = shared.holds.lock().expect("no panic");
        *holds += 1;
        *holds
    };
    shared.released.subscribe().wait_for(|released| *released >= place).await.expect("the model is there");
}

fn document(body: Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a value"));
    response
}

fn events(pieces: Vec<Bytes>) -> Response<Body> {
    respond(stream::iter(pieces.into_iter().map(Some)).boxed())
}

fn respond(pieces: Pieces) -> Response<Body> {
    let pieces = pieces.map(|piece| piece.ok_or_else(|| std::io::Error::other("hung up")));
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(CONTENT_TYPE, "text/event-stream".parse().expect("a value"));
    response
}

/// One event of a stream.
fn event(data: &Value) -> Bytes {
    let kind = data["type"].as_str().unwrap_or_default();
    Bytes::from(format!("event: {kind}\ndata: {data}\n\n"))
}
