//! What a session does next. Pure: inputs and the time go in, and what is to be stored and done comes out.
//!
//! ```text
//!            message                brain is up              turn ends, asked something
//!  Idle ───────────────► Queued ───────────────► Running ────────────────────────────► AwaitingInput
//!   ▲ ▲                    ▲                      │ │ ▲ │                                  │ message
//!   │ │                    └──────────────────────┼─┼─┼─┼──────────────────────────────────┘
//!   │ └─────────────── turn ends ─────────────────┘ │ └─┘ brain is gone: again, after a pause
//!   │ message                                       ▼
//!   └────────────────────────────────────────── Failed (it crashes too often)        Archived (from anywhere; final)
//! ```
//!
//! The status is not stored: it follows from what is. Beside it there is the brain's [`Presence`], which is not stored
//! either, since after a crash of the daemon nobody knows: the first thing a new driver does is to look.
//!
//! - What happened is an event; an input that changes nothing makes none.
//! - Messages wait in `queue` until a turn takes them. One that comes in the middle of a turn goes to the brain at once
//!   (a steer), and if the turn ends before the brain took it, it is the first of the next turn.
//! - A turn that is to end early (canceled, out of time or tokens) is *closing*: its calls are stopped and the brain is
//!   interrupted, and if that does not end it in time, its process is killed. It is over once no call is under way.
//! - A call is known by the id that the brain gave it. The same id again gets the same answer, and runs nothing.

mod brain;
mod calls;
mod input;
mod status;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use input::{Arrival, Effect, Input, Loss, Outcome};
pub use status::Status;

use super::agent::Limits;
use super::event::{Actor, Level, NewEvent};
use super::turn::{Failure, Turn, YieldReason};
use crate::ids::{RunId, SandboxId, SessionId};
use crate::runtime::{Answer, Usage};
use crate::sandbox::policy::{History, Policy};

/// How long a brain may take to end its turn after it was interrupted. Both known ones need 50 ms. One that takes longer is
/// ended, which costs it half a second when it is needed next: so whoever cancels has the session back within a second.
pub const INTERRUPT_GRACE: Duration = Duration::from_millis(700);

/// How long a brain may be silent after it was given a turn. A model may think for a minute before its first word.
pub const FIRST_OUTPUT: Duration = Duration::from_secs(120);

/// How crashes of the brain are dealt with: the first restart comes soon, as most crashes are single, and what crashes six
/// times in five minutes does so again.
const CRASHES: Policy = Policy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    budget: 6,
    window: Duration::from_secs(300),
    stable: Duration::from_secs(120),
};

/// Ports of which a session tells where they are seen. An agent starts a few servers; one that starts thousands is not told
/// of for ever.
const MAX_PREVIEWS: usize = 64;

/// Messages that may wait for a turn.
pub const MAX_QUEUE: usize = 256;

/// What is known of a session, and stored with every change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The `seq` of the newest event. The store has it in a column of its own.
    #[serde(skip)]
    pub head: u64,
    /// Messages that no turn has taken, by their `seq`.
    pub queue: VecDeque<u64>,
    /// The turn that is under way.
    pub active: Option<Active>,
    /// Turns that have begun.
    pub turns: u64,
    /// The last turn that has ended.
    pub last_turn: Option<Turn>,
    /// What all turns used.
    pub usage: Usage,
    /// How long turns were under way, in milliseconds.
    pub active_ms: u64,
    /// Where the session lives.
    pub house: House,
    /// Sandboxes and ports of which it was told where they are seen.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub previews: BTreeSet<(String, u16)>,
    /// Crashes of the brain.
    pub history: History,
    /// When the brain was started, in milliseconds since 1970.
    pub up_since_ms: u64,
    /// Why it has failed, if it has.
    pub failure: Option<Failure>,
    /// It can only be read.
    pub is_archived: bool,
    /// The brain, as far as is known.
    #[serde(skip)]
    pub presence: Presence,
    /// When the brain is started again, in milliseconds since 1970.
    #[serde(skip)]
    pub restart_at_ms: Option<u64>,
    /// When the brain has been silent for too long, in milliseconds since 1970.
    #[serde(skip)]
    pub silent_at_ms: Option<u64>,
    /// The calls of the turn; they are stored one by one.
    #[serde(skip)]
    pub calls: BTreeMap<String, Record>,
}

/// Where a session lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct House {
    /// The sandbox of the brain.
    #[serde(with = "super::text::option")]
    pub brain: Option<SandboxId>,
    /// The sandbox of the hands.
    #[serde(with = "super::text::option")]
    pub hands: Option<SandboxId>,
    /// The brain's process.
    #[serde(with = "super::text::option")]
    pub run: Option<RunId>,
    /// Up to where its output was taken.
    pub cursor: u64,
    /// What the dialogue wants to be remembered.
    pub memory: Option<String>,
}

/// A turn that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// The turn.
    pub turn: Turn,
    /// The messages that it was given, by their `seq`, and whether the brain is known to have them.
    pub messages: Vec<(u64, bool)>,
    /// The brain has asked something.
    pub has_asked: bool,
    /// The brain has spoken to the user by a tool, so that its last words are not for the user.
    #[serde(default)]
    pub has_spoken: bool,
    /// When it has taken too long, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Why it is to end, and when the brain's time for that is over, in milliseconds since 1970.
    pub closing: Option<(YieldReason, u64)>,
    /// How it ends once no call is under way.
    pub ended: Option<(YieldReason, Option<Failure>)>,
}

/// Whether the brain is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence {
    /// Not needed, or not known to be there.
    #[default]
    Away,
    /// Somebody is fetching it.
    Coming,
    /// It can be spoken to.
    Here,
}

/// What the store keeps of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which tool.
    pub tool: String,
    /// Of what it was called with.
    pub digest: String,
    /// When it was called, in milliseconds since 1970.
    pub at_ms: u64,
    /// Up to where the output of its run is in the log.
    pub told: u64,
    /// It is known not to have begun before the daemon ended: if the brain asks again, it runs.
    pub is_void: bool,
    /// What came of it. In the store with its text, in memory without.
    pub answer: Option<Answer>,
}

/// What the machine has to know beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Which session it is.
    pub session: &'a SessionId,
    /// Its bounds.
    pub limits: Limits,
}

impl State {
    /// Where the session stands.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.is_archived {
            Status::Archived
        } else if self.failure.is_some() {
            Status::Failed
        } else if self.active.is_some() {
            Status::Running
        } else if !self.queue.is_empty() {
            Status::Queued
        } else if self.last_end() == Some(YieldReason::NeedsInput) {
            Status::AwaitingInput
        } else {
            Status::Idle
        }
    }

    fn last_end(&self) -> Option<YieldReason> {
        self.last_turn.as_ref().and_then(|turn| turn.end.as_ref()).map(|end| end.reason)
    }

    /// The brain is needed.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.active.is_some() || (!self.queue.is_empty() && self.failure.is_none())
    }

    /// The session is over, and its sandboxes are to be removed.
    #[must_use]
    pub fn is_to_be_disposed(&self) -> bool {
        self.is_archived && self.active.is_none() && self.house != House::default()
    }

    /// The next time at which the machine has to hear the clock.
    #[must_use]
    pub fn alarm(&self) -> Option<SystemTime> {
        let active = self.active.as_ref().filter(|active| active.ended.is_none());
        let turn = active.map(|active| active.closing.map_or(active.deadline_ms, |(_, until)| until));
        [turn, self.restart_at_ms, self.silent_at_ms].into_iter().flatten().min().map(super::time)
    }

    /// What follows from an input at a time.
    pub fn on(&mut self, input: Input, rules: Rules<'_>, now: SystemTime) -> Outcome {
        let mut step = Step { state: self, rules, now, now_ms: super::millis(now), out: Outcome::default() };
        step.take(input);
        let out = step.out;
        self.head += out.events.len() as u64;
        out
    }
}

/// One input being dealt with.
struct Step<'a> {
    state: &'a mut State,
    rules: Rules<'a>,
    now: SystemTime,
    now_ms: u64,
    out: Outcome,
}

impl Step<'_> {
    fn take(&mut self, input: Input) {
        match input {
            Input::Recovered => self.recovered(),
            Input::Message { actor, body, refs } => self.message(actor, body, refs),
            Input::Cancel => self.cancel(),
            Input::Archive => self.archive(),
            Input::Arrived { house, lost, arrival } => self.arrived(house, lost, arrival),
            Input::Said(said, cursor) => {
                self.state.house.cursor = cursor;
                self.state.silent_at_ms = None;
                self.said(said);
            }
            Input::Spent(usage) => self.spent(usage),
            Input::Gone { why } => self.gone(&why),
            Input::Began(id, sandbox, run) => self.began(&id, &sandbox, &run),
            Input::Output { id, to, body } => self.told(&id, to, body),
            Input::Done { id, answer, exec } => self.done(&id, answer, exec),
            Input::Opened { sandbox, port, url } => self.opened(&sandbox, port, &url),
            Input::Void(id) => self.void(&id),
            Input::Disposed => self.state.house = House::default(),
            Input::Clock => self.clock(),
        }
    }

    /// Tells once where a port is seen.
    fn opened(&mut self, sandbox: &SandboxId, port: u16, url: &str) {
        let previews = &mut self.state.previews;
        if previews.len() < MAX_PREVIEWS && previews.insert((sandbox.to_string(), port)) {
            let body = json!({ "port": port, "url": url, "sandbox_id": sandbox });
            self.emit(NewEvent::system(Level::User, "preview.url", body));
        }
    }

    /// The event goes into the log; answers its `seq`.
    fn emit(&mut self, mut event: NewEvent) -> u64 {
        event.turn = self.state.active.as_ref().map(|active| active.turn.id.clone());
        self.out.events.push(event);
        self.state.head + self.out.events.len() as u64
    }

    fn act(&mut self, effect: Effect) {
        self.out.effects.push(effect);
    }

    fn keep_turn(&mut self, turn: Turn) {
        self.out.turns.push(turn);
    }

    fn recovered(&mut self) {
        self.state.presence = Presence::Away;
        let open: Vec<String> = self.open_calls().cloned().collect();
        open.into_iter().for_each(|id| self.act(Effect::Follow(id)));
        if self.state.is_busy() {
            self.fetch();
        } else if self.state.is_to_be_disposed() {
            self.act(Effect::Dispose);
        }
        self.clock();
    }

    fn message(&mut self, actor: Actor, body: Value, refs: Value) {
        let event = NewEvent { level: Level::User, kind: "user.message", actor, turn: None, body, refs };
        let seq = self.emit(event);
        // Somebody may have repaired what was broken.
        if self.state.failure.take().is_some() {
            self.state.history = History::default();
        }
        let is_here = self.state.presence == Presence::Here;
        match &mut self.state.active {
            Some(active) if is_here && active.closing.is_none() && active.ended.is_none() => {
                active.messages.push((seq, false));
                let turn = active.turn.id.clone();
                self.act(Effect::Steer(turn, seq));
            }
            Some(_) => self.state.queue.push_back(seq),
            None => {
                self.state.queue.push_back(seq);
                if is_here { self.begin() } else { self.fetch() }
            }
        }
    }

    fn cancel(&mut self) {
        if self.state.active.is_some() {
            self.close(YieldReason::Canceled);
        } else if !self.state.queue.is_empty() {
            self.begin_and_end(YieldReason::Canceled);
            self.release();
        }
    }

    fn archive(&mut self) {
        if self.state.is_archived {
            return;
        }
        self.state.is_archived = true;
        self.state.queue.clear();
        self.state.restart_at_ms = None;
        self.emit(NewEvent::system(Level::Internal, "session.archived", json!({})));
        if self.state.active.is_some() {
            self.close(YieldReason::Canceled);
        } else {
            self.act(Effect::Dispose);
        }
    }

    fn clock(&mut self) {
        let now_ms = self.now_ms;
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now_ms);
        if is_due(self.state.restart_at_ms) {
            self.state.restart_at_ms = None;
            self.fetch();
        }
        if is_due(self.state.silent_at_ms) {
            self.act(Effect::Kill);
            self.gone(&format!("the brain has said nothing for {} s", FIRST_OUTPUT.as_secs()));
        }
        let Some(active) = &self.state.active else { return };
        match active.closing {
            None if active.ended.is_none() && active.deadline_ms <= self.now_ms => {
                self.close(YieldReason::DeadlineExceeded);
            }
            Some((reason, until)) if until <= self.now_ms && active.ended.is_none() => {
                self.act(Effect::Kill);
                self.state.presence = Presence::Away;
                self.state.house.run = None;
                self.end(reason, None);
            }
            None | Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
