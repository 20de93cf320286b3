//! What was asked of the daemon, for a collector of traces: each call is a span once it has ended.
//!
//! Who ends one hands it over by [`Spans::ended`], which never waits: what the queue does not hold is lost, and counted. One
//! task, [`Exporter::run`], sends what there is; nobody depends on how that goes.

use std::time::{Duration, SystemTime};

use prost::Message as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, redirect};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::otlp::{self, Batch};
use super::trace::TraceContext;
use super::{TelemetryError, chain};
use crate::metrics::metrics;

/// Spans that wait: some seconds of a busy node, in a few megabytes.
const QUEUE: usize = 4096;
/// Spans of one request to the collector, which takes at most some megabytes.
const BATCH: usize = 512;
/// How long a span waits for others to go with it.
const GATHER: Duration = Duration::from_millis(500);
/// How long the collector may take to answer. While it does, the queue fills.
const DEADLINE: Duration = Duration::from_secs(5);
/// The same at the daemon's end, within what that gives to calls under way.
const LAST_DEADLINE: Duration = Duration::from_secs(1);

/// Something that was done for a caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What: one of few names.
    pub name: String,
    /// The caller's span, if it keeps a trace.
    pub parent: Option<TraceContext>,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub taken: Duration,
    /// What it was about. Never what it carried.
    pub attributes: Vec<(&'static str, Value)>,
    /// It failed by a fault that was not the caller's.
    pub is_fault: bool,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Where spans are handed over. Clones share the queue; the default has none, and forgets them.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    queue: Option<mpsc::Sender<Span>>,
}

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Exporter {
    spans: mpsc::Receiver<Span>,
    client: Client,
    url: String,
    /// The collector has taken the last batch.
    is_well: bool,
}

impl Spans {
    /// Spans for the collector at `url`, the root of its OTLP/HTTP; and what sends them there.
    ///
    /// # Errors
    /// [`TelemetryError::Client`].
    pub fn to(url: &str) -> Result<(Self, Exporter), TelemetryError> {
        let (sender, spans) = mpsc::channel(QUEUE);
        // Fails if somebody else was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(DEADLINE)
            .user_agent(concat!("handsd/", env!("CARGO_PKG_VERSION")));
        let client = client.build().map_err(TelemetryError::Client)?;
        let url = format!("{url}/v1/traces");
        Ok((Self { queue: Some(sender) }, Exporter { spans, client, url, is_well: true }))
    }

    /// Somebody collects them.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands over a span, unless its caller keeps no record of the trace. Does not wait.
    pub fn ended(&self, span: Span) {
        let Some(queue) = &self.queue else { return };
        let is_recorded = span.parent.as_ref().is_none_or(|parent| parent.is_sampled);
        if is_recorded && queue.try_send(span).is_err() {
            metrics().spans_lost(1);
        }
    }
}

impl Exporter {
    /// Sends until it is told to stop, and then once more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while stop.run_until_cancelled(self.gather(&mut batch)).await == Some(Gathered::Some) {
            self.send(std::mem::take(&mut batch), DEADLINE).await;
        }
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
        if !batch.is_empty() {
            self.send(batch, LAST_DEADLINE).await;
        }
    }

    /// Waits for a span, and a moment for others. Cancel-safe: what was received is in the batch.
    async fn gather(&mut self, batch: &mut Vec<Span>) -> Gathered {
        if self.spans.recv_many(batch, BATCH).await == 0 {
            return Gathered::End;
        }
        let more = async { while batch.len() < BATCH && self.spans.recv_many(batch, BATCH - batch.len()).await > 0 {} };
        // Too few to fill a batch are as good.
        let _ = timeout(GATHER, more).await;
        Gathered::Some
    }

    /// Sends a batch. One that the collector does not take is lost: it has what comes next to take.
    async fn send(&mut self, batch: Vec<Span>, deadline: Duration) {
        let count = batch.len() as u64;
        let body = Batch::of(batch, otlp::random_ids).encode_to_vec();
        let request = self.client.post(&self.url).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let answer = request.timeout(deadline).send().await.and_then(reqwest::Response::error_for_status);
        let was_well = std::mem::replace(&mut self.is_well, answer.is_ok());
        match answer {
            Ok(_) if was_well => metrics().spans_sent(count),
            Ok(_) => {
                tracing::info!("the collector takes spans again");
                metrics().spans_sent(count);
            }
            Err(error) => {
                metrics().spans_lost(count);
                if was_well {
                    let error = error.without_url();
                    tracing::warn!(error = %chain(&error), "the collector takes no spans; they are lost until it does");
                }
            }
        }
    }
}

/// What there is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gathered {
    Some,
    /// Nobody is left who could hand over any.
    End,
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Census;

    fn lost() -> u64 {
        let text = metrics().render(&Census::default()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("handsd_spans_total{outcome=\"lost\"} ")).unwrap();
        line.parse().unwrap()
    }

    #[tokio::test]
    async fn a_full_queue_holds_nobody_up_and_what_it_does_not_hold_is_counted() {
        let (spans, _exporter) = Spans::to("http://127.0.0.1:1").unwrap();
        let span = Span {
            name: "a".to_owned(),
            parent: None,
            began: SystemTime::now(),
            taken: Duration::ZERO,
            attributes: Vec::new(),
            is_fault: false,
        };
        let before = lost();
        for _ in 0..QUEUE + 3 {
            spans.ended(span.clone());
        }
        assert_eq!(lost(), before + 3);
        Spans::default().ended(span);
        assert_eq!(lost(), before + 3, "nobody collects, so none is lost");
    }
}
