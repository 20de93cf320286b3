//! Sleep and wake: the idle sleep, whoever uses them wakes them, nothing is lost on the way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::Duration;

use futures_util::future::join_all;
use handsd::api::proto::{
    CreateSandboxRequest, HibernateSandboxRequest, Phase, Sandbox as Message, SetLimitsRequest, Tier,
    TouchSandboxRequest, WakeSandboxRequest, WatchSandboxRequest,
};
use support::{Daemon, SOON, Sandbox, argv, eventually, expect, only_native, reason, rootfs};
use tonic::Status;

mod support;

async fn hibernate(daemon: &Daemon, sandbox: &Sandbox) -> Result<Message, Status> {
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), ..Default::default() };
    daemon.sandboxes().hibernate(request).await.map(tonic::Response::into_inner)
}

async fn wake(daemon: &Daemon, sandbox: &Sandbox) -> Result<Message, Status> {
    let request = WakeSandboxRequest { sandbox_id: sandbox.id.clone() };
    daemon.sandboxes().wake(request).await.map(tonic::Response::into_inner)
}

/// A sandbox that goes to sleep after so long.
async fn with_timeout(daemon: &Daemon, milliseconds: i32) -> Sandbox {
    let timeout = prost_types::Duration { seconds: 0, nanos: milliseconds * 1_000_000 };
    let request = CreateSandboxRequest { idle_timeout: Some(timeout), ..Default::default() };
    Sandbox::create(daemon, request).await.unwrap()
}

async fn becomes(sandbox: &Sandbox, phase: Phase) {
    eventually(SOON, || async {
        let now = sandbox.get().await.unwrap().phase();
        expect(now == phase, format!("{now:?}"))
    })
    .await;
}

// 30
#[tokio::test(flavor = "multi_thread")]
async fn five_hibernates_at_once_are_one_transition_and_so_are_five_wakes() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let before = sandbox.get().await.unwrap().generation;
    for result in join_all((0..5).map(|_| hibernate(&daemon, &sandbox))).await {
        assert_eq!(result.unwrap().phase(), Phase::Hibernated);
    }
    // Hibernating and Hibernated.
    assert_eq!(sandbox.get().await.unwrap().generation, before + 2);
    for result in join_all((0..5).map(|_| wake(&daemon, &sandbox))).await {
        assert_eq!(result.unwrap().phase(), Phase::Running);
    }
    assert_eq!(sandbox.get().await.unwrap().generation, before + 4);
    assert_eq!(sandbox.bash("echo awake").await.stdout_text(), "awake\n");
}

// 31, 34
#[tokio::test(flavor = "multi_thread")]
async fn many_calls_to_a_sleeping_sandbox_share_one_wake_and_none_is_lost() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    hibernate(&daemon, &sandbox).await.unwrap();
    let before = sandbox.get().await.unwrap().generation;
    let calls = (0..20).map(|number| {
        let sandbox = &sandbox;
        async move { sandbox.run(argv(&["echo", &number.to_string()])).await.unwrap().stdout_text() }
    });
    let expected: Vec<String> = (0..20).map(|number| format!("{number}\n")).collect();
    assert_eq!(join_all(calls).await, expected);
    // Waking and Running.
    assert_eq!(sandbox.get().await.unwrap().generation, before + 2);
}

// 32
#[tokio::test(flavor = "multi_thread")]
async fn memory_and_files_are_the_same_after_many_cycles() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    // The counter lives in the memory of a background process, and grows whenever it is poked.
    sandbox
        .bash(
            "mkfifo poke; (exec 3<>poke; n=0; while read -r _ <&3; do n=$((n+1)); echo $n > new; mv new count; done) &",
        )
        .await;
    sandbox.bash("head -c 1000000 /dev/urandom > data; sha256sum data > sum").await;
    for cycle in 1..=20 {
        hibernate(&daemon, &sandbox).await.unwrap();
        let line =
            format!("echo > poke; until [ \"$(cat count 2>/dev/null)\" = {cycle} ]; do :; done; sha256sum -c sum");
        assert_eq!(sandbox.bash(&line).await.stdout_text(), "data: OK\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_sandbox_does_nothing() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("while :; do echo x >> ticks; done &").await;
    eventually(SOON, || async { expect(!sandbox.read("cat ticks").await.is_empty(), "no tick") }).await;
    hibernate(&daemon, &sandbox).await.unwrap();
    let ticks = daemon.upper(&sandbox).join("workspace/ticks");
    let length = || std::fs::metadata(&ticks).unwrap().len();
    let before = length();
    // Long enough for a process that is not frozen to be scheduled many times.
    let looks = std::time::Instant::now();
    while looks.elapsed() < Duration::from_millis(300) {
        assert_eq!(length(), before);
    }
    assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Hibernated);
}

// 33
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_command_keeps_a_sandbox_awake_and_looking_does_not() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = with_timeout(&daemon, 100).await;
    let running = sandbox.start(argv(&["sleep", "1.5"])).await.unwrap();
    let error = hibernate(&daemon, &sandbox).await.unwrap_err();
    assert_eq!(reason(&error), "SANDBOX_BUSY");
    let mut watch = daemon
        .sandboxes()
        .watch(WatchSandboxRequest { sandbox_id: sandbox.id.clone(), after_generation: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().phase(), Phase::Running);
    assert_eq!(running.finish().await.unwrap().code(), Some(0));
    // It had been quiet for fifteen times its timeout, and falls asleep only now, whoever looks.
    let mut phase = watch.message().await.unwrap().unwrap().phase();
    if phase == Phase::Hibernating {
        // Who is slow skips to the newest.
        phase = watch.message().await.unwrap().unwrap().phase();
    }
    assert_eq!(phase, Phase::Hibernated);
    for _ in 0..20 {
        assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Hibernated);
        assert_eq!(sandbox.runs().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sandbox_sleeps_and_a_file_wakes_it() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = with_timeout(&daemon, 100).await;
    sandbox.bash("echo kept > file").await;
    becomes(&sandbox, Phase::Hibernated).await;
    assert_eq!(sandbox.read("cat file").await, "kept");
    becomes(&sandbox, Phase::Hibernated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_run_can_be_read_without_waking() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("echo kept").await;
    hibernate(&daemon, &sandbox).await.unwrap();
    let again = sandbox.attach(&outcome.started.run_id, 0).await.unwrap().finish().await.unwrap();
    assert_eq!(again.stdout_text(), "kept\n");
    assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Hibernated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_run_wakes_a_sandbox_that_was_stopped() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("echo kept").await;
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: Tier::Stopped.into() };
    daemon.sandboxes().hibernate(request).await.unwrap();
    let again = sandbox.attach(&outcome.started.run_id, 0).await.unwrap().finish().await.unwrap();
    assert_eq!((again.stdout_text().as_str(), again.code()), ("kept\n", Some(0)));
    assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_puts_sleep_off() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = with_timeout(&daemon, 900).await;
    let until = std::time::Instant::now() + Duration::from_millis(1500);
    while std::time::Instant::now() < until {
        let request = TouchSandboxRequest { sandbox_id: sandbox.id.clone() };
        assert_eq!(daemon.sandboxes().touch(request).await.unwrap().into_inner().phase(), Phase::Running);
    }
    becomes(&sandbox, Phase::Hibernated).await;
}

// 36
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_sandbox_is_destroyed_without_waking() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("sleep 1000 & sleep 1000 &").await;
    hibernate(&daemon, &sandbox).await.unwrap();
    sandbox.destroy().await.unwrap();
    assert!(daemon.stop().success());
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_dies_in_its_sleep_is_seen_and_starts_again_with_its_files() {
    if !only_native("where it freezes with version 1 cgroups, no signal reaches a frozen process") {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("echo kept > file").await;
    hibernate(&daemon, &sandbox).await.unwrap();
    // The only signal that reaches a frozen process.
    let init = i32::try_from(daemon.init(&sandbox)).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).unwrap();
    becomes(&sandbox, Phase::Crashed).await;
    // Looking does not start it.
    assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Crashed);
    assert_eq!(sandbox.read("cat file").await, "kept");
    assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_it_runs() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let limits = handsd::api::proto::Limits { pids: 8, ..Default::default() };
    let request = SetLimitsRequest { sandbox_id: sandbox.id.clone(), limits: Some(limits) };
    let changed = daemon.sandboxes().set_limits(request).await.unwrap().into_inner();
    assert_eq!(changed.limits.unwrap().pids, 8);
    let outcome = sandbox.bash("for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait").await;
    assert!(outcome.stderr_text().contains("fork"), "{}", outcome.stderr_text());
}

// 35
#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_fails_leaves_it_asleep_with_its_files_and_says_why() {
    if !only_native("a container needs its image no more once it is made") {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let image = rootfs::write_tar(daemon.scratch());
    let request = CreateSandboxRequest { image: format!("tar:{}", image.display()), ..Default::default() };
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    sandbox.bash("echo kept > file").await;
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: Tier::Stopped.into() };
    daemon.sandboxes().hibernate(request).await.unwrap();
    let elsewhere = image.with_extension("away");
    std::fs::rename(&image, &elsewhere).unwrap();
    let refused = join_all((0..5).map(|_| wake(&daemon, &sandbox))).await;
    assert!(refused.iter().all(|answer| reason(answer.as_ref().unwrap_err()) == "IMAGE_NOT_FOUND"), "{refused:?}");
    let now = sandbox.get().await.unwrap();
    assert_eq!((now.phase(), now.tier(), now.running), (Phase::Hibernated, Tier::Stopped, 0));
    let init = sandbox.directory(&daemon).join("init.json");
    assert!(!init.exists(), "nothing of it runs");
    std::fs::rename(&elsewhere, &image).unwrap();
    assert_eq!(sandbox.read("cat file").await, "kept");
}
