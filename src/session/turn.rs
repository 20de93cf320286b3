//! A turn: from an input to a yield.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::ids::{EventId, TurnId};
use crate::runtime::Usage;

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum YieldReason {
    /// The brain is done.
    Completed,
    /// The brain asked something; the answer is the next message.
    NeedsInput,
    /// The brain, its model or its process failed.
    Error,
    /// The session has used its tokens.
    BudgetExceeded,
    /// The turn took longer than it may.
    DeadlineExceeded,
    /// The session has had its turns.
    MaxTurns,
    /// Somebody asked for it.
    Canceled,
}

impl YieldReason {
    /// Its name on every wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::NeedsInput => "needs_input",
            Self::Error => "error",
            Self::BudgetExceeded => "budget_exceeded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::MaxTurns => "max_turns",
            Self::Canceled => "canceled",
        }
    }
}

/// A turn as it is told to callers and kept for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Its id.
    #[serde(with = "super::text")]
    pub id: TurnId,
    /// Its place among the turns of the session, from 1.
    pub number: u64,
    /// The `seq` of the first message that it is about.
    pub input_from_seq: u64,
    /// The `seq` of the last one that began it.
    pub input_to_seq: u64,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// How it ended, if it has.
    pub end: Option<TurnEnd>,
    /// What it used.
    pub usage: Usage,
    /// The runtime has reported what it used.
    pub is_usage_reported: bool,
    /// How many processes have worked on it.
    pub attempts: u32,
    /// The last message to the user.
    #[serde(with = "super::text::option")]
    pub result: Option<EventId>,
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnEnd {
    /// Why.
    pub reason: YieldReason,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What went wrong, if something did.
    pub failure: Option<Failure>,
}

/// What went wrong, in a turn or with a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A word for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Turn {
    /// When it began.
    #[must_use]
    pub fn started_at(&self) -> SystemTime {
        super::time(self.started_at_ms)
    }

    /// When it ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<SystemTime> {
        self.end.as_ref().map(|end| super::time(end.at_ms))
    }

    /// How long it took, in milliseconds; 0 while it is under way.
    #[must_use]
    pub fn active_ms(&self) -> u64 {
        self.end.as_ref().map_or(0, |end| end.at_ms.saturating_sub(self.started_at_ms))
    }
}
