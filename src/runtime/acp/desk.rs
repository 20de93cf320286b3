//! What an agent asks of its client. Pure.
//!
//! | request | what is done |
//! |---|---|
//! | `fs/read_text_file`, `fs/write_text_file` | the tools `read`, of the whole file, and `write` |
//! | `terminal/create` | the tool `bash`, for as long as the turn |
//! | `terminal/output`, `terminal/wait_for_exit` | see `terminal` |
//! | `terminal/kill`, `terminal/release` | the command is stopped; the former is answered once it has ended |
//! | `session/request_permission` | given, for once: what goes through the hands may be done, and for all else there is the cage |
//!
//! Each call has a name that no other of the session has, whatever ids the agent gives to its requests.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Answer, Call, Said, Turn};
use super::rpc::{self, Fault};
use super::terminal::{Terminal, Wait, command_line};

/// Calls and terminals that may be open at once: an agent with more has lost track of them.
const MAX_OPEN: usize = 64;

/// How long a command may run, in seconds: longer than any turn, which ends it.
const LONGEST: u64 = 86_400;

/// What it asked for, and has not been told.
#[derive(Debug, Default)]
pub struct Desk {
    /// Its session, once there is one.
    session: String,
    /// In front of the names of calls: the turn, and the process within it.
    turn: String,
    /// Calls that were made since.
    calls: u64,
    /// Files that are being read or written.
    files: BTreeMap<String, (Value, File)>,
    /// Commands, by the names of their calls, which are the ids of their terminals.
    terminals: BTreeMap<String, Terminal>,
}

/// What becomes of the answer of a call.
#[derive(Debug, Clone, Copy)]
enum File {
    Read,
    Written,
}

#[derive(Debug, Deserialize)]
struct Read<'a> {
    path: &'a str,
    line: Option<u64>,
    limit: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Write {
    path: String,
    content: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    cwd: Option<String>,
    output_byte_limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    terminal_id: String,
}

#[derive(Debug, Deserialize)]
struct Permission {
    options: Vec<Choice>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Choice {
    option_id: String,
    kind: String,
}

impl Desk {
    /// It has a session.
    pub fn open(&mut self, session: &str) {
        session.clone_into(&mut self.session);
    }

    /// It has a turn. Of those before, nothing is open any more.
    pub fn begin(&mut self, turn: &Turn) {
        self.turn = format!("{}.{}", turn.id, turn.attempt);
        self.calls = 0;
        self.files.clear();
        self.terminals.clear();
    }

    /// It asks for something; `is_unwanted`: its turn is to end.
    pub fn asked(&mut self, id: Value, method: &str, parameters: &Value, is_unwanted: bool) -> Vec<Said> {
        let refused = id.clone();
        let done = match method {
            _ if self.session.is_empty() || parameters["sessionId"] != self.session => {
                Err(Fault::parameters("sessionId: there is no such session"))
            }
            "fs/read_text_file" => rpc::parameters(parameters).and_then(|it| self.read(id, &it)),
            "fs/write_text_file" => rpc::parameters(parameters).and_then(|it| self.write(id, &it)),
            "terminal/create" => rpc::parameters(parameters).and_then(|it| self.create(&id, it)),
            "terminal/output" => self.terminal(parameters).map(|(_, terminal)| reply(&id, terminal.output())),
            "terminal/wait_for_exit" => {
                self.terminal(parameters).map(|(_, terminal)| vec![Said::Reply(terminal.wait(id, Wait::Status))])
            }
            "terminal/kill" => self
                .terminal(parameters)
                .map(|(name, terminal)| vec![Said::Stop(name), Said::Reply(terminal.wait(id, Wait::Kill))]),
            "terminal/release" => self.release(&id, parameters),
            "session/request_permission" => {
                rpc::parameters(parameters).map(|it| reply(&id, json!({ "outcome": permitted(it, is_unwanted) })))
            }
            _ => Err(Fault::method(method)),
        };
        done.unwrap_or_else(|fault| vec![Said::Reply(rpc::response(&refused, Err(fault)))])
    }

    /// What came of a call, for who asked for it; `None`: nobody did.
    pub fn answer(&mut self, call: &str, answer: &Answer) -> Option<Vec<u8>> {
        if let Some((id, file)) = self.files.remove(call) {
            let outcome = match file {
                _ if !answer.is_ok => Err(Fault::failed(answer.text.clone())),
                File::Read => Ok(json!({ "content": answer.text })),
                File::Written => Ok(json!({})),
            };
            return Some(rpc::response(&id, outcome));
        }
        let terminal = self.terminals.get_mut(call)?;
        let told = terminal.end(answer.clone());
        if terminal.is_released {
            self.terminals.remove(call);
        }
        Some(told)
    }

    fn call(&mut self, tool: &str, input: Value) -> Result<Call, Fault> {
        if self.files.len() + self.terminals.len() >= MAX_OPEN {
            return Err(Fault::failed(format!(
                "{MAX_OPEN} calls and terminals are open, which is as many as there may be"
            )));
        }
        self.calls += 1;
        Ok(Call { id: format!("{}.{}", self.turn, self.calls), tool: tool.to_owned(), input })
    }

    fn read(&mut self, id: Value, read: &Read<'_>) -> Result<Vec<Said>, Fault> {
        // Its lines are counted from 1.
        let skip = read.line.map(|line| line.saturating_sub(1));
        let input = json!({ "path": read.path, "offset": skip, "limit": read.limit, "whole": true });
        self.file(id, File::Read, "read", input)
    }

    fn write(&mut self, id: Value, write: &Write) -> Result<Vec<Said>, Fault> {
        self.file(id, File::Written, "write", json!({ "path": write.path, "content": write.content }))
    }

    fn file(&mut self, id: Value, file: File, tool: &str, input: Value) -> Result<Vec<Said>, Fault> {
        let call = self.call(tool, input)?;
        self.files.insert(call.id.clone(), (id, file));
        Ok(vec![Said::Called(call)])
    }

    fn create(&mut self, id: &Value, create: Create) -> Result<Vec<Said>, Fault> {
        let Create { command, args, env, cwd, output_byte_limit } = create;
        let env: BTreeMap<String, String> = env.into_iter().map(|it| (it.name, it.value)).collect();
        let command = command_line(&command, &args);
        let call =
            self.call("bash", json!({ "command": command, "cwd": cwd, "env": env, "timeout_seconds": LONGEST }))?;
        self.terminals.insert(call.id.clone(), Terminal::new(output_byte_limit));
        let made = rpc::response(id, Ok(json!({ "terminalId": call.id })));
        Ok(vec![Said::Called(call), Said::Reply(made)])
    }

    fn terminal(&mut self, parameters: &Value) -> Result<(String, &mut Terminal), Fault> {
        let Named { terminal_id } = rpc::parameters(parameters)?;
        match self.terminals.get_mut(&terminal_id) {
            Some(terminal) if !terminal.is_released => Ok((terminal_id, terminal)),
            _ => Err(Fault::parameters("terminalId: there is no such terminal")),
        }
    }

    fn release(&mut self, id: &Value, parameters: &Value) -> Result<Vec<Said>, Fault> {
        let (name, terminal) = self.terminal(parameters)?;
        terminal.is_released = true;
        if terminal.is_over() {
            self.terminals.remove(&name);
            return Ok(reply(id, json!({})));
        }
        Ok([Said::Stop(name)].into_iter().chain(reply(id, json!({}))).collect())
    }
}

/// The first choice that permits it, for once if that can be chosen.
fn permitted(permission: Permission, is_unwanted: bool) -> Value {
    let of = |kind: &str| permission.options.iter().find(|choice| choice.kind == kind);
    match of("allow_once").or_else(|| of("allow_always")).filter(|_| !is_unwanted) {
        Some(choice) => json!({ "outcome": "selected", "optionId": choice.option_id }),
        None => json!({ "outcome": "cancelled" }),
    }
}

fn reply(id: &Value, result: Value) -> Vec<Said> {
    vec![Said::Reply(rpc::response(id, Ok(result)))]
}
