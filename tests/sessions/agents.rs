//! Agents, lists and refusals.

use handsd::api::proto::{
    Agent, CreateAgentRequest, CreateSessionRequest, EventsRequest, GetAgentRequest, GetSessionRequest,
    ListAgentsRequest, ListSessionsRequest, SendRequest, SessionLimits, UpdateAgentRequest, session::Status,
};
use prost_types::value::Kind;
use tonic::Code;

use crate::support::session::wish;
use crate::support::{Daemon, Session, field, refusal};

fn request(name: &str, prompt: &str) -> CreateAgentRequest {
    let (name, prompt) = (name.to_owned(), prompt.to_owned());
    CreateAgentRequest { name, prompt, runtime: "script".to_owned(), ..Default::default() }
}

async fn create(daemon: &Daemon, request: CreateAgentRequest) -> Agent {
    daemon.sessions().create_agent(request).await.expect("it is made").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_made_once_and_another_with_its_name_is_refused() {
    let Some(daemon) = Daemon::start().await else { return };
    let first = create(&daemon, request("a", "say hi")).await;
    assert_eq!(create(&daemon, request("a", "say hi")).await, first);
    let refused = daemon.sessions().create_agent(request("a", "say other")).await;
    assert_eq!(refusal(refused), (Code::AlreadyExists, "AGENT_DIFFERS".to_owned()));
    for agent in [&first.id, &first.name] {
        let found = daemon.sessions().get_agent(GetAgentRequest { agent: agent.clone() }).await;
        assert_eq!(found.expect("it is found").into_inner(), first);
    }
    let none = daemon.sessions().get_agent(GetAgentRequest { agent: "b".to_owned() }).await;
    assert_eq!(refusal(none), (Code::NotFound, "AGENT_NOT_FOUND".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_the_agent_as_it_was() {
    let Some(daemon) = Daemon::start().await else { return };
    let made = create(&daemon, request("a", "say the old prompt")).await;
    let wish = |input: &str| CreateSessionRequest { agent: "a".to_owned(), ..wish(input) };
    let old = Session::create_with(&daemon, wish("hello")).await;
    let change = UpdateAgentRequest {
        agent: made.id.clone(),
        prompt: Some("say the new prompt".to_owned()),
        ..Default::default()
    };
    let changed = daemon.sessions().update_agent(change).await.expect("it is changed").into_inner();
    assert_eq!((changed.revision, changed.id.as_str()), (2, made.id.as_str()));
    let new = Session::create_with(&daemon, wish("hello")).await;
    old.turns(1).await;
    new.turns(1).await;
    old.send("hello again").await;
    old.turns(2).await;
    assert_eq!(old.result().await.as_deref(), Some("the old prompt"));
    assert_eq!(new.result().await.as_deref(), Some("the new prompt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_sessions_are_listed_newest_first_in_pages() {
    let Some(daemon) = Daemon::start().await else { return };
    for name in ["a", "b", "c"] {
        create(&daemon, request(name, "")).await;
    }
    let page = |page_token: String| ListAgentsRequest { page_size: 2, page_token };
    let first = daemon.sessions().list_agents(page(String::new())).await.expect("a page").into_inner();
    let second = daemon.sessions().list_agents(page(first.next_page_token)).await.expect("a page").into_inner();
    let names: Vec<_> = first.agents.iter().chain(&second.agents).map(|agent| agent.name.as_str()).collect();
    assert_eq!((names, second.next_page_token.as_str()), (vec!["c", "b", "a"], ""));

    let mut ids = Vec::new();
    for _ in 0..3 {
        // Without an input it waits.
        ids.insert(0, Session::create(&daemon, "").await.id);
    }
    let idle = |page_token: String, page_size| ListSessionsRequest {
        status: Status::Idle.into(),
        page_size,
        page_token,
        ..Default::default()
    };
    let first = daemon.sessions().list(idle(String::new(), 2)).await.expect("a page").into_inner();
    let second = daemon.sessions().list(idle(first.next_page_token, 2)).await.expect("a page").into_inner();
    let listed: Vec<_> = first.sessions.iter().chain(&second.sessions).map(|session| session.id.clone()).collect();
    assert_eq!(listed, ids);
    let running = ListSessionsRequest { status: Status::Running.into(), ..Default::default() };
    assert_eq!(daemon.sessions().list(running).await.expect("a page").into_inner().sessions, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_references_come_back_as_they_were() {
    let Some(daemon) = Daemon::start().await else { return };
    let words = prost_types::Struct {
        fields: [("ticket".to_owned(), prost_types::Value { kind: Some(Kind::NumberValue(7.0)) })].into(),
    };
    let session =
        Session::create_with(&daemon, CreateSessionRequest { metadata: Some(words.clone()), ..wish("") }).await;
    assert_eq!(session.get().await.metadata, Some(words.clone()));
    let request = SendRequest {
        session_id: session.id.clone(),
        text: "say x".to_owned(),
        actor_id: "ann".to_owned(),
        refs: Some(words.clone()),
        ..Default::default()
    };
    daemon.sessions().send(request).await.expect("it is taken");
    let events = session.events().await;
    assert_eq!((events[0].refs.clone(), events[0].actor_id.as_str()), (Some(words), "ann"));
    session.turns(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_the_field() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut sessions = daemon.sessions();
    let agents = [
        (CreateAgentRequest { name: String::new(), ..request("", "") }, "name"),
        (CreateAgentRequest { runtime: "oracle".to_owned(), ..request("a", "") }, "runtime"),
        (CreateAgentRequest { image: "tar:relative".to_owned(), ..request("a", "") }, "image"),
        (CreateAgentRequest { prompt: "x".repeat(300_000), ..request("a", "") }, "prompt"),
    ];
    for (bad, name) in agents {
        let refused = sessions.create_agent(bad).await.expect_err("it is bad");
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, name));
    }
    let session = Session::create(&daemon, "").await;
    let send = |session_id: &str, text: &str| SendRequest {
        session_id: session_id.to_owned(),
        text: text.to_owned(),
        ..Default::default()
    };
    let refused = sessions.send(send(&session.id, "")).await.expect_err("it is empty");
    assert_eq!(field(&refused), "text");
    let refused = sessions.send(send("", "x")).await.expect_err("it is missing");
    assert_eq!(field(&refused), "session_id");
    let unknown = "ses_00000000000000000000";
    let refused = refusal(sessions.send(send(unknown, "x")).await);
    assert_eq!(refused, (Code::NotFound, "SESSION_NOT_FOUND".to_owned()));
    let refused = refusal(sessions.get(GetSessionRequest { session_id: "x".to_owned() }).await);
    assert_eq!(refused, (Code::NotFound, "SESSION_NOT_FOUND".to_owned()));
    let events = EventsRequest { session_id: session.id.clone(), level: 9, ..Default::default() };
    assert_eq!(field(&sessions.events(events).await.expect_err("it is bad")), "level");
    let limits = SessionLimits { turn_seconds: 5, ..Default::default() };
    let made = Session::create_limited(&daemon, "", limits).await;
    assert_eq!(made.get().await.limits, Some(limits));
}
