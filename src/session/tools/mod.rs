//! What the brain can do with its hands. `say` and `ask` are not here: they do nothing in the sandbox.
//!
//! | tool | input |
//! |---|---|
//! | `bash` | `command`, `timeout_seconds`?, `cwd`? |
//! | `read` | `path`, `offset`? (lines to skip), `limit`? (lines); or `run`, `offset`? (bytes): the output of a command |
//! | `write` | `path`, `content` |
//! | `ls` | `path`?, `depth`? |
//! | `edit` | `path`, `old`, `new`, `all`? |
//! | `glob` | `pattern`, `path`? |
//! | `grep` | `pattern`, `path`?, `glob`?, `ignore_case`? |
//!
//! What a tool answers is text for a model: bounded, with its head and tail, and a word on how to get the rest. An input
//! that is none is an answer too, one that names the field; the model tries again.
//!
//! A runtime whose brain has tools of its own asks for two things more, of which no model is told: `env` of `bash`, an object
//! of texts, and `whole` of `read`, a flag: the file as it is, or an error.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::hands::Hands;
use crate::ids::{RunId, SandboxId};
use crate::runtime::{Answer, Call};
use crate::sandbox::{Lease, Sandbox, SandboxError};

mod bash;
pub mod bound;
mod catalogue;
mod files;
mod search;

pub use catalogue::{catalogue, of_hands};

/// The longest that a tool which only moves bytes may take: past it the sandbox's file system hangs.
const FILE_DEADLINE: Duration = Duration::from_secs(60);

/// All tools, for who asks for another.
const TOOLS: &str = "bash, read, write, ls, edit, glob, grep, say and ask";

/// What is told of a call while it goes on.
#[derive(Debug)]
pub enum Note {
    /// It has begun as this run.
    Began(String, SandboxId, RunId),
    /// A command of a call wrote something: the cursor behind it, and the body of its event.
    Output(String, u64, Value),
}

/// A call of which an earlier daemon told no end.
#[derive(Debug)]
pub struct Left {
    /// Which.
    pub id: String,
    /// Of which tool.
    pub tool: String,
    /// The sandbox is the one in which it was to be done.
    pub is_here: bool,
    /// How long ago the brain called it.
    pub age: Duration,
    /// Up to where the output of its run is in the log.
    pub told: u64,
}

/// How a call ended.
#[derive(Debug)]
pub struct Finished {
    /// Which.
    pub id: String,
    /// How.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done {
        /// For the brain.
        answer: Answer,
        /// The body of its event, if it was a command.
        exec: Option<Value>,
    },
    /// The sandbox was not there, and nothing was done.
    NoHands(Call),
    /// An earlier daemon ended before it began.
    Void,
}

/// Where a call is carried out.
#[derive(Debug, Clone)]
pub struct Bench {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Told of what happens meanwhile.
    pub notes: mpsc::Sender<Note>,
    /// The call is to end.
    pub stop: CancellationToken,
    /// When the turn is over.
    pub until: SystemTime,
    /// In front of the keys of its runs, so that they are no other session's.
    pub session: String,
    /// After its end a run is known for so long.
    pub forgets_after: Duration,
}

impl Bench {
    /// Carries out a call.
    pub async fn carry_out(self, call: Call) -> Finished {
        let id = call.id.clone();
        let (hands, lease) = match self.sandbox.awake().await {
            Ok(awake) => awake,
            Err(SandboxError::NotRunning { .. } | SandboxError::NotFound(_)) => {
                return Finished { id, outcome: Outcome::NoHands(call) };
            }
            Err(error) => {
                let answer = Answer::error(crate::telemetry::chain(&error).to_string());
                return Finished { id, outcome: Outcome::Done { answer, exec: None } };
            }
        };
        let outcome = match call.tool.as_str() {
            "bash" => self.bash(&hands, lease, &call).await,
            tool => Outcome::Done { answer: self.file_tool(&hands, lease, tool, &call.input).await, exec: None },
        };
        Finished { id, outcome }
    }

    /// Finds out what became of a call of an earlier daemon: a command is seen to its end, and what has not begun may begin
    /// again.
    pub async fn follow(self, left: Left) -> Finished {
        let Left { id, tool, is_here, age, told } = left;
        let outcome = match tool.as_str() {
            "bash" if is_here => self.follow_command(&id, age, told).await,
            // To do these again is as good as to do them once.
            "read" | "ls" | "glob" | "grep" | "write" => Outcome::Void,
            _ => Outcome::Done { answer: unknown(), exec: None },
        };
        Finished { id, outcome }
    }

    async fn follow_command(&self, id: &str, age: Duration, told: u64) -> Outcome {
        let Ok((hands, _lease)) = self.sandbox.awake().await else {
            return Outcome::Done { answer: unknown(), exec: None };
        };
        match hands.run_keyed(&self.key(id)) {
            Some(run) => self.see_to_its_end(id, run, told).await,
            // A run is noted with its key before it begins, and kept for a while: one that is not there has not begun,
            // unless it could be forgotten by now.
            None if age < self.forgets_after / 2 => Outcome::Void,
            None => Outcome::Done { answer: unknown(), exec: None },
        }
    }

    /// The idempotency key of the run of a call.
    fn key(&self, call: &str) -> String {
        format!("{}/{call}", self.session)
    }

    async fn file_tool(&self, hands: &Hands, _lease: Lease, tool: &str, input: &Value) -> Answer {
        let work = async {
            match tool {
                "read" => files::read(hands, input).await,
                "write" => files::write(hands, input).await,
                "ls" => files::ls(hands, input).await,
                "edit" => search::edit(hands, input).await,
                "glob" => search::glob(hands, input).await,
                "grep" => search::grep(hands, input).await,
                _ => Err(format!("there is no tool {tool:?}; there are {TOOLS}")),
            }
        };
        let within = self.left().min(FILE_DEADLINE);
        tokio::select! {
            done = tokio::time::timeout(within, work) => match done {
                Ok(Ok(text)) => Answer::ok(text),
                Ok(Err(text)) => Answer::error(text),
                Err(_) => Answer::error(format!("it took longer than {} s", within.as_secs())),
            },
            () = self.stop.cancelled() => Answer::error("it was stopped"),
        }
    }

    /// What remains of the turn, less a moment in which to end and answer: the inner deadline fires first.
    fn left(&self) -> Duration {
        self.until.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(ENDING)
    }
}

/// Between the last deadline of a call and that of its turn.
const ENDING: Duration = Duration::from_millis(500);

/// Of a call of which nobody knows whether it has done something.
#[must_use]
pub fn unknown() -> Answer {
    Answer::error(
        "the outcome is unknown: the host was restarted while this was under way. Look whether it took effect before you do it \
         again.",
    )
}

/// A text that an input may have.
fn text<'a>(input: &'a Value, field: &str) -> Result<Option<&'a str>, String> {
    match input.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.contains('\0') => Err(format!("{field}: holds a NUL")),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{field}: a text is needed")),
    }
}

/// A text that an input must have.
fn needed<'a>(input: &'a Value, field: &str) -> Result<&'a str, String> {
    text(input, field)?.filter(|text| !text.is_empty()).ok_or_else(|| format!("{field}: a text is needed"))
}

/// Texts by their names, which an input may have.
fn texts(input: &Value, field: &str) -> Result<BTreeMap<String, String>, String> {
    let fields = match input.get(field) {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(format!("{field}: an object of texts is needed")),
    };
    let named = |(name, value): (&String, &Value)| {
        let value = value.as_str().filter(|value| !value.contains('\0'));
        let value = value.ok_or_else(|| format!("{field}.{name}: a text without NUL is needed"))?;
        Ok((name.clone(), value.to_owned()))
    };
    fields.iter().map(named).collect()
}

/// A number that an input may have.
fn number(input: &Value, field: &str) -> Result<Option<u64>, String> {
    match input.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("{field}: a whole number is needed")),
    }
}

/// A choice that an input may make.
fn flag(input: &Value, field: &str) -> Result<bool, String> {
    match input.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("{field}: true or false is needed")),
    }
}

/// An instant so far from now.
fn from_now(wait: Duration) -> Instant {
    Instant::now() + wait
}
