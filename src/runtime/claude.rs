//! Claude Code: one process for as long as there is no reason for another, spoken to by its stream of JSON.
//!
//! All that it brings along is off: its tools, commands, settings, memory, and its reading of files that a text mentions. Its
//! tools are ours, in-band: it asks an MCP server that is this dialogue. So the pipe is the caller's identity, and there is
//! nothing inside that could be stolen. The flags and what they close were found by trying; `tests/brains` holds them to it.
//!
//! ```text
//!  begin, steer ── user line with a uuid ──► queued, started, completed | cancelled   (command_lifecycle)
//!  answer       ── control_response ──────►  the tool's result
//!  interrupt    ── control_request ───────►  result, then cancelled
//! ```
//!
//! A turn is over when there was a `result` and none of its lines is open: a message that comes while the last words are
//! written gets a result of its own, in the same turn of ours.
//!
//! Whatever ended a process, the next one resumes the conversation by its id from the file that it kept, and is told what the
//! record says of the calls that were under way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cage::PROGRAM;
use super::{
    Answer, Brain, Dialogue, Ending, LineError, Message, Program, Recorded, Runtime, STATE, Said, Tool, Trace, Turn,
    again,
};
use crate::gateway;
use crate::ids::{EventId, SessionId, TurnId};

mod mcp;

/// The version whose behaviour this was written for, and is tested with.
pub const VERSION: &str = "2.1.330";

/// The name of the server of our tools, which is in front of their names.
const SERVER: &str = "hands";

/// How often it asks a model again before it gives up. Each try has the gateway's deadlines.
const RETRIES: u32 = 3;

/// How long it waits for an answer, in milliseconds: longer than the gateway, which cuts off in time what hangs.
const API_TIMEOUT_MS: u32 = 600_000;

/// The runtime.
#[derive(Debug, Clone, Copy)]
pub struct Claude;

impl Runtime for Claude {
    fn program(&self, brain: &Brain<'_>) -> Program {
        let id = uuid(brain.session.as_str());
        let mut argv: Vec<String> = [
            PROGRAM,
            "--print",
            "--bare",
            "--verbose",
            "--input-format=stream-json",
            "--output-format=stream-json",
            "--tools=",
            "--strict-mcp-config",
            "--mcp-config",
            "mcp.json",
            "--permission-mode=dontAsk",
            "--allowedTools=mcp__hands",
            "--setting-sources=",
            "--disable-slash-commands",
            "--system-prompt-file=prompt",
        ]
        .map(str::to_owned)
        .into();
        argv.push(format!("--model={}", brain.model));
        argv.push(if brain.is_kept { format!("--resume={id}") } else { format!("--session-id={id}") });
        let env = [
            ("PATH", "/nonexistent".to_owned()),
            ("HOME", format!("{STATE}/home")),
            ("CLAUDE_CONFIG_DIR", format!("{STATE}/config")),
            ("TMPDIR", "/tmp".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("ANTHROPIC_BASE_URL", format!("http://127.0.0.1:{}", gateway::PORT)),
            // The gateway has the real one.
            ("ANTHROPIC_API_KEY", "none".to_owned()),
            ("API_TIMEOUT_MS", API_TIMEOUT_MS.to_string()),
            ("CLAUDE_CODE_MAX_RETRIES", RETRIES.to_string()),
            ("CLAUDE_CODE_DISABLE_FILE_MENTIONS", "1".to_owned()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
            ("DISABLE_AUTOUPDATER", "1".to_owned()),
            ("DISABLE_TELEMETRY", "1".to_owned()),
            ("DISABLE_ERROR_REPORTING", "1".to_owned()),
        ];
        let servers = json!({ "mcpServers": { SERVER: { "type": "sdk", "name": SERVER } } });
        Program {
            argv,
            env: env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            files: vec![
                ("prompt".to_owned(), brain.prompt.as_bytes().to_vec()),
                ("mcp.json".to_owned(), servers.to_string().into_bytes()),
            ],
        }
    }

    fn trace(&self, session: &SessionId, _memory: Option<&str>) -> Option<Trace> {
        // It names the directory after its working directory.
        let pattern = format!("config/projects/{}/{}.jsonl", STATE.replace('/', "-"), uuid(session.as_str()));
        Some(Trace { file: format!("{STATE}/{pattern}"), pattern, holds: r#""type":"user","message""# })
    }

    fn can_rejoin(&self) -> bool {
        false
    }

    fn dialogue(&self, brain: &Brain<'_>) -> Box<dyn Dialogue> {
        Box::new(Talk { tools: brain.tools.to_vec(), ..Talk::default() })
    }
}

/// The conversation with one process.
#[derive(Debug, Default)]
struct Talk {
    tools: Vec<Tool>,
    /// Lines that it has not done with, by their uuid, and the messages in them.
    open: BTreeMap<String, Vec<EventId>>,
    /// Calls that it waits for.
    calls: BTreeMap<String, mcp::Waiting>,
    /// What it has written last: on the way, if something follows.
    words: Option<String>,
    /// How its work ended, if nothing follows.
    ending: Option<Ending>,
    /// It knows of a turn.
    is_told: bool,
}

impl Talk {
    /// A line of the user; nothing that begins as a command is one.
    fn user(&mut self, uuid: String, messages: Vec<EventId>, text: &str) -> Vec<u8> {
        let content = if text.starts_with('/') { format!(" {text}") } else { text.to_owned() };
        let message = json!({ "role": "user", "content": content });
        let line = json!({ "type": "user", "message": message, "uuid": &uuid });
        self.open.insert(uuid, messages);
        self.is_told = true;
        bytes(&line)
    }

    fn lifecycle(&mut self, line: &Value) -> Vec<Said> {
        let uuid = line["command_uuid"].as_str().unwrap_or_default();
        match line["state"].as_str() {
            Some("started") => {
                // Something follows after all.
                self.ending = None;
                self.open.get(uuid).into_iter().flatten().cloned().map(Said::Took).collect()
            }
            Some("completed" | "cancelled") => {
                self.open.remove(uuid);
                self.over()
            }
            _ => Vec::new(),
        }
    }

    fn over(&mut self) -> Vec<Said> {
        match self.ending.take_if(|_| self.open.is_empty()) {
            Some(ending) => vec![Said::Ended(ending)],
            None => Vec::new(),
        }
    }

    fn assistant(&mut self, line: &Value) -> Vec<Said> {
        let mut said = Vec::new();
        for block in line["message"]["content"].as_array().into_iter().flatten() {
            said.extend(self.words.take().map(Said::Text));
            self.words = block["text"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        }
        said
    }

    fn result(&mut self, line: &Value) -> Vec<Said> {
        let words = self.words.take();
        let ending = ending(line);
        let is_whole = ending == Ending::Completed;
        self.ending = Some(ending);
        let mut said: Vec<Said> = words.map(if is_whole { Said::Spoke } else { Said::Text }).into_iter().collect();
        said.extend(self.over());
        said
    }

    /// It has our tools and no others, or it does not work.
    fn check(&self, line: &Value) -> Result<Vec<Said>, LineError> {
        let ours: BTreeSet<String> = self.tools.iter().map(|tool| format!("mcp__{SERVER}__{}", tool.name)).collect();
        let has = line["tools"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let has: BTreeSet<String> = has.map(str::to_owned).collect();
        if has == ours { Ok(Vec::new()) } else { Err(wrong(format!("it has the tools {has:?} instead of {ours:?}"))) }
    }

    fn answered(&mut self, response: &Value) -> Result<Vec<Said>, LineError> {
        match (response["request_id"].as_str(), response["subtype"].as_str()) {
            (Some(OPEN), Some("error")) => Err(wrong(format!("it does not begin: {:.500}", response["error"]))),
            // There was nothing to be interrupted.
            (Some(INTERRUPT), _) if self.open.is_empty() && self.ending.is_none() => {
                Ok(vec![Said::Ended(Ending::Interrupted)])
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// The ids of what we ask of it.
const OPEN: &str = "open";
const INTERRUPT: &str = "interrupt";

impl Dialogue for Talk {
    fn open(&mut self) -> Vec<u8> {
        let request = json!({ "subtype": "initialize", "sdkMcpServers": [SERVER] });
        bytes(&json!({ "type": "control_request", "request_id": OPEN, "request": request }))
    }

    fn begin(&mut self, turn: &Turn) -> Vec<u8> {
        (self.words, self.ending) = (None, None);
        let messages = turn.messages.iter().map(|message| message.id.clone()).collect();
        self.user(uuid(turn.id.as_str()), messages, &again::texts(turn))
    }

    fn steer(&mut self, _turn: &TurnId, message: &Message) -> Vec<u8> {
        self.user(uuid(message.id.as_str()), vec![message.id.clone()], &message.text)
    }

    fn resume(&mut self, turn: &Turn, calls: &[Recorded]) -> Vec<u8> {
        let messages = turn.messages.iter().map(|message| message.id.clone()).collect();
        // A uuid that it has seen it passes over.
        let uuid = uuid(&format!("{} {}", turn.id, turn.attempt));
        self.user(uuid, messages, &again::resumption(turn, calls))
    }

    fn rejoin(&mut self, _turn: Option<&Turn>) -> Vec<u8> {
        Vec::new()
    }

    fn interrupt(&mut self, _turn: &TurnId) -> Vec<u8> {
        // What it has not begun comes back with the next turn.
        let request = json!({ "subtype": "interrupt", "cancel_queued": true });
        bytes(&json!({ "type": "control_request", "request_id": INTERRUPT, "request": request }))
    }

    fn answer(&mut self, call: &str, answer: &Answer) -> Vec<u8> {
        match self.calls.remove(call) {
            Some(waiting) => bytes(&waiting.result(answer)),
            None if self.is_told => {
                let uuid = uuid(&format!("{call} {}", answer.text));
                self.user(uuid, Vec::new(), &again::late_answer(call, answer))
            }
            // It is told with the turn.
            None => Vec::new(),
        }
    }

    fn read(&mut self, line: &[u8]) -> Result<Vec<Said>, LineError> {
        let line: Value = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        match (line["type"].as_str(), line["subtype"].as_str()) {
            (Some("control_request"), _) => Ok(mcp::request(&line, &self.tools, &mut self.calls)),
            (Some("control_response"), _) => self.answered(&line["response"]),
            (Some("command_lifecycle"), _) => Ok(self.lifecycle(&line)),
            (Some("assistant"), _) => Ok(self.assistant(&line)),
            (Some("result"), _) => Ok(self.result(&line)),
            (Some("system"), Some("init")) => self.check(&line),
            (Some("system"), Some("api_retry")) => {
                let body = json!({ "attempt": line["attempt"], "status": line["error_status"], "after_ms": line["retry_delay_ms"] });
                Ok(vec![Said::Note("model.retry", body)])
            }
            // Echoes of what it was told, and signs of life, which prove nothing.
            (Some(_), _) => Ok(Vec::new()),
            (None, _) => Err(wrong("it has no type".to_owned())),
        }
    }
}

/// How its work ended. A refusal of the model's provider may well be a "success" with an error in it.
fn ending(line: &Value) -> Ending {
    let reason = line["terminal_reason"].as_str().unwrap_or_default();
    if reason.starts_with("aborted") {
        return Ending::Interrupted;
    }
    if line["is_error"] != Value::Bool(true) && line["subtype"] == "success" {
        return Ending::Completed;
    }
    let first_error = line["errors"].as_array().and_then(|errors| errors.first()).and_then(Value::as_str);
    let message = line["result"].as_str().or(first_error).unwrap_or(reason);
    let message = message.chars().take(again::MAX_ERROR).collect();
    let (kind, code) = match line["api_error_status"].as_u64() {
        Some(status) => ("error.model", format!("model_{status}")),
        None if reason == "api_error" => ("error.model", "model_failed".to_owned()),
        None => ("error.task", line["subtype"].as_str().unwrap_or("failed").to_owned()),
    };
    Ending::Failed { kind, code, message }
}

fn wrong(message: String) -> LineError {
    LineError { message }
}

fn bytes(line: &Value) -> Vec<u8> {
    format!("{line}\n").into_bytes()
}

/// A name as it takes them: the same word, the same uuid (RFC 9562, of no standard's making: version 8).
fn uuid(word: &str) -> String {
    let mut bytes: Vec<u8> = Sha256::digest(word).iter().take(16).copied().collect();
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = |range: std::ops::Range<usize>| bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)].join("-")
}

#[cfg(test)]
mod tests;
