//! An event of a session: an entry of its log as the floors above see it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ids::{EventId, SessionId, TurnId};

/// For whom an event is. A reader asks for those up to a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For whoever talks with the agent: messages and the ends of turns.
    User,
    /// For whoever wants to see it work: turns, tools, commands.
    Progress,
    /// For whoever looks after it: supervision, results of tools.
    Internal,
    /// What commands write while they run.
    Output,
}

impl Level {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::User, Self::Progress, Self::Internal, Self::Output];

    /// Its name on every wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Progress => "progress",
            Self::Internal => "internal",
            Self::Output => "output",
        }
    }

    /// The level of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// As the store keeps it.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    pub(super) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.number() == number)
    }
}

/// Who caused an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ActorKind,
    /// Who exactly, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How people know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
}

/// What causes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A person, or whoever speaks for one.
    Human,
    /// The brain.
    Agent,
    /// This daemon.
    System,
    /// A schedule or a hook.
    Trigger,
}

impl ActorKind {
    /// Its name on every wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Agent => "agent",
            Self::System => "system",
            Self::Trigger => "trigger",
        }
    }
}

impl From<ActorKind> for Actor {
    fn from(kind: ActorKind) -> Self {
        Self { kind, id: None, display: None }
    }
}

/// An event that is not in the log yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// For whom.
    pub level: Level,
    /// What kind, such as "turn.started".
    pub kind: &'static str,
    /// By whom.
    pub actor: Actor,
    /// In which turn.
    pub turn: Option<TurnId>,
    /// What it tells: an object.
    pub body: Value,
    /// The caller's references, or null.
    pub refs: Value,
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// Its place in the log, from 1, without gaps.
    pub seq: u64,
    /// When, to the millisecond.
    pub at: SystemTime,
    /// Of which session.
    pub session: SessionId,
    /// By whom.
    pub actor: Actor,
    /// For whom.
    pub level: Level,
    /// What kind, such as "turn.started".
    pub kind: String,
    /// In which turn.
    pub turn: Option<TurnId>,
    /// What it tells: an object. If it was long, its texts are cut, and `content` has all of it.
    pub body: Value,
    /// The caller's references, or null.
    pub refs: Value,
    /// Bytes of the whole body, if it was cut.
    pub content_bytes: Option<u64>,
}

/// What the store keeps of an event as text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub actor: Actor,
    pub body: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub refs: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_bytes: Option<u64>,
}

impl NewEvent {
    /// By the daemon.
    pub(super) fn system(level: Level, kind: &'static str, body: Value) -> Self {
        Self { level, kind, actor: ActorKind::System.into(), turn: None, body, refs: Value::Null }
    }

    /// By the brain.
    pub(super) fn agent(level: Level, kind: &'static str, body: Value) -> Self {
        Self { actor: ActorKind::Agent.into(), ..Self::system(level, kind, body) }
    }

    /// Something went wrong with the brain's process, its model or its task.
    pub(super) fn error(kind: &'static str, code: &str, message: &str, is_retriable: bool) -> Self {
        let body = json!({ "code": code, "message": message, "retriable": is_retriable });
        Self::system(Level::Progress, kind, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_back_by_name_and_number_and_are_ordered() {
        for level in Level::ALL {
            assert_eq!(Level::named(level.name()), Some(level));
            assert_eq!(Level::numbered(level.number()), Some(level));
            assert_eq!(json!(level), level.name());
        }
        assert!(Level::ALL.is_sorted());
        assert_eq!(Level::named("loud"), None);
    }
}
