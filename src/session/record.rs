//! What the store keeps of a session, and a session as callers see it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SessionError;
use super::agent::{AgentSpec, Limits};
use super::state::{State, Status};
use super::turn::{Failure, Turn};
use crate::ids::{AgentId, SandboxId, SessionId};
use crate::runtime::Usage;
use crate::store::StoredSession;

/// What a session is; does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its agent.
    #[serde(with = "super::text")]
    pub agent: AgentId,
    /// The agent's revision then.
    pub revision: u64,
    /// The agent as it was then.
    pub spec: AgentSpec,
    /// Its bounds: what was asked for, over the agent's.
    pub limits: Limits,
    /// The caller's name for it.
    pub key: Option<String>,
    /// The caller's own words on it, or null.
    pub metadata: Value,
    /// Those that it is found by, and its sandboxes too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
}

impl Profile {
    /// When the session was made.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        super::time(self.created_at_ms)
    }
}

/// A session as it stands.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What it is.
    pub profile: Profile,
    /// Where it stands.
    pub status: Status,
    /// The `seq` of its newest event.
    pub head: u64,
    /// The turn under way.
    pub active_turn: Option<Turn>,
    /// The last turn that has ended.
    pub last_turn: Option<Turn>,
    /// Turns that have begun.
    pub turns: u64,
    /// What all turns used.
    pub usage: Usage,
    /// How long turns were under way, in milliseconds.
    pub active_ms: u64,
    /// Its sandboxes: the brain's and the hands'.
    pub sandboxes: (Option<SandboxId>, Option<SandboxId>),
    /// Why it has failed, if it has.
    pub failure: Option<Failure>,
}

/// The status of a session that is archived and whose sandboxes are not removed yet: so that the next daemon does.
pub(super) const DISPOSING: &str = "disposing";

/// The status by which the store finds a session.
pub(super) fn column(state: &State) -> &'static str {
    let is_done = !state.is_archived || (state.active.is_none() && !state.is_to_be_disposed());
    if is_done { state.status().name() } else { DISPOSING }
}

/// A record as the store keeps it.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records of strings and numbers are JSON")
}

/// What a session is.
pub(super) fn profile(stored: &StoredSession) -> Result<Profile, SessionError> {
    let damaged = |source| SessionError::Record { what: "session", id: stored.id.to_string(), source };
    serde_json::from_str(&stored.profile).map_err(damaged)
}

/// How a session stands.
pub(super) fn state(stored: &StoredSession) -> Result<State, SessionError> {
    let damaged = |source| SessionError::Record { what: "the state of session", id: stored.id.to_string(), source };
    let state: State = serde_json::from_str(&stored.state).map_err(damaged)?;
    Ok(State { head: stored.head, ..state })
}

/// A session as callers see it.
pub(super) fn view(stored: &StoredSession) -> Result<Session, SessionError> {
    let state = state(stored)?;
    Ok(Session {
        id: stored.id.clone(),
        profile: profile(stored)?,
        status: state.status(),
        head: stored.head,
        active_turn: state.active.map(|active| active.turn),
        last_turn: state.last_turn,
        turns: state.turns,
        usage: state.usage,
        active_ms: state.active_ms,
        sandboxes: (state.house.brain, state.house.hands),
        failure: state.failure,
    })
}
