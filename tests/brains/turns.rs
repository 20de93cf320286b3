//! What happens in a turn.

use std::time::{Duration, Instant};

use handsd::api::proto::session::Status;
use handsd::api::proto::{SessionEvent, SessionLimits, WriteHeader};
use serde_json::{Value, json};

use crate::lab::{CREDENTIAL, Lab, WAIT};
use crate::support::Step::{Call, Cut, Foreign, Hang, Hold, Refuse, Say};
use crate::support::session::{of_kind, summary, text};
use crate::support::{Files, Session};
use crate::{an_agent_too, each_runtime};

each_runtime![
    a_turn_uses_tools_speaks_and_asks,
    the_last_words_are_for_the_user_unless_it_has_spoken,
    the_model_sees_our_tools_and_nothing_of_the_node,
    a_message_in_the_middle_of_a_call_is_part_of_the_turn,
    a_message_with_the_last_words_is_part_of_the_turn,
    a_model_that_hangs_is_interrupted_at_once,
    a_tool_that_hangs_is_interrupted_at_once,
    a_text_is_neither_a_command_nor_a_file,
    a_tool_that_is_not_ours_does_nothing,
    a_file_in_the_brains_reach_tells_the_model_nothing,
    tokens_are_counted_and_bound_the_session,
    the_deadline_of_a_turn_ends_it,
    a_session_has_its_turns_and_no_more,
    a_model_that_refuses_for_a_moment_is_asked_again,
    a_model_that_refuses_for_good_ends_the_turn_and_not_the_session,
];

an_agent_too![
    a_model_that_hangs_is_interrupted_at_once,
    a_tool_that_hangs_is_interrupted_at_once,
    a_text_is_neither_a_command_nor_a_file,
    tokens_are_counted_and_bound_the_session,
];

/// What the user was told.
pub fn said(events: &[SessionEvent]) -> Vec<String> {
    let to_user = of_kind(events, "agent.message").into_iter().filter(|event| event.level == 1);
    to_user.map(|event| text(event, "text")).collect()
}

/// All that a request told the model, as text.
pub fn told(body: &Value) -> String {
    if body["messages"].is_null() { body["input"].to_string() } else { body["messages"].to_string() }
}

async fn a_turn_uses_tools_speaks_and_asks(runtime: &str) {
    let steps = [
        Call("bash", json!({ "command": "echo from the hands" })),
        Call("say", json!({ "text": "half way" })),
        Call("ask", json!({ "question": "left or right?" })),
        Say("I have asked."),
        Say("right it is"),
    ];
    let Some(lab) = Lab::start(runtime, steps).await else { return };
    let session = lab.session("go").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "needs_input", "{:#?}", summary(&events));
    assert_eq!(said(&events), ["half way", "left or right?"]);
    assert_eq!(session.status().await, Status::AwaitingInput);
    let asked = lab.model.asked();
    assert_eq!(asked.len(), 4);
    assert!(told(&asked[1].body).contains("from the hands"), "{}", asked[1].body);
    session.send("right").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(session.result().await.as_deref(), Some("right it is"));
    let last = told(&lab.model.asked()[4].body);
    assert!(last.contains("from the hands") && last.contains("left or right?"), "the conversation goes on: {last}");
}

async fn the_last_words_are_for_the_user_unless_it_has_spoken(runtime: &str) {
    let steps = [Say("plain words"), Call("say", json!({ "text": "spoken" })), Say("not for you")];
    let Some(lab) = Lab::start(runtime, steps).await else { return };
    let session = lab.session("one").await;
    assert_eq!(said(&session.turns(1).await.1), ["plain words"]);
    assert_eq!(session.result().await.as_deref(), Some("plain words"));
    session.send("two").await;
    assert_eq!(said(&session.turns(2).await.1), ["plain words", "spoken"]);
}

async fn the_model_sees_our_tools_and_nothing_of_the_node(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Say("hi")]).await else { return };
    let session = lab.session("hello").await;
    session.turns(1).await;
    let asked = &lab.model.asked()[0];
    let mut tools: Vec<String> = asked.body["tools"]
        .as_array()
        .expect("it has tools")
        .iter()
        .map(|tool| tool["name"].as_str().expect("a name").trim_start_matches("mcp__hands__").to_owned())
        .collect();
    tools.sort();
    assert_eq!(tools, ["ask", "bash", "edit", "glob", "grep", "ls", "read", "say", "write"]);
    let all = asked.body.to_string();
    assert!(all.contains("You are the brain of a test."));
    let host = nix::unistd::gethostname().expect("a name").to_string_lossy().into_owned();
    for word in [host.as_str(), "/tmp/handsd-test-", "CLAUDE.md", "AGENTS.md", "Linux"] {
        assert!(!all.contains(word), "it tells of {word}: {all}");
    }
    let header = if runtime == "claude" { "x-api-key" } else { "authorization" };
    let key = asked.headers.get(header).expect("it pays").to_str().expect("text");
    assert_eq!(key.trim_start_matches("Bearer "), CREDENTIAL);
}

async fn a_message_in_the_middle_of_a_call_is_part_of_the_turn(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Call("bash", json!({ "command": WAIT })), Say("both")]).await else { return };
    lab.steer_in_mid_call("and the second thing").await;
    assert!(told(&lab.model.asked()[1].body).contains("and the second thing"));
    assert_eq!(lab.model.asked().len(), 2);
}

async fn a_message_with_the_last_words_is_part_of_the_turn(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Hold("one ", "two"), Say("three")]).await else { return };
    let session = lab.session("first").await;
    lab.model.until_asked(1).await;
    session.send("second").await;
    // A program that cuts its question short for the message does not wait for the end of the answer.
    if runtime == "claude" {
        lab.model.release();
    }
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(session.status().await, Status::Idle);
    let asked = lab.model.asked();
    assert!(told(&asked.last().expect("it was asked").body).contains("second"));
    assert_eq!(said(&events).last().map(String::as_str), Some("three"));
}

async fn a_model_that_hangs_is_interrupted_at_once(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Hang, Say("back")]).await else { return };
    let session = lab.session("hello").await;
    for attempt in 1.. {
        lab.model.until_asked(attempt).await;
        let took = cancel(&lab, &session, attempt).await;
        lab.model.instead([if took < AT_ONCE { Say("back") } else { Hang }]);
        session.send("again").await;
        if took < AT_ONCE {
            let (reason, events) = session.turns(attempt + 1).await;
            assert_eq!((reason.as_str(), said(&events)), ("completed", vec!["back".to_owned()]));
            assert_eq!(of_kind(&events, "error.runtime").len(), 0);
            return;
        }
        assert!(attempt < ATTEMPTS, "it took {took:?}");
    }
}

/// In which a turn ends that is canceled.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How often that is tried: on a machine that is busy with something else, a second may pass before anybody has moved.
const ATTEMPTS: usize = 3;

/// Has the turn with this number end; how long that took.
async fn cancel(lab: &Lab, session: &Session, turn: usize) -> Duration {
    let began = Instant::now();
    lab.cancel(session).await;
    let (reason, events) = session.turns(turn).await;
    let took = began.elapsed();
    println!("turn {turn} ended within {took:?}");
    assert_eq!(reason, "canceled", "{:#?}", summary(&events));
    took
}

async fn a_tool_that_hangs_is_interrupted_at_once(runtime: &str) {
    // It does not even end when it is asked to.
    let hang = || Call("bash", json!({ "command": "trap '' TERM; sleep 600" }));
    let Some(lab) = Lab::start(runtime, [hang()]).await else { return };
    let session = lab.session("hello").await;
    for attempt in 1.. {
        session.until("exec.started", attempt).await;
        let took = cancel(&lab, &session, attempt).await;
        let ends = session.events().await;
        assert_eq!(text(of_kind(&ends, "exec.completed")[attempt - 1], "reason"), "canceled");
        lab.model.instead([if took < AT_ONCE { Say("back") } else { hang() }]);
        session.send("again").await;
        if took < AT_ONCE {
            assert_eq!(session.turns(attempt + 1).await.0, "completed");
            return;
        }
        assert!(attempt < ATTEMPTS, "it took {took:?}");
    }
}

async fn a_text_is_neither_a_command_nor_a_file(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Say("a"), Say("b")]).await else { return };
    let session = lab.session("/compact the @/etc/passwd of it").await;
    session.turns(1).await;
    session.send("look at @/etc/passwd and @/opt/brain/program").await;
    session.turns(2).await;
    let asked = lab.model.asked();
    assert_eq!(asked.len(), 2, "both texts reached the model");
    assert!(told(&asked[0].body).contains("/compact the @/etc/passwd"));
    assert!(!asked[1].body.to_string().contains("root:x:0"), "{}", asked[1].body);
}

async fn a_tool_that_is_not_ours_does_nothing(runtime: &str) {
    let command = json!({ "command": "echo pwned > /workspace/pwned" });
    let tools = match runtime {
        "claude" => ["Bash", "Read", "Task", "mcp__other__bash"],
        _ => ["shell", "exec_command", "apply_patch", "view_image"],
    };
    let steps = tools.map(|tool| Foreign(tool, command.clone())).into_iter().chain([Say("given up")]);
    let Some(lab) = Lab::start(runtime, steps).await else { return };
    let session = lab.session("try them all").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(said(&events), ["given up"]);
    assert_eq!(lab.model.asked().len(), tools.len() + 1);
    for kind in ["tool.call", "exec.started"] {
        assert_eq!(of_kind(&events, kind).len(), 0, "{:#?}", summary(&events));
    }
    let sandbox = session.get().await;
    for id in [sandbox.brain_sandbox_id, sandbox.hands_sandbox_id] {
        let files = Files::new(lab.daemon.hands(), &id);
        assert!(files.stat("/workspace/pwned").await.is_err(), "it wrote a file");
    }
}

async fn a_file_in_the_brains_reach_tells_the_model_nothing(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Say("one"), Say("two")]).await else { return };
    let session = lab.session("hello").await;
    session.turns(1).await;
    let files = Files::new(lab.daemon.hands(), &session.get().await.brain_sandbox_id);
    let hook = json!({ "type": "command", "command": "echo planted" });
    let settings = json!({ "hooks": { "UserPromptSubmit": [{ "hooks": [hook] }] }, "env": { "PLANTED": "1" } });
    let server = json!({ "mcpServers": { "planted": { "type": "stdio", "command": "/opt/brain/program" } } });
    for (path, content) in [
        ("CLAUDE.md", "planted"),
        ("AGENTS.md", "planted"),
        (".mcp.json", server.to_string().as_str()),
        (".claude/settings.json", settings.to_string().as_str()),
        (".claude/commands/planted.md", "planted"),
        (".codex/config.toml", "developer_instructions = 'planted'"),
    ] {
        let header = WriteHeader { path: format!("/workspace/{path}"), create_parents: true, ..WriteHeader::default() };
        files.write_as(header, content.as_bytes()).await.expect("it is written");
    }
    // The next process finds them.
    lab.kill_brain();
    session.until("runtime.exited", 1).await;
    session.send("hello again").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    let asked = lab.model.asked();
    assert_eq!(asked.len(), 2);
    assert!(!asked[1].body.to_string().contains("planted"), "{}", asked[1].body);
    assert_eq!(asked[1].body["tools"], asked[0].body["tools"]);
}

async fn tokens_are_counted_and_bound_the_session(runtime: &str) {
    let steps = [Call("bash", json!({ "command": "true" })), Call("bash", json!({ "command": "true" })), Say("never")];
    let Some(lab) = Lab::start(runtime, steps).await else { return };
    let session = lab.limited("go", SessionLimits { tokens: 200, ..Default::default() }).await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "budget_exceeded", "{:#?}", summary(&events));
    let usage = session.get().await.usage.expect("it has used tokens");
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.tokens), (200, 40, 240));
    session.send("more").await;
    assert_eq!(session.turns(2).await.0, "budget_exceeded");
    assert_eq!(lab.model.asked().len(), 2, "the model was not asked any more");
}

async fn the_deadline_of_a_turn_ends_it(runtime: &str) {
    // However often it asks again.
    let steps = std::iter::repeat_n(Hold("on and ", "on"), 20);
    let Some(lab) = Lab::start(runtime, steps).await else { return };
    let session = lab.limited("go", SessionLimits { turn_seconds: 6, ..Default::default() }).await;
    assert_eq!(session.turns(1).await.0, "deadline_exceeded");
    lab.model.instead([Say("back")]);
    session.send("again").await;
    assert_eq!(session.turns(2).await.0, "completed");
    assert_eq!(session.result().await.as_deref(), Some("back"));
}

async fn a_session_has_its_turns_and_no_more(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Say("one")]).await else { return };
    let session = lab.limited("go", SessionLimits { turns: 1, ..Default::default() }).await;
    assert_eq!(session.turns(1).await.0, "completed");
    session.send("more").await;
    assert_eq!(session.turns(2).await.0, "max_turns");
    assert_eq!(lab.model.asked().len(), 1);
}

async fn a_model_that_refuses_for_a_moment_is_asked_again(runtime: &str) {
    let steps = [Refuse(529), Say("one"), Refuse(429), Say("two"), Cut, Say("three"), Hold("stalls", ""), Say("four")];
    let Some(lab) = Lab::start(runtime, steps).await else { return };
    let session = lab.session("1").await;
    for (turn, words) in (1..).zip(["one", "two", "three", "four"]) {
        let (reason, events) = session.turns(turn).await;
        assert_eq!(reason, "completed", "{:#?}", summary(&events));
        assert_eq!(session.result().await.as_deref(), Some(words), "{:#?}", summary(&events));
        if turn < 4 {
            session.send("go on").await;
        }
    }
}

async fn a_model_that_refuses_for_good_ends_the_turn_and_not_the_session(runtime: &str) {
    let Some(lab) = Lab::start(runtime, []).await else { return };
    let mut session = None;
    for (turn, status) in (1..).zip([400, 401]) {
        // More often than any program asks again.
        lab.model.instead(std::iter::repeat_n(Refuse(status), 50));
        let session = match &session {
            None => session.insert(lab.session("go").await),
            Some(session) => {
                session.send("go").await;
                session
            }
        };
        let (reason, events) = session.turns(2 * turn - 1).await;
        assert_eq!(reason, "error", "{:#?}", summary(&events));
        let code = text(of_kind(&events, "error.model")[turn - 1], "code");
        // Codex does not tell the status of a request that is bad.
        let is_untold = runtime == "codex" && status == 400 && code == "model_failed";
        assert!(is_untold || code == format!("model_{status}"), "{code}");
        lab.model.instead([Say("back")]);
        session.send("again").await;
        assert_eq!(session.turns(2 * turn).await.0, "completed");
        assert_eq!(session.result().await.as_deref(), Some("back"));
    }
}
