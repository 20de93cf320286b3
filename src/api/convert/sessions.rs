//! Agents, sessions, turns and events.

use std::collections::BTreeMap;

use prost_types::value::Kind as ValueKind;
use serde_json::{Map, Number, Value};

use super::credentials::key_choice;
use super::page_size;
use super::sandboxes::check_labels;
use crate::api::proto::{self, ErrorReason};
use crate::api::status::Fault;
use crate::ids::{AgentId, SessionId, TurnId};
use crate::runtime::{Kind, Usage};
use crate::session::{
    Actor, ActorKind, Agent, AgentChange, AgentName, AgentSpec, Event, EventQuery, Failure, KeyChoice, Level, Limits,
    NewSession, Session, SessionFilter, Status, Turn, UserMessage,
};

/// Agents, sessions or turns of a page, if not said otherwise, and at most.
const PAGE: (u32, u32) = (100, 1_000);

/// Deepest nesting of a caller's own words: they are walked by recursion.
const MAX_DEPTH: usize = 32;

/// A session's id.
///
/// # Errors
/// As [`super::sandbox_id`].
pub fn session_id(text: &str) -> Result<SessionId, Fault> {
    if text.is_empty() {
        return Err(Fault::argument("session_id", "is missing"));
    }
    text.parse().map_err(|_| {
        let message = format!("no session {}", super::quoted(text));
        Fault::new(tonic::Code::NotFound, ErrorReason::SessionNotFound, message)
    })
}

/// An agent's id or name.
///
/// # Errors
/// It is missing.
pub fn agent_name(text: String) -> Result<AgentName, Fault> {
    if text.is_empty() {
        return Err(Fault::argument("agent", "is missing"));
    }
    Ok(text.parse().map_or(AgentName::Name(text), AgentName::Id))
}

/// What an agent is to be, and which key its model is paid with.
///
/// # Errors
/// The runtime is none; the rest is checked where it is used.
pub fn agent_spec(request: proto::CreateAgentRequest) -> Result<(AgentSpec, KeyChoice), Fault> {
    let runtime = Kind::named(&request.runtime).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        Fault::argument("runtime", format!("is none of: {}", known.join(", ")))
    })?;
    let spec = AgentSpec {
        name: request.name,
        runtime,
        model: request.model,
        prompt: request.prompt,
        limits: request.limits.map(limits).unwrap_or_default(),
        image: request.image,
        credential: None,
    };
    Ok((spec, key_choice(request.credential)))
}

/// How an agent is to be changed.
#[must_use]
pub fn agent_change(request: proto::UpdateAgentRequest) -> AgentChange {
    let proto::UpdateAgentRequest { model, prompt, limits: bounds, credential, .. } = request;
    AgentChange { model, prompt, limits: bounds.map(limits), key: credential.map(key_choice) }
}

/// A page of agents: before which, and how many.
///
/// # Errors
/// The first bad field.
pub fn agent_page(request: &proto::ListAgentsRequest) -> Result<(Option<AgentId>, usize), Fault> {
    Ok((token(&request.page_token)?, page_size(request.page_size, PAGE)? as usize))
}

fn token<T: std::str::FromStr>(text: &str) -> Result<Option<T>, Fault> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Fault::argument("page_token", "is no page token")),
    }
}

fn limits(limits: proto::SessionLimits) -> Limits {
    let some = |limit| Some(limit).filter(|limit| *limit > 0);
    Limits { turns: some(limits.turns), turn_seconds: some(limits.turn_seconds), tokens: some(limits.tokens) }
}

fn limits_message(limits: Limits) -> proto::SessionLimits {
    proto::SessionLimits {
        turns: limits.turns.unwrap_or(0),
        turn_seconds: limits.turn_seconds.unwrap_or(0),
        tokens: limits.tokens.unwrap_or(0),
    }
}

/// A session that is wanted.
///
/// # Errors
/// The first bad field.
pub fn new_session(request: proto::CreateSessionRequest) -> Result<NewSession, Fault> {
    check_labels(&request.labels)?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let input = some(request.input).map(|text| message(text, String::new(), Value::Null));
    Ok(NewSession {
        agent: agent_name(request.agent)?,
        input,
        model: some(request.model),
        limits: request.limits.map(limits).unwrap_or_default(),
        metadata: object("metadata", request.metadata)?,
        labels: request.labels,
        scope: BTreeMap::new(),
        key: some(request.key),
        idempotency_key: some(request.idempotency_key),
        destinations: Vec::new(),
    })
}

/// A message, and its idempotency key.
///
/// # Errors
/// The first bad field.
pub fn user_message(request: proto::SendRequest) -> Result<(UserMessage, Option<String>), Fault> {
    let refs = object("refs", request.refs)?;
    let key = Some(request.idempotency_key).filter(|key| !key.is_empty());
    Ok((message(request.text, request.actor_id, refs), key))
}

fn message(text: String, actor: String, refs: Value) -> UserMessage {
    let id = Some(actor).filter(|actor| !actor.is_empty());
    UserMessage { actor: Actor { id, ..ActorKind::Human.into() }, text, raw: Value::Null, refs }
}

/// Which sessions are wanted: the filter, before which, and how many.
///
/// # Errors
/// The first bad field.
pub fn session_page(request: &proto::ListSessionsRequest) -> Result<(SessionFilter, Option<SessionId>, usize), Fault> {
    use proto::session::Status as Message;
    let status = match Message::try_from(request.status) {
        Ok(Message::Unspecified) => None,
        Ok(Message::Queued) => Some(Status::Queued),
        Ok(Message::Running) => Some(Status::Running),
        Ok(Message::AwaitingInput) => Some(Status::AwaitingInput),
        Ok(Message::Idle) => Some(Status::Idle),
        Ok(Message::Failed) => Some(Status::Failed),
        Ok(Message::Archived) => Some(Status::Archived),
        Err(_) => return Err(Fault::argument("status", "is not a status of this version")),
    };
    let agent = match request.agent_id.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Fault::argument("agent_id", "is no id of an agent"))?),
    };
    let key = Some(request.key.clone()).filter(|key| !key.is_empty());
    let filter = SessionFilter { status, agent, key, labels: request.labels.clone() };
    Ok((filter, token(&request.page_token)?, page_size(request.page_size, PAGE)? as usize))
}

/// Which turns are wanted: before which number, and how many.
///
/// # Errors
/// The first bad field.
pub fn turn_page(request: &proto::TurnsRequest) -> Result<(Option<u64>, usize), Fault> {
    Ok((token(&request.page_token)?, page_size(request.page_size, PAGE)? as usize))
}

/// Which events are wanted.
///
/// # Errors
/// The first bad field.
pub fn event_query(request: &proto::EventsRequest) -> Result<EventQuery, Fault> {
    use proto::session_event::Level as Message;
    let level = match Message::try_from(request.level) {
        Ok(Message::User) => Level::User,
        Ok(Message::Progress) => Level::Progress,
        Ok(Message::Unspecified | Message::Internal) => Level::Internal,
        Ok(Message::Output) => Level::Output,
        Err(_) => return Err(Fault::argument("level", "is not a level of this version")),
    };
    let turn = match request.turn_id.as_str() {
        "" => None,
        text => Some(text.parse::<TurnId>().map_err(|_| Fault::argument("turn_id", "is no id of a turn"))?),
    };
    super::bounded("type", &request.r#type, 128)?;
    let kind = Some(request.r#type.clone()).filter(|kind| !kind.is_empty());
    // A seq beyond what the store counts with is beyond every event.
    let after = request.after.min(i64::MAX as u64);
    Ok(EventQuery { after, level, kind, turn })
}

/// An agent.
#[must_use]
pub fn agent(agent: &Agent) -> proto::Agent {
    let AgentSpec { name, runtime, model, prompt, limits, image, credential } = agent.spec.clone();
    proto::Agent {
        id: agent.id.to_string(),
        name,
        runtime: runtime.name().to_owned(),
        model,
        prompt,
        limits: Some(limits_message(limits)),
        image,
        revision: agent.revision,
        created_at: Some(agent.created_at.into()),
        credential_id: credential.map(String::from).unwrap_or_default(),
    }
}

/// A session as it stands.
#[must_use]
pub fn session(session: &Session) -> proto::Session {
    let profile = &session.profile;
    let created_at = profile.created_at();
    let pinned =
        Agent { id: profile.agent.clone(), spec: profile.spec.clone(), revision: profile.revision, created_at };
    let (brain, hands) = &session.sandboxes;
    proto::Session {
        id: session.id.to_string(),
        status: status(session.status).into(),
        head: session.head,
        agent_id: profile.agent.to_string(),
        agent: Some(proto::Agent { created_at: None, ..agent(&pinned) }),
        limits: Some(limits_message(profile.limits)),
        metadata: structure(&profile.metadata),
        key: profile.key.clone().unwrap_or_default(),
        created_at: Some(created_at.into()),
        active_turn: session.active_turn.as_ref().map(turn),
        last_turn: session.last_turn.as_ref().map(turn),
        usage: Some(usage(session.usage)),
        active_ms: session.active_ms,
        turns: session.turns,
        labels: profile.labels.clone(),
        brain_sandbox_id: brain.as_ref().map(ToString::to_string).unwrap_or_default(),
        hands_sandbox_id: hands.as_ref().map(ToString::to_string).unwrap_or_default(),
        failure: session.failure.as_ref().map(failure),
    }
}

fn status(status: Status) -> proto::session::Status {
    use proto::session::Status as Message;
    match status {
        Status::Queued => Message::Queued,
        Status::Running => Message::Running,
        Status::AwaitingInput => Message::AwaitingInput,
        Status::Idle => Message::Idle,
        Status::Failed => Message::Failed,
        Status::Archived => Message::Archived,
    }
}

fn failure(failure: &Failure) -> proto::SessionFailure {
    proto::SessionFailure { code: failure.code.clone(), message: failure.message.clone() }
}

fn usage(usage: Usage) -> proto::SessionUsage {
    proto::SessionUsage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cache_creation_input_tokens: usage.cache_creation_input_tokens,
        cache_read_input_tokens: usage.cache_read_input_tokens,
        tokens: usage.tokens(),
    }
}

/// A turn.
#[must_use]
pub fn turn(turn: &Turn) -> proto::Turn {
    let end = turn.end.as_ref();
    proto::Turn {
        id: turn.id.to_string(),
        number: turn.number,
        input_from_seq: turn.input_from_seq,
        input_to_seq: turn.input_to_seq,
        started_at: Some(turn.started_at().into()),
        completed_at: turn.ended_at().map(Into::into),
        yield_reason: end.map(|end| end.reason.name().to_owned()).unwrap_or_default(),
        attempts: turn.attempts,
        usage: Some(usage(turn.usage)),
        failure: end.and_then(|end| end.failure.as_ref()).map(failure),
        result_event_id: turn.result.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// An event.
#[must_use]
pub fn event(event: &Event) -> proto::SessionEvent {
    use proto::session_event::Level as Message;
    let level = match event.level {
        Level::User => Message::User,
        Level::Progress => Message::Progress,
        Level::Internal => Message::Internal,
        Level::Output => Message::Output,
    };
    proto::SessionEvent {
        id: event.id.to_string(),
        seq: event.seq,
        at: Some(event.at.into()),
        session_id: event.session.to_string(),
        level: level.into(),
        r#type: event.kind.clone(),
        actor_type: event.actor.kind.name().to_owned(),
        actor_id: event.actor.id.clone().unwrap_or_default(),
        turn_id: event.turn.as_ref().map(ToString::to_string).unwrap_or_default(),
        body: structure(&event.body),
        refs: structure(&event.refs),
        content_bytes: event.content_bytes.unwrap_or(0),
    }
}

/// A caller's own words; null if there are none.
fn object(field: &'static str, value: Option<prost_types::Struct>) -> Result<Value, Fault> {
    let Some(value) = value else { return Ok(Value::Null) };
    fields(value, MAX_DEPTH).ok_or_else(|| Fault::argument(field, format!("is nested more than {MAX_DEPTH} deep")))
}

fn fields(value: prost_types::Struct, depth: usize) -> Option<Value> {
    let fields = value.fields.into_iter().map(|(key, value)| Some((key, plain(value, depth)?)));
    fields.collect::<Option<Map<_, _>>>().map(Value::Object)
}

fn plain(value: prost_types::Value, depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    Some(match value.kind {
        None | Some(ValueKind::NullValue(_)) => Value::Null,
        Some(ValueKind::BoolValue(is)) => is.into(),
        // JSON has neither infinity nor NaN.
        Some(ValueKind::NumberValue(number)) => number_of(number),
        Some(ValueKind::StringValue(text)) => text.into(),
        Some(ValueKind::StructValue(value)) => fields(value, depth)?,
        Some(ValueKind::ListValue(list)) => {
            list.values.into_iter().map(|value| plain(value, depth)).collect::<Option<Vec<_>>>()?.into()
        }
    })
}

/// A whole number stays one: a `Struct` has only floats.
fn number_of(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within what a float has exactly")]
        return (number as i64).into();
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn structure(value: &Value) -> Option<prost_types::Struct> {
    let fields = value.as_object()?.iter().map(|(key, value)| (key.clone(), wrapped(value))).collect();
    Some(prost_types::Struct { fields })
}

fn wrapped(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => ValueKind::NullValue(0),
        Value::Bool(is) => ValueKind::BoolValue(*is),
        Value::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => ValueKind::StringValue(text.clone()),
        Value::Array(items) => {
            ValueKind::ListValue(prost_types::ListValue { values: items.iter().map(wrapped).collect() })
        }
        Value::Object(_) => ValueKind::StructValue(structure(value).unwrap_or_default()),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_callers_own_words_come_back_as_they_were() {
        let value = json!({ "a": 1, "b": [true, null, "x", 1.5], "c": { "d": -7 } });
        assert_eq!(object("metadata", structure(&value)).unwrap(), value);
        assert_eq!(object("metadata", None).unwrap(), Value::Null);
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        let mut value = json!({});
        for _ in 0..MAX_DEPTH + 1 {
            value = json!({ "a": value });
        }
        assert!(object("metadata", structure(&value)).is_err());
    }
}
