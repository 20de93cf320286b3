//! A client that is bound to labels knows of no other sandboxes.

use std::collections::HashMap;

use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::{
    BashRequest, CreateSandboxRequest, DestroySandboxRequest, GetSandboxRequest, ListRunsRequest, ListSandboxesRequest,
    ReadRequest, WatchSandboxRequest,
};
use handsd::client::{self, Channel};
use tonic::Code;

use crate::node::{Node, with_token};
use crate::support::reason;

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn create(sandboxes: &mut SandboxesClient<Channel>, pairs: &[(&str, &str)]) -> Result<String, tonic::Status> {
    let request = CreateSandboxRequest { labels: labels(pairs).into_iter().collect(), ..Default::default() };
    Ok(sandboxes.create(request).await?.into_inner().id)
}

async fn list(sandboxes: &mut SandboxesClient<Channel>, pairs: &[(&str, &str)]) -> Vec<String> {
    let request = ListSandboxesRequest { labels: labels(pairs).into_iter().collect(), ..Default::default() };
    let reply = sandboxes.list(request).await.unwrap().into_inner();
    reply.sandboxes.into_iter().map(|sandbox| sandbox.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_sandbox_is_not_there() {
    let tenants = with_token("a", "operator", "a", "tenant = 'a'") + &with_token("b", "operator", "b", "tenant = 'b'");
    let Some(node) = Node::start(&tenants).await else { return };
    let channels = [node.connect(&node.token("a")).await.unwrap(), node.connect(&node.token("b")).await.unwrap()];
    let [mut a, mut b] = channels.clone().map(client::sandboxes);
    let of_a = create(&mut a, &[("tenant", "a"), ("job", "1")]).await.unwrap();
    let of_b = create(&mut b, &[("tenant", "b"), ("job", "1")]).await.unwrap();

    for pairs in [&[][..], &[("tenant", "b")], &[("job", "1")]] {
        let status = create(&mut a, pairs).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "FORBIDDEN"), "{pairs:?}");
    }
    assert_eq!(list(&mut a, &[]).await, [of_a.as_str()]);
    assert_eq!(list(&mut a, &[("job", "1")]).await, [of_a.as_str()]);
    assert_eq!(list(&mut a, &[("tenant", "b")]).await, [""; 0]);
    assert_eq!(list(&mut node.sandboxes(), &[]).await.len(), 2);

    let mut hands = client::hands(channels[0].clone());
    let id = || of_b.clone();
    let refused = [
        a.get(GetSandboxRequest { sandbox_id: id() }).await.err(),
        a.watch(WatchSandboxRequest { sandbox_id: id(), ..Default::default() }).await.err(),
        hands.bash(BashRequest { sandbox_id: id(), command: Some("true".into()), ..Default::default() }).await.err(),
        hands.list_runs(ListRunsRequest { sandbox_id: id() }).await.err(),
        hands.read(ReadRequest { sandbox_id: id(), path: "/etc/passwd".into(), ..Default::default() }).await.err(),
    ];
    for status in refused {
        let status = status.unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "SANDBOX_NOT_FOUND"), "{status:?}");
    }
    // To destroy what is not there is no error, and does nothing.
    a.destroy(DestroySandboxRequest { sandbox_id: id() }).await.unwrap();
    assert_eq!(list(&mut b, &[]).await, [of_b.as_str()]);
    a.destroy(DestroySandboxRequest { sandbox_id: of_a }).await.unwrap();
    b.destroy(DestroySandboxRequest { sandbox_id: of_b }).await.unwrap();
}
