//! A client that is bound to labels knows of no other sandboxes, nor sessions.

use std::collections::HashMap;

use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::sessions_client::SessionsClient;
use handsd::api::proto::{
    ArchiveSessionRequest, BashRequest, CancelSessionRequest, CreateAgentRequest, CreateSandboxRequest,
    CreateSessionRequest, DestroySandboxRequest, EventsRequest, GetSandboxRequest, GetSessionRequest,
    ListAgentsRequest, ListCredentialsRequest, ListRunsRequest, ListSandboxesRequest, ListSessionsRequest,
    NodeEventsRequest, ReadRequest, ResultRequest, SendRequest, TurnsRequest, WatchSandboxRequest,
};
use handsd::auth::policy::RPCS;
use handsd::client::{self, Channel};
use tonic::Code;

use crate::node::{Node, with_token};
use crate::refusals::call_with;
use crate::support::{SOON, eventually, expect, reason, refusal};

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

/// What a session of these labels is asked for with.
fn session(pairs: &[(&str, &str)], key: &str) -> CreateSessionRequest {
    let labels = labels(pairs).into_iter().collect();
    CreateSessionRequest { agent: "script".to_owned(), key: key.to_owned(), labels, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_session_is_not_there() {
    let tenants = with_token("a", "operator", "a", "tenant = 'a'") + &with_token("b", "operator", "b", "tenant = 'b'");
    let Some(node) = Node::start(&tenants).await else { return };
    let channels = [node.connect(&node.token("a")).await.unwrap(), node.connect(&node.token("b")).await.unwrap()];
    let [mut a, mut b] = channels.clone().map(client::sessions);
    let agent = CreateAgentRequest { name: "script".into(), runtime: "script".into(), ..Default::default() };
    let forbidden = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    assert_eq!(refusal(a.create_agent(agent.clone()).await), forbidden, "agents are the node's");
    node.sessions().create_agent(agent).await.unwrap();
    assert_eq!(a.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents.len(), 1);
    assert_eq!(refusal(a.list_credentials(ListCredentialsRequest {}).await), forbidden);
    for pairs in [&[][..], &[("tenant", "b")]] {
        assert_eq!(refusal(a.create(session(pairs, "")).await), forbidden, "{pairs:?}");
    }

    let of_a = a.create(session(&[("tenant", "a"), ("job", "1")], "key")).await.unwrap().into_inner();
    let of_b = b.create(session(&[("tenant", "b")], "key")).await.unwrap().into_inner();
    assert_ne!(of_a.id, of_b.id, "each has keys of its own");
    let again = a.create(session(&[("tenant", "a"), ("job", "1")], "key")).await.unwrap().into_inner();
    assert_eq!((&again.id, again.labels.len()), (&of_a.id, 2));
    let list = async |sessions: &mut SessionsClient<Channel>, pairs: &[(&str, &str)]| {
        let request = ListSessionsRequest { labels: labels(pairs).into_iter().collect(), ..Default::default() };
        let reply = sessions.list(request).await.unwrap().into_inner();
        reply.sessions.into_iter().map(|session| session.id).collect::<Vec<_>>()
    };
    assert_eq!(list(&mut a, &[]).await, [of_a.id.as_str()]);
    assert_eq!(list(&mut a, &[("job", "1")]).await, [of_a.id.as_str()]);
    for pairs in [("tenant", "b"), ("job", "2")] {
        assert_eq!(list(&mut a, &[pairs]).await, [""; 0], "{pairs:?}");
    }
    assert_eq!(list(&mut node.sessions(), &[]).await.len(), 2);

    let id = || of_b.id.clone();
    let refused = [
        refusal(a.get(GetSessionRequest { session_id: id() }).await),
        refusal(a.send(SendRequest { session_id: id(), text: "say no".into(), ..Default::default() }).await),
        refusal(a.cancel(CancelSessionRequest { session_id: id() }).await),
        refusal(a.archive(ArchiveSessionRequest { session_id: id() }).await),
        refusal(a.result(ResultRequest { session_id: id() }).await),
        refusal(a.turns(TurnsRequest { session_id: id(), ..Default::default() }).await),
        refusal(a.events(EventsRequest { session_id: id(), ..Default::default() }).await.map(|_| ())),
        refusal(a.events(EventsRequest { session_id: id(), follow: true, ..Default::default() }).await.map(|_| ())),
    ];
    for refused in refused {
        assert_eq!(refused, (Code::NotFound, "SESSION_NOT_FOUND".to_owned()));
    }
    let mut events = client::node(channels[0].clone());
    assert_eq!(refusal(events.events(NodeEventsRequest::default()).await.map(|_| ())), forbidden);
    for (sessions, made) in [(&mut a, of_a), (&mut b, of_b)] {
        sessions.archive(ArchiveSessionRequest { session_id: made.id }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandboxes_of_a_tenants_session_are_the_tenants() {
    let Some(node) = Node::start(&with_token("a", "operator", "a", "tenant = 'a'")).await else { return };
    let channel = node.connect(&node.token("a")).await.unwrap();
    let (mut sessions, mut sandboxes) = (client::sessions(channel.clone()), client::sandboxes(channel));
    let agent = CreateAgentRequest { name: "script".into(), runtime: "script".into(), ..Default::default() };
    node.sessions().create_agent(agent).await.unwrap();
    let request = CreateSessionRequest { input: "bash true\nsay done".to_owned(), ..session(&[("tenant", "a")], "") };
    let id = sessions.create(request).await.unwrap().into_inner().id;
    let made = eventually(SOON, || async {
        let mut sessions = sessions.clone();
        let made = sessions.get(GetSessionRequest { session_id: id.clone() }).await.unwrap().into_inner();
        expect(made.last_turn.is_some(), format!("{made:?}")).map(|()| made)
    })
    .await;
    let mut own = list(&mut sandboxes, &[]).await;
    own.sort();
    let mut expected = vec![made.brain_sandbox_id, made.hands_sandbox_id];
    expected.sort();
    assert_eq!(own, expected);
    sessions.archive(ArchiveSessionRequest { session_id: id }).await.unwrap();
    eventually(SOON, || async { expect(list(&mut sandboxes.clone(), &[]).await.is_empty(), "its sandboxes stay") })
        .await;
}

/// A request that names one thing, as all do in their first field; and one that does so in its header.
#[derive(Clone, PartialEq, prost::Message)]
struct About {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Opening {
    #[prost(message, optional, tag = "1")]
    header: Option<About>,
}

#[tokio::test(flavor = "multi_thread")]
async fn to_every_rpc_what_is_anothers_is_as_if_it_were_not_there() {
    let Some(node) = Node::start(&with_token("a", "operator", "a", "tenant = 'a'")).await else { return };
    let channel = node.connect(&node.token("a")).await.unwrap();
    let agent = CreateAgentRequest { name: "script".into(), runtime: "script".into(), ..Default::default() };
    node.sessions().create_agent(agent).await.unwrap();
    let sandbox = create(&mut node.sandboxes(), &[("tenant", "b")]).await.unwrap();
    let session_id = node.sessions().create(session(&[("tenant", "b")], "")).await.unwrap().into_inner().id;
    let ids = [(sandbox.clone(), "sb_00000000000000000000"), (session_id.clone(), "ses_00000000000000000000")];
    let mut not_found = 0;
    for (path, _) in RPCS {
        for (anothers, nobodys) in &ids {
            let answer = async |id: &str| {
                let about = About { id: id.to_owned() };
                let in_header = Opening { header: Some(about.clone()) };
                let answers = [call_with(&channel, path, about).await, call_with(&channel, path, in_header).await];
                answers.map(|status| (status.code(), reason(&status)))
            };
            let told = answer(anothers).await;
            assert_eq!(told, answer(nobodys).await, "{path} tells whether {anothers} is there");
            not_found += usize::from(told.iter().any(|(code, _)| *code == Code::NotFound));
        }
    }
    assert!(not_found >= 20, "only {not_found} calls came as far as what they are about");
    assert_eq!(list(&mut node.sandboxes(), &[]).await, std::slice::from_ref(&sandbox));
    node.sandboxes().destroy(DestroySandboxRequest { sandbox_id: sandbox }).await.unwrap();
    node.sessions().archive(ArchiveSessionRequest { session_id }).await.unwrap();
}
