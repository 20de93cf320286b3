//! Agents and their bounds. Pure.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::lacking;
use crate::api::http::convert::time;
use crate::api::http::problem::Problem;
use crate::runtime::Kind;
use crate::session::{Agent, AgentChange, AgentName, AgentSpec, Limits};

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

/// Tells one text from another.
pub(super) fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bounds; what has none is left out.
pub(super) fn limits(limits: Limits) -> Value {
    let Limits { turns, turn_seconds, tokens } = limits;
    let all = [("tokens", tokens), ("turn_seconds", turn_seconds), ("turns", turns)];
    all.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?)))).collect::<Map<_, _>>().into()
}
