//! Brains that are killed, and brains that sleep.

use std::fs;

use handsd::api::proto::{ArchiveSessionRequest, DestroySandboxRequest, GetSandboxRequest, Phase, SessionEvent};
use serde_json::json;

use crate::lab::Lab;
use crate::support::Step::{Call, Hold, Say};
use crate::support::session::{number, of_kind, summary, text};
use crate::support::{SOON, Session, eventually, expect};
use crate::turns::{said, told};
use crate::{an_agent_too, each_runtime};

each_runtime![
    a_brain_killed_in_the_middle_of_a_call_hears_what_came_of_it,
    a_brain_killed_while_it_hears_its_model_goes_on,
    a_daemon_killed_in_the_middle_of_a_call_goes_on_and_nothing_runs_twice,
    a_brain_sleeps_and_wakes_with_its_conversation,
    a_brain_whose_sandbox_was_stopped_wakes_with_its_conversation,
    a_conversation_outlives_the_sandbox_of_its_brain,
    a_message_of_before_a_crash_is_not_lost,
];

an_agent_too![
    a_brain_killed_in_the_middle_of_a_call_hears_what_came_of_it,
    a_brain_killed_while_it_hears_its_model_goes_on,
    a_daemon_killed_in_the_middle_of_a_call_goes_on_and_nothing_runs_twice,
    a_brain_whose_sandbox_was_stopped_wakes_with_its_conversation,
];

/// Ends with its answer once there is a file.
const WAIT: &str = "echo begun >> log; while [ ! -e go ]; do sleep 0.02; done; echo over";

/// How often a command was run.
fn runs(events: &[SessionEvent]) -> usize {
    of_kind(events, "exec.started").len()
}

async fn a_brain_killed_in_the_middle_of_a_call_hears_what_came_of_it(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Call("bash", json!({ "command": WAIT }))]).await else { return };
    let session = lab.session("do it").await;
    session.until("exec.started", 1).await;
    lab.model.then([Hold("I wait. ", "And go on."), Say("all is well"), Say("indeed")]);
    lab.kill_brain();
    session.until("runtime.resumed", 1).await;
    let asked = lab.model.until_asked(2).await;
    assert!(told(&asked[1].body).contains("still under way"), "{}", asked[1].body);
    lab.in_hands(&session, "touch go").await;
    session.until("exec.completed", 1).await;
    lab.model.release();
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(runs(&events), 1, "nothing ran twice");
    let last = lab.model.asked().last().map(|asked| told(&asked.body)).unwrap_or_default();
    assert!(last.contains("of before the restart") && last.contains("over"), "{last}");
}

async fn a_brain_killed_while_it_hears_its_model_goes_on(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Hold("half a ", "word"), Say("whole")]).await else { return };
    let session = lab.session("speak of the tower").await;
    lab.model.until_asked(1).await;
    lab.kill_brain();
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(said(&events), ["whole"]);
    assert!(told(&lab.model.asked()[1].body).contains("speak of the tower"));
    // And it has kept what it resumed.
    lab.model.then([Say("once more")]);
    session.send("and the river").await;
    session.turns(2).await;
    let last = told(&lab.model.asked()[2].body);
    assert!(last.contains("speak of the tower") && last.contains("whole"), "{last}");
}

async fn a_daemon_killed_in_the_middle_of_a_call_goes_on_and_nothing_runs_twice(runtime: &str) {
    let Some(mut lab) =
        Lab::start(runtime, [Call("bash", json!({ "command": WAIT })), Say("all is well"), Say("yes")]).await
    else {
        return;
    };
    let session = lab.session("do it").await;
    session.until("exec.started", 1).await;
    lab.daemon.kill_and_restart().await;
    let session = session.again(&lab.daemon);
    session.until("runtime.resumed", 1).await;
    eventually(SOON, || async {
        let brains = lab.brain_processes();
        expect(brains.len() == 1, format!("there are the brains {brains:?}"))
    })
    .await;
    lab.in_hands(&session, "touch go").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(runs(&events), 1, "nothing ran twice");
    let codes: Vec<_> = of_kind(&events, "exec.completed").iter().map(|event| number(event, "exit_code")).collect();
    assert_eq!(codes, [Some(0.0)]);
}

async fn asleep(lab: &Lab, session: &Session, tier: &str) {
    let id = session.get().await.brain_sandbox_id;
    eventually(SOON, || async {
        let request = GetSandboxRequest { sandbox_id: id.clone() };
        let sandbox = lab.daemon.sandboxes().get(request).await.expect("it is there").into_inner();
        let stands = format!("{:?} {}", sandbox.phase(), sandbox.tier().as_str_name().to_lowercase());
        expect(sandbox.phase() == Phase::Hibernated && stands.contains(tier), stands)
    })
    .await;
}

async fn a_brain_sleeps_and_wakes_with_its_conversation(runtime: &str) {
    let config = "[sandbox]\nidle_timeout = '200ms'\n";
    let Some(lab) = Lab::configured(runtime, [Say("noted"), Say("seven")], config).await else { return };
    let session = lab.session("remember seven").await;
    session.turns(1).await;
    asleep(&lab, &session, "frozen").await;
    session.send("what was it?").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert!(told(&lab.model.asked()[1].body).contains("remember seven"));
    assert_eq!(of_kind(&events, "runtime.exited").len(), 0, "it is the same process");
}

async fn a_brain_whose_sandbox_was_stopped_wakes_with_its_conversation(runtime: &str) {
    let config = "[sandbox]\nidle_timeout = '200ms'\nstop_after = '200ms'\n";
    let Some(lab) = Lab::configured(runtime, [Say("noted"), Say("seven")], config).await else { return };
    let session = lab.session("remember seven").await;
    session.turns(1).await;
    asleep(&lab, &session, "stopped").await;
    session.send("what was it?").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    let last = told(&lab.model.asked()[1].body);
    assert!(last.contains("remember seven") && last.contains("noted"), "{last}");
    assert_eq!(of_kind(&events, "runtime.sandbox_lost").len(), 0);
}

async fn a_conversation_outlives_the_sandbox_of_its_brain(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Say("noted"), Say("seven")]).await else { return };
    let session = lab.session("remember seven").await;
    session.turns(1).await;
    let copy = lab.daemon.state().join("transcripts").join(&session.id);
    let is_copied = || async {
        let text = fs::read_to_string(&copy).unwrap_or_default();
        expect(text.contains("remember seven") && text.contains("noted"), text)
    };
    eventually(SOON, is_copied).await;
    let sandbox_id = session.get().await.brain_sandbox_id;
    lab.daemon.sandboxes().destroy(DestroySandboxRequest { sandbox_id }).await.expect("it is destroyed");
    session.send("what was it?").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(of_kind(&events, "runtime.sandbox_lost").len(), 1);
    let last = told(&lab.model.asked()[1].body);
    assert!(last.contains("remember seven") && last.contains("noted"), "{last}");
    // It goes with the session.
    let request = ArchiveSessionRequest { session_id: session.id.clone() };
    lab.daemon.sessions().archive(request).await.expect("it is archived");
    eventually(SOON, || async { expect(!copy.exists(), "the copy is there") }).await;
}

async fn a_message_of_before_a_crash_is_not_lost(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Call("bash", json!({ "command": WAIT }))]).await else { return };
    let session = lab.session("do it").await;
    session.until("exec.started", 1).await;
    session.send("and mind the gap").await;
    lab.model.then([Say("minded"), Say("and done")]);
    lab.kill_brain();
    session.until("runtime.resumed", 1).await;
    lab.in_hands(&session, "touch go").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert!(told(&lab.model.asked()[1].body).contains("and mind the gap"));
    assert!(text(of_kind(&events, "error.runtime")[0], "message").contains("brain"), "{:#?}", summary(&events));
}
