//! Lines of agents, and what they mean.

use std::collections::BTreeMap;

use super::super::{Call, Exit, Kind, Launch};
use super::*;

struct Talking {
    talk: Box<dyn Dialogue>,
    session: SessionId,
}

fn brain<'a>(session: &'a SessionId, launch: &'a Launch, memory: Option<&'a str>) -> Brain<'a> {
    Brain { session, model: "m", prompt: "Be kind.", guest: "/g", tools: &[], launch, memory, is_kept: false }
}

impl Talking {
    fn new(memory: Option<&str>) -> Self {
        let session = SessionId::random();
        let mut talk = Kind::Acp.runtime().dialogue(&brain(&session, &Launch::default(), memory));
        assert_eq!(lines(&talk.open())[0]["method"], "initialize");
        Self { talk, session }
    }

    /// One whose session is there.
    fn ready() -> Self {
        let mut talking = Self::new(None);
        assert_eq!(talking.initialized(json!({}))["method"], "session/new");
        talking.response("session", json!({ "sessionId": "s1" }));
        talking
    }

    /// One that has its first prompt.
    fn busy() -> Self {
        let mut talking = Self::ready();
        talking.begin();
        assert_eq!(talking.update("usage_update", json!({})), [Said::Remember("s1".to_owned())]);
        talking
    }

    fn initialized(&mut self, capabilities: Value) -> Value {
        let result = json!({ "protocolVersion": 1, "agentCapabilities": capabilities });
        reply(&self.response("initialize", result))
    }

    fn message(&self, seq: u64, text: &str) -> Message {
        Message { id: EventId::of(&self.session, seq), text: text.to_owned(), is_taken: false }
    }

    fn turn(&self, attempt: u32) -> Turn {
        Turn { id: TurnId::of(&self.session, 1), attempt, messages: vec![self.message(1, "hello")] }
    }

    fn begin(&mut self) -> Vec<Value> {
        let turn = self.turn(1);
        lines(&self.talk.begin(&turn))
    }

    fn steer(&mut self, text: &str) -> EventId {
        let (turn, message) = (self.turn(1).id, self.message(2, text));
        assert_eq!(self.talk.steer(&turn, &message), b"");
        message.id
    }

    fn interrupt(&mut self) -> Vec<Value> {
        let turn = self.turn(1).id;
        lines(&self.talk.interrupt(&turn))
    }

    fn read(&mut self, line: Value) -> Vec<Said> {
        self.talk.read(line.to_string().as_bytes()).unwrap()
    }

    fn response(&mut self, id: &str, result: Value) -> Vec<Said> {
        self.read(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
    }

    fn stopped(&mut self, prompt: u32, reason: &str) -> Vec<Said> {
        self.response(&format!("prompt {prompt}"), json!({ "stopReason": reason }))
    }

    fn update(&mut self, kind: &str, mut update: Value) -> Vec<Said> {
        update["sessionUpdate"] = kind.into();
        self.read(json!({ "method": "session/update", "params": { "sessionId": "s1", "update": update } }))
    }

    fn words(&mut self, text: &str) -> Vec<Said> {
        self.update("agent_message_chunk", json!({ "content": { "type": "text", "text": text } }))
    }

    fn asks(&mut self, method: &str, mut parameters: Value) -> Vec<Said> {
        parameters["sessionId"] = "s1".into();
        self.read(json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": parameters }))
    }

    /// It begins a command; the call.
    fn terminal(&mut self, parameters: Value) -> Call {
        let said = self.asks("terminal/create", parameters);
        let [Said::Called(call), Said::Reply(made)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(lines(made)[0]["result"]["terminalId"], call.id);
        call.clone()
    }

    fn answer(&mut self, call: &Call, answer: &Answer) -> Vec<Value> {
        lines(&self.talk.answer(&call.id, answer))
    }
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// The one thing that is replied.
fn reply(said: &[Said]) -> Value {
    let [Said::Reply(reply)] = said else { panic!("{said:?}") };
    lines(reply).remove(0)
}

fn text(prompt: &Value) -> &str {
    assert_eq!(prompt["method"], "session/prompt");
    prompt["params"]["prompt"][0]["text"].as_str().unwrap()
}

fn exited(text: &str, code: i32) -> Answer {
    let exit = Exit { code: Some(code), signal: None, bytes: text.len() as u64, shown: text.len() };
    Answer { text: format!("{text}[exit {code}]"), is_ok: true, exit: Some(exit) }
}

#[test]
fn a_turn_waits_for_the_session_and_begins_with_what_it_is_told_before_all_else() {
    let mut talking = Talking::new(None);
    assert_eq!(talking.begin(), Vec::<Value>::new());
    let begun = talking.initialized(json!({ "loadSession": true }));
    assert_eq!((&begun["method"], &begun["params"]["cwd"]), (&json!("session/new"), &json!("/workspace")));
    let said = talking.response("session", json!({ "sessionId": "s1" }));
    let [Said::Took(_), Said::Reply(prompt)] = &said[..] else { panic!("{said:?}") };
    let prompt = &lines(prompt)[0];
    assert_eq!((text(prompt), &prompt["params"]["sessionId"]), ("Be kind.\n\nhello", &json!("s1")));
    assert_eq!(talking.words("hm"), [Said::Remember("s1".to_owned())]);
    let ended = [Said::Spoke("hm".to_owned()), Said::Ended(Ending::Completed)];
    assert_eq!(talking.stopped(1, "end_turn"), ended);
    assert_eq!(text(&talking.begin()[0]), "hello");
    assert_eq!(talking.stopped(1, "end_turn"), [], "it is of another prompt");
}

#[test]
fn a_session_of_before_goes_on_as_the_agent_can() {
    for (can, method) in [
        (json!({ "loadSession": true }), "session/load"),
        (json!({ "loadSession": true, "sessionCapabilities": { "resume": {} } }), "session/resume"),
    ] {
        let mut talking = Talking::new(Some("s1"));
        let begun = talking.initialized(can);
        assert_eq!((&begun["method"], &begun["params"]["sessionId"]), (&json!(method), &json!("s1")));
        talking.begin();
        assert_eq!(talking.words("what was said in it"), []);
        let said = talking.response("session", json!({}));
        let [Said::Took(_), Said::Reply(prompt)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(text(&lines(prompt)[0]), "hello");
        assert_eq!(talking.stopped(1, "end_turn"), [Said::Ended(Ending::Completed)]);
    }
}

#[test]
fn a_session_that_is_gone_is_begun_anew_and_the_agent_is_told() {
    let mut forgetful = Talking::new(Some("s0"));
    assert_eq!(forgetful.initialized(json!({}))["method"], "session/new");
    let mut robbed = Talking::new(Some("s0"));
    assert_eq!(robbed.initialized(json!({ "loadSession": true }))["method"], "session/load");
    let gone = json!({ "id": "session", "error": { "code": -32002, "message": "not found" } });
    assert_eq!(reply(&robbed.read(gone.clone()))["method"], "session/new");
    for mut talking in [forgetful, robbed] {
        talking.response("session", json!({ "sessionId": "s1" }));
        let begun = talking.begin();
        assert_eq!(text(&begun[0]), format!("Be kind.\n\n{LOST}\n\nhello"));
    }
    let mut talking = Talking::new(None);
    talking.initialized(json!({}));
    assert!(talking.talk.read(gone.to_string().as_bytes()).is_err(), "it cannot begin at all");
}

#[test]
fn a_message_in_the_middle_of_a_prompt_is_the_next_prompt_of_the_turn() {
    let mut talking = Talking::busy();
    let message = talking.steer("more");
    assert_eq!(talking.words("one"), []);
    let said = talking.stopped(1, "end_turn");
    let [Said::Text(words), Said::Took(took), Said::Reply(prompt)] = &said[..] else { panic!("{said:?}") };
    assert_eq!((words.as_str(), took, text(&lines(prompt)[0])), ("one", &message, "more"));
    talking.steer("too late");
    assert_eq!(talking.stopped(2, "refusal").len(), 1, "it is for the next turn");
    talking.steer("later still");
    assert_eq!(text(&talking.begin()[0]), "hello");
}

#[test]
fn an_interrupt_ends_the_prompt_or_the_turn_that_has_none() {
    let mut talking = Talking::busy();
    talking.steer("more");
    talking.words("half a ");
    let interrupt = &talking.interrupt()[0];
    assert_eq!((&interrupt["method"], &interrupt["id"]), (&json!("session/cancel"), &Value::Null));
    let ended = [Said::Text("half a ".to_owned()), Said::Ended(Ending::Interrupted)];
    assert_eq!(talking.stopped(1, "cancelled"), ended);

    let mut talking = Talking::new(None);
    talking.begin();
    assert_eq!(talking.interrupt(), Vec::<Value>::new());
    talking.initialized(json!({}));
    assert_eq!(talking.response("session", json!({ "sessionId": "s1" })), [Said::Ended(Ending::Interrupted)]);
}

#[test]
fn a_file_is_read_whole_and_written_by_the_hands() {
    let mut talking = Talking::busy();
    let said = talking.asks("fs/read_text_file", json!({ "path": "/a", "line": 3, "limit": 2 }));
    let [Said::Called(read)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(read.tool, "read");
    assert_eq!(read.input, json!({ "path": "/a", "offset": 2, "limit": 2, "whole": true }));
    assert_eq!(talking.answer(read, &Answer::ok("x\n"))[0]["result"], json!({ "content": "x\n" }));
    let said = talking.asks("fs/write_text_file", json!({ "path": "/a", "content": "y" }));
    let [Said::Called(written)] = &said[..] else { panic!("{said:?}") };
    assert_eq!((written.tool.as_str(), &written.input), ("write", &json!({ "path": "/a", "content": "y" })));
    let refused = &talking.answer(written, &Answer::error("the disk is full"))[0];
    assert_eq!((&refused["id"], &refused["error"]["message"]), (&json!(0), &json!("the disk is full")));
    assert_ne!(read.id, written.id, "whatever ids it gives to its requests");
}

#[test]
fn a_command_is_begun_waited_for_and_let_go() {
    let mut talking = Talking::busy();
    let env = json!([{ "name": "A", "value": "b" }]);
    let call = talking.terminal(json!({ "command": "ls", "args": ["a b"], "env": env, "cwd": "/tmp" }));
    assert_eq!((call.tool.as_str(), &call.input["command"]), ("bash", &json!("ls 'a b'")));
    assert_eq!((&call.input["cwd"], &call.input["env"]), (&json!("/tmp"), &json!({ "A": "b" })));
    let named = json!({ "terminalId": call.id });
    assert_eq!(reply(&talking.asks("terminal/output", named.clone()))["result"]["output"], "");
    assert_eq!(talking.asks("terminal/wait_for_exit", named.clone()), [Said::Reply(Vec::new())]);
    assert_eq!(talking.answer(&call, &exited("out\n", 2))[0]["result"]["exitCode"], 2);
    assert_eq!(reply(&talking.asks("terminal/output", named.clone()))["result"]["output"], "out\n");
    assert_eq!(reply(&talking.asks("terminal/release", named.clone()))["result"], json!({}));
    assert_eq!(reply(&talking.asks("terminal/output", named))["error"]["code"], -32602);
}

#[test]
fn a_command_that_it_lets_go_of_is_stopped() {
    let mut talking = Talking::busy();
    // Who kills it asks for its output next.
    for (method, replies_at_its_end) in [("terminal/kill", 1), ("terminal/release", 0)] {
        let call = talking.terminal(json!({ "command": "sleep 9" }));
        let said = talking.asks(method, json!({ "terminalId": call.id }));
        assert!(matches!(&said[..], [Said::Stop(id), Said::Reply(_)] if *id == call.id), "{said:?}");
        assert_eq!(talking.answer(&call, &Answer::error("stopped")).len(), replies_at_its_end);
    }
}

#[test]
fn an_answer_of_before_a_restart_is_the_next_prompt() {
    let mut talking = Talking::ready();
    let turn = talking.turn(2);
    let calls = [Recorded { id: "old".to_owned(), tool: "bash".to_owned(), answer: None }];
    assert!(text(&lines(&talking.talk.resume(&turn, &calls))[0]).contains("bash old: still under way"));
    assert_eq!(talking.talk.answer("old", &Answer::ok("over")), b"");
    talking.update("plan", json!({}));
    let call = talking.terminal(json!({ "command": "true" }));
    assert!(call.id.contains(".2."), "{} is no name of the process before", call.id);
    let said = talking.stopped(1, "end_turn");
    let Some(Said::Reply(prompt)) = said.last() else { panic!("{said:?}") };
    assert!(text(&lines(prompt)[0]).contains("The call old of before the restart"));
}

#[test]
fn a_permission_is_given_for_once() {
    let options = json!([
        { "optionId": "never", "name": "No", "kind": "reject_once" },
        { "optionId": "always", "name": "Yes!", "kind": "allow_always" },
        { "optionId": "once", "name": "Yes", "kind": "allow_once" },
    ]);
    let mut talking = Talking::busy();
    let mut asks = |options: &Value| {
        let asked = talking.asks("session/request_permission", json!({ "toolCall": {}, "options": options }));
        reply(&asked)["result"]["outcome"].clone()
    };
    assert_eq!(asks(&options), json!({ "outcome": "selected", "optionId": "once" }));
    assert_eq!(asks(&json!([options[0]])), json!({ "outcome": "cancelled" }));
    talking.interrupt();
    let asked = talking.asks("session/request_permission", json!({ "options": options }));
    assert_eq!(reply(&asked)["result"]["outcome"], json!({ "outcome": "cancelled" }));
}

#[test]
fn why_it_stopped_is_told() {
    for (reason, code) in
        [("max_tokens", "max_tokens"), ("max_turn_requests", "max_turn_requests"), ("x", "agent_failed")]
    {
        let mut talking = Talking::busy();
        talking.words("so");
        let said = talking.stopped(1, reason);
        let [Said::Text(_), Said::Ended(Ending::Failed { code: found, .. })] = &said[..] else { panic!("{said:?}") };
        assert_eq!(found, code);
    }
    let error = json!({ "code": -32603, "message": "Internal error", "data": { "details": "no model" } });
    let said = Talking::busy().read(json!({ "id": "prompt 1", "error": error }));
    let [Said::Ended(Ending::Failed { message, .. })] = &said[..] else { panic!("{said:?}") };
    assert_eq!(message, "Internal error no model");
}

#[test]
fn a_command_to_the_agent_is_none() {
    let mut talking = Talking::busy();
    talking.steer(" /clear all");
    let said = talking.stopped(1, "end_turn");
    let Some(Said::Reply(prompt)) = said.last() else { panic!("{said:?}") };
    assert_eq!(text(&lines(prompt)[0]), "[user]  /clear all");
}

#[test]
fn what_it_may_not_ask_it_is_refused_and_what_is_no_line_is_none() {
    let mut talking = Talking::busy();
    for (method, code) in [("elicitation/create", -32601), ("fs/read_text_file", -32602), ("terminal/kill", -32602)] {
        assert_eq!(reply(&talking.asks(method, json!({})))["error"]["code"], code);
    }
    let foreign = json!({ "id": "a", "method": "fs/read_text_file", "params": { "sessionId": "s2", "path": "/a" } });
    assert_eq!(reply(&talking.read(foreign))["error"]["code"], -32602);
    for _ in 0..64 {
        talking.terminal(json!({ "command": "true" }));
    }
    let refused = reply(&talking.asks("terminal/create", json!({ "command": "true" })));
    assert_eq!(refused["error"]["code"], -32603);
    let long = format!(r#"{{"id":"{}","method":"x"}}"#, "i".repeat(300));
    for line in ["", "hello", "[]", "{}", "3", "{\"id\":3}", "{\"id\":[],\"method\":\"x\"}", long.as_str()] {
        assert!(talking.talk.read(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn a_program_is_started_as_it_is_configured() {
    let session = SessionId::random();
    let args = ["acp", "--model={model}"].map(str::to_owned).into();
    let env = [("URL", "{base_url}/v1"), ("HOME", "/tmp")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let launch = Launch { args, env: BTreeMap::from(env) };
    let program = Kind::Acp.runtime().program(&brain(&session, &launch, None));
    assert_eq!(program.argv, ["/opt/brain/program", "acp", "--model=m"]);
    assert_eq!((program.env["URL"].as_str(), program.env["HOME"].as_str()), ("http://127.0.0.1:7423/v1", "/tmp"));
    assert_eq!(program.env["PATH"], "/nonexistent");
}
