//! No RPC is open to strangers, and none to a lesser role than the table says.

use std::collections::BTreeSet;

use handsd::auth::policy::{RPCS, Role};
use handsd::client::Channel;
use prost::Message;
use prost_types::FileDescriptorProto;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::node::{Node, with_token};
use crate::support::reason;

/// Calls an RPC with an empty message. What is refused before it reaches a service is refused to any shape of call.
async fn call(channel: &Channel, path: &str) -> Status {
    call_with(channel, path, ()).await
}

/// Calls an RPC with this message.
pub async fn call_with<T>(channel: &Channel, path: &str, message: T) -> Status
where
    T: Message + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<T, ()>::default();
    // The head of the reply is enough: some streams never end.
    let reply = client.server_streaming(Request::new(message), path.parse().unwrap(), codec).await;
    reply.err().unwrap_or_else(|| Status::ok(""))
}

async fn ask(channel: &Channel, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    replies.message().await.unwrap().unwrap().message_response.unwrap()
}

/// The paths of all RPCs, as the node itself lists them.
async fn rpcs(channel: &Channel) -> BTreeSet<String> {
    let MessageResponse::ListServicesResponse(services) =
        ask(channel, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services")
    };
    let mut paths = BTreeSet::new();
    for service in services.service {
        let question = MessageRequest::FileContainingSymbol(service.name.clone());
        let MessageResponse::FileDescriptorResponse(files) = ask(channel, question).await else {
            panic!("no file of {}", service.name)
        };
        for bytes in files.file_descriptor_proto {
            let file = FileDescriptorProto::decode(&*bytes).unwrap();
            for found in &file.service {
                let name = format!("{}.{}", file.package(), found.name());
                paths.extend(found.method.iter().map(|method| format!("/{name}/{}", method.name())));
            }
        }
    }
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_has_its_least_role_and_is_refused_to_everybody_else() {
    let readers = with_token("reader", "reader", "r", "") + &with_token("operator", "operator", "o", "");
    let Some(node) = Node::start(&readers).await else { return };
    let rpcs = rpcs(&node.connect(&node.identity("plane.example")).await.unwrap()).await;
    let decided: BTreeSet<String> = RPCS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(rpcs, decided, "what the node serves is not what the table of roles has");

    let stranger = node.connect(&node.anonymous()).await.unwrap();
    let liar = node.connect(&node.token("wrong")).await.unwrap();
    let reader = node.connect(&node.token("r")).await.unwrap();
    let operator = node.connect(&node.token("o")).await.unwrap();
    for (path, role) in RPCS {
        for channel in [&stranger, &liar] {
            let status = call(channel, path).await;
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{path}");
        }
        for (channel, own) in [(&reader, Role::Reader), (&operator, Role::Operator)] {
            let status = call(channel, path).await;
            let is_forbidden = (status.code(), reason(&status).as_str()) == (Code::PermissionDenied, "FORBIDDEN");
            assert_eq!(is_forbidden, own < *role, "{path} as {own}: {status:?}");
        }
    }
    let invented = call(&operator, "/hands.v1.Hands/Invented").await;
    assert_eq!(invented.code(), Code::PermissionDenied, "an RPC that nobody decided on is the admins'");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_machine_is_refused_unless_it_is_a_client() {
    let ada = "[[auth.clients]]\nname = 'ada'\nrole = 'reader'\nuid = 65534\n";
    let Some(node) = Node::start(ada).await else { return };
    // The directory of the test is its owner's only.
    std::fs::set_permissions(node.scratch(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hands = |uid: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", uid, "--clear-groups", env!("CARGO_BIN_EXE_hands"), "--addr"]);
        let output = command.arg(format!("unix:{}", node.socket().display())).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(hands("65534", &["list"]), (Some(0), String::new()));
    let (code, told) = hands("65534", &["create"]);
    assert!(code == Some(125) && told.contains("FORBIDDEN") && told.contains("ada is reader here"), "{told}");
    let (code, told) = hands("65533", &["list"]);
    assert!(code == Some(125) && told.contains("UNAUTHENTICATED"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_a_loopback_port_takes_a_token_once_there_are_clients() {
    use handsd::client::{self, Address, Credentials};
    let Some(daemon) = crate::support::Daemon::start_configured(&with_token("bot", "reader", "t", "")).await else {
        return;
    };
    let address = Address::Tcp(daemon.tcp_address());
    let status = call(&client::connect(&address).await.unwrap(), "/hands.v1.Node/Info").await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let credentials = Credentials { token: Some("t".to_owned()), ..Credentials::default() };
    let status = call(&client::connect_with(&address, &credentials).await.unwrap(), "/hands.v1.Node/Info").await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}
