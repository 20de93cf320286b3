//! Codex: its app server, one thread, spoken to in JSON-RPC, a message a line.
//!
//! Our tools are "dynamic tools", in-band: it asks for each call by a request, and gets its answer by the response. All that
//! it brings along is off, by a configuration and by a catalogue of models with one entry, ours: in the stock one models work
//! through programs of its own. The keys and what they close were found by trying; `tests/brains` holds them to it.
//!
//! ```text
//!  open      ── initialize, thread/start | thread/resume ──► the thread's id, to be remembered
//!  begin     ── turn/start ──► turn/started, item/started (what it has taken), item/tool/call, turn/completed
//!  steer     ── turn/steer ──► as above; refused once the turn is over, and then it is for the next
//!  interrupt ── turn/interrupt
//! ```
//!
//! What comes before the thread is there, or before the turn has an id, waits here.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cage::PROGRAM;
use super::{
    Answer, Brain, Call, Dialogue, Ending, LineError, Message, Program, Recorded, Runtime, STATE, Said, Tool, Trace,
    Turn, again,
};
use crate::ids::{EventId, SessionId, TurnId};

mod setup;

/// The version whose behaviour this was written for, and is tested with.
pub const VERSION: &str = "0.169.0";

/// The runtime.
#[derive(Debug, Clone, Copy)]
pub struct Codex;

impl Runtime for Codex {
    fn program(&self, brain: &Brain<'_>) -> Program {
        let env = [
            ("PATH", "/nonexistent".to_owned()),
            ("HOME", format!("{STATE}/home")),
            ("CODEX_HOME", format!("{STATE}/codex")),
            ("LANG", "C.UTF-8".to_owned()),
            // The gateway has the real one.
            (setup::KEY, "none".to_owned()),
        ];
        Program {
            argv: [PROGRAM, "app-server", "--strict-config"].map(str::to_owned).into(),
            env: env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            files: vec![
                ("codex/config.toml".to_owned(), setup::config(brain).into_bytes()),
                ("codex/catalog.json".to_owned(), setup::catalogue(brain).to_string().into_bytes()),
            ],
        }
    }

    fn trace(&self, _session: &SessionId, memory: Option<&str>) -> Option<Trace> {
        let thread = memory.filter(|thread| thread.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))?;
        Some(Trace {
            pattern: format!("codex/sessions/**/rollout-*-{thread}.jsonl"),
            // It looks for the thread, and does not mind the date.
            file: format!("{STATE}/codex/sessions/2026/01/01/rollout-2026-01-01T00-00-00-{thread}.jsonl"),
            holds: r#""session_meta""#,
        })
    }

    fn can_rejoin(&self) -> bool {
        false
    }

    fn dialogue(&self, brain: &Brain<'_>) -> Box<dyn Dialogue> {
        Box::new(Talk { tools: brain.tools.to_vec(), before: brain.memory.map(str::to_owned), ..Talk::default() })
    }
}

/// The conversation with one process.
#[derive(Debug, Default)]
struct Talk {
    tools: Vec<Tool>,
    /// The thread of an earlier process.
    before: Option<String>,
    /// The thread, once it is there.
    thread: Option<String>,
    turn: Stand,
    /// What waits until it can be said.
    waiting: Vec<Line>,
    /// It is to end its turn as soon as that has an id.
    is_unwanted: bool,
    /// Messages by the names that they were told with.
    told: BTreeMap<String, Vec<EventId>>,
    /// Calls that it waits for, and its requests for them.
    calls: BTreeMap<String, Value>,
    /// What it has written last: on the way, if something follows.
    words: Option<String>,
}

/// How its turn stands.
#[derive(Debug, Default, PartialEq, Eq)]
enum Stand {
    /// There is none.
    #[default]
    Idle,
    /// It is to begin one.
    Asked,
    /// It is in this one.
    In(String),
}

/// Something that it is to be told.
#[derive(Debug)]
struct Line {
    /// By which name it says that it has it.
    name: String,
    text: String,
}

/// The ids of our requests.
const INITIALIZE: &str = "initialize";
const THREAD: &str = "thread";
const TURN: &str = "turn";
const STEER: &str = "steer";
const INTERRUPT: &str = "interrupt";

impl Talk {
    fn new_thread(&self) -> Vec<u8> {
        let tool = |tool: &Tool| json!({ "type": "function", "name": tool.name, "description": tool.description, "inputSchema": tool.input });
        let tools: Vec<Value> = self.tools.iter().map(tool).collect();
        request(THREAD, "thread/start", &json!({ "environments": [], "dynamicTools": tools }))
    }

    /// Begins a turn with a text, or keeps it until there is a thread.
    fn start(&mut self, name: &str, messages: Vec<EventId>, text: String) -> Vec<u8> {
        self.told.insert(name.to_owned(), messages);
        (self.turn, self.is_unwanted, self.words) = (Stand::Asked, false, None);
        self.waiting = vec![Line { name: name.to_owned(), text }];
        self.say()
    }

    /// Says what waits, as far as it can be said.
    fn say(&mut self) -> Vec<u8> {
        let Some(thread) = &self.thread else { return Vec::new() };
        let parameters = |line: Line| {
            let input = json!([{ "type": "text", "text": line.text }]);
            json!({ "threadId": thread, "input": input, "clientUserMessageId": line.name })
        };
        match &self.turn {
            Stand::Idle => Vec::new(),
            // The first begins the turn; those behind it wait for its id.
            Stand::Asked if self.waiting.first().is_some_and(|line| line.name.starts_with(BEGIN)) => {
                request(TURN, "turn/start", &parameters(self.waiting.remove(0)))
            }
            Stand::Asked => Vec::new(),
            Stand::In(turn) => {
                let steer = |line: Line| {
                    let mut parameters = parameters(line);
                    parameters["expectedTurnId"] = json!(turn);
                    request(STEER, "turn/steer", &parameters)
                };
                std::mem::take(&mut self.waiting).into_iter().flat_map(steer).collect()
            }
        }
    }

    fn interruption(&self) -> Vec<u8> {
        let turn = match &self.turn {
            Stand::In(turn) => turn.as_str(),
            Stand::Idle | Stand::Asked => "",
        };
        request(INTERRUPT, "turn/interrupt", &json!({ "threadId": self.thread, "turnId": turn }))
    }

    /// The response to one of our requests.
    fn response(&mut self, id: &str, line: &Value) -> Result<Vec<Said>, LineError> {
        let error = &line["error"];
        match id {
            INITIALIZE if error.is_null() => Ok(Vec::new()),
            THREAD if error.is_null() => {
                let thread = line["result"]["thread"]["id"].as_str();
                let thread = thread.ok_or_else(|| wrong("its thread has no id".to_owned()))?.to_owned();
                self.thread = Some(thread.clone());
                Ok(vec![Said::Remember(thread), Said::Reply(self.say())])
            }
            // What it kept is gone, with its sandbox perhaps.
            THREAD if self.before.take().is_some() => Ok(vec![Said::Reply(self.new_thread())]),
            INITIALIZE | THREAD => Err(wrong(format!("it does not begin: {error:.500}"))),
            TURN if error.is_null() => {
                let turn = line["result"]["turn"]["id"].as_str();
                self.turn = Stand::In(turn.ok_or_else(|| wrong("its turn has no id".to_owned()))?.to_owned());
                let said = if self.is_unwanted { self.interruption() } else { self.say() };
                Ok(vec![Said::Reply(said)])
            }
            TURN => {
                self.turn = Stand::Idle;
                let message = error["message"].as_str().unwrap_or_default().chars().take(again::MAX_ERROR).collect();
                Ok(vec![Said::Ended(Ending::Failed { kind: "error.task", code: "turn_refused".to_owned(), message })])
            }
            // There was nothing to be interrupted.
            INTERRUPT if !error.is_null() && self.turn == Stand::Idle => Ok(vec![Said::Ended(Ending::Interrupted)]),
            _ => Ok(Vec::new()),
        }
    }

    fn item(&mut self, method: &str, item: &Value) -> Vec<Said> {
        match (method, item["type"].as_str()) {
            ("item/started", Some("userMessage")) => {
                let messages = item["clientId"].as_str().and_then(|name| self.told.remove(name));
                messages.into_iter().flatten().map(Said::Took).collect()
            }
            ("item/started", Some("agentMessage" | "dynamicToolCall")) => {
                self.words.take().map(Said::Text).into_iter().collect()
            }
            ("item/completed", Some("agentMessage")) => {
                self.words = item["text"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn completed(&mut self, turn: &Value) -> Vec<Said> {
        self.turn = Stand::Idle;
        // What it did not take comes back with the next turn.
        self.waiting.clear();
        self.told.clear();
        self.calls.clear();
        let ending = match turn["status"].as_str() {
            Some("completed") => Ending::Completed,
            Some("interrupted") => Ending::Interrupted,
            _ => failure(&turn["error"]),
        };
        let words = self.words.take().map(if ending == Ending::Completed { Said::Spoke } else { Said::Text });
        words.into_iter().chain([Said::Ended(ending)]).collect()
    }

    fn asked(&mut self, id: &Value, method: &str, parameters: &Value) -> Vec<Said> {
        let call = parameters["callId"].as_str();
        let Some(call) = call.filter(|_| method == "item/tool/call") else {
            let error = json!({ "code": -32601, "message": format!("no method {method:.64}") });
            return vec![Said::Reply(bytes(&json!({ "id": id, "error": error })))];
        };
        self.calls.insert(call.to_owned(), id.clone());
        let tool = parameters["tool"].as_str().unwrap_or_default().to_owned();
        vec![Said::Called(Call { id: call.to_owned(), tool, input: parameters["arguments"].clone() })]
    }
}

/// In front of the names of lines that begin a turn.
const BEGIN: &str = "begin ";

impl Dialogue for Talk {
    fn open(&mut self) -> Vec<u8> {
        let client = json!({ "name": "handsd", "version": env!("CARGO_PKG_VERSION") });
        let parameters = json!({ "clientInfo": client, "capabilities": { "experimentalApi": true } });
        let thread = match &self.before {
            Some(thread) => request(THREAD, "thread/resume", &json!({ "threadId": thread, "excludeTurns": true })),
            None => self.new_thread(),
        };
        [request(INITIALIZE, "initialize", &parameters), bytes(&json!({ "method": "initialized" })), thread].concat()
    }

    fn begin(&mut self, turn: &Turn) -> Vec<u8> {
        let messages = turn.messages.iter().map(|message| message.id.clone()).collect();
        self.start(&format!("{BEGIN}{}", turn.id), messages, again::texts(turn))
    }

    fn steer(&mut self, _turn: &TurnId, message: &Message) -> Vec<u8> {
        let name = message.id.to_string();
        self.told.insert(name.clone(), vec![message.id.clone()]);
        self.waiting.push(Line { name, text: message.text.clone() });
        self.say()
    }

    fn resume(&mut self, turn: &Turn, calls: &[Recorded]) -> Vec<u8> {
        let messages = turn.messages.iter().map(|message| message.id.clone()).collect();
        self.start(&format!("{BEGIN}{} {}", turn.id, turn.attempt), messages, again::resumption(turn, calls))
    }

    fn rejoin(&mut self, _turn: Option<&Turn>) -> Vec<u8> {
        Vec::new()
    }

    fn interrupt(&mut self, _turn: &TurnId) -> Vec<u8> {
        self.is_unwanted = true;
        match self.turn {
            Stand::Asked => Vec::new(),
            Stand::Idle | Stand::In(_) => self.interruption(),
        }
    }

    fn answer(&mut self, call: &str, answer: &Answer) -> Vec<u8> {
        match self.calls.remove(call) {
            Some(id) => {
                let items = json!([{ "type": "inputText", "text": answer.text }]);
                bytes(&json!({ "id": id, "result": { "contentItems": items, "success": answer.is_ok } }))
            }
            // It is told with the turn, or nobody waits for it any more.
            None if self.turn == Stand::Idle => Vec::new(),
            None => {
                self.waiting.push(Line { name: format!("answer {call}"), text: again::late_answer(call, answer) });
                self.say()
            }
        }
    }

    fn read(&mut self, line: &[u8]) -> Result<Vec<Said>, LineError> {
        let line: Value = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        let (id, parameters) = (&line["id"], &line["params"]);
        match (line["method"].as_str(), id) {
            (None, Value::String(id)) => self.response(id, &line),
            (None, _) => Err(wrong("it is neither a request nor a response".to_owned())),
            (Some("turn/completed"), Value::Null) => Ok(self.completed(&parameters["turn"])),
            (Some(method @ ("item/started" | "item/completed")), Value::Null) => {
                Ok(self.item(method, &parameters["item"]))
            }
            (Some("error"), Value::Null) if parameters["willRetry"] == true => {
                let message = parameters["error"]["message"].as_str().unwrap_or_default();
                Ok(vec![Said::Note("model.retry", json!({ "message": format!("{message:.500}") }))])
            }
            (Some(_), Value::Null) => Ok(Vec::new()),
            (Some(method), id) => Ok(self.asked(id, method, parameters)),
        }
    }
}

/// Why a turn failed: the model's provider, if it says with which status.
fn failure(error: &Value) -> Ending {
    let kinds = error["codexErrorInfo"].as_object();
    let status = kinds.and_then(|kinds| kinds.values().find_map(|kind| kind["httpStatusCode"].as_u64()));
    let code = status.map_or_else(|| "model_failed".to_owned(), |status| format!("model_{status}"));
    let message = error["message"].as_str().unwrap_or_default().chars().take(again::MAX_ERROR).collect();
    Ending::Failed { kind: "error.model", code, message }
}

fn wrong(message: String) -> LineError {
    LineError { message }
}

fn request(id: &str, method: &str, parameters: &Value) -> Vec<u8> {
    bytes(&json!({ "id": id, "method": method, "params": parameters }))
}

fn bytes(line: &Value) -> Vec<u8> {
    format!("{line}\n").into_bytes()
}

#[cfg(test)]
mod tests;
