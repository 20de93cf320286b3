//! What happens to a session, and what follows from it. Pure.

use serde_json::Value;

use super::super::event::{Actor, NewEvent};
use super::super::turn::Turn;
use super::{House, Record};
use crate::ids::{RunId, SandboxId, TurnId};
use crate::runtime::{Answer, Call, Said, Usage};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A new driver has the session: what was under way goes on.
    Recovered,
    /// A message came.
    Message {
        /// Who says it.
        actor: Actor,
        /// What: an object with `text`.
        body: Value,
        /// The caller's references, or null.
        refs: Value,
    },
    /// The turn is to end.
    Cancel,
    /// The session is to end.
    Archive,
    /// The brain can be spoken to, in a process that was there or in a new one.
    Arrived {
        /// Where.
        house: House,
        /// What had been lost.
        lost: Vec<Loss>,
        /// In which process.
        arrival: Arrival,
    },
    /// The brain said something, up to this cursor.
    Said(Said, u64),
    /// The brain's model used tokens, as the gateway counts them.
    Spent(Usage),
    /// The brain's process has ended, or could not be started.
    Gone {
        /// Why, for people.
        why: String,
    },
    /// A call has begun as this run in this sandbox.
    Began(String, SandboxId, RunId),
    /// A command wrote something.
    Output {
        /// Of which call.
        id: String,
        /// The cursor behind it.
        to: u64,
        /// The body of its event.
        body: Value,
    },
    /// A call has ended.
    Done {
        /// Which.
        id: String,
        /// What came of it.
        answer: Answer,
        /// What the command was, if it was one: the body of its event.
        exec: Option<Value>,
    },
    /// A port of the hands' sandbox is listened on, and this is where it is seen.
    Opened {
        /// The sandbox.
        sandbox: SandboxId,
        /// Its port.
        port: u16,
        /// Where it is seen, with the token.
        url: String,
    },
    /// A call of an earlier daemon had not begun.
    Void(String),
    /// Both sandboxes have been removed.
    Disposed,
    /// Time has passed.
    Clock,
}

/// In which process a brain has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// In the one that the driver has.
    Held,
    /// In one of before the daemon.
    Joined,
    /// In a new one.
    Started,
}

/// A sandbox that was lost and made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// "brain" or "hands".
    pub role: &'static str,
    /// Which one it was.
    pub sandbox: SandboxId,
    /// Why, for people.
    pub why: String,
}

/// Something to be done, after what happened is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// See that both sandboxes are awake and the brain can be spoken to.
    Fetch,
    /// Nobody needs them for now.
    Release,
    /// Tell the brain a turn, with these messages.
    Begin(TurnId, Vec<u64>),
    /// Tell the brain a turn that was under way.
    Resume {
        /// Which.
        turn: TurnId,
        /// Its messages, and whether the brain is known to have them.
        messages: Vec<(u64, bool)>,
        /// It is the process of before.
        is_same: bool,
    },
    /// Tell the brain a message in the middle of a turn.
    Steer(TurnId, u64),
    /// Ask the brain to end its turn.
    Interrupt(TurnId),
    /// End the brain's process.
    Kill,
    /// Run a tool.
    Run(Call),
    /// Find out what became of a call that was under way when the daemon ended.
    Follow(String),
    /// Stop all calls.
    StopCalls,
    /// Stop one.
    StopCall(String),
    /// Copy the brain's conversation, which is as it is after a turn.
    Copy,
    /// Answer a call.
    Answer(String, Answer),
    /// Answer a call with what was stored.
    Replay(String),
    /// Write to the brain.
    Write(Vec<u8>),
    /// Remove both sandboxes.
    Dispose,
}

/// What follows from an input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// To be appended to the log.
    pub events: Vec<NewEvent>,
    /// Turns that began or ended.
    pub turns: Vec<Turn>,
    /// Forget the calls of the turn before.
    pub forget_calls: bool,
    /// Calls that began or ended.
    pub calls: Vec<(String, Record)>,
    /// To be done, in this order, once all of this is stored.
    pub effects: Vec<Effect>,
}
