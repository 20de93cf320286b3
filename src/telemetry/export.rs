//! Sending spans to a collector: one task, on whose success nobody depends.

use std::time::Duration;

use prost::Message as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, redirect};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::otlp::{self, Batch};
use super::spans::{Span, Spans};
use super::{TelemetryError, chain};
use crate::metrics::metrics;

/// Spans of one request to the collector, which takes at most some megabytes.
const BATCH: usize = 512;
/// How long a span waits for others to go with it.
const GATHER: Duration = Duration::from_millis(500);
/// How long the collector may take to answer. While it does, the queue fills.
const DEADLINE: Duration = Duration::from_secs(5);
/// The same at the daemon's end, within what that gives to calls under way.
const LAST_DEADLINE: Duration = Duration::from_secs(1);

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Exporter {
    spans: mpsc::Receiver<Span>,
    client: Client,
    url: String,
    /// The collector has taken the last batch.
    is_well: bool,
}

impl Exporter {
    /// Spans for the collector at `url`, the root of its OTLP/HTTP; and what sends them there.
    ///
    /// # Errors
    /// [`TelemetryError::Client`].
    pub fn open(url: &str) -> Result<(Spans, Self), TelemetryError> {
        // Fails if somebody else was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(DEADLINE)
            .user_agent(concat!("handsd/", env!("CARGO_PKG_VERSION")));
        let client = client.build().map_err(TelemetryError::Client)?;
        let (queue, spans) = Spans::queue();
        Ok((queue, Self { spans, client, url: format!("{url}/v1/traces"), is_well: true }))
    }

    /// Sends until it is told to stop, and then once more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while stop.run_until_cancelled(self.gather(&mut batch)).await == Some(Gathered::Some) {
            // What is on its way at the end is not waited for: a collector that is silent would keep the daemon.
            let sending = self.send(std::mem::take(&mut batch), DEADLINE);
            let _: Option<()> = stop.run_until_cancelled(sending).await;
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
