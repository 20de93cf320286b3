//! The HTTP surface over the wire: who may come in, what errors look like, and the sandbox API as far as its client does not
//! go.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use support::http::Http;
use support::{SOON, eventually, expect};
use tokio_tungstenite::tungstenite::Message;

mod support;

/// The routes that need no key: all of them, so that one more is noticed.
const OPEN: [&str; 3] = ["/", "/livez", "/readyz"];

#[tokio::test(flavor = "multi_thread")]
async fn no_route_but_the_probes_and_the_bare_page_answers_without_the_key() {
    let Some(http) = Http::start().await else { return };
    let document = http.get("/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 15, "{paths:?}");
    for (path, operations) in paths {
        let path = path.replace("{id}", "sb_00000000000000000000").replace("{run}", "run_00000000000000000000");
        for method in operations.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let response = http.anonymous(method.clone(), &path).send().await.unwrap();
            let expected = if OPEN.contains(&path.as_str()) { 200 } else { 401 };
            assert_eq!(response.status(), expected, "{method} {path}");
            let response = http.anonymous(method.clone(), &path).bearer_auth("hands_wrong").send().await.unwrap();
            assert_eq!(response.status(), expected, "{method} {path}");
            let response = http.request(method.clone(), &path).send().await.unwrap();
            assert_ne!(response.status(), 401, "{method} {path}");
        }
    }
    assert_eq!(http.anonymous(Method::GET, "/nowhere").send().await.unwrap().status(), 401);
    assert_eq!(http.request(Method::GET, "/nowhere").send().await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_comes_in_a_header_and_for_a_get_in_the_query() {
    let Some(http) = Http::start().await else { return };
    let send = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let key = &http.key;
    assert_eq!(send(http.anonymous(Method::GET, "/api/node").header("X-API-Key", key)).await, 200);
    assert_eq!(
        send(http.anonymous(Method::GET, "/api/node").header("Authorization", format!("bearer {key}"))).await,
        200
    );
    assert_eq!(send(http.anonymous(Method::GET, &format!("/api/node?api_key={key}"))).await, 200);
    assert_eq!(send(http.anonymous(Method::GET, &format!("/api/node?token={key}"))).await, 200);
    assert_eq!(send(http.anonymous(Method::POST, &format!("/api/sandboxes?token={key}"))).await, 401);
    // A wrong one in the header is not made good by the query.
    let wrong = http.anonymous(Method::GET, &format!("/api/node?token={key}")).bearer_auth("hands_wrong");
    assert_eq!(send(wrong).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_cannot_drive_the_node() {
    let Some(http) = Http::configured("http.hosts = ['node1.example']\nhttp.origins = ['https://app.example']").await
    else {
        return;
    };
    let send = async |name: &'static str, value: String| {
        http.request(Method::GET, "/api/node").header(name, value).send().await.unwrap()
    };
    // Its name was made to point here.
    for (host, status) in [("evil.example", 403), ("node1.example", 200), ("localhost:7421", 200)] {
        assert_eq!(send("host", host.to_owned()).await.status(), status, "{host}");
    }
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("https://app.example", 200),
        (&format!("http://{}", http.address), 200),
    ] {
        assert_eq!(send("origin", origin.to_owned()).await.status(), status, "{origin}");
    }
    let preflight = |origin: &'static str| {
        let request = http.anonymous(Method::OPTIONS, "/api/sandboxes").header("origin", origin);
        request.header("access-control-request-method", "POST").send()
    };
    let allowed = preflight("https://app.example").await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://app.example");
    let refused = preflight("https://evil.example").await.unwrap();
    assert!(refused.headers().get("access-control-allow-origin").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_names_the_field_and_the_request() {
    let Some(http) = Http::start().await else { return };
    let missing = "/api/sandboxes/sb_00000000000000000000";
    for (method, path, body, status, param) in [
        (Method::POST, "/api/sandboxes", r#"{"envs": {"A": 1}}"#, 400, Some("envs.A")),
        (Method::POST, "/api/sandboxes", r#"{"memoryMB": 1}"#, 400, Some("memoryMB")),
        (Method::POST, "/api/sandboxes", r#"{"snapshot": "x"}"#, 501, Some("snapshot")),
        (Method::POST, "/api/sandboxes", "{", 400, None),
        (Method::GET, "/api/sandboxes?limit=many", "", 400, Some("limit")),
        (Method::GET, missing, "", 404, None),
        (Method::GET, "/api/sandboxes/x%ff", "", 400, None),
        (Method::PATCH, missing, "", 405, None),
        (Method::POST, "/api/sandboxes/x/reboot", "", 501, None),
    ] {
        let request = http.request(method.clone(), path).header("content-type", "application/json").body(body);
        let response = request.send().await.unwrap();
        let name = format!("{method} {path} {body}");
        assert_eq!(response.status(), status, "{name}");
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let problem: Value = response.json().await.unwrap();
        assert!(problem["error"].as_str().is_some_and(|message| !message.is_empty()), "{name}: {problem}");
        assert_eq!(problem["request_id"], id, "{name}");
        assert_eq!(problem["param"].as_str(), param, "{name}: {problem}");
    }
    let response = http.request(Method::GET, "/v3/nothing").send().await.unwrap();
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["error"]["type"], "not_found_error", "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_refused_and_a_file_is_never_too_long() {
    let Some(http) = Http::start().await else { return };
    let id = http.sandbox().await;
    let long = format!("{{\"cmd\": \"{}\"}}", "x".repeat(9 << 20));
    let request = http.request(Method::POST, &format!("/api/sandboxes/{id}/exec")).body(long);
    let response = request.header("content-type", "application/json").send().await.unwrap();
    assert_eq!(response.status(), 413);
    let path = format!("/api/sandboxes/{id}/files?path=/workspace/a/b");
    let bytes: Vec<u8> = (0..=255).cycle().take(9 << 20).collect();
    assert_eq!(http.request(Method::PUT, &path).body(bytes.clone()).send().await.unwrap().status(), 204);
    let read = http.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(read.headers()["x-file-size"], bytes.len().to_string());
    assert!(read.bytes().await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_the_keys_file_is_shown_the_key() {
    let Some(http) = Http::start().await else { return };
    let mut hands = tokio::process::Command::new(env!("CARGO_BIN_EXE_hands"));
    let output = hands.args(["--addr", &http.daemon.address(), "info", "--show-key"]).output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), http.key);
    assert!(!http.daemon.log().contains(&http.key));
}

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
