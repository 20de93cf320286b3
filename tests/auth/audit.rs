//! The audit log: who, what, which sandbox, outcome; and nothing that was secret.

use handsd::api::proto::{BashRequest, CreateSandboxRequest, GetSandboxRequest, NodeInfoRequest};
use handsd::client;
use serde_json::Value;
use tonic::Request;

use crate::node::{Node, audited, with_token};
use crate::support::{SOON, eventually, expect};

/// The record of a request, once it is there.
async fn record(node: &Node, request_id: &str) -> Value {
    let all = || audited(node).into_iter().filter(|line| line["request_id"] == request_id).collect::<Vec<_>>();
    eventually(SOON, || async {
        expect(all().len() == 1, format!("{:?}", all()))?;
        Ok(all().remove(0))
    })
    .await
}

fn named<T>(message: T, id: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_one_line_with_who_what_where_and_how_it_ended() {
    let Some(node) = Node::start(&with_token("bot", "reader", "hush", "")).await else { return };
    let plane = node.connect(&node.identity("plane.example")).await.unwrap();
    let mut sandboxes = client::sandboxes(plane.clone());
    let env = [("KEY".to_owned(), "hunter2".to_owned())].into();
    let request = CreateSandboxRequest { env, ..Default::default() };
    let reply = sandboxes.create(named(request, "create-1")).await.unwrap();
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), "create-1");
    let id = reply.into_inner().id;
    let made = record(&node, "create-1").await;
    let told = |line: &Value, key: &str| line[key].as_str().unwrap_or("none").to_owned();
    let summary = |line: &Value| ["client", "role", "peer", "rpc", "sandbox_id", "outcome"].map(|key| told(line, key));
    let (create, bash) = ("/hands.v1.Sandboxes/Create", "/hands.v1.Hands/Bash");
    assert_eq!(summary(&made), ["plane", "admin", "tls plane.example", create, &id, "ok"]);
    assert!(humantime::parse_rfc3339(&told(&made, "time")).is_ok() && made["duration_ms"].is_u64(), "{made}");

    let mut hands = client::hands(plane.clone());
    let command =
        |command: &str| BashRequest { sandbox_id: id.clone(), command: Some(command.to_owned()), ..Default::default() };
    let mut events = hands.bash(named(command("echo hunter3"), "bash-1")).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
    assert_eq!(summary(&record(&node, "bash-1").await)[3..], [bash, &id, "ok"]);
    // A caller that hangs up.
    drop(hands.bash(named(command("sleep 60"), "bash-2")).await.unwrap());
    assert_eq!(summary(&record(&node, "bash-2").await)[3..], [bash, &id, "canceled"]);

    let reader = node.connect(&node.token("hush")).await.unwrap();
    client::sandboxes(reader).create(named(CreateSandboxRequest::default(), "create-2")).await.unwrap_err();
    assert_eq!(
        summary(&record(&node, "create-2").await),
        ["bot", "reader", "tls", create, "none", "permission_denied"]
    );
    let stranger = node.connect(&node.token("guess")).await.unwrap();
    client::node(stranger).info(named(NodeInfoRequest {}, "info-1")).await.unwrap_err();
    assert_eq!(summary(&record(&node, "info-1").await)[..3], ["none", "none", "tls"]);

    let request = GetSandboxRequest { sandbox_id: "sb_00000000000000000000".to_owned() };
    node.sandboxes().get(named(request, "get-1")).await.unwrap_err();
    let line = record(&node, "get-1").await;
    assert_eq!(summary(&line), ["local", "admin", "uid 0", "/hands.v1.Sandboxes/Get", "none", "not_found"]);

    let text = std::fs::read_to_string(node.files().join("audit.jsonl")).unwrap() + &node.log();
    for secret in ["hunter2", "hunter3", "hush", "guess"] {
        assert!(!text.contains(secret), "{secret} is in a log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rotated_is_opened_again_at_a_reload() {
    let Some(node) = Node::start("").await else { return };
    node.node().info(named(NodeInfoRequest {}, "before")).await.unwrap();
    record(&node, "before").await;
    std::fs::rename(node.files().join("audit.jsonl"), node.files().join("audit.jsonl.1")).unwrap();
    node.reconfigure("").await;
    node.node().info(named(NodeInfoRequest {}, "after")).await.unwrap();
    record(&node, "after").await;
    assert_eq!(audited(&node).len(), 1);
}
