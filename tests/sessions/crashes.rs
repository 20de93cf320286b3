//! Brains, sandboxes and daemons that are killed: the session goes on.

use handsd::api::proto::session::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::session::{kinds, number, of_kind, summary, text};
use crate::support::{Daemon, SOON, Session, eventually, expect, process};

/// Kills the processes with a word in their command line that are below a process.
fn kill_below(pid: u32, word: &str) -> usize {
    let found = process::descendants(pid);
    let found = found.into_iter().filter(|(pid, _)| process::command_line(*pid).contains(word));
    found.filter(|(pid, _)| kill(Pid::from_raw((*pid).cast_signed()), Signal::SIGKILL).is_ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brain_that_crashes_goes_on_behind_the_step_at_which_it_did() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "bash echo once >> log\ncrash\nbash cat log\nexpect once\nsay alive";
    let session = Session::create(&daemon, script).await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    let trail = ["error.runtime", "runtime.restarting", "runtime.resumed", "turn.completed"];
    assert_eq!(kinds(&events, &trail), trail);
    let turn = session.get().await.last_turn.expect("it has ended");
    assert_eq!(turn.attempts, 2);
    assert_eq!(of_kind(&events, "exec.completed").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brain_that_is_killed_while_its_command_runs_gets_the_answer_when_it_is_back() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "bash echo begun >> log; while [ ! -e go ]; do sleep 0.02; done; echo over\nexpect over\n\
                  bash wc -l < log\nexpect 1\nsay done";
    let session = Session::create(&daemon, script).await;
    session.until("exec.output", 0).await;
    session.until("tool.call", 1).await;
    assert_eq!(kill_below(daemon.pid(), "guest script"), 1);
    session.until("runtime.resumed", 1).await;
    let request = handsd::api::proto::BashRequest {
        sandbox_id: session.get().await.hands_sandbox_id,
        command: Some("touch go".to_owned()),
        ..Default::default()
    };
    let mut touching = daemon.hands().bash(request).await.expect("it runs").into_inner();
    while touching.message().await.expect("it ends well").is_some() {}
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(of_kind(&events, "exec.completed").len(), 2, "nothing ran twice");
}

/// 37
#[tokio::test(flavor = "multi_thread")]
async fn a_brain_that_crashes_again_and_again_is_given_up_and_a_message_tries_again() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "crash always").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "error");
    let errors: Vec<_> = of_kind(&events, "error.runtime").iter().map(|event| text(event, "code")).collect();
    assert_eq!(errors.last().map(String::as_str), Some("crash_loop"));
    assert_eq!(errors.len(), 6);
    assert_eq!(session.status().await, Status::Failed);
    assert!(session.get().await.failure.is_some_and(|failure| failure.code == "crash_loop"));

    session.send("say better").await;
    assert_eq!(session.turns(2).await.0, "completed");
    assert_eq!(session.status().await, Status::Idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_that_are_killed_are_back_for_the_next_call_with_their_files() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "bash echo x > file; echo begun; sleep 600\nexpect the outcome is unknown\nbash cat file\nexpect x";
    let session = Session::create(&daemon, script).await;
    session.until("exec.output", 1).await;
    let id = session.get().await.hands_sandbox_id;
    kill_init(&daemon, &id);
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(text(of_kind(&events, "exec.completed")[0], "reason"), "sandbox_lost");
    assert_eq!(session.get().await.hands_sandbox_id, id);
}

fn kill_init(daemon: &Daemon, sandbox: &str) {
    let record = daemon.state().join("sandboxes").join(sandbox).join("init.json");
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).expect("its record")).expect("it is JSON");
    let pid = i32::try_from(record["pid"].as_i64().expect("a pid")).expect("it is small");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_that_are_gone_are_made_anew_and_the_log_says_so() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "bash echo x > file").await;
    session.turns(1).await;
    let before = session.get().await;
    let request = handsd::api::proto::DestroySandboxRequest { sandbox_id: before.hands_sandbox_id.clone() };
    daemon.sandboxes().destroy(request).await.expect("it is removed");
    session.send("bash ls; echo listed\nexpect listed\nsay moved").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    let lost = of_kind(&events, "runtime.sandbox_lost");
    assert_eq!(lost.iter().map(|event| text(event, "sandbox")).collect::<Vec<_>>(), ["hands"]);
    let after = session.get().await;
    assert_ne!(after.hands_sandbox_id, before.hands_sandbox_id);
    assert_eq!(after.brain_sandbox_id, before.brain_sandbox_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_of_the_brain_is_lost_within_a_turn_and_no_call_runs_twice() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "bash echo once >> log\nsay one\nsleep 2\nbash cat log; wc -l < log\nexpect once\nexpect 1\nsay two";
    let session = Session::create(&daemon, script).await;
    session.until("agent.message", 1).await;
    let brain = session.get().await.brain_sandbox_id;
    let request = handsd::api::proto::DestroySandboxRequest { sandbox_id: brain };
    daemon.sandboxes().destroy(request).await.expect("it is removed");
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    let said: Vec<_> = of_kind(&events, "agent.message").iter().map(|event| text(event, "text")).collect();
    assert_eq!(said, ["one", "two"]);
    assert_eq!(of_kind(&events, "runtime.sandbox_lost").len(), 1);
}

/// 42
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_goes_on_with_the_same_brain_and_the_same_command() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let script = "say one\nbash for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done\nexpect 8\n\
                  bash echo second >> log; wc -l < log\nexpect 1\nsay two";
    let session = Session::create(&daemon, script).await;
    let before = session.until("exec.output", 1).await;
    daemon.kill_and_restart().await;
    let session = session.again(&daemon);
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    assert_eq!(events[..before.len()], before[..], "what was seen once stays");
    let said: Vec<_> = of_kind(&events, "agent.message").iter().map(|event| text(event, "text")).collect();
    assert_eq!(said, ["one", "two"]);
    assert_eq!(of_kind(&events, "runtime.resumed").len(), 0, "the brain is the same process");
    assert_eq!(of_kind(&events, "tool.call").len(), 2);
    let codes: Vec<_> = of_kind(&events, "exec.completed").iter().map(|event| number(event, "exit_code")).collect();
    assert_eq!(codes, [Some(0.0), Some(0.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sleeps_and_its_next_message_wakes_both_sandboxes() {
    let Some(daemon) = Daemon::start_configured("[sandbox]\nidle_timeout = '200ms'\n").await else { return };
    let session = Session::create(&daemon, "bash sleep 600 & echo $! > pid\nsay asleep").await;
    session.turns(1).await;
    let made = session.get().await;
    for id in [&made.brain_sandbox_id, &made.hands_sandbox_id] {
        eventually(SOON, || async {
            let request = handsd::api::proto::GetSandboxRequest { sandbox_id: id.clone() };
            let sandbox = daemon.sandboxes().get(request).await.expect("it is there").into_inner();
            expect(sandbox.phase() == handsd::api::proto::Phase::Hibernated, sandbox.phase().as_str_name())
        })
        .await;
    }
    session.send("bash kill -0 $(cat pid) && echo alive\nexpect alive\nsay awake").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    let now = session.get().await;
    assert_eq!((now.brain_sandbox_id, now.hands_sandbox_id), (made.brain_sandbox_id, made.hands_sandbox_id));
    assert_eq!(of_kind(&events, "runtime.resumed").len(), 0, "the brain is the same process");
}
