//! The brain calls tools. Pure.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::event::{Level, NewEvent};
use super::{Effect, Record, Step};
use crate::ids::{EventId, RunId, SandboxId};
use crate::runtime::{Answer, Call};

/// Calls of one turn: more are a loop.
const MAX_CALLS: usize = 10_000;

/// Longest id of a call, in bytes.
const MAX_CALL_ID: usize = 256;

/// Longest summary of a call's arguments, in characters.
const SUMMARY: usize = 200;

impl Step<'_> {
    pub(super) fn open_calls(&self) -> impl Iterator<Item = &String> {
        self.state.calls.iter().filter(|(_, call)| call.answer.is_none() && !call.is_void).map(|(id, _)| id)
    }

    pub(super) fn called(&mut self, call: Call) {
        let refused = |text: &str| Answer::error(text);
        let is_open = self.state.active.as_ref().is_some_and(|it| it.closing.is_none() && it.ended.is_none());
        match self.state.calls.get(&call.id) {
            Some(known) if known.digest != digest(&call) => {
                let answer = refused("another call of this turn has the same id");
                self.act(Effect::Answer(call.id, answer));
            }
            Some(known) if known.is_void && is_open => self.new_call(call),
            Some(known) if known.answer.is_some() => self.act(Effect::Replay(call.id)),
            // It is answered when it is done.
            Some(_) => {}
            None if !is_open => self.act(Effect::Answer(call.id, refused("the turn is over: end it"))),
            None if call.id.is_empty() || call.id.len() > MAX_CALL_ID => {
                self.act(Effect::Answer(call.id, refused("the id of a call has 1 to 256 bytes")));
            }
            None if self.state.calls.len() >= MAX_CALLS => {
                self.act(Effect::Answer(call.id, refused("the turn has made too many calls")));
            }
            None => self.new_call(call),
        }
    }

    pub(super) fn new_call(&mut self, call: Call) {
        let record = Record {
            tool: call.tool.clone(),
            digest: digest(&call),
            at_ms: self.now_ms,
            told: 0,
            is_void: false,
            answer: None,
        };
        let is_again = self.state.calls.insert(call.id.clone(), record.clone()).is_some();
        match call.tool.as_str() {
            "say" => match text_of(&call.input, "text") {
                Ok(text) => {
                    self.speak(json!({ "text": text }));
                    self.has_spoken();
                    self.settle(&call.id, Answer::ok("delivered"));
                }
                Err(answer) => self.settle(&call.id, answer),
            },
            "ask" => match text_of(&call.input, "question") {
                Ok(question) => {
                    self.speak(json!({ "text": question, "awaiting_input": true }));
                    self.has_spoken();
                    if let Some(active) = &mut self.state.active {
                        active.has_asked = true;
                    }
                    let text = "delivered; end your turn now, the answer arrives as the next message";
                    self.settle(&call.id, Answer::ok(text));
                }
                Err(answer) => self.settle(&call.id, answer),
            },
            _ => {
                let body = json!({ "tool": call.tool, "args_summary": summary(&call.input), "call_id": call.id });
                if !is_again {
                    self.emit(NewEvent::agent(Level::Progress, "tool.call", body));
                }
                self.out.calls.push((call.id.clone(), record));
                self.act(Effect::Run(call));
            }
        }
    }

    /// The brain speaks to the user.
    pub(super) fn speak(&mut self, body: Value) {
        let seq = self.emit(NewEvent::agent(Level::User, "agent.message", body));
        let id = EventId::of(self.rules.session, seq);
        if let Some(active) = &mut self.state.active {
            active.turn.result = Some(id);
        }
    }

    fn has_spoken(&mut self) {
        if let Some(active) = &mut self.state.active {
            active.has_spoken = true;
        }
    }

    /// The call is done: stores it, and answers.
    pub(super) fn settle(&mut self, id: &str, answer: Answer) {
        let Some(call) = self.state.calls.get_mut(id) else { return };
        let mut record = call.clone();
        record.answer = Some(answer.clone());
        // The store has the text; here it is enough to know that there is one.
        call.answer = Some(Answer { text: String::new(), is_ok: answer.is_ok, exit: answer.exit });
        self.out.calls.push((id.to_owned(), record));
        self.act(Effect::Answer(id.to_owned(), answer));
    }

    /// The brain no longer wants a call; one that is done it may stop too.
    pub(super) fn stop(&mut self, id: String) {
        if self.state.calls.get(&id).is_some_and(|call| call.answer.is_none()) {
            self.act(Effect::StopCall(id));
        }
    }

    pub(super) fn began(&mut self, id: &str, sandbox: &SandboxId, run: &RunId) {
        let body = json!({ "call_id": id, "run_id": run.as_str(), "sandbox_id": sandbox.as_str() });
        self.emit(NewEvent::system(Level::Internal, "exec.started", body));
    }

    pub(super) fn told(&mut self, id: &str, to: u64, body: Value) {
        // So that a new daemon does not tell it again.
        if let Some(call) = self.state.calls.get_mut(id).filter(|call| call.answer.is_none()) {
            call.told = to;
            self.out.calls.push((id.to_owned(), call.clone()));
        }
        self.emit(NewEvent::system(Level::Output, "exec.output", body));
    }

    /// The call never began.
    pub(super) fn void(&mut self, id: &str) {
        let Some(call) = self.state.calls.get_mut(id).filter(|call| call.answer.is_none()) else { return };
        call.is_void = true;
        self.out.calls.push((id.to_owned(), call.clone()));
        self.finish_if_quiet();
    }

    pub(super) fn done(&mut self, id: &str, answer: Answer, exec: Option<Value>) {
        let Some(call) = self.state.calls.get(id).filter(|call| call.answer.is_none()) else { return };
        let event = match exec {
            Some(body) => NewEvent::system(Level::Progress, "exec.completed", body),
            None => {
                let body = json!({
                    "tool": call.tool, "call_id": id, "ok": answer.is_ok, "bytes": answer.text.len(),
                });
                NewEvent::system(Level::Internal, "tool.completed", body)
            }
        };
        self.emit(event);
        self.settle(id, answer);
        self.finish_if_quiet();
    }
}

/// A text that an input must have.
fn text_of(input: &Value, field: &str) -> Result<String, Answer> {
    let text = input.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| Answer::error(format!("{field}: a text is needed")))
}

/// Tells one call from another.
fn digest(call: &Call) -> String {
    let sum = Sha256::new().chain_update(&call.tool).chain_update([0]).chain_update(call.input.to_string()).finalize();
    sum.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The arguments of a call, short enough for a line.
fn summary(input: &Value) -> String {
    let first =
        input.as_object().and_then(|fields| ["command", "path", "pattern"].iter().find_map(|it| fields.get(*it)));
    let text = first.and_then(Value::as_str).map_or_else(|| input.to_string(), str::to_owned);
    if text.chars().count() <= SUMMARY { text } else { text.chars().take(SUMMARY - 1).chain(['…']).collect() }
}
