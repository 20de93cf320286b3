//! SIGHUP: what can change does, what cannot is told, and what is wrong changes nothing.

use handsd::api::proto::NodeInfoRequest;
use handsd::client::{self, Channel, ClientError};
use tonic::Code;

use crate::node::{Node, with_token};
use crate::support::certificates::Authority;

async fn code(channel: &Channel) -> Code {
    let reply = client::node(channel.clone()).info(NodeInfoRequest {}).await;
    reply.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_back_ends_with_the_next_call() {
    let Some(node) = Node::start(&with_token("bot", "reader", "old", "")).await else { return };
    let (old, new) = (node.connect(&node.token("old")).await.unwrap(), node.connect(&node.token("new")).await.unwrap());
    assert_eq!((code(&old).await, code(&new).await), (Code::Ok, Code::Unauthenticated));
    let said = node.reconfigure(&with_token("bot", "reader", "new", "")).await;
    assert!(said.contains("the configuration is in force") && !said.contains("restart"), "{said}");
    assert_eq!((code(&old).await, code(&new).await), (Code::Unauthenticated, Code::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let bot = with_token("bot", "reader", "t", "");
    let Some(node) = Node::start(&bot).await else { return };
    let before = node.connect(&node.token("t")).await.unwrap();
    assert_eq!(code(&before).await, Code::Ok);
    let next = Authority::new(node.files(), "next");
    next.sign("node", &["127.0.0.1"]);
    node.reconfigure(&bot).await;
    assert_eq!(code(&before).await, Code::Ok);
    assert!(matches!(node.connect(&node.token("t")).await, Err(ClientError::Connect { .. })));
    let trusting = client::Credentials { ca: Some(next.root()), ..node.token("t") };
    assert_eq!(code(&node.connect(&trusting).await.unwrap()).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_a_fault_changes_nothing_and_what_takes_a_restart_is_told() {
    let bot = with_token("bot", "reader", "t", "");
    let Some(node) = Node::start(&bot).await else { return };
    let channel = node.connect(&node.token("t")).await.unwrap();
    let said = node.reconfigure(&format!("{}[run]\nmax_runs = 0\n", with_token("bot", "reader", "u", ""))).await;
    assert!(said.contains("stays as it was") && said.contains("run.max_runs"), "{said}");
    assert_eq!(code(&channel).await, Code::Ok);
    std::fs::write(node.files().join("node.key"), "no key").unwrap();
    let said = node.reconfigure(&with_token("bot", "reader", "u", "")).await;
    assert!(said.contains("stays as it was") && said.contains("node.key"), "{said}");
    assert_eq!(code(&channel).await, Code::Ok);
    node.authority.sign("node", &["127.0.0.1"]);
    let said = node.reconfigure(&format!("{bot}[run]\nmax_runs = 7\n")).await;
    assert!(said.contains("what takes a restart") && said.contains("run"), "{said}");
}
