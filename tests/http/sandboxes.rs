//! Sandboxes as an event stream, and their timeouts.

use std::time::Instant;

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::{SOON, eventually, expect};

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_sandboxes_tells_of_every_phase() {
    let Some(http) = Http::start().await else { return };
    let first = http.sandbox().await;
    let response = http.request(Method::GET, "/api/sandboxes?stream=sse").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let mut text = String::new();
    let mut told = async |id: &str, phase: &str| {
        let until = Instant::now() + SOON;
        while !events(&text).any(|event| event["sandboxID"] == id && event["phase"] == phase) {
            assert!(Instant::now() < until, "{phase}: {text}");
            text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
        }
    };
    told(&first, "running").await;
    let second = http.sandbox().await;
    told(&second, "running").await;
    assert_eq!(http.post(&format!("/api/sandboxes/{second}/hibernate"), json!({})).await.status(), 200);
    told(&second, "hibernated").await;
    http.request(Method::DELETE, &format!("/api/sandboxes/{second}")).send().await.unwrap();
    told(&second, "destroyed").await;
}

/// The events of a stream so far. Frames end with LF LF and nothing else.
fn events(text: &str) -> impl Iterator<Item = Value> {
    assert!(!text.contains('\r'));
    let frames = text.rsplit_once("\n\n").map(|(whole, _)| whole).unwrap_or_default().split("\n\n");
    frames.filter_map(|frame| serde_json::from_str(frame.strip_prefix("data: ")?).ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_can_be_set_later_and_puts_an_idle_sandbox_to_sleep() {
    let Some(http) = Http::start().await else { return };
    let id = http.sandbox().await;
    let path = format!("/api/sandboxes/{id}");
    assert_eq!(http.post(&format!("{path}/timeout"), json!({ "timeout": 1 })).await.status(), 204);
    eventually(SOON, || async {
        let status = http.get(&path).await["status"].clone();
        expect(status == "hibernated", status.to_string())
    })
    .await;
    // Attaching to it, listing and looking did not wake it; a command does.
    let body = json!({ "cmd": "echo", "args": ["awake"] });
    let result: Value = http.post(&format!("{path}/exec/run"), body).await.json().await.unwrap();
    assert_eq!(result["stdout"], "awake\n");
    assert_eq!(http.post(&format!("{path}/wake"), json!({ "timeout": 0 })).await.status(), 200);
    assert_eq!(http.get(&path).await["timeout"], 0);
}
