//! Which agents there are.

use std::time::SystemTime;

use super::agent::{Agent, AgentChange, AgentSpec};
use super::{Page, SessionError, Sessions};
use crate::ids::AgentId;
use crate::store::StoredAgent;

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

impl Sessions {
    /// Makes an agent. The same name with the same content is the same agent.
    ///
    /// # Errors
    /// [`SessionError::Invalid`], [`SessionError::AgentDiffers`], [`SessionError::Store`].
    pub async fn create_agent(&self, spec: AgentSpec) -> Result<AgentMade, SessionError> {
        spec.check()?;
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
    /// [`SessionError::Store`].
    pub async fn update_agent(&self, name: &AgentName, change: AgentChange) -> Result<Agent, SessionError> {
        let before = self.agent(name).await?;
        let mut spec = before.spec.clone();
        spec.model = change.model.unwrap_or(spec.model);
        spec.prompt = change.prompt.unwrap_or(spec.prompt);
        spec.limits = change.limits.unwrap_or(spec.limits);
        spec.check()?;
        if spec == before.spec {
            return Ok(before);
        }
        let after = Agent { spec, revision: before.revision + 1, ..before.clone() };
        let changed = self.store().change_agent(&after.id, before.to_record(), after.to_record()).await;
        if changed.map_err(SessionError::Store)? { Ok(after) } else { Err(SessionError::AgentChanged(after.id)) }
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
