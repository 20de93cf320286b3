//! The process that a sandbox keeps running: it is started again when it ends or hangs, until it has done so too often, and
//! no death of the daemon gives it more tries.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::Duration;

use handsd::api::proto::runtime::Restart;
use handsd::api::proto::runtime_exit::{Reason, Status as Ending};
use handsd::api::proto::runtime_status::State;
use handsd::api::proto::{
    CreateSandboxRequest, ErrorReason, Health, HibernateSandboxRequest, Limits, NodeEvent, NodeEventsRequest, Phase,
    Runtime, RuntimeStatus, Tier, WakeSandboxRequest, health,
};
use tonic::Code;

use support::{Daemon, Options, SOON, Sandbox, duration, eventually, expect, fault, field, process, refusal};

mod support;

/// Backs off in milliseconds, and gives up at the fourth end.
const QUICK: &str = "[runtime]\nrestart_after = '20ms'\nrestart_longest = '80ms'\nbudget = 4\n";

/// Starts again for as long as a test lasts.
const PATIENT: &str = "[runtime]\nrestart_after = '10ms'\nrestart_longest = '10ms'\nbudget = 1000\n";

/// What is told of one life.
const ONCE: [&str; 3] = ["runtime.starting", "runtime.started", "runtime.exited"];

fn runtime(command: &str) -> Runtime {
    Runtime { command: command.to_owned(), ..Runtime::default() }
}

async fn create(daemon: &Daemon, runtime: Runtime) -> Sandbox {
    let request = CreateSandboxRequest { runtime: Some(runtime), ..CreateSandboxRequest::default() };
    Sandbox::create(daemon, request).await.unwrap()
}

async fn status(sandbox: &Sandbox) -> RuntimeStatus {
    sandbox.get().await.unwrap().runtime_status.expect("it has a runtime")
}

async fn becomes(sandbox: &Sandbox, is_so: impl Fn(&RuntimeStatus) -> bool) -> RuntimeStatus {
    eventually(SOON, || async {
        let status = status(sandbox).await;
        if is_so(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

async fn runs(sandbox: &Sandbox, start: u64) -> RuntimeStatus {
    becomes(sandbox, |it| it.state() == State::Running && it.starts == start && !it.run_id.is_empty()).await
}

async fn hibernate(daemon: &Daemon, sandbox: &Sandbox, tier: Tier) {
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: tier.into() };
    daemon.sandboxes().hibernate(request).await.unwrap();
}

async fn wake(daemon: &Daemon, sandbox: &Sandbox) {
    daemon.sandboxes().wake(WakeSandboxRequest { sandbox_id: sandbox.id.clone() }).await.unwrap();
}

/// What the node tells of runtimes.
async fn events(daemon: &Daemon) -> Vec<NodeEvent> {
    let mut stream = daemon.node().events(NodeEventsRequest::default()).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        events.extend(Some(event).filter(|event| event.kind.starts_with("runtime.")));
    }
    events
}

/// The same once these kinds have come, and no others. They come a moment after what they tell can be seen.
async fn events_of(daemon: &Daemon, kinds: &[&str]) -> Vec<NodeEvent> {
    eventually(SOON, || async {
        let events = events(daemon).await;
        let told: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        if told == kinds { Ok(events) } else { Err(format!("{told:?}")) }
    })
    .await
}

// 37
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_is_started_again_after_longer_and_longer_until_it_is_given_up() {
    let config = QUICK.replace("20ms", "200ms").replace("80ms", "400ms");
    let Some(daemon) = Daemon::start_configured(&config).await else { return };
    let sandbox = create(&daemon, runtime("date +%s%N >> starts; echo out; exit 3")).await;
    let given_up = becomes(&sandbox, |it| it.state() == State::Failed).await;
    let failure = given_up.failure.unwrap();
    assert_eq!((given_up.starts, failure.reason.as_str()), (4, "CRASH_LOOP"));
    let last = given_up.last_exit.unwrap();
    assert_eq!((last.reason(), last.status), (Reason::Exited, Some(Ending::Code(3))));
    // The sandbox can be used all the same, to see what is the matter.
    let starts: Vec<u64> = sandbox.read("cat starts").await.lines().map(|line| line.parse().unwrap()).collect();
    let waits: Vec<u128> = starts.windows(2).map(|two| u128::from(two[1] - two[0]) / 1_000_000).collect();
    assert_eq!(waits.len(), 3);
    assert!(waits[0] >= 200 && waits[1] >= 400 && waits[2] >= 400, "{waits:?}");
    let all: Vec<&str> =
        ONCE.repeat(3).into_iter().chain(["runtime.starting", "runtime.started", "runtime.failed"]).collect();
    let events = events_of(&daemon, &all).await;
    let told = events.last().unwrap().runtime.clone().unwrap();
    assert_eq!(told.failure.unwrap().reason, "CRASH_LOOP");
    // Its output is that of a run like any other.
    let run = sandbox.runs().await.into_iter().rfind(|run| run.runtime).unwrap();
    assert_eq!(run.run_id, given_up.run_id);
    let outcome = sandbox.attach(&run.run_id, 0).await.unwrap().finish().await.unwrap();
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("out\n", Some(3)));
    // Another try has to be asked for, and begins with a clean slate.
    wake(&daemon, &sandbox).await;
    becomes(&sandbox, |it| it.state() == State::Failed && it.starts == 8).await;
}

// 37
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_outlives_the_daemon() {
    let Some(mut daemon) = Daemon::start_configured(QUICK).await else { return };
    let sandbox = create(&daemon, runtime("echo >> starts; exec sleep 1000")).await;
    for start in 1..4 {
        let running = runs(&sandbox.through(&daemon), start).await;
        daemon.kill_and_restart().await;
        let sandbox = sandbox.through(&daemon);
        // The same one goes on, and is the one that is ended.
        assert_eq!(runs(&sandbox, start).await.run_id, running.run_id);
        sandbox.kill(&running.run_id, libc::SIGKILL.unsigned_abs()).await.unwrap();
        becomes(&sandbox, |it| it.starts == start + 1).await;
    }
    let sandbox = sandbox.through(&daemon);
    let running = runs(&sandbox, 4).await;
    sandbox.kill(&running.run_id, libc::SIGKILL.unsigned_abs()).await.unwrap();
    becomes(&sandbox, |it| it.state() == State::Failed).await;
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    assert_eq!(status(&sandbox).await.state(), State::Failed);
    assert_eq!(sandbox.read("wc -l < starts").await, "4");
    let all: Vec<&str> =
        ONCE.repeat(3).into_iter().chain(["runtime.starting", "runtime.started", "runtime.failed"]).collect();
    for exit in events_of(&daemon, &all).await.iter().filter(|it| it.kind == "runtime.exited") {
        let last = exit.runtime.clone().unwrap().last_exit.unwrap();
        assert_eq!((last.reason(), last.status), (Reason::Signaled, Some(Ending::Signal(libc::SIGKILL))));
    }
}

// 37
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_no_daemon_saw_is_told_once() {
    let Some(mut daemon) = Daemon::start_configured(PATIENT).await else { return };
    let sandbox = create(&daemon, runtime("mkfifo go; read x < go; exit 5")).await;
    runs(&sandbox, 1).await;
    let fifo = format!("/proc/{}/root/workspace/go", daemon.init(&sandbox));
    eventually(SOON, || async { expect(std::fs::exists(&fifo).unwrap(), "it does not wait yet") }).await;
    daemon.kill();
    std::fs::write(&fifo, "\n").unwrap();
    daemon.restart().await;
    let again = sandbox.through(&daemon);
    let after = becomes(&again, |it| it.starts >= 2).await.last_exit.unwrap();
    assert_eq!((after.reason(), after.status), (Reason::Exited, Some(Ending::Code(5))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_well_is_left_alone_unless_it_is_always_to_run() {
    let Some(daemon) = Daemon::start_configured(PATIENT).await else { return };
    let once = create(&daemon, runtime("echo done")).await;
    let exited = becomes(&once, |it| it.state() == State::Exited).await;
    assert_eq!((exited.starts, exited.last_exit.unwrap().status), (1, Some(Ending::Code(0))));
    let never = create(&daemon, Runtime { restart: Restart::Never.into(), ..runtime("exit 1") }).await;
    assert_eq!(becomes(&never, |it| it.state() == State::Exited).await.starts, 1);
    let always = create(&daemon, Runtime { restart: Restart::Always.into(), ..runtime("true") }).await;
    becomes(&always, |it| it.starts > 3).await;
    let missing = Runtime { argv: vec!["/no/such/program".to_owned()], ..Runtime::default() };
    let missing = create(&daemon, missing).await;
    let last = becomes(&missing, |it| it.starts > 2).await.last_exit.unwrap();
    assert_eq!(last.reason(), Reason::NotStarted);
    assert!(last.message.contains("/no/such/program"), "{}", last.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_ended_and_started_again() {
    let Some(daemon) = Daemon::start_configured(PATIENT).await else { return };
    let often = duration(Duration::from_millis(100));
    let by_command = Health {
        check: Some(health::Check::Command("test -e well".to_owned())),
        interval: often,
        timeout: duration(Duration::from_secs(10)),
        start_period: None,
    };
    // It does not listen to SIGTERM either.
    let deaf =
        Runtime { health: Some(by_command), stop_grace: often, ..runtime("trap '' TERM; while :; do sleep 0.1; done") };
    let sandbox = create(&daemon, deaf).await;
    let last = becomes(&sandbox, |it| it.starts == 2).await.last_exit.unwrap();
    assert_eq!((last.reason(), last.status), (Reason::Hung, Some(Ending::Signal(libc::SIGKILL))));
    assert!(last.message.contains("code 1"), "{}", last.message);
    // Nobody asked for the health commands.
    assert!(sandbox.runs().await.iter().all(|run| run.runtime));
    sandbox.bash("touch well").await;
    let well = runs(&sandbox, status(&sandbox).await.starts).await;
    let silent = Health { check: often.map(health::Check::Heartbeat), ..Health::default() };
    let silent = create(&daemon, Runtime { health: Some(silent), ..runtime("echo alive; sleep 1000") }).await;
    let last = becomes(&silent, |it| it.starts == 2).await.last_exit.unwrap();
    assert_eq!(last.reason(), Reason::Hung);
    // Meanwhile the healthy one has been asked many times.
    assert_eq!(status(&sandbox).await.run_id, well.run_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sleeps_with_its_sandbox_and_goes_on_after_the_wake() {
    let config = format!("[sandbox]\nidle_timeout = '300ms'\n{PATIENT}");
    let Some(daemon) = Daemon::start_configured(&config).await else { return };
    let sandbox = create(&daemon, runtime("trap 'echo ended >> end; exit 0' TERM; while :; do sleep 0.05; done")).await;
    let first = becomes(&sandbox, |it| !it.run_id.is_empty()).await;
    // It is no use of the sandbox.
    let asleep = || async {
        let phase = sandbox.get().await.unwrap().phase();
        expect(phase == Phase::Hibernated, format!("{phase:?}"))
    };
    eventually(SOON, asleep).await;
    assert_eq!(sandbox.read("echo awake").await, "awake");
    assert_eq!((status(&sandbox).await.starts, status(&sandbox).await.run_id), (1, first.run_id));
    eventually(SOON, asleep).await;
    // What is stopped is told so, and started again with its sandbox, which counts as no crash.
    wake(&daemon, &sandbox).await;
    hibernate(&daemon, &sandbox, Tier::Stopped).await;
    assert_eq!(sandbox.read("cat end").await, "ended");
    let second = becomes(&sandbox, |it| it.starts == 2 && it.state() == State::Running).await;
    assert_eq!(second.last_exit, None);
    // So is what is frozen.
    hibernate(&daemon, &sandbox, Tier::Frozen).await;
    hibernate(&daemon, &sandbox, Tier::Stopped).await;
    assert_eq!(sandbox.read("cat end").await, "ended\nended");
    runs(&sandbox, 3).await;
    let life = ["runtime.starting", "runtime.started", "runtime.stopped"];
    events_of(&daemon, &life.repeat(3)[..8]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_its_sandbox_is_one_of_its_own() {
    let Some(daemon) = Daemon::start_configured(PATIENT).await else { return };
    let sandbox = create(&daemon, runtime("exec sleep 1000")).await;
    runs(&sandbox, 1).await;
    sandbox.bash("echo kept > file").await;
    process::kill(daemon.init(&sandbox));
    // Nobody calls, and yet it is started again.
    let again = runs(&sandbox, 2).await;
    assert_eq!(again.last_exit.unwrap().reason(), Reason::SandboxLost);
    assert_eq!(
        (sandbox.get().await.unwrap().phase(), sandbox.read("cat file").await.as_str()),
        (Phase::Running, "kept")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn want_of_memory_is_told_as_that() {
    let Some(daemon) = Daemon::start_configured(PATIENT).await else { return };
    let request = CreateSandboxRequest {
        runtime: Some(runtime("exec tail /dev/zero")),
        limits: Some(Limits { memory_bytes: 64 << 20, ..Limits::default() }),
        ..CreateSandboxRequest::default()
    };
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    let last = becomes(&sandbox, |it| it.starts >= 2).await.last_exit.unwrap();
    assert_eq!(last.reason(), Reason::OomKilled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_between_two_steps_leaves_one_runtime() {
    for point in ["runtime.intended", "runtime.started", "runtime.ended"] {
        let options = Options { config: PATIENT.to_owned(), crash_at: Some(point), ..Options::default() };
        let Some(mut daemon) = Daemon::start_with(options).await else { return };
        let request = CreateSandboxRequest {
            runtime: Some(runtime("echo >> starts; test -e again && exec sleep 1000; touch again; exit 1")),
            idempotency_key: "key".to_owned(),
            ..CreateSandboxRequest::default()
        };
        let _ = Sandbox::create(&daemon, request.clone()).await;
        daemon.has_crashed().await;
        daemon.restart().await;
        // It may never have been told of, if it was killed that soon.
        let sandbox = Sandbox::create(&daemon, request).await.unwrap();
        eventually(SOON, || async {
            let sleeping = sandbox.bash("pgrep -c sleep").await.stdout_text();
            expect(sleeping == "1\n", format!("{point}: {sleeping}"))
        })
        .await;
        assert_eq!(sandbox.read("wc -l < starts").await, "2", "{point}");
        let running = becomes(&sandbox, |it| it.state() == State::Running && !it.run_id.is_empty()).await;
        assert!(sandbox.get_run(&running.run_id).await.unwrap().exited.is_none(), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_by_its_field() {
    let Some(daemon) = Daemon::start().await else { return };
    let health = |health: Health| Runtime { health: Some(health), ..runtime("true") };
    let never = duration(Duration::ZERO);
    let cases = [
        (Runtime::default(), "runtime.argv"),
        (Runtime { restart: 9, ..runtime("true") }, "runtime.restart"),
        (Runtime { stop_grace: duration(Duration::from_secs(3600)), ..runtime("true") }, "runtime.stop_grace"),
        (health(Health::default()), "runtime.health"),
        (
            health(Health { check: never.map(health::Check::Heartbeat), ..Health::default() }),
            "runtime.health.heartbeat",
        ),
    ];
    for (runtime, wrong) in cases {
        let request = CreateSandboxRequest { runtime: Some(runtime), ..CreateSandboxRequest::default() };
        let status = daemon.sandboxes().create(request).await.unwrap_err();
        assert_eq!(field(&status), wrong);
        assert_eq!(refusal::<()>(Err(status)), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid));
    }
}
