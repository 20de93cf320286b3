//! Commands over WebSockets.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::SOON;
use crate::support::http::Http;

/// The frames of a run's WebSocket until its end: what came on each stream, and the exit code.
async fn follow(http: &Http, id: &str, run: &str, query: &str) -> (Vec<u8>, Vec<u8>, i32) {
    let url = format!("ws://{}/api/sandboxes/{id}/exec/{run}?api_key={}{query}", http.address, http.key);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let (mut stdout, mut stderr, mut code) = (Vec::new(), Vec::new(), None);
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Binary(data) => match data[0] {
                1 => stdout.extend_from_slice(&data[1..]),
                2 => stderr.extend_from_slice(&data[1..]),
                3 => code = Some(i32::from_be_bytes(data[1..].try_into().unwrap())),
                4 => {}
                other => panic!("frame {other}"),
            },
            Message::Close(frame) => {
                assert_eq!(frame.unwrap().reason.as_str(), "exec completed");
                break;
            }
            _ => {}
        }
    }
    (stdout, stderr, code.expect("an end"))
}

async fn start(http: &Http, id: &str, script: &str) -> String {
    let body = json!({ "cmd": "sh", "args": ["-c", script] });
    let response = http.post(&format!("/api/sandboxes/{id}/exec"), body).await;
    assert_eq!(response.status(), 201);
    let run: Value = response.json().await.unwrap();
    run["sessionID"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_with_a_cursor_has_every_byte_once() {
    let Some(http) = Http::start().await else { return };
    let id = http.sandbox().await;
    let run = start(&http, &id, "seq 1 20000; echo bad >&2; exit 7").await;
    let (whole, stderr, code) = follow(&http, &id, &run, "").await;
    let expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert!(whole == expected.as_bytes(), "{} bytes of {}", whole.len(), expected.len());
    assert_eq!((stderr.as_slice(), code), (&b"bad\n"[..], 7));
    let (rest, _, _) = follow(&http, &id, &run, "&cursor=100000").await;
    assert!(rest == whole[100_000..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_reads_nothing_still_shows_what_it_writes() {
    let Some(http) = Http::start().await else { return };
    let id = http.sandbox().await;
    let run = start(&http, &id, "read line; echo got $line; while :; do echo on; sleep 0.1; done").await;
    let url = format!("ws://{}/api/sandboxes/{id}/exec/{run}?api_key={}", http.address, http.key);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    // More than a pipe holds: the command takes one line of it.
    let mut typed = b"\0hello\n".to_vec();
    typed.resize(300 << 10, b'x');
    socket.send(Message::Binary(typed.into())).await.unwrap();
    let mut seen = Vec::new();
    let until = Instant::now() + SOON;
    while !String::from_utf8_lossy(&seen).contains("on\non\non\n") {
        assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&seen));
        if let Message::Binary(data) = socket.next().await.unwrap().unwrap() {
            seen.extend_from_slice(&data[1..]);
        }
    }
    assert!(String::from_utf8_lossy(&seen).starts_with("got hello\n"));
    let killed = http.post(&format!("/api/sandboxes/{id}/exec/{run}/kill"), json!({ "signal": 9 })).await;
    assert_eq!(killed.status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_brings_back_what_there_was() {
    let Some(http) = Http::start().await else { return };
    let id = http.sandbox().await;
    let body = json!({ "cmd": "sh", "args": ["-c", "printf partial; sleep 60"], "timeout": 1 });
    let begun = Instant::now();
    let result: Value = http.post(&format!("/api/sandboxes/{id}/exec/run"), body).await.json().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!((result["exitCode"].as_i64(), result["reason"].as_str()), (Some(124), Some("timed_out")));
    assert_eq!(result["stdout"], "partial");
}
