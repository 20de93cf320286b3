//! Sessions, their turns and their messages. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::agents::{LimitsJson, agent_name, hash};
use super::lacking;
use crate::api::http::convert::time;
use crate::api::http::problem::Problem;
use crate::runtime::Usage;
use crate::session::{Actor, ActorKind, Failure, NewSession, Session, Status, Turn, UserMessage, YieldReason};
use crate::webhook::{self, Prepared};

/// A session that is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateSession {
    agent: String,
    input: Option<Input>,
    model: Option<String>,
    key: Option<String>,
    limits: LimitsJson,
    metadata: Value,
    /// Where its events are to be sent, too.
    pub destinations: Vec<webhook::Change>,
    webhook: Value,
    sources: Vec<Value>,
    revision: Value,
}

/// What is said to an agent.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// Only a text.
    Text(String),
    /// A text, and where it came from.
    Envelope(Box<Envelope>),
}

/// A text, and where it came from.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Envelope {
    id: Option<String>,
    source: Value,
    conversation: Value,
    text: String,
    refs: Value,
    raw: Value,
}

/// A message that is sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SendMessage {
    text: Option<String>,
    envelope: Option<Envelope>,
    idempotency_key: Option<String>,
}

impl CreateSession {
    /// What the session is to be.
    ///
    /// # Errors
    /// The first field that is wrong or that this node has nothing for.
    pub fn into_wish(self, idempotency_key: Option<String>, destinations: &[Prepared]) -> Result<NewSession, Problem> {
        lacking("webhook", !self.webhook.is_null())?;
        lacking("sources", !self.sources.is_empty())?;
        lacking("revision", !self.revision.is_null())?;
        if self.agent.is_empty() {
            return Err(Problem::field("agent", "is missing"));
        }
        if !(self.metadata.is_null() || self.metadata.is_object()) {
            return Err(Problem::field("metadata", "is an object, or left out"));
        }
        Ok(NewSession {
            agent: agent_name(self.agent),
            input: self.input.map(|input| match input {
                Input::Text(text) => message(text),
                Input::Envelope(envelope) => envelope.into_message().0,
            }),
            model: self.model,
            limits: self.limits.into(),
            metadata: self.metadata,
            labels: BTreeMap::new(),
            scope: BTreeMap::new(),
            key: self.key,
            idempotency_key,
            destinations: destinations.iter().map(Prepared::to_row).collect(),
        })
    }
}

impl SendMessage {
    /// The message, and its idempotency key.
    ///
    /// # Errors
    /// There is no text.
    pub fn into_message(self) -> Result<(UserMessage, Option<String>), Problem> {
        match (self.text, self.envelope) {
            (Some(text), None) => Ok((message(text), self.idempotency_key)),
            (None, Some(envelope)) => {
                let (message, id) = envelope.into_message();
                Ok((message, self.idempotency_key.or(id)))
            }
            (None, None) => Err(Problem::field("text", "is missing")),
            (Some(_), Some(_)) => Err(Problem::field("envelope", "is set, and so is text; only one may be")),
        }
    }
}

impl Envelope {
    /// The message, and the envelope's id, by which it is known when it comes twice.
    fn into_message(self) -> (UserMessage, Option<String>) {
        let mut refs = match self.refs {
            Value::Object(refs) => refs,
            _ => Map::new(),
        };
        let origin = [("source", self.source), ("conversation", self.conversation)];
        refs.extend(
            origin.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)),
        );
        let refs = if refs.is_empty() { Value::Null } else { Value::Object(refs) };
        (UserMessage { raw: self.raw, refs, ..message(self.text) }, self.id)
    }
}

fn message(text: String) -> UserMessage {
    UserMessage { actor: Actor::from(ActorKind::Human), text, raw: Value::Null, refs: Value::Null }
}

/// A session as it stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct SessionView {
    id: String,
    status: Status,
    head: u64,
    input_cursor: u64,
    agent_id: String,
    credential_id: Option<String>,
    agent_snapshot: SnapshotView,
    last_turn: Option<TurnView>,
    turns: u64,
    usage: UsageView,
    limits: LimitsJson,
    metadata: Option<Map<String, Value>>,
    key: Option<String>,
    sandboxes: SandboxesView,
    error: Option<FailureView>,
    created_at: String,
}

/// The agent as it was when the session was made.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotView {
    name: String,
    prompt_hash: String,
    model: String,
    runtime: String,
    revision: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SandboxesView {
    brain: Option<String>,
    hands: Option<String>,
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize)]
struct FailureView {
    code: String,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct UsageView {
    active_seconds: u64,
    input_tokens: u64,
    output_tokens: u64,
    tokens: u64,
    /// Of a turn: its runtime has reported them.
    #[serde(skip_serializing_if = "Option::is_none")]
    reported: Option<bool>,
}

/// A turn.
#[derive(Debug, Serialize, Deserialize)]
pub struct TurnView {
    id: String,
    state: TurnState,
    yield_reason: Option<YieldReason>,
    attempt: u32,
    error: Option<FailureView>,
    started_at: String,
    completed_at: Option<String>,
    active_seconds: u64,
    input_from_seq: u64,
    input_to_seq: u64,
    result_event_id: Option<String>,
    usage: UsageView,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TurnState {
    Running,
    Ok,
    Error,
}

/// A session as it stands.
#[must_use]
pub fn session(session: &Session) -> SessionView {
    let profile = &session.profile;
    let spec = &profile.spec;
    let (brain, hands) = &session.sandboxes;
    let last = session.active_turn.as_ref().or(session.last_turn.as_ref());
    SessionView {
        id: session.id.to_string(),
        status: session.status,
        head: session.head,
        input_cursor: last.map_or(0, |turn| turn.input_to_seq),
        agent_id: profile.agent.to_string(),
        credential_id: spec.credential.as_ref().map(ToString::to_string),
        agent_snapshot: SnapshotView {
            name: spec.name.clone(),
            prompt_hash: hash(&spec.prompt),
            model: spec.model.clone(),
            runtime: spec.runtime.name().to_owned(),
            revision: profile.revision,
        },
        last_turn: last.map(turn),
        turns: session.turns,
        usage: usage(&session.usage, session.active_ms, None),
        limits: profile.limits.into(),
        metadata: profile.metadata.as_object().cloned(),
        key: profile.key.clone(),
        sandboxes: SandboxesView {
            brain: brain.as_ref().map(ToString::to_string),
            hands: hands.as_ref().map(ToString::to_string),
        },
        error: session.failure.as_ref().map(failure),
        created_at: time(profile.created_at()),
    }
}

/// A turn.
#[must_use]
pub fn turn(turn: &Turn) -> TurnView {
    let failed = turn.end.as_ref().and_then(|end| end.failure.as_ref());
    TurnView {
        id: turn.id.to_string(),
        state: match (&turn.end, failed) {
            (None, _) => TurnState::Running,
            (Some(_), None) => TurnState::Ok,
            (Some(_), Some(_)) => TurnState::Error,
        },
        yield_reason: turn.end.as_ref().map(|end| end.reason),
        attempt: turn.attempts,
        error: failed.map(failure),
        started_at: time(turn.started_at()),
        completed_at: turn.ended_at().map(time),
        active_seconds: turn.active_ms() / 1000,
        input_from_seq: turn.input_from_seq,
        input_to_seq: turn.input_to_seq,
        result_event_id: turn.result.as_ref().map(ToString::to_string),
        usage: usage(&turn.usage, turn.active_ms(), Some(turn.is_usage_reported)),
    }
}

fn usage(usage: &Usage, active_ms: u64, reported: Option<bool>) -> UsageView {
    UsageView {
        active_seconds: active_ms / 1000,
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        tokens: usage.input_tokens + usage.output_tokens,
        reported,
    }
}

fn failure(failure: &Failure) -> FailureView {
    FailureView { code: failure.code.clone(), message: failure.message.clone() }
}
