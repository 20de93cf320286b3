//! Certificates: of the node, and of its clients.

use handsd::api::proto::NodeInfoRequest;
use handsd::client::{self, Address, ClientError, Credentials};
use tonic::Code;

use crate::node::{Node, with_token};
use crate::support::certificates::Authority;
use crate::support::reason;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_known_by_a_name_of_its_certificate() {
    let Some(node) = Node::start("").await else { return };
    for (name, expected) in [
        ("plane.example", Code::Ok),
        ("spiffe://example/worker", Code::Ok),
        ("stranger.example", Code::Unauthenticated),
        ("plane.example.org", Code::Unauthenticated),
    ] {
        let channel = node.connect(&node.identity(name)).await.unwrap();
        let reply = client::node(channel).info(NodeInfoRequest {}).await;
        assert_eq!(reply.map_or_else(|status| status.code(), |_| Code::Ok), expected, "{name}");
    }
}

/// The first call tells: in TLS 1.3 the client is done before the node has looked at its certificate.
async fn is_let_in(node: &Node, credentials: &Credentials) -> bool {
    match node.connect(credentials).await {
        Err(ClientError::Connect { .. }) => false,
        Err(error) => panic!("{error}"),
        Ok(channel) => match client::node(channel).info(NodeInfoRequest {}).await {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(reason(&status), "", "the node answers: {status:?}");
                false
            }
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_does_not_get_through_the_handshake() {
    let Some(node) = Node::start("").await else { return };
    let other = Authority::new(node.files(), "other");
    let forged = other.sign("forged", &["plane.example"]);
    assert!(is_let_in(&node, &node.identity("plane.example")).await);
    assert!(!is_let_in(&node, &Credentials { identity: Some(forged), ..node.anonymous() }).await);
    assert!(!is_let_in(&node, &node.anonymous()).await, "without tokens, a certificate is required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_talk_to_a_node_of_another_authority_or_name() {
    let Some(node) = Node::start(&with_token("bot", "reader", "t", "")).await else { return };
    let other = Authority::new(node.files(), "other");
    let credentials = Credentials { ca: Some(other.root()), ..node.token("t") };
    assert!(matches!(node.connect(&credentials).await, Err(ClientError::Connect { .. })));
    let Address::Tls(authority) = node.address() else { unreachable!("it is one with TLS") };
    let elsewhere = Address::Tls(authority.replace("127.0.0.1", "127.0.0.2"));
    assert!(matches!(client::connect_with(&elsewhere, &node.token("t")).await, Err(ClientError::Connect { .. })));
    assert!(matches!(client::connect(&node.address()).await, Err(ClientError::NoCa { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_without_tls_where_there_is_tls() {
    let Some(node) = Node::start(&with_token("bot", "admin", "t", "")).await else { return };
    let plain = Address::Tcp(node.tcp_address());
    let credentials = Credentials { token: Some("t".to_owned()), ..Credentials::default() };
    if let Ok(channel) = client::connect_with(&plain, &credentials).await {
        assert!(client::node(channel).info(NodeInfoRequest {}).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_client_speaks_tls_and_shows_a_token() {
    let Some(node) = Node::start(&with_token("bot", "reader", "t", "")).await else { return };
    let (certificate, key) = node.authority.sign("cli", &["plane.example"]);
    let hands = |arguments: &[&str], token: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hands"));
        command.args(["--addr", &node.address().to_string()]).args(arguments).arg("info");
        command.envs(token.map(|token| ("HANDS_TOKEN", token)));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let root = node.authority.root();
    let ca = ["--tls-ca", root.to_str().unwrap()];
    assert_eq!(hands(&ca, Some("t")), (0, String::new()));
    let identity = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    assert_eq!(hands(&[&ca[..], &identity].concat(), None), (0, String::new()));
    let (code, told) = hands(&ca, None);
    assert!(code == 125 && told.contains("UNAUTHENTICATED"), "{told}");
}
