//! Agents and their bounds. Pure.

use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use crate::api::http::convert::time;
use crate::api::http::problem::Problem;
use crate::runtime::Kind;
use crate::seal::Secret;
use crate::session::{Agent, AgentChange, AgentName, AgentSpec, KeyChoice, Limits};

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
    key: Option<Secret>,
    credential: Option<String>,
}

/// Bounds of a session; what has none is left out.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turns: Option<u64>,
}

impl From<Limits> for LimitsJson {
    fn from(Limits { turns, turn_seconds, tokens }: Limits) -> Self {
        Self { tokens, turn_seconds, turns }
    }
}

impl From<LimitsJson> for Limits {
    fn from(LimitsJson { tokens, turn_seconds, turns }: LimitsJson) -> Self {
        Self { turns, turn_seconds, tokens }
    }
}

/// The runtime of an agent that names none, as the hosted service has it.
const RUNTIME: &str = "claude";

impl CreateAgent {
    /// What the agent is to be, and which key its model is paid with.
    ///
    /// # Errors
    /// The first field that is wrong or that this node has nothing for.
    pub fn into_spec(self) -> Result<(AgentSpec, KeyChoice), Problem> {
        let key = key_choice(self.key, self.credential)?;
        let runtime = self.runtime.as_deref().unwrap_or(RUNTIME);
        let kind = Kind::named(runtime).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            let message = format!("{runtime:.64} is no runtime of this node; it has: {known}");
            Problem { status: StatusCode::UNPROCESSABLE_ENTITY, ..Problem::field("runtime", message) }
        })?;
        let spec = AgentSpec {
            name: self.name,
            runtime: kind,
            model: self.model,
            prompt: self.prompt,
            limits: self.limits.into(),
            image: self.image,
            credential: None,
        };
        Ok((spec, key))
    }
}

/// A change of an agent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UpdateAgent {
    model: Option<String>,
    prompt: Option<String>,
    limits: Option<LimitsJson>,
    key: Option<Secret>,
    /// `Some(None)`: the provider's default.
    #[serde(deserialize_with = "said")]
    credential: Option<Option<String>>,
}

/// A field that is there, even if it is null.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl UpdateAgent {
    /// What is to be changed.
    ///
    /// # Errors
    /// The first field that is wrong or that this node has nothing for.
    pub fn into_change(self) -> Result<AgentChange, Problem> {
        let Self { model, prompt, limits, key, credential } = self;
        let is_said = key.is_some() || credential.is_some();
        let key = is_said.then(|| key_choice(key, credential.flatten())).transpose()?;
        Ok(AgentChange { model, prompt, limits: limits.map(Limits::from), key })
    }
}

/// Which key is meant.
fn key_choice(key: Option<Secret>, credential: Option<String>) -> Result<KeyChoice, Problem> {
    match (key, credential.as_deref()) {
        (Some(_), Some(_)) => Err(Problem::field("key", "is set, and so is credential; only one may be")),
        (Some(key), None) => Ok(KeyChoice::Own(key)),
        (None, Some("managed")) => Err(Problem {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: Some("managed_unavailable".to_owned()),
            ..Problem::field("credential", "this node has no managed keys")
        }),
        (None, Some(text)) => Ok(KeyChoice::Known(text.to_owned())),
        (None, None) => Ok(KeyChoice::Default),
    }
}

/// An agent's id or name.
#[must_use]
pub fn agent_name(text: String) -> AgentName {
    text.parse().map_or(AgentName::Name(text), AgentName::Id)
}

/// An agent.
#[derive(Debug, Serialize, Deserialize)]
pub struct AgentView {
    id: String,
    name: String,
    prompt: String,
    prompt_hash: String,
    model: String,
    runtime: String,
    revision: u64,
    credential_id: Option<String>,
    limits: LimitsJson,
    created_at: String,
}

/// An agent.
#[must_use]
pub fn agent(agent: &Agent) -> AgentView {
    let spec = &agent.spec;
    AgentView {
        id: agent.id.to_string(),
        name: spec.name.clone(),
        prompt: spec.prompt.clone(),
        prompt_hash: hash(&spec.prompt),
        model: spec.model.clone(),
        runtime: spec.runtime.name().to_owned(),
        revision: agent.revision,
        credential_id: spec.credential.as_ref().map(ToString::to_string),
        limits: spec.limits.into(),
        created_at: time(agent.created_at),
    }
}

/// Tells one text from another.
pub(super) fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
