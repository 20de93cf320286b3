//! Calls as a collector of traces sees them.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use handsd::api::proto::{BashRequest, NodeInfoRequest};
use handsd::telemetry::otlp::{Batch, FAULT, KeyValue, SERVER, Span, Value};
use prost::Message as _;
use reqwest::Method;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Request;

use super::metrics::shows;
use crate::support::http::Http;
use crate::support::{Daemon, Options, SOON, eventually, expect, probe, shell};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector, and what it was sent.
struct Collector {
    url: String,
    batches: mpsc::Receiver<Bytes>,
    _server: JoinSet<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, batches) = mpsc::channel(64);
        let router = Router::new().route("/v1/traces", post(take)).with_state(sender);
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, batches, _server: server }
    }

    /// The next span that is one of these, and what came with it; those between are gone.
    async fn next(&mut self, names: &[&str]) -> (Span, Bytes) {
        let found = async {
            loop {
                let bytes = self.batches.recv().await.unwrap();
                let batch = Batch::decode(&*bytes).unwrap();
                let resource = batch.resource_spans.into_iter().next().unwrap();
                assert_eq!(text(&resource.resource.unwrap().attributes, "service.name"), "handsd");
                let mut spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                if let Some(span) = spans.find(|span| names.contains(&span.name.as_str())) {
                    return (span, bytes);
                }
            }
        };
        timeout(SOON, found).await.expect("a span in time")
    }
}

async fn take(State(batches): State<mpsc::Sender<Bytes>>, headers: HeaderMap, body: Bytes) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    batches.send(body).await.unwrap();
}

/// The text of an attribute; empty if there is none.
fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request of a trace, with a name of its own.
fn traced<T>(message: T, id: &str, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-{flags}").parse().unwrap());
    request
}

async fn start(collector: &str) -> Option<Daemon> {
    Daemon::start_with(Options { config: config(collector), http: true, ..Options::default() }).await
}

fn config(collector: &str) -> String {
    format!("[telemetry]\notlp = {collector:?}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_span_of_its_callers_trace() {
    let mut collector = Collector::start().await;
    let Some(daemon) = start(&collector.url).await else { return };
    let sandbox = daemon.sandbox().await;
    let env = [("KEY".to_owned(), "hunter2".to_owned())].into();
    let bash = BashRequest { sandbox_id: sandbox.id.clone(), env, ..shell("echo hunter3") };
    let mut events = daemon.hands().bash(traced(bash, "bash-1", "01")).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
    let (span, bytes) = collector.next(&["hands.v1.Hands/Bash"]).await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert!(span.span_id.len() == 8 && hex(&span.span_id) != PARENT, "{span:?}");
    assert_eq!((span.kind, span.status.clone()), (SERVER, None));
    let took = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
    assert!(took > Duration::ZERO && took < SOON, "{took:?}");
    let attribute = |key| text(&span.attributes, key);
    assert_eq!([attribute("sandbox.id"), attribute("request.id")], [sandbox.id.clone(), "bash-1".to_owned()]);
    assert_eq!(attribute("run.id"), sandbox.runs().await[0].run_id);
    assert_eq!([attribute("client"), attribute("rpc.grpc.status_code")], ["local", "0"]);
    assert!(!String::from_utf8_lossy(&bytes).contains("hunter"), "{span:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_keeps_no_record_of_is_not_sent() {
    let mut collector = Collector::start().await;
    let Some(daemon) = start(&collector.url).await else { return };
    for (id, flags) in [("unrecorded", "00"), ("recorded", "01")] {
        daemon.node().info(traced(NodeInfoRequest {}, id, flags)).await.unwrap();
    }
    let (span, bytes) = collector.next(&["hands.v1.Node/Info"]).await;
    assert_eq!(text(&span.attributes, "request.id"), "recorded");
    assert!(!String::from_utf8_lossy(&bytes).contains("unrecorded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_request_is_one_too() {
    let mut collector = Collector::start().await;
    let Some(http) = Http::configured(&config(&collector.url)).await else { return };
    let sandbox = http.sandbox().await;
    let request = http.request(Method::GET, &format!("/api/sandboxes/{sandbox}"));
    request.header("traceparent", format!("00-{TRACE}-{PARENT}-01")).send().await.unwrap().error_for_status().unwrap();
    let (span, bytes) = collector.next(&["GET /api/sandboxes/{id}"]).await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!(text(&span.attributes, "sandbox.id"), sandbox);
    assert_eq!(text(&span.attributes, "http.response.status_code"), "200");
    assert_ne!(span.status.map(|status| status.code), Some(FAULT));
    assert!(!String::from_utf8_lossy(&bytes).contains(&http.key), "the key is in a span");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_is_nobodys_trouble() {
    // A port that nobody has: the listener is gone once it is known.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let Some(daemon) = start(&format!("http://127.0.0.1:{port}")).await else { return };
    daemon.node().info(NodeInfoRequest {}).await.unwrap();
    shows(&daemon, &[("handsd_spans_total{outcome=\"sent\"}", 0.0)]).await;
    eventually(SOON, || async {
        let samples = super::metrics::scrape(&daemon).await;
        expect(samples["handsd_spans_total{outcome=\"lost\"}"] > 0.0, "none is counted")
    })
    .await;
    assert_eq!(daemon.log().matches("the collector takes no spans").count(), 1);
    let (code, body) = probe::get(&daemon.http_address().await, "/readyz").await;
    assert_eq!(code, 200, "{body}");
}
