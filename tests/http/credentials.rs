//! Keys of model providers: they come in, and never go out.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::Http;

const KEY: &str = "sk-secret-0123456789-wxyz";

async fn send(http: &Http, method: Method, path: &str, body: Value) -> (u16, Value) {
    let response = http.request(method, path).json(&body).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert!(!text.contains(KEY), "{path} shows the key: {text}");
    (status, serde_json::from_str(&text).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_kept_listed_replaced_made_the_default_and_forgotten() {
    let Some(http) = Http::start().await else { return };
    let send = async |method, path: &str, body| send(&http, method, path, body).await;
    let (status, made) = send(Method::POST, "/v3/credentials", json!({ "key": KEY, "name": "main" })).await;
    assert_eq!((status, made["provider"].as_str(), made["last4"].as_str()), (201, Some("anthropic"), Some("wxyz")));
    let id = made["id"].as_str().unwrap();
    let wish = json!({ "key": "short", "provider": "anthropic", "is_default": true });
    let (_, second) = send(Method::POST, "/v3/credentials", wish).await;
    assert_eq!((second["last4"].as_str(), second["is_default"].as_bool()), (None, Some(true)));
    let (status, _) = send(Method::PUT, "/v3/credentials/default", json!({ "credential": id })).await;
    assert_eq!(status, 204);
    let (_, page) = send(Method::GET, "/v3/credentials", json!({})).await;
    let defaults: Vec<_> = page["data"].as_array().unwrap().iter().map(|it| it["is_default"].as_bool()).collect();
    assert_eq!(defaults, [Some(false), Some(true)], "{page}");
    let path = format!("/v3/credentials/{id}");
    let (status, replaced) = send(Method::PATCH, &path, json!({ "key": "another-key-0123456789" })).await;
    assert_eq!((status, replaced["last4"].as_str()), (200, Some("6789")));
    assert_eq!(send(Method::DELETE, &path, json!({})).await.0, 204);
    let (status, problem) = send(Method::DELETE, &path, json!({})).await;
    assert_eq!((status, problem["error"]["code"].as_str()), (404, Some("credential_not_found")));
    let (status, problem) = send(Method::POST, "/v3/credentials", json!({ "name": "keyless" })).await;
    assert_eq!(status, 400, "{problem}");
    assert!(!http.daemon.log().contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_paid_for_by_a_credential_or_by_a_key_of_its_own() {
    let Some(http) = Http::start().await else { return };
    let send = async |method, path: &str, body| send(&http, method, path, body).await;
    let agent = |name: &str, field: &str, value: &str| json!({ "name": name, "runtime": "script", field: value });
    let (_, kept) = send(Method::POST, "/v3/credentials", json!({ "key": "kept", "name": "main" })).await;
    let (status, named) = send(Method::POST, "/v3/agents", agent("named", "credential", "main")).await;
    assert_eq!((status, &named["credential_id"]), (201, &kept["id"]));

    let (status, own) = send(Method::POST, "/v3/agents", agent("own", "key", KEY)).await;
    assert_eq!(status, 201);
    let (status, same) = send(Method::POST, "/v3/agents", agent("own", "key", KEY)).await;
    assert_eq!((status, &same["credential_id"]), (200, &own["credential_id"]));
    // Another key makes another agent, which there cannot be; and it is not kept.
    assert_eq!(send(Method::POST, "/v3/agents", agent("own", "key", "another")).await.0, 409);
    let (_, page) = send(Method::GET, "/v3/credentials", json!({})).await;
    assert_eq!(page["data"].as_array().unwrap().len(), 2, "{page}");

    let (status, cleared) = send(Method::PATCH, "/v3/agents/own", json!({ "credential": null })).await;
    assert_eq!((status, &cleared["credential_id"]), (200, &Value::Null));
    let both = json!({ "name": "both", "runtime": "script", "key": "x", "credential": "main" });
    assert_eq!(send(Method::POST, "/v3/agents", both).await.1["error"]["param"], "key");
    let (status, problem) = send(Method::POST, "/v3/agents", agent("managed", "credential", "managed")).await;
    assert_eq!((status, problem["error"]["code"].as_str()), (422, Some("managed_unavailable")));
    assert_eq!(send(Method::POST, "/v3/agents", agent("lost", "credential", "nobody")).await.0, 404);
    let (_, session) = send(Method::POST, "/v3/sessions", json!({ "agent": "named" })).await;
    assert_eq!(session["session"]["credential_id"], kept["id"]);
}
