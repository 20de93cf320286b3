//! An agent that has tools of its own, and its client carry them out.

use handsd::api::proto::DestroySandboxRequest;
use serde_json::json;

use crate::lab::{Lab, WAIT};
use crate::support::Files;
use crate::support::Step::{Foreign, Say};
use crate::support::session::{number, of_kind, summary, text};
use crate::turns::{said, told};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reads_writes_and_runs_commands_by_the_hands() {
    let steps = [
        Foreign("write", json!({ "path": "notes/a.txt", "content": "first\n" })),
        Foreign("edit", json!({ "path": "big.txt", "before": "\n7777\n", "after": "\nseven\n" })),
        Foreign("read", json!({ "path": "/workspace/notes/a.txt" })),
        Foreign("read", json!({ "path": "missing.txt" })),
        Foreign("shell", json!({ "command": "cat notes/a.txt; wc -l < big.txt; grep -n seven big.txt; exit 3" })),
        Say("all is done"),
    ];
    let Some(lab) = Lab::start("acp", [Say("ready")]).await else { return };
    let session = lab.session("get ready").await;
    session.turns(1).await;
    // Longer than what any tool shows to a model.
    lab.in_hands(&session, "seq 1 20000 > big.txt").await;
    lab.model.then(steps);
    session.send("go").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(said(&events), ["ready", "all is done"]);
    let tools: Vec<_> = of_kind(&events, "tool.call").into_iter().map(|event| text(event, "tool")).collect();
    assert_eq!(tools, ["write", "read", "write", "read", "read", "bash"], "{:#?}", summary(&events));
    assert_eq!(number(of_kind(&events, "exec.completed")[0], "exit_code"), Some(3.0));
    let asked = lab.model.asked();
    assert!(told(&asked[0].body).contains("You are the brain of a test."), "{}", asked[0].body);
    let last = told(&asked.last().expect("it was asked").body);
    for word in ["first", "20000", "7777:seven", "missing.txt", "exit code: 3"] {
        assert!(last.contains(word), "{word} is missing: {last}");
    }
    let sandboxes = session.get().await;
    let hands = Files::new(lab.daemon.hands(), &sandboxes.hands_sandbox_id);
    assert_eq!(hands.read("notes/a.txt").await.expect("it is there"), b"first\n");
    let brain = Files::new(lab.daemon.hands(), &sandboxes.brain_sandbox_id);
    assert!(brain.stat("/workspace/notes").await.is_err(), "it wrote where it thinks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_an_agent_gives_up_ends_and_shows_what_it_wrote() {
    let command = json!({ "command": "echo half; sleep 600", "timeout_secs": 1 });
    let Some(lab) = Lab::start("acp", [Foreign("shell", command), Say("too slow")]).await else { return };
    let session = lab.session("go").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(text(of_kind(&events, "exec.completed")[0], "reason"), "canceled");
    let told = told(&lab.model.asked()[1].body);
    assert!(told.contains("half") && told.contains("timed out"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_the_middle_of_its_work_is_the_next_prompt_of_the_turn() {
    let steps = [Foreign("shell", json!({ "command": WAIT })), Say("the first is done"), Say("and the second")];
    let Some(lab) = Lab::start("acp", steps).await else { return };
    let events = lab.steer_in_mid_call("and the second thing").await;
    assert_eq!(said(&events), ["and the second"]);
    assert!(told(&lab.model.asked()[2].body).contains("and the second thing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lost_what_it_kept_is_told_so() {
    let Some(lab) = Lab::start("acp", [Say("noted"), Say("what was what?")]).await else { return };
    let session = lab.session("remember seven").await;
    session.turns(1).await;
    let sandbox_id = session.get().await.brain_sandbox_id;
    lab.daemon.sandboxes().destroy(DestroySandboxRequest { sandbox_id }).await.expect("it is destroyed");
    session.send("what was it?").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    let last = told(&lab.model.asked()[1].body);
    assert!(last.contains("You are the brain of a test.") && last.contains("of this conversation is gone"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_be_a_script_with_the_files_that_it_needs() {
    let Some(lab) = Lab::scripted_agent([Say("echo \"it's $PWD\" | tee a.txt"), Say("cat a.txt")]).await else {
        return;
    };
    let session = lab.session("go").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!((reason.as_str(), said(&events)), ("completed", vec!["it's /workspace\n".to_owned()]));
    // It cannot load its session, and is told so.
    lab.kill_brain();
    session.until("runtime.exited", 1).await;
    session.send("go on").await;
    assert_eq!(session.turns(2).await.0, "completed");
    assert_eq!(session.result().await.as_deref(), Some("it's /workspace\n"));
    assert!(told(&lab.model.asked()[1].body).contains("of this conversation is gone"));
}
