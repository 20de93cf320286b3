//! Any agent that speaks the Agent Client Protocol, version 1: JSON-RPC, a message a line. Which program that is, the
//! configuration says.
//!
//! Such an agent has tools of its own, and has its client carry them out: files by `fs/*`, commands by `terminal/*`. Here
//! both are the session's hands (`desk`). What it does without asking it does in its cage, in which there is nothing.
//!
//! ```text
//!  open      ── initialize, then session/resume | session/load | session/new ──► a session, to be remembered
//!  begin     ── session/prompt ──► session/update (its words), fs/*, terminal/*, and the response: why it stopped
//!  steer     ── waits, and is the next session/prompt of the same turn: the protocol has no other place for it
//!  interrupt ── session/cancel
//! ```
//!
//! - What an agent is told before everything else begins the first prompt of its session.
//! - Its conversation is where it keeps it, in its sandbox, and goes on if it can load it. If it cannot, or if the sandbox
//!   was lost, it gets a new session, and is told so.
//! - The protocol's own crate of types is not used: it has `serde_json` keep fields in the order in which they came, in all
//!   of the daemon, and two calls are told to be the same by fields in the order of their names.

use serde_json::{Value, json};

use super::cage::PROGRAM;
use super::{
    Answer, Brain, Dialogue, Ending, LineError, Message, Program, Recorded, Runtime, STATE, Said, Trace, Turn, again,
};
use crate::gateway;
use crate::ids::{EventId, SessionId, TurnId};

mod desk;
mod rpc;
mod terminal;

use desk::Desk;

/// The version of the protocol.
const VERSION: u64 = 1;

/// Longest id of a session of an agent's, in bytes.
const MAX_SESSION: usize = 1 << 10;

/// Most that it may say in one go, in bytes; what follows is a message of its own.
const MAX_WORDS: usize = 1 << 20;

/// Where its hands work.
const WORKSPACE: &str = "/workspace";

/// The runtime.
#[derive(Debug, Clone, Copy)]
pub struct Acp;

impl Runtime for Acp {
    fn program(&self, brain: &Brain<'_>) -> Program {
        let base_url = format!("http://127.0.0.1:{}", gateway::PORT);
        let fill = |text: &str| text.replace("{base_url}", &base_url).replace("{model}", brain.model);
        let own = [("PATH", "/nonexistent"), ("HOME", STATE), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let given = brain.launch.env.iter().map(|(name, value)| (name.clone(), fill(value)));
        Program {
            argv: [PROGRAM.to_owned()].into_iter().chain(brain.launch.args.iter().map(|it| fill(it))).collect(),
            env: own.into_iter().chain(given).collect(),
            files: Vec::new(),
        }
    }

    fn trace(&self, _session: &SessionId, _memory: Option<&str>) -> Option<Trace> {
        // Each agent keeps it in its own way, and not all in one file.
        None
    }

    fn can_rejoin(&self) -> bool {
        false
    }

    fn dialogue(&self, brain: &Brain<'_>) -> Box<dyn Dialogue> {
        let (prompt, before) = (brain.prompt.to_owned(), brain.memory.map(str::to_owned));
        Box::new(Talk { prompt, before, ..Talk::default() })
    }
}

/// The conversation with one process.
#[derive(Debug, Default)]
struct Talk {
    /// What it is told before everything else.
    prompt: String,
    /// The session of an earlier process.
    before: Option<String>,
    /// The session of an earlier process is gone.
    is_lost: bool,
    /// The session, once it is there.
    session: Option<String>,
    /// It has had no prompt.
    is_new: bool,
    /// It is to be remembered, as soon as there is something in it to go on with.
    is_unknown: bool,
    stand: Stand,
    /// Prompts that it was given.
    prompts: u64,
    /// What the next one is about.
    waiting: Vec<Line>,
    /// It is to end its turn.
    is_unwanted: bool,
    /// What it says, and which of its messages that is.
    words: String,
    message: Option<String>,
    desk: Desk,
}

/// How its turn stands.
#[derive(Debug, Default, PartialEq, Eq)]
enum Stand {
    /// There is none.
    #[default]
    Idle,
    /// It is to be told one.
    Begun,
    /// It has a prompt.
    Busy,
}

/// Something that it is to be told.
#[derive(Debug)]
struct Line {
    messages: Vec<EventId>,
    text: String,
}

/// The ids of our requests.
const INITIALIZE: &str = "initialize";
const SESSION: &str = "session";
const PROMPT: &str = "prompt ";

/// For an agent that goes on without what it kept.
const LOST: &str = "[host] What you kept of this conversation is gone. All that you know of it is what follows, and what you find in the workspace.";

impl Talk {
    /// Tells it a turn, as this text.
    fn tell(&mut self, turn: &Turn, text: String) -> Vec<u8> {
        let messages = turn.messages.iter().map(|message| message.id.clone()).collect();
        self.desk.begin(turn);
        (self.stand, self.is_unwanted) = (Stand::Begun, false);
        self.waiting = vec![Line { messages, text }];
        self.say().1
    }

    /// Gives it what waits as a prompt, once there is a session: which messages that are, and the request.
    fn say(&mut self) -> (Vec<Said>, Vec<u8>) {
        let Some(session) = self.session.as_ref().filter(|_| !self.waiting.is_empty()) else {
            return Default::default();
        };
        let mut texts = Vec::new();
        if std::mem::take(&mut self.is_new) {
            texts.extend(Some(self.prompt.clone()).filter(|prompt| !prompt.is_empty()));
            texts.extend(std::mem::take(&mut self.is_lost).then(|| LOST.to_owned()));
        }
        let mut took = Vec::new();
        for Line { messages, text } in std::mem::take(&mut self.waiting) {
            took.extend(messages.into_iter().map(Said::Took));
            texts.push(text);
        }
        // Nothing that begins as a command is one.
        if texts[0].trim_start().starts_with('/') {
            texts[0].insert_str(0, "[user] ");
        }
        let blocks = [json!({ "type": "text", "text": texts.join("\n\n") })];
        self.prompts += 1;
        self.stand = Stand::Busy;
        let parameters = json!({ "sessionId": session, "prompt": blocks });
        (took, rpc::request(&format!("{PROMPT}{}", self.prompts), "session/prompt", &parameters))
    }

    /// The response to one of our requests.
    fn response(&mut self, id: &str, line: &Value) -> Result<Vec<Said>, LineError> {
        let (result, error) = (&line["result"], &line["error"]);
        match id {
            INITIALIZE if error.is_null() => self.initialized(result),
            SESSION if error.is_null() => self.ready(&result["sessionId"]),
            SESSION if self.before.take().is_some() => {
                self.is_lost = true;
                Ok(vec![Said::Reply(new_session())])
            }
            INITIALIZE | SESSION => Err(wrong(format!("it does not begin: {error:.500}"))),
            // Of a prompt that is over there is nothing to be heard.
            _ if self.stand != Stand::Busy || id != format!("{PROMPT}{}", self.prompts) => Ok(Vec::new()),
            _ => Ok(self.stopped(result["stopReason"].as_str().unwrap_or_default(), error)),
        }
    }

    fn initialized(&mut self, result: &Value) -> Result<Vec<Said>, LineError> {
        if result["protocolVersion"] != VERSION {
            let found = format!("{:.20}", result["protocolVersion"]);
            return Err(wrong(format!("it speaks version {found} of the protocol, not {VERSION}")));
        }
        let can = &result["agentCapabilities"];
        let method = match &self.before {
            None => None,
            Some(_) if can["sessionCapabilities"]["resume"].is_object() => Some("session/resume"),
            Some(_) if can["loadSession"] == true => Some("session/load"),
            Some(_) => {
                (self.before, self.is_lost) = (None, true);
                None
            }
        };
        let begun = match (method, &self.before) {
            (Some(method), Some(session)) => {
                let parameters = json!({ "sessionId": session, "cwd": WORKSPACE, "mcpServers": [] });
                rpc::request(SESSION, method, &parameters)
            }
            _ => new_session(),
        };
        Ok(vec![Said::Reply(begun)])
    }

    /// There is a session, the one of before or one with this id.
    fn ready(&mut self, id: &Value) -> Result<Vec<Said>, LineError> {
        (self.is_new, self.is_unknown) = (self.before.is_none(), self.before.is_none());
        let session = match self.before.take() {
            Some(session) => session,
            None => {
                let id = id.as_str().filter(|id| (1..=MAX_SESSION).contains(&id.len()));
                id.ok_or_else(|| wrong("its session has no id".to_owned()))?.to_owned()
            }
        };
        self.desk.open(&session);
        self.session = Some(session);
        if self.is_unwanted {
            return Ok(self.over(Ending::Interrupted));
        }
        let (mut said, prompt) = self.say();
        said.push(Said::Reply(prompt));
        Ok(said)
    }

    /// The prompt is over.
    fn stopped(&mut self, reason: &str, error: &Value) -> Vec<Said> {
        let goes_on = reason == "end_turn" && !self.waiting.is_empty() && !self.is_unwanted;
        if goes_on {
            let mut said = self.flush(Said::Text);
            let (took, prompt) = self.say();
            said.extend(took);
            said.push(Said::Reply(prompt));
            return said;
        }
        let ending = ending(reason, error);
        let mut said = self.flush(if ending == Ending::Completed { Said::Spoke } else { Said::Text });
        said.extend(self.over(ending));
        said
    }

    /// The turn is over; what it did not take comes back with the next one.
    fn over(&mut self, ending: Ending) -> Vec<Said> {
        self.stand = Stand::Idle;
        self.waiting.clear();
        vec![Said::Ended(ending)]
    }

    fn flush(&mut self, as_said: fn(String) -> Said) -> Vec<Said> {
        let words = std::mem::take(&mut self.words);
        if words.trim().is_empty() { Vec::new() } else { vec![as_said(words)] }
    }

    fn updated(&mut self, update: &Value) -> Vec<Said> {
        match update["sessionUpdate"].as_str() {
            Some("agent_message_chunk") => {
                let message = update["messageId"].as_str();
                let is_next = message.is_some() && message != self.message.as_deref();
                let said = if is_next || self.words.len() > MAX_WORDS { self.flush(Said::Text) } else { Vec::new() };
                if is_next {
                    self.message = message.map(str::to_owned);
                }
                self.words.push_str(update["content"]["text"].as_str().unwrap_or_default());
                said
            }
            // What it has said before it was on the way.
            Some("tool_call") => self.flush(Said::Text),
            // Its thoughts and plans, what came of its calls, and, while it loads a session, all that was said in it.
            _ => Vec::new(),
        }
    }
}

impl Dialogue for Talk {
    fn open(&mut self) -> Vec<u8> {
        let parameters = json!({
            "protocolVersion": VERSION,
            "clientInfo": { "name": "handsd", "version": env!("CARGO_PKG_VERSION") },
            "clientCapabilities": { "fs": { "readTextFile": true, "writeTextFile": true }, "terminal": true },
        });
        rpc::request(INITIALIZE, "initialize", &parameters)
    }

    fn begin(&mut self, turn: &Turn) -> Vec<u8> {
        self.tell(turn, again::texts(turn))
    }

    fn steer(&mut self, _turn: &TurnId, message: &Message) -> Vec<u8> {
        // Without a turn of its own it comes back with the next one.
        if self.stand != Stand::Idle {
            self.waiting.push(Line { messages: vec![message.id.clone()], text: message.text.clone() });
        }
        Vec::new()
    }

    fn resume(&mut self, turn: &Turn, calls: &[Recorded]) -> Vec<u8> {
        self.tell(turn, again::resumption(turn, calls))
    }

    fn rejoin(&mut self, _turn: Option<&Turn>) -> Vec<u8> {
        Vec::new()
    }

    fn interrupt(&mut self, _turn: &TurnId) -> Vec<u8> {
        self.is_unwanted = true;
        match (&self.stand, &self.session) {
            (Stand::Busy, Some(session)) => rpc::notification("session/cancel", &json!({ "sessionId": session })),
            // It ends as soon as there is a session.
            _ => Vec::new(),
        }
    }

    fn answer(&mut self, call: &str, answer: &Answer) -> Vec<u8> {
        match self.desk.answer(call, answer) {
            Some(lines) => lines,
            // It is told with the turn, or nobody waits for it any more.
            None if self.stand == Stand::Idle => Vec::new(),
            None => {
                self.waiting.push(Line { messages: Vec::new(), text: again::late_answer(call, answer) });
                Vec::new()
            }
        }
    }

    fn read(&mut self, line: &[u8]) -> Result<Vec<Said>, LineError> {
        let line: Value = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        let (id, parameters) = (&line["id"], &line["params"]);
        let mut said = Vec::new();
        if self.stand == Stand::Busy && std::mem::take(&mut self.is_unknown) {
            said.extend(self.session.clone().map(Said::Remember));
        }
        said.extend(match (line["method"].as_str(), id) {
            (None, Value::String(id)) => self.response(id, &line)?,
            // The answer to a request that could not be read.
            (None, Value::Null) if line["error"].is_object() => Vec::new(),
            (None, _) => return Err(wrong("it is neither a request nor a response".to_owned())),
            (Some("session/update"), Value::Null) if self.stand == Stand::Busy => self.updated(&parameters["update"]),
            (Some(_), Value::Null) => Vec::new(),
            (Some(method), id) => self.desk.asked(rpc::checked(id)?, method, parameters, self.is_unwanted),
        });
        Ok(said)
    }
}

/// Why it stopped.
fn ending(reason: &str, error: &Value) -> Ending {
    let failed = |kind, code: &str, message: &str| {
        let message = message.chars().take(again::MAX_ERROR).collect();
        Ending::Failed { kind, code: code.to_owned(), message }
    };
    match reason {
        "end_turn" => Ending::Completed,
        "cancelled" => Ending::Interrupted,
        "max_tokens" => failed("error.model", reason, "the model has said as much as it may"),
        "refusal" => failed("error.model", reason, "the model refuses to go on"),
        "max_turn_requests" => failed("error.task", reason, "the agent has asked its model as often as it may"),
        _ if error.is_null() => failed("error.task", "agent_failed", &format!("it stopped for {reason:?}")),
        _ => {
            let details = error["data"].as_str().or_else(|| error["data"]["details"].as_str()).unwrap_or_default();
            let message = format!("{} {details}", error["message"].as_str().unwrap_or_default());
            failed("error.task", "agent_failed", message.trim())
        }
    }
}

fn new_session() -> Vec<u8> {
    rpc::request(SESSION, "session/new", &json!({ "cwd": WORKSPACE, "mcpServers": [] }))
}

fn wrong(message: String) -> LineError {
    LineError { message }
}

#[cfg(test)]
mod tests;
