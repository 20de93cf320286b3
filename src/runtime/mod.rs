//! Brains: the programs that think, and how they are spoken to.
//!
//! A brain is one process in a sandbox of its own, with lines of JSON on its stdin and stdout. What differs between brains
//! is behind two traits, and neither of them does anything: a [`Runtime`] says which process is to be started, and a
//! [`Dialogue`] translates between the session's words and the lines of that process. So an adapter is tested without a
//! process, and whatever is durable about a session is decided above, in one place for all brains.
//!
//! ```text
//!  session ── begin, steer, answer, interrupt ──► Dialogue ── lines ──► stdin  ┐
//!  session ◄── Said: Called, Text, Spent, Ended ── Dialogue ◄── lines ── stdout ┘ a process, started by `process`
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `process` | a brain's process: starting it, its lines, its end |
//! | `again` | what a brain is told that goes on in a new process (pure) |
//! | `cage` | what the sandboxes of brains are made of (`cage::building`: how; `elf`: what a program needs beside itself) |
//! | `acp` | any agent that speaks the Agent Client Protocol |
//! | `claude` | Claude Code, over its stream of JSON |
//! | `codex` | Codex, over its app server |
//! | `script` | the brain that follows a script: no model, no key |
//!
//! The rules between a session and a dialogue:
//!
//! - There is at most one turn at a time. It begins with `begin`, and ends with [`Said::Ended`] or with the process.
//! - Tools are in-band: a brain says [`Said::Called`], and gets its `answer` by a line. The call's id is the brain's own,
//!   and the same after a crash wherever the brain can: then the recorded answer comes back instead of a second run.
//! - A line may be written twice (a daemon that was killed does not know what arrived): turns, messages and calls have
//!   ids, and what a brain has taken already it ignores.
//! - What a dialogue must know after a crash of the daemon it says by [`Said::Remember`]; that is stored with the cursor of
//!   the line, so it is neither lost nor told twice.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::gateway::Provider;
pub use crate::gateway::Usage;
use crate::ids::{EventId, SessionId, TurnId};

pub mod acp;
mod again;
pub mod cage;
pub mod claude;
pub mod codex;
mod elf;
pub mod process;
pub mod script;

/// The brains that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Follows a script: for demonstrations and tests.
    Script,
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
    /// Any agent that speaks the Agent Client Protocol: the one that the node is configured with.
    Acp,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 4] = [Self::Claude, Self::Codex, Self::Acp, Self::Script];

    /// Its name on every wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Acp => "acp",
        }
    }

    /// The kind of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The adapter.
    #[must_use]
    pub fn runtime(self) -> &'static dyn Runtime {
        match self {
            Self::Script => &script::Script,
            Self::Claude => &claude::Claude,
            Self::Codex => &codex::Codex,
            Self::Acp => &acp::Acp,
        }
    }

    /// Who may serve its model, the usual one first; nobody: it has none, and needs no program of others.
    #[must_use]
    pub fn providers(self) -> &'static [Provider] {
        match self {
            Self::Script => &[],
            Self::Claude => &[Provider::Anthropic],
            Self::Codex => &[Provider::OpenAi],
            Self::Acp => &Provider::ALL,
        }
    }
}

/// What a brain is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brain<'a> {
    /// For which session.
    pub session: &'a SessionId,
    /// With which model.
    pub model: &'a str,
    /// What it is told before everything else.
    pub prompt: &'a str,
    /// Where our own program is in its sandbox.
    pub guest: &'a str,
    /// What it can do.
    pub tools: &'a [Tool],
    /// How its program is started, if the configuration says so.
    pub launch: &'a Launch,
    /// What the dialogue wanted to be remembered last.
    pub memory: Option<&'a str>,
    /// Its sandbox has what an earlier process kept; see [`Runtime::trace`].
    pub is_kept: bool,
}

/// How the program of a generic runtime is started. In texts, `{base_url}` is where its model is, and `{model}` which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, over what every brain has.
    pub env: BTreeMap<String, String>,
}

/// Of a program that needs nothing of it.
pub static PLAIN: Launch = Launch { args: Vec::new(), env: BTreeMap::new() };

/// Something that a brain can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// By which name.
    pub name: &'static str,
    /// What it does, for the model.
    pub description: &'static str,
    /// The JSON schema of its input.
    pub input: Value,
}

/// The file in which a process keeps its conversation, and which is enough to go on with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Where it is, below [`STATE`]: a pattern that no other file matches.
    pub pattern: String,
    /// Where it may be as well: its path in the sandbox where there is none yet.
    pub file: String,
    /// What it holds from when on it can be resumed. Before that, it is in the way of a new beginning.
    pub holds: &'static str,
}

/// A process to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What is executed.
    pub argv: Vec<String>,
    /// Over the sandbox's environment.
    pub env: BTreeMap<String, String>,
    /// Files that have to be there before it starts: path and content.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A kind of brain.
pub trait Runtime: Send + Sync {
    /// The process that is to be started. Its working directory is [`STATE`], where it finds what an earlier one kept.
    fn program(&self, brain: &Brain<'_>) -> Program;

    /// Where a process keeps the conversation; `None` if it keeps none, or none yet.
    fn trace(&self, session: &SessionId, memory: Option<&str>) -> Option<Trace>;

    /// A process of it that was there before the daemon can be spoken to again.
    fn can_rejoin(&self) -> bool;

    /// A conversation with such a process.
    fn dialogue(&self, brain: &Brain<'_>) -> Box<dyn Dialogue>;
}

/// Where a brain keeps its state, in its sandbox.
pub const STATE: &str = "/workspace";

/// A message for the brain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The event that holds it.
    pub id: EventId,
    /// What it says.
    pub text: String,
    /// The brain is known to have it.
    pub is_taken: bool,
}

/// A turn as the brain is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Which.
    pub id: TurnId,
    /// How many processes have been told it, this one among them.
    pub attempt: u32,
    /// What it is about, oldest first.
    pub messages: Vec<Message>,
}

/// A call of the turn as it stands when its brain is started anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The brain's name for it.
    pub id: String,
    /// What was called.
    pub tool: String,
    /// What came of it; `None` if it is still under way.
    pub answer: Option<Answer>,
}

/// What a tool answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// For the brain to read.
    pub text: String,
    /// It did what it should. A command that exits with 1 has done so too.
    pub is_ok: bool,
    /// How the command ended, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// How a command ended, for a brain that does not read it off the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, if it came to have one.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Bytes that it wrote.
    pub bytes: u64,
    /// Bytes of the answer's text that show them; what follows them tells the end in words.
    pub shown: usize,
}

impl Answer {
    /// Of a call that did what it should.
    #[must_use]
    pub fn ok(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_ok: true, exit: None }
    }

    /// Of one that did not.
    #[must_use]
    pub fn error(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_ok: false, exit: None }
    }
}

/// A conversation with one process. Each method but `read` answers the bytes to be written to it: whole lines, or nothing.
pub trait Dialogue: Send + Sync {
    /// To a process that was just started, before everything else.
    fn open(&mut self) -> Vec<u8>;

    /// A turn begins.
    fn begin(&mut self, turn: &Turn) -> Vec<u8>;

    /// A message in the middle of a turn. If the turn is over before the brain takes it, it must be dropped: then it is
    /// part of the next turn.
    fn steer(&mut self, turn: &TurnId, message: &Message) -> Vec<u8>;

    /// A turn goes on in a new process.
    fn resume(&mut self, turn: &Turn, calls: &[Recorded]) -> Vec<u8>;

    /// A new daemon has found the process of before, perhaps in the middle of a turn. Only where [`Runtime::can_rejoin`].
    fn rejoin(&mut self, turn: Option<&Turn>) -> Vec<u8>;

    /// The turn is to end as soon as possible.
    fn interrupt(&mut self, turn: &TurnId) -> Vec<u8>;

    /// What came of a call.
    fn answer(&mut self, call: &str, answer: &Answer) -> Vec<u8>;

    /// What a line means; nothing, if it means nothing to us.
    ///
    /// # Errors
    /// [`LineError`] if it cannot be a line of this brain: then the process is ended and started anew.
    fn read(&mut self, line: &[u8]) -> Result<Vec<Said>, LineError>;
}

/// What a brain says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// It has taken a message that came in the middle of a turn.
    Took(EventId),
    /// Text on the way.
    Text(String),
    /// Text at the end of its work: for the user, unless it has spoken to the user by a tool.
    Spoke(String),
    /// It wants a tool to be used.
    Called(Call),
    /// It wants a call to end, by its name for it.
    Stop(String),
    /// It has used tokens since it last said so.
    Spent(Usage),
    /// The turn is over.
    Ended(Ending),
    /// Something else, worth an event: its type, and a body.
    Note(&'static str, Value),
    /// To be written back.
    Reply(Vec<u8>),
    /// To be remembered: the dialogue's own words.
    Remember(String),
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The brain's name for it.
    pub id: String,
    /// Which tool.
    pub tool: String,
    /// With what.
    pub input: Value,
}

/// How a turn ended, as the brain says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It is done.
    Completed,
    /// It was interrupted.
    Interrupted,
    /// It could not go on.
    Failed {
        /// Whose fault: the type of the event that tells it, such as "error.model".
        kind: &'static str,
        /// A word for programs.
        code: String,
        /// For people.
        message: String,
    },
}

/// A line that no brain of this kind writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a line that the runtime cannot have written: {}", self.message)
    }
}

impl std::error::Error for LineError {}
