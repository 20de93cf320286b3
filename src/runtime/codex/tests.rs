//! Lines as version 0.169.0 writes them, and what they mean.

use super::super::{Kind, PLAIN};
use super::*;
use crate::ids::SessionId;

struct Talking {
    talk: Box<dyn Dialogue>,
    session: SessionId,
}

fn brain<'a>(session: &'a SessionId, tools: &'a [Tool], memory: Option<&'a str>) -> Brain<'a> {
    Brain { session, model: "m", prompt: "p", guest: "/g", tools, launch: &PLAIN, memory, is_kept: false }
}

impl Talking {
    fn new(memory: Option<&str>) -> Self {
        let session = SessionId::random();
        let tools = [Tool { name: "bash", description: "Runs.", input: json!({ "type": "object" }) }];
        let talk = Kind::Codex.runtime().dialogue(&brain(&session, &tools, memory));
        Self { talk, session }
    }

    /// One whose thread is there.
    fn ready() -> Self {
        let mut talking = Self::new(None);
        talking.talk.open();
        talking.read(&json!({ "id": "thread", "result": { "thread": { "id": "t1" } } }));
        talking
    }

    fn message(&self, seq: u64, text: &str) -> Message {
        Message { id: EventId::of(&self.session, seq), text: text.to_owned(), is_taken: false }
    }

    fn turn(&self) -> Turn {
        Turn { id: TurnId::of(&self.session, 1), attempt: 1, messages: vec![self.message(1, "hello")] }
    }

    fn begin(&mut self) -> Vec<Value> {
        let turn = self.turn();
        lines(&self.talk.begin(&turn))
    }

    fn read(&mut self, line: &Value) -> Vec<Said> {
        self.talk.read(line.to_string().as_bytes()).unwrap()
    }

    fn told(&mut self, method: &str, parameters: Value) -> Vec<Said> {
        self.read(&json!({ "method": method, "params": parameters }))
    }

    /// What it replies to a line.
    fn replies(&mut self, line: &Value) -> Vec<Value> {
        let replied = |said: Said| if let Said::Reply(bytes) = said { lines(&bytes) } else { Vec::new() };
        self.read(line).into_iter().flat_map(replied).collect()
    }
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn turn_begun() -> Value {
    json!({ "id": "turn", "result": { "turn": { "id": "u1" } } })
}

#[test]
fn a_turn_waits_for_the_thread_and_a_message_for_the_turn() {
    let mut talking = Talking::new(None);
    let opened = lines(&talking.talk.open());
    let methods: Vec<_> = opened.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["initialize", "initialized", "thread/start"]);
    assert_eq!(opened[2]["params"]["dynamicTools"][0]["name"], "bash");
    assert_eq!(talking.begin(), Vec::<Value>::new());
    let (turn, message) = (TurnId::of(&talking.session, 1), talking.message(2, "more"));
    assert_eq!(talking.talk.steer(&turn, &message), b"");
    let thread = json!({ "id": "thread", "result": { "thread": { "id": "t1" } } });
    let said = talking.read(&thread);
    assert_eq!(said[0], Said::Remember("t1".to_owned()));
    let [_, Said::Reply(begun)] = &said[..] else { panic!("{said:?}") };
    let begun = &lines(begun)[..];
    assert!(
        matches!(begun, [line] if line["method"] == "turn/start" && line["params"]["threadId"] == "t1"),
        "{begun:?}"
    );
    let steered = talking.replies(&turn_begun());
    assert!(matches!(&steered[..], [line] if line["params"]["expectedTurnId"] == "u1"), "{steered:?}");
    let item = json!({ "type": "userMessage", "clientId": message.id.as_str() });
    assert_eq!(talking.told("item/started", json!({ "item": item })), [Said::Took(message.id)]);
}

#[test]
fn a_call_is_answered_and_the_last_words_are_spoken() {
    let mut talking = Talking::ready();
    talking.begin();
    talking.read(&turn_begun());
    let words = |text: &str| json!({ "item": { "type": "agentMessage", "text": text } });
    assert_eq!(talking.told("item/completed", words("let me see")), []);
    let call = json!({ "item": { "type": "dynamicToolCall" } });
    assert_eq!(talking.told("item/started", call), [Said::Text("let me see".to_owned())]);
    let parameters = json!({ "callId": "call_1", "tool": "bash", "arguments": { "command": "true" } });
    let called = talking.read(&json!({ "id": 0, "method": "item/tool/call", "params": parameters }));
    let wanted = Call { id: "call_1".to_owned(), tool: "bash".to_owned(), input: json!({ "command": "true" }) };
    assert_eq!(called, [Said::Called(wanted)]);
    let answer = &lines(&talking.talk.answer("call_1", &Answer::error("no")))[0];
    assert_eq!((&answer["id"], &answer["result"]["success"]), (&json!(0), &json!(false)));
    talking.told("item/completed", words("done"));
    let ended = talking.told("turn/completed", json!({ "turn": { "id": "u1", "status": "completed" } }));
    assert_eq!(ended, [Said::Spoke("done".to_owned()), Said::Ended(Ending::Completed)]);
}

#[test]
fn an_interrupt_waits_for_the_id_of_the_turn_and_ends_what_is_none() {
    let mut talking = Talking::ready();
    talking.begin();
    let turn = TurnId::of(&talking.session, 1);
    assert_eq!(talking.talk.interrupt(&turn), b"");
    let interrupted = talking.replies(&turn_begun());
    assert!(matches!(&interrupted[..], [line] if line["params"]["turnId"] == "u1"), "{interrupted:?}");
    let ended = talking.told("turn/completed", json!({ "turn": { "status": "interrupted" } }));
    assert_eq!(ended, [Said::Ended(Ending::Interrupted)]);
    assert!(!talking.talk.interrupt(&turn).is_empty());
    let nothing = json!({ "id": "interrupt", "error": { "code": -32600 } });
    assert_eq!(talking.read(&nothing), [Said::Ended(Ending::Interrupted)]);
    // One that is late ends nothing.
    talking.begin();
    assert_eq!(talking.read(&nothing), []);
}

#[test]
fn a_thread_that_is_gone_is_begun_anew() {
    let mut talking = Talking::new(Some("t0"));
    let resumed = &lines(&talking.talk.open())[2];
    assert_eq!((&resumed["method"], &resumed["params"]["threadId"]), (&json!("thread/resume"), &json!("t0")));
    let unknown = json!({ "id": "thread", "error": { "code": -32600, "message": "no rollout found" } });
    assert_eq!(talking.replies(&unknown)[0]["method"], "thread/start");
    assert!(talking.talk.read(unknown.to_string().as_bytes()).is_err(), "it cannot begin at all");
}

#[test]
fn an_error_of_the_model_has_its_status_if_it_is_known() {
    let known = json!({ "message": "no", "codexErrorInfo": { "httpConnectionFailed": { "httpStatusCode": 401 } } });
    assert!(matches!(failure(&known), Ending::Failed { code, .. } if code == "model_401"));
    let unknown = json!({ "message": "no", "codexErrorInfo": "other" });
    assert!(
        matches!(failure(&unknown), Ending::Failed { code, message, .. } if code == "model_failed" && message == "no")
    );
}

#[test]
fn what_it_may_not_ask_it_is_refused_and_what_is_no_line_is_none() {
    let mut talking = Talking::ready();
    let refused = talking.replies(&json!({ "id": 7, "method": "item/commandExecution/requestApproval", "params": {} }));
    assert_eq!((&refused[0]["id"], &refused[0]["error"]["code"]), (&json!(7), &json!(-32601)));
    for line in ["", "hello", "[]", "{}", "3", "{\"id\":3}"] {
        assert!(talking.talk.read(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn a_model_with_any_name_makes_a_configuration() {
    let session = SessionId::random();
    let odd = Brain { model: "a\"\n[b]", ..brain(&session, &[], None) };
    let config = setup::config(&odd);
    assert!(config.starts_with("model = \"a\\\"\\n[b]\"\n"), "{config}");
}
