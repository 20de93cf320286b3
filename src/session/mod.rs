//! Durable agent sessions: an append-only log of events, a status, and an agent at work.
//!
//! A session has two sandboxes: one for its brain, which has nothing but its own state there, and one for its hands, in
//! which its tools work. Both sleep while nothing is to be done, and wake with the next message. Whatever crashes, be it
//! the brain, a sandbox or the daemon, the session goes on where its log ends.
//!
//! ```text
//!  Send, Cancel, Archive ─► driver ─► State::on ─► what follows: events, turns, calls, effects
//!  lines of the brain    ─►   │                        │
//!  ends of calls, time   ─►   │                        ▼
//!                             │            one write to the store, durable
//!                             ▼                        │
//!                  effects: tools, lines to the brain ◄┘──► followers of the log
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `state` | what follows from what (pure) |
//! | `driver` | the task of a session: it alone writes it |
//! | `registry` | [`Sessions`]: which there are, and asking their drivers |
//! | `look`, `agents` | the rest of [`Sessions`]: what only the store is asked |
//! | `wish`, `record` | what callers want, checked; what the store keeps, and what callers see of it |
//! | `house` | the two sandboxes and the brain's process |
//! | `brains` | what is needed to start one |
//! | [`tools`] | what the brain can do |
//! | `log` | events on their way into the store and out of it |
//! | `content` | bodies that are too long for the store |
//! | `transcripts` | copies of what brains keep of their conversations |
//! | [`agent`], [`event`], [`turn`] | what their names say |
//!
//! Invariants:
//!
//! - Append before everything: an effect is carried out, and a caller answered, once what it follows from is on the disk.
//! - An input and all that follows from it are one write, the cursor in the brain's output among it. So a line of the brain
//!   is never taken twice and never lost, whenever the daemon is killed.
//! - A call is stored before it runs. One that was under way when the daemon was killed is followed to its end if its run is
//!   still there; if not, the brain is told that its outcome is unknown. It is never run twice.
//! - `seq` has no gaps: the task that writes a session assigns it, and the store refuses a write that does not follow.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::credential::CredentialError;
use crate::ids::{AgentId, EventId, SessionId, TurnId};
use crate::runtime::cage::CageError;
use crate::store::StoreError;

pub mod agent;
mod agents;
mod brains;
mod content;
mod driver;
pub mod event;
mod house;
mod log;
mod look;
mod record;
mod registry;
pub mod state;
mod text;
pub mod tools;
mod transcripts;
pub mod turn;
mod wish;

pub use agent::{Agent, AgentChange, AgentSpec, KeyChoice, Limits};
pub use agents::{AgentMade, AgentName};
pub use brains::Brains;
pub use content::ContentError;
pub use event::{Actor, ActorKind, Event, Level};
pub use log::EventQuery;
pub use look::{Page, SessionFilter, SessionResult};
pub use record::{Profile, Session};
pub use registry::{Created, Sent, Sessions};
pub use state::Status;
pub use transcripts::Transcripts;
pub use turn::{Failure, Turn, TurnEnd, YieldReason};
pub use wish::{NewSession, UserMessage};

/// Why something could not be done with a session or an agent.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// An argument is none.
    #[error("{field}: {message}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// No agent has this id or name.
    #[error("no agent {0}")]
    UnknownAgent(String),
    /// Another agent has the name, and is not what was asked for.
    #[error("agent {id} has this name and is another")]
    AgentDiffers {
        /// Which.
        id: AgentId,
    },
    /// The agent was changed by somebody else at the same time.
    #[error("agent {0} was changed meanwhile")]
    AgentChanged(AgentId),
    /// No session has this id.
    #[error("no session {0}")]
    NotFound(SessionId),
    /// The session has no such turn.
    #[error("no turn {0}")]
    UnknownTurn(TurnId),
    /// The session has no such event.
    #[error("no event {0}")]
    UnknownEvent(EventId),
    /// A key was used with another request.
    #[error("{field} was used with another request")]
    Conflict {
        /// Which key.
        field: &'static str,
    },
    /// The session can only be read.
    #[error("session {0} is archived")]
    Archived(SessionId),
    /// More waits for the session than it takes.
    #[error("session {id} has {limit} messages waiting, which is the most it may have")]
    Busy {
        /// Which.
        id: SessionId,
        /// How many.
        limit: usize,
    },
    /// The agent's runtime cannot be started on this node.
    #[error("the runtime of the agent")]
    Runtime(#[source] CageError),
    /// The store failed.
    #[error("the store of sessions")]
    Store(#[source] StoreError),
    /// The credential of an agent.
    #[error(transparent)]
    Credential(CredentialError),
    /// A long body could not be written or read.
    #[error("the content of an event")]
    Content(#[source] ContentError),
    /// What is stored cannot be understood.
    #[error("the record of {what} {id}")]
    Record {
        /// Of what.
        what: &'static str,
        /// Which.
        id: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The time so many milliseconds after 1970 began.
fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
