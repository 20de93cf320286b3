//! A session of a scripted agent.

use std::time::Duration;

use handsd::api::proto::sessions_client::SessionsClient;
use handsd::api::proto::{
    CreateAgentRequest, CreateSessionRequest, EventsRequest, GetSessionRequest, ResultRequest, SendRequest,
    SendResponse, Session as Message, SessionEvent, SessionLimits, session::Status, session_event::Level,
};
use handsd::client::Channel;
use prost_types::value::Kind;
use tokio::time::timeout;
use tonic::Status as Refusal;

use super::{Daemon, SOON};

/// A session.
pub struct Session {
    /// Its id.
    pub id: String,
    sessions: SessionsClient<Channel>,
}

/// A request for a session of the agent "script".
pub fn wish(input: &str) -> CreateSessionRequest {
    CreateSessionRequest { agent: "script".to_owned(), input: input.to_owned(), ..Default::default() }
}

impl Session {
    /// One that begins with a script.
    pub async fn create(daemon: &Daemon, script: &str) -> Self {
        Self::create_with(daemon, wish(script)).await
    }

    /// One with limits.
    pub async fn create_limited(daemon: &Daemon, script: &str, limits: SessionLimits) -> Self {
        Self::create_with(daemon, CreateSessionRequest { limits: Some(limits), ..wish(script) }).await
    }

    /// One of the agent "script", which is made if it is not there.
    pub async fn create_with(daemon: &Daemon, request: CreateSessionRequest) -> Self {
        let mut sessions = daemon.sessions();
        let agent =
            CreateAgentRequest { name: "script".to_owned(), runtime: "script".to_owned(), ..Default::default() };
        sessions.create_agent(agent).await.expect("the agent is made once and found later");
        let made = sessions.create(request).await.expect("a session is made").into_inner();
        Self { id: made.id, sessions }
    }

    /// One of an agent that is there.
    pub async fn of_agent(daemon: &Daemon, request: CreateSessionRequest) -> Self {
        let sessions = daemon.sessions();
        let made = sessions.clone().create(request).await.expect("a session is made").into_inner();
        Self { id: made.id, sessions }
    }

    /// The same over another connection, such as one to the next daemon.
    pub fn again(&self, daemon: &Daemon) -> Self {
        Self { id: self.id.clone(), sessions: daemon.sessions() }
    }

    /// How it stands.
    pub async fn get(&self) -> Message {
        let request = GetSessionRequest { session_id: self.id.clone() };
        self.sessions.clone().get(request).await.expect("it is there").into_inner()
    }

    /// Gives it a message.
    pub async fn send(&self, text: &str) -> SendResponse {
        self.try_send(text, "").await.expect("it takes messages")
    }

    /// Gives it a message with an idempotency key.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn try_send(&self, text: &str, key: &str) -> Result<SendResponse, Refusal> {
        let request = SendRequest {
            session_id: self.id.clone(),
            text: text.to_owned(),
            idempotency_key: key.to_owned(),
            ..Default::default()
        };
        Ok(self.sessions.clone().send(request).await?.into_inner())
    }

    /// All events of all levels so far, which have no gap.
    pub async fn events(&self) -> Vec<SessionEvent> {
        let request = EventsRequest { session_id: self.id.clone(), level: Level::Output.into(), ..Default::default() };
        let mut stream = self.sessions.clone().events(request).await.expect("it is there").into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.expect("the log can be read") {
            assert_eq!(event.seq, events.len() as u64 + 1, "the log has a gap: {events:#?}");
            events.push(event);
        }
        events
    }

    /// Follows the log from its beginning until an event of a type has come so many times; all of it so far.
    pub async fn until(&self, kind: &str, times: usize) -> Vec<SessionEvent> {
        let request = EventsRequest {
            session_id: self.id.clone(),
            level: Level::Output.into(),
            follow: true,
            ..Default::default()
        };
        let mut stream = self.sessions.clone().events(request).await.expect("it is there").into_inner();
        let mut events: Vec<SessionEvent> = Vec::new();
        let following = async {
            while of_kind(&events, kind).len() < times {
                let event = stream.message().await.expect("the log can be followed").expect("it does not end");
                assert_eq!(event.seq, events.len() as u64 + 1, "the log has a gap: {events:#?}");
                events.push(event);
            }
        };
        let came = timeout(SOON + Duration::from_secs(30), following).await;
        assert!(came.is_ok(), "no {kind} for the {times}. time: {:#?}", summary(&events));
        events
    }

    /// Waits until so many turns have ended; the yield reason of the last and the whole log.
    pub async fn turns(&self, count: usize) -> (String, Vec<SessionEvent>) {
        let events = self.until("turn.completed", count).await;
        let ended = of_kind(&events, "turn.completed");
        (text(ended[count - 1], "yield_reason"), events)
    }

    /// The last message to the user in the last turn.
    pub async fn result(&self) -> Option<String> {
        let request = ResultRequest { session_id: self.id.clone() };
        let found = self.sessions.clone().result(request).await.expect("it is there").into_inner();
        found.result.map(|event| text(&event, "text"))
    }

    /// Its status.
    pub async fn status(&self) -> Status {
        self.get().await.status()
    }
}

/// The events of a type.
pub fn of_kind<'a>(events: &'a [SessionEvent], kind: &str) -> Vec<&'a SessionEvent> {
    events.iter().filter(|event| event.r#type == kind).collect()
}

/// The types of events in order, without those that a test does not ask for.
pub fn kinds<'a>(events: &'a [SessionEvent], wanted: &[&str]) -> Vec<&'a str> {
    events.iter().map(|event| event.r#type.as_str()).filter(|kind| wanted.contains(kind)).collect()
}

/// A text in the body of an event; empty if it is none.
pub fn text(event: &SessionEvent, field: &str) -> String {
    match event.body.as_ref().and_then(|body| body.fields.get(field)).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

/// A number in the body of an event.
pub fn number(event: &SessionEvent, field: &str) -> Option<f64> {
    match event.body.as_ref().and_then(|body| body.fields.get(field)).and_then(|value| value.kind.as_ref()) {
        Some(Kind::NumberValue(number)) => Some(*number),
        _ => None,
    }
}

/// Events in short, for the message of a test that fails.
pub fn summary(events: &[SessionEvent]) -> Vec<String> {
    events.iter().map(|event| format!("{} {} {:?}", event.seq, event.r#type, event.body)).collect()
}
