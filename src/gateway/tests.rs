//! The gateway against a provider that speaks plain HTTP.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::any;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::credential::NewCredential;
use crate::seal::Sealer;
use crate::store::Store;

const SSE: [(&str, &str); 1] = [("content-type", "text/event-stream")];

/// A provider that answers with what it was asked.
async fn provider(tasks: &mut JoinSet<()>) -> String {
    let echo = any(|request: Request| async move {
        let shown = |name: &str| format!("{:?}", request.headers().get(name));
        let told = format!("{} {} {}", request.uri(), shown("x-api-key"), shown("cookie"));
        let used = r#"{"type":"message_delta","usage":{"output_tokens":9}}"#;
        (SSE, format!(": {told}\n\ndata: {used}\n\n")).into_response()
    });
    let hang = any(|| async { std::future::pending::<()>().await });
    let router = Router::new().route("/v1/messages", echo).route("/v1/messages/count_tokens", hang);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

async fn gateway(tasks: &mut JoinSet<()>, base_url: String, tokens: Option<u64>) -> (Gateway, String) {
    let (gateway, server, url) = door(tasks, base_url, tokens).await;
    tasks.spawn(server.serve());
    (gateway, url)
}

async fn door(tasks: &mut JoinSet<()>, base_url: String, tokens: Option<u64>) -> (Gateway, Server, String) {
    let settings = Settings {
        anthropic: base_url,
        openai: String::new(),
        first_byte: Duration::from_secs(1),
        idle: Duration::from_secs(1),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = credentials(tasks).await;
    let wish = NewCredential {
        provider: "anthropic".to_owned(),
        name: None,
        key: "agent-key".to_owned().into(),
        is_default: false,
    };
    let credential = credentials.create(wish).await.unwrap().id;
    let grant = Grant {
        session: SessionId::random(),
        provider: Provider::Anthropic,
        credentials,
        credential: Some(credential),
        tokens,
    };
    let (gateway, server) = Gateway::open(listener.into(), Arc::new(Models::new(settings)), grant);
    (gateway, server, format!("http://{address}"))
}

/// Those of a store of its own.
async fn credentials(tasks: &mut JoinSet<()>) -> Credentials {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap().unwrap();
    // As long as the test.
    tasks.spawn(async move {
        let _directory = directory;
        std::future::pending::<()>().await;
    });
    Credentials::new(store, Arc::new(Sealer::new(&[7; 32])))
}

fn post(url: &str) -> reqwest::RequestBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap().post(url)
}

async fn ask(url: &str) -> (u16, String) {
    let response = post(url).header("x-api-key", "dummy").header("cookie", "c").body("{}").send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_request_gets_the_credential_and_its_tokens_are_counted() {
    let mut tasks = JoinSet::new();
    let provider = provider(&mut tasks).await;
    let (mut gateway, url) = gateway(&mut tasks, provider, Some(10)).await;
    let (status, text) = ask(&format!("{url}/v1/messages?beta=true")).await;
    assert_eq!(status, 200);
    assert!(text.starts_with(": /v1/messages?beta=true Some(\"agent-key\") None\n"), "{text}");
    assert_eq!(gateway.spent().await.tokens(), 9);
    ask(&format!("{url}/v1/messages")).await;
    assert_eq!(gateway.spent().await.tokens(), 9);
    let (status, text) = ask(&format!("{url}/v1/messages")).await;
    assert_eq!(status, 403, "{text}");
}

#[tokio::test]
async fn all_that_is_not_the_model_is_refused_and_silence_is_told() {
    let mut tasks = JoinSet::new();
    let provider = provider(&mut tasks).await;
    let (_gateway, url) = gateway(&mut tasks, provider, None).await;
    assert_eq!(ask(&format!("{url}/v1/files")).await.0, 404);
    assert_eq!(ask(&format!("{url}/v1/messages/count_tokens")).await.0, 504);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_gateway, url) = self::gateway(&mut tasks, format!("http://{nobody}"), None).await;
    assert_eq!(ask(&format!("{url}/v1/messages")).await.0, 502);
}

#[tokio::test]
async fn a_door_that_is_closed_answers_nobody() {
    let mut tasks = JoinSet::new();
    let (gateway, server, url) = door(&mut tasks, "http://127.0.0.1:1".to_owned(), None).await;
    let mut serving = JoinSet::new();
    serving.spawn(server.serve());
    drop(gateway);
    serving.join_next().await.unwrap().unwrap();
    assert!(post(&url).send().await.is_err());
}
