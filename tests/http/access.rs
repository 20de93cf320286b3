//! Who may come in, and what errors look like.

use reqwest::Method;
use serde_json::Value;

use crate::support::http::Http;

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
