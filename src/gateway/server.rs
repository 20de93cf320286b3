//! The connections of one brain.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response};
use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use reqwest::header::CONTENT_TYPE;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Grant;
use super::Usage;
use super::models::{Models, Question};
use super::provider::{answered, asked};
use super::refusal::Refusal;
use super::usage::Reading;
use crate::network::{Listener, Stream};
use crate::seal::Secret;
use crate::telemetry::chain;

/// Connections of a brain at once: it asks one thing at a time, and more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 16;

/// Longest request, in bytes; no provider takes a longer one.
const MAX_REQUEST: usize = 32 << 20;

/// How long a brain may take to say its request: it is on this machine, and has it in memory.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Pause when the daemon has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the connections of one brain.
pub struct Server {
    listener: Listener,
    desk: Arc<Desk>,
    closed: CancellationToken,
}

/// Where its requests are dealt with.
struct Desk {
    models: Arc<Models>,
    grant: Grant,
    tally: watch::Sender<Usage>,
}

impl Server {
    pub(super) fn new(
        listener: Listener,
        models: Arc<Models>,
        grant: Grant,
        tally: watch::Sender<Usage>,
        closed: CancellationToken,
    ) -> Self {
        Self { listener, desk: Arc::new(Desk { models, grant, tally }), closed }
    }

    /// Serves until the door is closed; what is under way is cut off then.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        let serving = async {
            loop {
                while connections.len() >= MAX_CONNECTIONS {
                    connections.join_next().await;
                }
                match self.listener.accept().await {
                    Ok(socket) => {
                        connections.spawn(connection(Arc::clone(&self.desk), socket));
                    }
                    Err(error) => {
                        tracing::warn!(session.id = %self.desk.grant.session, %error, "the gateway cannot accept");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
                // Those that have ended are let go of.
                while connections.try_join_next().is_some() {}
            }
        };
        self.closed.run_until_cancelled(serving).await;
        connections.shutdown().await;
    }
}

async fn connection(desk: Arc<Desk>, socket: Stream) {
    let session = desk.grant.session.clone();
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let mut server = http1::Builder::new();
    let served = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service).await;
    if let Err(error) = served {
        // A brain that is interrupted hangs up.
        tracing::debug!(session.id = %session, error = %chain(&error), "a connection to the gateway broke");
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.forward(request).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::warn!(session.id = %self.grant.session, error = %chain(&refusal), "a model was not asked");
                refusal.response()
            }
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let provider = self.grant.provider;
        let (head, body) = request.into_parts();
        if head.method != Method::POST || !provider.admits(head.uri.path()) {
            return Err(Refusal::NotTheModel(format!("{} {:.64}", head.method, head.uri.path())));
        }
        if self.grant.tokens.is_some_and(|left| self.tally.borrow().tokens() >= left) {
            return Err(Refusal::Spent);
        }
        let secret = self.credential().await?;
        let (name, value) = provider.credential(&secret).map_err(|_| Refusal::BadCredential(provider.name()))?;
        let mut headers = asked(&head.headers);
        headers.insert(name, value);
        let body = read(body).await?;
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let question = Question { provider, path, headers, body };
        let response = self.models.ask(question).await.map_err(Refusal::Unanswered)?;
        Ok(self.pass_on(response))
    }

    /// What the agent's model is paid with.
    async fn credential(&self) -> Result<Secret, Refusal> {
        let Grant { provider, credentials, credential, .. } = &self.grant;
        let id = match credential {
            Some(id) => id.clone(),
            None => {
                let default = credentials.default_of(provider.name()).await.map_err(Refusal::Credential)?;
                default.ok_or_else(|| Refusal::NoCredential(provider.name()))?.id
            }
        };
        credentials.key(&id).await.map_err(Refusal::Credential)
    }

    /// The provider's answer, as it comes.
    fn pass_on(&self, response: reqwest::Response) -> Response<Body> {
        let (status, headers) = (response.status(), answered(response.headers()));
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let passing = Passing {
            reading: Reading::new(self.grant.provider, kind),
            response,
            tally: self.tally.clone(),
            idle: self.models.idle(),
        };
        let body = stream::try_unfold(passing, |mut passing| async move {
            Ok::<_, io::Error>(passing.next().await?.map(|bytes| (bytes, passing)))
        });
        let mut answer = Response::new(Body::from_stream(body));
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        answer
    }
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let read = timeout(REQUEST_DEADLINE, to_bytes(Body::new(body), MAX_REQUEST)).await;
    let read = read.map_err(|_| Refusal::Unreadable("it did not come in time".to_owned()))?;
    read.map_err(|error| Refusal::Unreadable(chain(&error).to_string()))
}

/// An answer on its way. Tokens are on the tally before the bytes that tell of them are passed on.
struct Passing {
    response: reqwest::Response,
    reading: Reading,
    tally: watch::Sender<Usage>,
    idle: Duration,
}

impl Passing {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "the provider stopped in the middle of its answer");
        let chunk = timeout(self.idle, self.response.chunk()).await.map_err(silent)?;
        let chunk = chunk.map_err(|error| io::Error::other(error.without_url()))?;
        let used = match &chunk {
            Some(bytes) => self.reading.take(bytes),
            None => self.reading.end(),
        };
        if used != Usage::default() {
            self.tally.send_modify(|total| *total = total.plus(used));
        }
        Ok(chunk)
    }
}
