//! Sessions, their turns and their messages. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::agents::{LimitsJson, agent_name, hash, limits};
use super::lacking;
use crate::api::http::convert::time;
use crate::api::http::problem::Problem;
use crate::runtime::Usage;
use crate::session::{Actor, ActorKind, NewSession, Session, Status, Turn, UserMessage};
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
#[must_use]
pub fn session(session: &Session) -> Value {
    let profile = &session.profile;
    let spec = &profile.spec;
    let (brain, hands) = &session.sandboxes;
    let last = session.active_turn.as_ref().or(session.last_turn.as_ref());
    json!({
        "id": session.id.as_str(),
        "status": session.status.name(),
        "head": session.head,
        "input_cursor": last.map_or(0, |turn| turn.input_to_seq),
        "agent_id": profile.agent.as_str(),
        "credential_id": spec.credential,
        "agent_snapshot": {
            "name": spec.name,
            "prompt_hash": hash(&spec.prompt),
            "model": spec.model,
            "runtime": spec.runtime.name(),
            "revision": profile.revision,
        },
        "last_turn": last.map(last_turn),
        "turns": session.turns,
        "usage": usage(&session.usage, session.active_ms),
        "limits": limits(profile.limits),
        "metadata": profile.metadata,
        "key": profile.key,
        "sandboxes": {
            "brain": brain.as_ref().map(|id| id.as_str()),
            "hands": hands.as_ref().map(|id| id.as_str()),
        },
        "error": session.failure.as_ref().map(|failure| json!({ "code": failure.code, "message": failure.message })),
        "created_at": time(profile.created_at()),
    })
}

/// The status of a list, by its name.
///
/// # Errors
/// There is none of this name.
pub fn status(name: &str) -> Result<Status, Problem> {
    Status::named(name).ok_or_else(|| Problem::field("status", "is no status of a session"))
}

fn usage(usage: &Usage, active_ms: u64) -> Value {
    json!({
        "active_seconds": active_ms / 1000,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "tokens": usage.input_tokens + usage.output_tokens,
    })
}

fn last_turn(turn: &Turn) -> Value {
    json!({
        "id": turn.id.as_str(),
        "state": state(turn),
        "yield_reason": turn.end.as_ref().map(|end| end.reason.name()),
        "started_at": time(turn.started_at()),
        "completed_at": turn.ended_at().map(time),
        "result_event_id": turn.result.as_ref().map(ToString::to_string),
    })
}

fn state(turn: &Turn) -> &'static str {
    match &turn.end {
        None => "running",
        Some(end) if end.failure.is_some() => "error",
        Some(_) => "ok",
    }
}

/// A turn.
#[must_use]
pub fn turn(turn: &Turn) -> Value {
    let mut value = last_turn(turn);
    let failure = turn.end.as_ref().and_then(|end| end.failure.as_ref());
    value["attempt"] = json!(turn.attempts);
    value["error"] = json!(failure.map(|failure| json!({ "code": failure.code, "message": failure.message })));
    value["active_seconds"] = json!(turn.active_ms() / 1000);
    value["input_from_seq"] = json!(turn.input_from_seq);
    value["input_to_seq"] = json!(turn.input_to_seq);
    value["usage"] = if turn.is_usage_reported { usage(&turn.usage, turn.active_ms()) } else { json!({}) };
    value["usage"]["reported"] = json!(turn.is_usage_reported);
    value
}
