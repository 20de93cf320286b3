//! Agents: who does the work of a session. A session keeps the agent as it was when the session was made.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::SessionError;
use crate::gateway::Provider;
use crate::ids::{AgentId, CredentialId};
use crate::runtime::Kind;
use crate::seal::Secret;

/// Longest name, in bytes.
const MAX_NAME: usize = 128;
/// Longest prompt, in bytes: a system prompt, not a library.
const MAX_PROMPT: usize = 256 << 10;
/// Longest name of a model, in bytes.
const MAX_MODEL: usize = 256;
/// Longest turn, in seconds, and what a turn gets that was given no limit.
pub const MAX_TURN: Duration = Duration::from_secs(1_800);

/// Whose model it is that names no provider.
const DEFAULT_PROVIDER: &str = "anthropic";

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// What it is.
    pub spec: AgentSpec,
    /// Grows with every change, from 1 on.
    pub revision: u64,
    /// When it was made.
    pub created_at: SystemTime,
}

/// What an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Its name, which no other agent has.
    pub name: String,
    /// What thinks.
    pub runtime: Kind,
    /// With which model; empty where the runtime needs none.
    pub model: String,
    /// What it is told before everything else.
    pub prompt: String,
    /// Bounds of its sessions.
    pub limits: Limits,
    /// What the sandbox of its hands is made of; empty: the node's default.
    #[serde(default)]
    pub image: String,
    /// The key that its model is paid with; `None`: the provider's default.
    #[serde(default)]
    pub credential: Option<CredentialId>,
}

/// Which key an agent's model is to be paid with.
#[derive(Debug, Clone, Default)]
pub enum KeyChoice {
    /// The provider's default.
    #[default]
    Default,
    /// The credential with this id or name.
    Known(String),
    /// This one, which is kept as a credential of the agent's own.
    Own(Secret),
}

/// Bounds of a session. What is `None` is unbounded, but for the time of a turn ([`MAX_TURN`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Turns.
    pub turns: Option<u64>,
    /// Seconds of one turn.
    pub turn_seconds: Option<u64>,
    /// Tokens of all turns together, as the runtime reports them.
    pub tokens: Option<u64>,
}

/// A change of an agent. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct AgentChange {
    /// The model.
    pub model: Option<String>,
    /// The prompt.
    pub prompt: Option<String>,
    /// The limits, all of them.
    pub limits: Option<Limits>,
    /// The key.
    pub key: Option<KeyChoice>,
}

/// What the store keeps.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    spec: AgentSpec,
    revision: u64,
    created_at_ms: u64,
}

impl Agent {
    pub(super) fn to_record(&self) -> String {
        let record =
            Record { spec: self.spec.clone(), revision: self.revision, created_at_ms: super::millis(self.created_at) };
        serde_json::to_string(&record).expect("a record of strings and numbers is JSON")
    }

    pub(super) fn from_record(id: AgentId, record: &str) -> Result<Self, SessionError> {
        let damaged = |source| SessionError::Record { what: "agent", id: id.to_string(), source };
        let Record { spec, revision, created_at_ms } = serde_json::from_str(record).map_err(damaged)?;
        Ok(Self { id, spec, revision, created_at: super::time(created_at_ms) })
    }
}

impl AgentSpec {
    /// Whose model it is: what stands in front of its name, as in "openai/gpt", or the runtime's own.
    #[must_use]
    pub fn provider(&self) -> &str {
        let own = self.runtime.providers().first().map_or(DEFAULT_PROVIDER, |provider| provider.name());
        self.model.split_once('/').map_or(own, |(provider, _)| provider)
    }

    /// Its model as its provider knows it: without the provider's name in front.
    #[must_use]
    pub fn model_name(&self) -> &str {
        let named = |provider: &Provider| self.model.strip_prefix(provider.name())?.strip_prefix('/');
        self.runtime.providers().iter().find_map(named).unwrap_or(&self.model)
    }

    /// Refuses what no agent can be.
    ///
    /// # Errors
    /// [`SessionError::Invalid`] with the first bad field.
    pub fn check(&self) -> Result<(), SessionError> {
        bounded("name", &self.name, 1, MAX_NAME)?;
        // A runtime that asks a model has to know which.
        bounded("model", self.model_name(), usize::from(!self.runtime.providers().is_empty()), MAX_MODEL)?;
        bounded("prompt", &self.prompt, 0, MAX_PROMPT)?;
        bounded("image", &self.image, 0, 4096)?;
        if !self.image.is_empty() {
            let parsed: Result<crate::image::ImageRef, _> = self.image.parse();
            parsed.map_err(|error| SessionError::Invalid { field: "image", message: error.to_string() })?;
        }
        self.limits.check()
    }
}

impl Limits {
    /// These, and where they say nothing, others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            turns: self.turns.or(other.turns),
            turn_seconds: self.turn_seconds.or(other.turn_seconds),
            tokens: self.tokens.or(other.tokens),
        }
    }

    /// Refuses limits that would let nothing happen.
    ///
    /// # Errors
    /// [`SessionError::Invalid`].
    pub fn check(&self) -> Result<(), SessionError> {
        let limits = [("turns", self.turns), ("turn_seconds", self.turn_seconds), ("tokens", self.tokens)];
        match limits.into_iter().find(|(_, limit)| *limit == Some(0)) {
            Some((field, _)) => Err(SessionError::Invalid { field, message: "is 0".to_owned() }),
            None => Ok(()),
        }
    }

    /// The longest that a turn may take.
    #[must_use]
    pub fn turn(&self) -> Duration {
        self.turn_seconds.map_or(MAX_TURN, |seconds| Duration::from_secs(seconds).min(MAX_TURN))
    }
}

/// Refuses a text that is too short, too long, or holds NUL.
pub(super) fn bounded(field: &'static str, text: &str, least: usize, most: usize) -> Result<(), SessionError> {
    let invalid = |message| Err(SessionError::Invalid { field, message });
    match text.len() {
        0 if least > 0 => invalid("is missing".to_owned()),
        len if len > most => invalid(format!("has {len} bytes, at most {most} are allowed")),
        _ if text.contains('\0') => invalid("holds a NUL".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_may_be_named_after_who_may_serve_it() {
        let named = |runtime, model: &str| {
            let spec = AgentSpec {
                name: "a".to_owned(),
                runtime,
                model: model.to_owned(),
                prompt: String::new(),
                limits: Limits::default(),
                image: String::new(),
                credential: None,
            };
            (spec.provider().to_owned(), spec.model_name().to_owned())
        };
        for (runtime, model, provider, name) in [
            (Kind::Claude, "anthropic/m", "anthropic", "m"),
            (Kind::Claude, "m", "anthropic", "m"),
            (Kind::Codex, "m", "openai", "m"),
            (Kind::Acp, "openai/m", "openai", "m"),
            (Kind::Acp, "anthropic/m", "anthropic", "m"),
            (Kind::Acp, "m/n", "m", "m/n"),
        ] {
            assert_eq!(named(runtime, model), (provider.to_owned(), name.to_owned()), "{model}");
        }
    }
}
