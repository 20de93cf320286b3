//! Replies, held to the document: what it says of them is what comes, and it says something of all of it.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::{SOON, eventually, expect};

/// A client that holds every answer to the document.
struct Reader {
    http: Http,
    document: Value,
    /// Of which operations a reply was read.
    seen: BTreeSet<String>,
}

impl Reader {
    /// Asks, and answers the reply, which has to be what the document says.
    async fn ask(&mut self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let template = self.template(path);
        let mut request = self.http.request(method.clone(), path);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        let name = format!("{method} {template}");
        let operation = &self.document["paths"][&template][method.as_str().to_lowercase()];
        assert!(operation.is_object(), "{name} is not in the document");
        let described = &operation["responses"][if status.is_success() { "2XX" } else { "default" }];
        let schema = &described["content"]["application/json"]["schema"];
        if text.is_empty() {
            assert!(schema.is_null() && status == StatusCode::NO_CONTENT, "{name}: {status}");
            return (status, Value::Null);
        }
        let reply: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{name}: {text}"));
        check(schema, &reply, &name);
        if status.is_success() {
            self.seen.insert(name);
        }
        (status, reply)
    }

    /// The same, of what has to go well.
    async fn read(&mut self, method: Method, path: &str, body: Value) -> Value {
        let (status, reply) = self.ask(method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {reply}");
        reply
    }

    async fn get(&mut self, path: &str) -> Value {
        self.read(Method::GET, path, Value::Null).await
    }

    async fn post(&mut self, path: &str, body: Value) -> Value {
        self.read(Method::POST, path, body).await
    }

    /// The path of the document that a path is of: the one with the fewest parameters.
    fn template(&self, path: &str) -> String {
        let path = path.split('?').next().unwrap();
        let fits = |template: &&String| {
            let (mut parts, mut wanted) = (path.split('/'), template.split('/'));
            template.split('/').count() == path.split('/').count()
                && parts.all(|part| wanted.next().is_some_and(|it| it == part || it.starts_with('{')))
        };
        let paths = self.document["paths"].as_object().unwrap();
        let found = paths.keys().filter(fits).min_by_key(|template| template.matches('{').count());
        found.unwrap_or_else(|| panic!("{path} is not in the document")).clone()
    }

    /// Operations with a reply that none was read of.
    fn unseen(&self) -> Vec<String> {
        let operations = self.document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(move |(method, operation)| (method, path, operation))
        });
        let told = operations.filter(|(_, _, operation)| {
            operation["responses"]["2XX"]["content"].as_object().is_some_and(|content| !content.is_empty())
        });
        let names = told.map(|(method, path, _)| format!("{} {path}", method.to_uppercase()));
        names.filter(|name| !self.seen.contains(name)).collect()
    }
}

/// Holds a value to a schema, as far as the document's schemas go. A field that is not in its schema is a fault too.
fn check(schema: &Value, value: &Value, at: &str) {
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Null => return,
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => vec![kind.as_str().unwrap()],
    };
    let is_kind = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: {other} is no type"),
    };
    assert!(kinds.iter().any(is_kind), "{at}: {value} is none of {kinds:?}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    value.as_array().into_iter().flatten().for_each(|item| check(&schema["items"], item, &format!("{at}[]")));
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(fields.contains_key(name), "{at}: {name} is missing in {value}");
    }
    for (name, field) in fields {
        let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        let known = known.unwrap_or_else(|| panic!("{at}: {name} is not in the document"));
        check(known, field, &format!("{at} {name}"));
    }
}

async fn sandboxes(reader: &mut Reader) {
    let runtime = json!({ "command": "sleep 600", "restart": "always", "stopGrace": 0 });
    let wish = json!({ "metadata": { "a": "b" }, "runtime": runtime, "secretEnvs": { "TOKEN": "hidden" } });
    let made = reader.post("/api/sandboxes", wish).await;
    assert_eq!(made["secretEnvs"], json!(["TOKEN"]));
    assert!(!made.to_string().contains("hidden"), "{made}");
    let id = made["sandboxID"].as_str().unwrap().to_owned();
    let path = format!("/api/sandboxes/{id}");
    assert!(reader.get(&path).await["runtime"]["starts"].is_u64());
    reader.get("/api/sandboxes").await;
    // A node without the memory controller refuses.
    let (status, _) = reader.ask(Method::POST, &format!("{path}/scale"), json!({ "memoryMB": 256 })).await;
    if status == StatusCode::NOT_IMPLEMENTED {
        reader.seen.insert("POST /api/sandboxes/{id}/scale".to_owned());
    }
    let run = reader.post(&format!("{path}/exec"), json!({ "cmd": "sleep", "args": ["600"], "timeout": 700 })).await;
    reader.get(&format!("{path}/exec")).await;
    reader.get(&format!("{path}/exec/{}/result", run["sessionID"].as_str().unwrap())).await;
    reader.post(&format!("{path}/exec/{}/kill", run["sessionID"].as_str().unwrap()), json!({})).await;
    reader.post(&format!("{path}/exec/run"), json!({ "cmd": "false" })).await;
    reader.post(&format!("{path}/exec/run-async"), json!({ "cmd": "true" })).await;
    reader.post(&format!("{path}/pty"), json!({ "cols": 80, "rows": 24, "shell": "true" })).await;
    reader.get(&format!("{path}/files/list?path=/")).await;
    reader.post(&format!("{path}/hibernate"), json!({})).await;
    reader.post(&format!("{path}/wake"), json!({})).await;
    reader.read(Method::DELETE, &path, Value::Null).await;
    let (status, _) = reader.ask(Method::GET, &path, Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    reader.ask(Method::POST, "/api/sandboxes", json!({ "memoryMB": "many" })).await;
}

async fn agents(reader: &mut Reader) {
    let key = json!({ "key": "sk-0123456789-abcdefgh", "name": "main", "is_default": true });
    let credential = reader.post("/v3/credentials", key).await["id"].as_str().unwrap().to_owned();
    reader.get("/v3/credentials").await;
    reader.read(Method::PATCH, &format!("/v3/credentials/{credential}"), json!({ "key": "sk-x" })).await;
    let wish = json!({ "name": "s", "runtime": "script", "limits": { "turns": 9 }, "credential": credential });
    reader.post("/v3/agents", wish).await;
    reader.get("/v3/agents").await;
    reader.get("/v3/agents/s").await;
    reader.read(Method::PATCH, "/v3/agents/s", json!({ "credential": null })).await;
    reader.ask(Method::GET, "/v3/agents/nobody", Value::Null).await;
    reader.ask(Method::POST, "/v3/agents", json!({ "name": "s", "runtime": "flue" })).await;
}

async fn sessions(reader: &mut Reader) {
    let wish = json!({ "agent": "s", "input": "say hello", "metadata": { "deep": [1, { "a": null }] } });
    let made = reader.post("/v3/sessions", wish).await;
    let path = format!("/v3/sessions/{}", made["session"]["id"].as_str().unwrap());
    let hook = json!({ "url": "http://127.0.0.1:1/", "secret": "s", "types": ["turn.*"] });
    let hook = reader.post(&format!("{path}/destinations"), hook).await["id"].as_str().unwrap().to_owned();
    // Longer than the log holds, so that its body is cut.
    let long = format!("say {}", "x".repeat(40 << 10));
    reader.post(&format!("{path}/messages"), json!({ "text": long })).await;
    let deliveries = format!("{path}/deliveries");
    eventually(SOON, || async {
        let (session, sent) = (reader.http.get(&path).await, reader.http.get(&deliveries).await);
        let is_done = session["status"] == "idle" && sent["data"][0]["attempts"].as_u64() >= Some(1);
        expect(is_done, format!("{session} {sent}"))
    })
    .await;
    reader.get(&path).await;
    reader.get("/v3/sessions?agent=s&status=idle").await;
    reader.get(&format!("{path}/result")).await;
    let turns = reader.get(&format!("{path}/turns")).await;
    reader.get(&format!("{path}/turns/{}", turns["data"][0]["id"].as_str().unwrap())).await;
    reader.get(&format!("{path}/sources")).await;
    reader.get(&format!("{path}/messages")).await;
    let events = reader.get(&format!("{path}/events?level=output&limit=1000")).await;
    let events = events["data"].as_array().unwrap();
    let cut = events.iter().find(|event| event["body_truncated"] == true).expect("a long body");
    reader.get(&format!("{path}/events/{}", cut["id"].as_str().unwrap())).await;
    reader.post(&format!("{path}/client-tokens"), json!({})).await;
    reader.get(&format!("{path}/destinations")).await;
    let one = format!("{path}/destinations/{hook}");
    reader.get(&one).await;
    reader.read(Method::PATCH, &one, json!({ "enabled": false })).await;
    reader.post(&format!("{one}/ping"), json!({})).await;
    let sent = reader.get(&deliveries).await["data"][0]["id"].as_str().unwrap().to_owned();
    reader.get(&format!("{deliveries}/{sent}")).await;
    reader.post(&format!("{deliveries}/{sent}/redeliver"), json!({})).await;
    reader.post(&format!("{path}/cancel"), Value::Null).await;
    reader.post(&format!("{path}/archive"), Value::Null).await;
    reader.ask(Method::POST, &format!("{path}/messages"), json!({ "text": "too late" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_is_what_the_document_says() {
    let Some(http) = Http::configured("http.private_webhooks = true").await else { return };
    let document = http.get("/openapi.json").await;
    let mut reader = Reader { http, document, seen: BTreeSet::new() };
    for path in ["/openapi.json", "/api/node", "/livez", "/readyz"] {
        reader.get(path).await;
    }
    sandboxes(&mut reader).await;
    agents(&mut reader).await;
    sessions(&mut reader).await;
    assert_eq!(reader.unseen(), Vec::<String>::new());
}
