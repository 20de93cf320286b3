//! `hands agent` and `hands session`.

use std::process::Command;

use serde_json::Value;

use crate::support::Daemon;

fn hands(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hands"));
    let output = command.args(arguments).env("HANDS_ADDR", daemon.address()).output().expect("hands starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    stdout.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_the_command_line() {
    let Some(daemon) = Daemon::start().await else { return };
    let hands = |arguments: &[&str]| hands(&daemon, arguments);
    let agent = hands(&["agent", "create", "demo", "--turns", "9"]);
    assert!(agent.starts_with("agt_"), "{agent}");
    let id = hands(&["session", "create", "demo", "bash echo hello\nask Well?\nsay answered"]);
    crate::support::eventually(crate::support::SOON, || async {
        let shown: Value = serde_json::from_str(&hands(&["--json", "session", "get", &id])).expect("it is JSON");
        crate::support::expect(shown["status"] == "AWAITING_INPUT", shown.to_string())
    })
    .await;
    hands(&["session", "send", &id, "yes"]);
    crate::support::eventually(crate::support::SOON, || async {
        let result = hands(&["session", "result", &id]);
        crate::support::expect(result == "answered", result)
    })
    .await;
    let events = hands(&["session", "events", &id]);
    for (kind, what) in [("tool.call", "bash echo hello"), ("exec.completed", "exit 0"), ("agent.message", "Well?")] {
        assert!(events.lines().any(|line| line.contains(kind) && line.ends_with(what)), "{events}");
    }
    let user = hands(&["--json", "session", "events", "--level", "user", "--after", "1", &id]);
    let types: Vec<Value> = user.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    let types: Vec<&str> = types.iter().filter_map(|event| event["type"].as_str()).collect();
    let expected = ["agent.message", "turn.completed", "user.message", "agent.message", "turn.completed"];
    assert_eq!(types, expected);
    assert!(hands(&["session", "turns", &id]).contains("needs_input"));
    assert!(hands(&["session", "list"]).contains(&id));
    assert!(hands(&["agent", "list"]).contains("demo"));
    assert!(hands(&["session", "archive", &id]).contains("archived"));
}
