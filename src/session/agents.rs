//! Which agents there are.

use std::time::SystemTime;

use subtle::ConstantTimeEq as _;

use super::agent::{Agent, AgentChange, AgentSpec, KeyChoice};
use super::{Page, SessionError, Sessions};
use crate::credential::NewCredential;
use crate::ids::{AgentId, CredentialId};
use crate::store::StoredAgent;
use crate::telemetry::chain;

/// Which agent is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentName {
    /// The one with this id.
    Id(AgentId),
    /// The one with this name.
    Name(String),
}

/// What became of an agent that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentMade {
    /// The agent.
    pub agent: Agent,
    /// It was made now.
    pub is_new: bool,
}

/// The credential of a choice.
enum Chosen {
    Default,
    Known(CredentialId),
    /// It was made for this.
    Made(CredentialId),
}

impl Chosen {
    fn credential(&self) -> Option<CredentialId> {
        match self {
            Self::Default => None,
            Self::Known(id) | Self::Made(id) => Some(id.clone()),
        }
    }
}

impl Sessions {
    /// Makes an agent, whose credential is what `key` says. The same name with the same content is the same agent.
    ///
    /// # Errors
    /// [`SessionError::Invalid`], [`SessionError::AgentDiffers`], [`SessionError::Credential`], [`SessionError::Store`].
    pub async fn create_agent(&self, spec: AgentSpec, key: KeyChoice) -> Result<AgentMade, SessionError> {
        spec.check()?;
        let before = match self.agent(&AgentName::Name(spec.name.clone())).await {
            Ok(agent) => Some(agent.spec),
            Err(SessionError::UnknownAgent(_)) => None,
            Err(error) => return Err(error),
        };
        let chosen = self.choose(&spec, before.as_ref(), key).await?;
        let made = self.add_agent(AgentSpec { credential: chosen.credential(), ..spec }).await;
        self.settle(chosen, made).await
    }

    async fn add_agent(&self, spec: AgentSpec) -> Result<AgentMade, SessionError> {
        // To the millisecond, as it is stored.
        let created_at = super::time(super::millis(SystemTime::now()));
        let agent = Agent { id: AgentId::random(), spec, revision: 1, created_at };
        let stored = StoredAgent { id: agent.id.clone(), name: agent.spec.name.clone(), record: agent.to_record() };
        match self.store().add_agent(stored).await.map_err(SessionError::Store)? {
            None => Ok(AgentMade { agent, is_new: true }),
            Some(existing) => {
                let existing = Agent::from_record(existing.id, &existing.record)?;
                if existing.spec != agent.spec {
                    return Err(SessionError::AgentDiffers { id: existing.id });
                }
                Ok(AgentMade { agent: existing, is_new: false })
            }
        }
    }

    /// An agent.
    ///
    /// # Errors
    /// [`SessionError::UnknownAgent`], [`SessionError::Store`].
    pub async fn agent(&self, name: &AgentName) -> Result<Agent, SessionError> {
        let (found, name) = match name {
            AgentName::Id(id) => (self.store().agent(id).await, id.to_string()),
            AgentName::Name(name) => (self.store().agent_named(name.clone()).await, name.clone()),
        };
        let found = found.map_err(SessionError::Store)?.ok_or(SessionError::UnknownAgent(name))?;
        Agent::from_record(found.id, &found.record)
    }

    /// Changes an agent. Sessions that were made before keep the one they have.
    ///
    /// # Errors
    /// [`SessionError::UnknownAgent`], [`SessionError::Invalid`], [`SessionError::AgentChanged`],
    /// [`SessionError::Credential`], [`SessionError::Store`].
    pub async fn update_agent(&self, name: &AgentName, change: AgentChange) -> Result<Agent, SessionError> {
        let before = self.agent(name).await?;
        let mut spec = before.spec.clone();
        spec.model = change.model.unwrap_or(spec.model);
        spec.prompt = change.prompt.unwrap_or(spec.prompt);
        spec.limits = change.limits.unwrap_or(spec.limits);
        spec.check()?;
        let Some(key) = change.key else { return self.replace_agent(before, spec).await };
        let chosen = self.choose(&spec, Some(&before.spec), key).await?;
        let changed = self.replace_agent(before, AgentSpec { credential: chosen.credential(), ..spec }).await;
        self.settle(chosen, changed).await
    }

    async fn replace_agent(&self, before: Agent, spec: AgentSpec) -> Result<Agent, SessionError> {
        if spec == before.spec {
            return Ok(before);
        }
        let after = Agent { spec, revision: before.revision + 1, ..before.clone() };
        let changed = self.store().change_agent(&after.id, before.to_record(), after.to_record()).await;
        if changed.map_err(SessionError::Store)? { Ok(after) } else { Err(SessionError::AgentChanged(after.id)) }
    }

    /// The credential that a choice means for an agent. A key of the agent's own is kept, unless it is the one that the
    /// agent has.
    async fn choose(
        &self,
        spec: &AgentSpec,
        before: Option<&AgentSpec>,
        choice: KeyChoice,
    ) -> Result<Chosen, SessionError> {
        let key = match choice {
            KeyChoice::Default => return Ok(Chosen::Default),
            KeyChoice::Known(text) => {
                let found = self.credentials().get(&text).await.map_err(SessionError::Credential)?;
                return Ok(Chosen::Known(found.id));
            }
            KeyChoice::Own(key) => key,
        };
        if let Some(id) = before.and_then(|before| before.credential.as_ref())
            && let Ok(own) = self.credentials().key(id).await
            && bool::from(own.expose().ct_eq(key.expose()))
        {
            return Ok(Chosen::Known(id.clone()));
        }
        let wish = NewCredential { provider: spec.provider().to_owned(), name: None, key, is_default: false };
        let made = self.credentials().create(wish).await.map_err(SessionError::Credential)?;
        Ok(Chosen::Made(made.id))
    }

    /// Forgets a key that was kept for an agent that there is not.
    async fn settle<T>(&self, chosen: Chosen, outcome: Result<T, SessionError>) -> Result<T, SessionError> {
        if let (Chosen::Made(id), Err(_)) = (&chosen, &outcome)
            && let Err(error) = self.credentials().remove(id).await
        {
            tracing::warn!(credential.id = %id, error = %chain(&error), "a credential that nobody uses is kept");
        }
        outcome
    }

    /// A page of agents, newest first: those that were made before one of them.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn agents(&self, before: Option<AgentId>, limit: usize) -> Result<Page<Agent>, SessionError> {
        let found = self.store().agents(before, limit.saturating_add(1)).await.map_err(SessionError::Store)?;
        let has_more = found.len() > limit;
        let items = found.into_iter().take(limit).map(|agent| Agent::from_record(agent.id, &agent.record));
        Ok(Page { items: items.collect::<Result<_, _>>()?, has_more })
    }
}
