//! Lines as version 2.1.330 writes them, and what they mean.

use super::super::{Call, Kind, PLAIN};
use super::*;
use crate::ids::SessionId;

struct Talking {
    talk: Box<dyn Dialogue>,
    session: SessionId,
}

impl Talking {
    fn new() -> Self {
        let session = SessionId::random();
        let tools = [Tool { name: "bash", description: "Runs.", input: json!({ "type": "object" }) }];
        let brain = brain(&session, &tools);
        Self { talk: Kind::Claude.runtime().dialogue(&brain), session }
    }

    fn message(&self, seq: u64, text: &str) -> Message {
        Message { id: EventId::of(&self.session, seq), text: text.to_owned(), is_taken: false }
    }

    fn turn(&self, text: &str) -> Turn {
        Turn { id: TurnId::of(&self.session, 1), attempt: 1, messages: vec![self.message(1, text)] }
    }

    /// A turn begins; the uuid of its line.
    fn begin(&mut self, text: &str) -> String {
        let turn = self.turn(text);
        let line = parsed(&self.talk.begin(&turn));
        line["uuid"].as_str().unwrap().to_owned()
    }

    fn read(&mut self, line: &Value) -> Vec<Said> {
        self.talk.read(line.to_string().as_bytes()).unwrap()
    }

    fn lifecycle(&mut self, uuid: &str, state: &str) -> Vec<Said> {
        self.read(&json!({ "type": "command_lifecycle", "command_uuid": uuid, "state": state }))
    }
}

fn brain<'a>(session: &'a SessionId, tools: &'a [Tool]) -> Brain<'a> {
    Brain { session, model: "m", prompt: "p", guest: "/g", tools, launch: &PLAIN, memory: None, is_kept: false }
}

fn parsed(line: &[u8]) -> Value {
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "it is one line");
    serde_json::from_slice(line).unwrap()
}

fn result(more: Value) -> Value {
    let mut line = json!({ "type": "result", "subtype": "success", "is_error": false, "terminal_reason": "completed" });
    line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    line
}

fn text(text: &str) -> Value {
    json!({ "type": "assistant", "message": { "content": [{ "type": "text", "text": text }] } })
}

fn call(request: &str, id: &str) -> Value {
    let parameters =
        json!({ "name": "bash", "arguments": { "command": "true" }, "_meta": { "claudecode/toolUseId": id } });
    let message = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": parameters });
    json!({ "type": "control_request", "request_id": request, "request": { "subtype": "mcp_message", "message": message } })
}

#[test]
fn a_turn_with_a_call_ends_once_its_line_is_done() {
    let mut talking = Talking::new();
    let uuid = talking.begin("hello");
    let took = Said::Took(EventId::of(&talking.session, 1));
    assert_eq!(talking.lifecycle(&uuid, "queued"), []);
    assert_eq!(talking.lifecycle(&uuid, "started"), [took]);
    assert_eq!(talking.read(&text("let me see")), []);
    let tool_use = json!({ "type": "assistant", "message": { "content": [{ "type": "tool_use", "id": "toolu_1" }] } });
    assert_eq!(talking.read(&tool_use), [Said::Text("let me see".to_owned())]);
    let wanted = Call { id: "toolu_1".to_owned(), tool: "bash".to_owned(), input: json!({ "command": "true" }) };
    assert_eq!(talking.read(&call("r1", "toolu_1")), [Said::Called(wanted)]);
    let answer = parsed(&talking.talk.answer("toolu_1", &Answer::ok("fine")));
    let message = &answer["response"]["response"]["mcp_response"];
    assert_eq!((&answer["response"]["request_id"], &message["id"]), (&json!("r1"), &json!(2)));
    assert_eq!(message["result"], json!({ "content": [{ "type": "text", "text": "fine" }], "isError": false }));
    assert_eq!(talking.read(&text("done")), []);
    assert_eq!(talking.read(&result(json!({}))), [Said::Spoke("done".to_owned())]);
    assert_eq!(talking.lifecycle(&uuid, "completed"), [Said::Ended(Ending::Completed)]);
}

#[test]
fn a_message_that_comes_with_the_last_words_gets_a_result_in_the_same_turn() {
    let mut talking = Talking::new();
    let first = talking.begin("hello");
    let (turn, message) = (TurnId::of(&talking.session, 1), talking.message(5, "more"));
    let second = parsed(&talking.talk.steer(&turn, &message))["uuid"].as_str().unwrap().to_owned();
    talking.read(&text("one"));
    assert_eq!(talking.read(&result(json!({}))), [Said::Spoke("one".to_owned())]);
    assert_eq!(talking.lifecycle(&first, "completed"), []);
    assert_eq!(talking.lifecycle(&second, "started"), [Said::Took(message.id)]);
    talking.read(&text("two"));
    assert_eq!(talking.read(&result(json!({}))), [Said::Spoke("two".to_owned())]);
    assert_eq!(talking.lifecycle(&second, "completed"), [Said::Ended(Ending::Completed)]);
}

#[test]
fn an_interrupt_ends_the_turn_and_takes_no_message_with_it() {
    let mut talking = Talking::new();
    let first = talking.begin("hello");
    let (turn, message) = (TurnId::of(&talking.session, 1), talking.message(5, "more"));
    let second = parsed(&talking.talk.steer(&turn, &message))["uuid"].as_str().unwrap().to_owned();
    let request = parsed(&talking.talk.interrupt(&turn));
    assert_eq!(request["request"], json!({ "subtype": "interrupt", "cancel_queued": true }));
    assert_eq!(talking.lifecycle(&second, "cancelled"), []);
    let done = json!({ "type": "control_response", "response": { "subtype": "success", "request_id": "interrupt" } });
    assert_eq!(talking.read(&done), []);
    let aborted =
        json!({ "subtype": "error_during_execution", "is_error": true, "terminal_reason": "aborted_streaming" });
    assert_eq!(talking.read(&result(aborted)), []);
    assert_eq!(talking.lifecycle(&first, "cancelled"), [Said::Ended(Ending::Interrupted)]);
    // And where there was nothing to be interrupted, that is the end of it.
    assert_eq!(talking.read(&done), [Said::Ended(Ending::Interrupted)]);
}

#[test]
fn an_error_of_the_model_is_one_even_if_it_is_called_a_success() {
    let refused = json!({ "is_error": true, "terminal_reason": "api_error", "api_error_status": 400, "result": "no" });
    let (code, message) = ("model_400".to_owned(), "no".to_owned());
    assert_eq!(ending(&result(refused)), Ending::Failed { kind: "error.model", code, message });
    let stopped =
        json!({ "subtype": "error_max_turns", "is_error": true, "terminal_reason": "max_turns", "errors": ["x"] });
    let (code, message) = ("error_max_turns".to_owned(), "x".to_owned());
    assert_eq!(ending(&result(stopped)), Ending::Failed { kind: "error.task", code, message });
}

#[test]
fn a_text_is_no_command_and_every_line_has_another_name() {
    let mut talking = Talking::new();
    let turn = talking.turn("/compact");
    let begun = parsed(&talking.talk.begin(&turn));
    assert_eq!(begun["message"]["content"], " /compact");
    let again = Turn { attempt: 2, ..turn.clone() };
    let resumed = parsed(&talking.talk.resume(&again, &[]));
    assert!(resumed["message"]["content"].as_str().unwrap().contains("\n/compact\n"), "{resumed}");
    let third = parsed(&talking.talk.resume(&Turn { attempt: 3, ..turn }, &[]));
    assert!(begun["uuid"] != resumed["uuid"] && resumed["uuid"] != third["uuid"]);
}

#[test]
fn the_answer_of_a_call_of_before_is_a_message_once_there_is_a_turn() {
    let mut talking = Talking::new();
    assert_eq!(talking.talk.answer("toolu_0", &Answer::ok("late")), b"");
    let turn = talking.turn("hello");
    talking.talk.resume(&turn, &[]);
    let line = parsed(&talking.talk.answer("toolu_0", &Answer::ok("late")));
    assert!(line["message"]["content"].as_str().unwrap().contains("toolu_0"), "{line}");
}

#[test]
fn tools_that_are_not_ours_or_that_are_missing_are_no_beginning() {
    let mut talking = Talking::new();
    let init = |tools: &[&str]| json!({ "type": "system", "subtype": "init", "tools": tools }).to_string();
    assert_eq!(talking.talk.read(init(&["mcp__hands__bash"]).as_bytes()), Ok(Vec::new()));
    for tools in [&[][..], &["mcp__hands__bash", "Read"], &["Bash"]] {
        assert!(talking.talk.read(init(tools).as_bytes()).is_err(), "{tools:?}");
    }
}

#[test]
fn whatever_it_asks_it_is_answered() {
    let mut talking = Talking::new();
    let mut ask = |message: Value| {
        let request = json!({ "subtype": "mcp_message", "message": message });
        let said = talking.read(&json!({ "type": "control_request", "request_id": "r", "request": request }));
        let [Said::Reply(line)] = &said[..] else { panic!("{said:?}") };
        parsed(line)["response"]["response"]["mcp_response"].clone()
    };
    let listed = ask(json!({ "id": 1, "method": "tools/list" }));
    assert_eq!(
        listed["result"]["tools"][0],
        json!({ "name": "bash", "description": "Runs.", "inputSchema": { "type": "object" } })
    );
    let begun = ask(json!({ "id": 0, "method": "initialize", "params": { "protocolVersion": "2025-11-25" } }));
    assert_eq!(begun["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(ask(json!({ "id": 3, "method": "resources/list" }))["error"]["code"], -32601);
    assert_eq!(ask(json!({ "method": "notifications/initialized" }))["result"], json!({}));
    let other = json!({ "type": "control_request", "request_id": "r", "request": { "subtype": "can_use_tool" } });
    let said = talking.read(&other);
    assert!(matches!(&said[..], [Said::Reply(line)] if parsed(line)["response"]["subtype"] == "error"), "{said:?}");
}

#[test]
fn anything_else_is_no_line_of_this_brain() {
    let mut talking = Talking::new();
    for line in ["", "hello", "[]", "{}", "\u{0}", "3"] {
        assert!(talking.talk.read(line.as_bytes()).is_err(), "{line}");
    }
    assert_eq!(talking.read(&json!({ "type": "tool_progress", "heartbeat": true })), []);
}

#[test]
fn a_conversation_that_was_kept_is_resumed_by_the_same_id() {
    let session: SessionId = SessionId::random();
    let new = brain(&session, &[]);
    let kept = Brain { is_kept: true, ..new.clone() };
    let last = |brain: &Brain<'_>| Claude.program(brain).argv.pop().unwrap();
    let id = uuid(session.as_str());
    assert_eq!((last(&new), last(&kept)), (format!("--session-id={id}"), format!("--resume={id}")));
    let trace = Claude.trace(new.session, None).unwrap();
    assert_eq!(trace.pattern, format!("config/projects/-workspace/{id}.jsonl"));
    assert_eq!(id.len(), 36);
}
