//! Between the JSON of `/v3` and the domain. Pure.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::http::convert::time;
use crate::api::http::problem::Problem;
use crate::ids::{EventId, TurnId};
use crate::runtime::{Kind, Usage};
use crate::session::{
    Actor, ActorKind, Agent, AgentChange, AgentName, AgentSpec, EventQuery, Level, Limits, NewSession, Session, Status,
    Turn, UserMessage,
};
use crate::webhook::{self, Delivery, Destination};

/// Items of a page, if not said otherwise, and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 1000;

pub use crate::webhook::envelope::event;

/// How many items of a page are wanted.
///
/// # Errors
/// It is none, or too many.
pub fn limit(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(PAGE) {
        limit if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        _ => Err(Problem::field("limit", format!("is 1 to {MAX_PAGE}"))),
    }
}

/// A place in a list, as it was given out with a page before.
///
/// # Errors
/// It was not.
pub fn cursor<T: std::str::FromStr>(field: &str, cursor: Option<&str>) -> Result<Option<T>, Problem> {
    match cursor {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Problem::field(field, "is no cursor of this list")),
    }
}

/// A page of a list.
#[must_use]
pub fn page(data: Vec<Value>, next_cursor: Option<String>) -> Value {
    json!({ "data": data, "next_cursor": next_cursor })
}

/// An agent that is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateAgent {
    name: String,
    prompt: String,
    model: String,
    runtime: Option<String>,
    limits: LimitsJson,
    image: String,
    key: Option<String>,
    credential: Option<String>,
}

/// Bounds of a session.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct LimitsJson {
    tokens: Option<u64>,
    turn_seconds: Option<u64>,
    turns: Option<u64>,
}

impl From<LimitsJson> for Limits {
    fn from(LimitsJson { tokens, turn_seconds, turns }: LimitsJson) -> Self {
        Self { turns, turn_seconds, tokens }
    }
}

/// The runtime of an agent that names none, as the hosted service has it.
const RUNTIME: &str = "claude";

impl CreateAgent {
    /// What the agent is to be.
    ///
    /// # Errors
    /// The first field that is wrong or that this node has nothing for.
    pub fn into_spec(self) -> Result<AgentSpec, Problem> {
        lacking("key", self.key.is_some())?;
        lacking("credential", self.credential.is_some())?;
        let runtime = self.runtime.as_deref().unwrap_or(RUNTIME);
        let kind = Kind::named(runtime).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            let message = format!("{runtime:.64} is no runtime of this node; it has: {known}");
            Problem { status: axum::http::StatusCode::UNPROCESSABLE_ENTITY, ..Problem::field("runtime", message) }
        })?;
        Ok(AgentSpec {
            name: self.name,
            runtime: kind,
            model: self.model,
            prompt: self.prompt,
            limits: self.limits.into(),
            image: self.image,
        })
    }
}

fn lacking(field: &str, is_wanted: bool) -> Result<(), Problem> {
    if is_wanted { Err(Problem { param: Some(field.to_owned()), ..Problem::lacking(field) }) } else { Ok(()) }
}

/// A change of an agent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UpdateAgent {
    model: Option<String>,
    prompt: Option<String>,
    limits: Option<LimitsJson>,
}

impl From<UpdateAgent> for AgentChange {
    fn from(UpdateAgent { model, prompt, limits }: UpdateAgent) -> Self {
        Self { model, prompt, limits: limits.map(Limits::from) }
    }
}

/// An agent's id or name.
#[must_use]
pub fn agent_name(text: String) -> AgentName {
    text.parse().map_or(AgentName::Name(text), AgentName::Id)
}

/// An agent.
#[must_use]
pub fn agent(agent: &Agent) -> Value {
    json!({
        "id": agent.id.as_str(),
        "name": agent.spec.name,
        "prompt": agent.spec.prompt,
        "prompt_hash": hash(&agent.spec.prompt),
        "model": agent.spec.model,
        "runtime": agent.spec.runtime.name(),
        "revision": agent.revision,
        "limits": limits(agent.spec.limits),
        "created_at": time(agent.created_at),
    })
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn limits(limits: Limits) -> Value {
    let Limits { turns, turn_seconds, tokens } = limits;
    let all = [("tokens", tokens), ("turn_seconds", turn_seconds), ("turns", turns)];
    all.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?)))).collect::<Map<_, _>>().into()
}

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
    pub fn into_wish(self, idempotency_key: Option<String>) -> Result<NewSession, Problem> {
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
            key: self.key,
            idempotency_key,
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

/// Which events are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    after: Option<u64>,
    cursor: Option<u64>,
    level: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    turn_id: Option<String>,
    /// How many.
    pub limit: Option<usize>,
    /// "sse", or a page.
    pub stream: Option<String>,
}

impl EventsQuery {
    /// The same in the domain's words; `last` is what a browser that reconnects has seen.
    ///
    /// # Errors
    /// The first bad field.
    pub fn to_query(&self, last: Option<u64>) -> Result<EventQuery, Problem> {
        let level = match self.level.as_deref() {
            None => Level::Internal,
            Some(name) => level(name)?,
        };
        Ok(EventQuery {
            after: last.or(self.after).or(self.cursor).unwrap_or(0),
            level,
            kind: self.kind.clone(),
            turn: cursor::<TurnId>("turn_id", self.turn_id.as_deref())?,
        })
    }
}

/// A level by its name.
///
/// # Errors
/// There is none of this name.
pub fn level(name: &str) -> Result<Level, Problem> {
    Level::named(name)
        .ok_or_else(|| Problem::field("level", format!("is one of {}", Level::ALL.map(Level::name).join(", "))))
}

/// A destination. Its secret is told to nobody.
#[must_use]
pub fn destination(destination: &Destination) -> Value {
    let record = &destination.record;
    json!({
        "id": destination.id.as_str(),
        "session": destination.session.as_str(),
        "kind": "webhook",
        "url": record.url,
        "level": record.level,
        "types": record.types,
        "include_raw": record.include_raw,
        "enabled": record.enabled,
        "has_secret": record.has_secret(),
        "created_after_seq": record.created_after_seq,
        "created_at": moment(record.created_at_ms),
        "updated_at": moment(record.updated_at_ms),
    })
}

/// A delivery.
#[must_use]
pub fn delivery(delivery: &Delivery) -> Value {
    let record = &delivery.record;
    json!({
        "id": delivery.id.as_str(),
        "session": delivery.session.as_str(),
        "destination": delivery.destination.as_str(),
        "event_id": EventId::of(&delivery.session, delivery.seq).to_string(),
        "event_seq": delivery.seq,
        "status": record.status,
        "attempts": record.attempts,
        "last_attempt_at": record.last_attempt_at_ms.map(moment),
        "response_code": record.response_code,
        "error": record.error,
        "created_at": moment(record.created_at_ms),
    })
}

/// A time in milliseconds since 1970, as RFC 3339 writes it.
fn moment(millis: u64) -> String {
    time(std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis))
}
