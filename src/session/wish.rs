//! What callers want of sessions, checked and bounded.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::SessionError;
use super::agent::{Limits, bounded};
use super::agents::AgentName;
use super::event::Actor;
use crate::ids::DestinationId;

/// Longest text of a message, in bytes.
const MAX_TEXT: usize = 512 << 10;
/// Longest key, in bytes.
const MAX_KEY: usize = 256;
/// Longest metadata and references, in bytes of JSON.
const MAX_METADATA: usize = 16 << 10;

/// A message of a user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserMessage {
    /// Who says it.
    pub actor: Actor,
    /// What.
    pub text: String,
    /// What it came from, kept as it is, or null.
    pub raw: Value,
    /// The caller's references, or null.
    pub refs: Value,
}

/// A session that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSession {
    /// Of which agent.
    pub agent: AgentName,
    /// What it is to begin with; `None`: it waits for the first message.
    pub input: Option<UserMessage>,
    /// Another model than the agent's.
    pub model: Option<String>,
    /// Bounds over the agent's.
    pub limits: Limits,
    /// The caller's own words on it, or null.
    pub metadata: Value,
    /// Those that it is found by, and its sandboxes too.
    pub labels: BTreeMap<String, String>,
    /// The labels that the caller is bound to: the keys of who is bound to others are others.
    pub scope: BTreeMap<String, String>,
    /// The same key is the same session.
    pub key: Option<String>,
    /// A second request with the same key and content is answered as the first.
    pub idempotency_key: Option<String>,
    /// Where its events are sent from the first on: ids and records, which are stored with it. They do not tell one wish
    /// from another, as their secrets are sealed anew each time.
    pub destinations: Vec<(DestinationId, String)>,
}

impl UserMessage {
    pub(super) fn into_parts(self) -> (Actor, Value, Value) {
        let mut body = json!({ "text": self.text });
        if !self.raw.is_null() {
            body["raw"] = self.raw;
        }
        (self.actor, body, self.refs)
    }
}

/// Where a key of this wish is unique.
pub(super) fn claim_scope(name: &str, wish: &NewSession) -> String {
    if wish.scope.is_empty() { name.to_owned() } else { format!("{name} of {}", json!(wish.scope)) }
}

/// Refuses what cannot be a session.
pub(super) fn check_wish(wish: &NewSession) -> Result<(), SessionError> {
    wish.input.as_ref().map_or(Ok(()), |input| check_message("input", input))?;
    wish.limits.check()?;
    check_json("metadata", &wish.metadata)?;
    check_key("key", wish.key.as_deref())?;
    check_key("idempotency_key", wish.idempotency_key.as_deref())
}

/// Refuses what cannot be a message, whose text came in this field.
pub(super) fn check_message(field: &'static str, message: &UserMessage) -> Result<(), SessionError> {
    bounded(field, &message.text, 1, MAX_TEXT)?;
    check_json("refs", &message.refs)?;
    check_json("raw", &message.raw)
}

/// Refuses what cannot be a key.
pub(super) fn check_key(field: &'static str, key: Option<&str>) -> Result<(), SessionError> {
    key.map_or(Ok(()), |key| bounded(field, key, 1, MAX_KEY))
}

fn check_json(field: &'static str, value: &Value) -> Result<(), SessionError> {
    let len = value.to_string().len();
    if len <= MAX_METADATA {
        return Ok(());
    }
    Err(SessionError::Invalid { field, message: format!("has {len} bytes, at most {MAX_METADATA} are allowed") })
}

/// Tells one request from another.
fn digest(value: &Value) -> String {
    Sha256::digest(value.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tells one message from another.
pub(super) fn message_digest(message: &UserMessage) -> String {
    digest(&json!([message.text, message.raw, message.refs]))
}

/// Tells one wish from another.
pub(super) fn wish_digest(wish: &NewSession) -> String {
    let agent = match &wish.agent {
        AgentName::Id(id) => id.to_string(),
        AgentName::Name(name) => name.clone(),
    };
    let input = wish.input.as_ref().map(message_digest);
    let mut parts = json!([agent, input, wish.model, wish.limits, wish.metadata, wish.key]);
    // Of those without labels, as it was before there were any.
    if let Some(parts) = parts.as_array_mut().filter(|_| !wish.labels.is_empty()) {
        parts.push(json!(wish.labels));
    }
    digest(&parts)
}
