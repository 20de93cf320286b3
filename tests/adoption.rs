//! What the next daemon finds when one was killed or told to end: sandboxes and runs go on as if nothing had been.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::{Duration, Instant};

use handsd::api::proto::exited::{Reason, Status as Ending};
use handsd::api::proto::{
    BashRequest, CreateSandboxRequest, ErrorReason, HibernateSandboxRequest, Phase, Pty, Tier, WakeSandboxRequest,
    input_request::Input,
};
use tonic::Code;

use support::{
    Daemon, Options, SOON, Sandbox, argv, duration, eventually, expect, fault, field, holders, process, reason,
    refusal, shell,
};

mod support;

/// Runs whose processes the guest has to find itself, and those in cgroups.
const CONFIGURATIONS: [&str; 2] = ["", "[engine]\ncgroup = 'off'\n"];

async fn hibernate(daemon: &Daemon, sandbox: &Sandbox, tier: Tier) {
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: tier.into() };
    daemon.sandboxes().hibernate(request).await.unwrap();
}

async fn wake(daemon: &Daemon, sandbox: &Sandbox) {
    daemon.sandboxes().wake(WakeSandboxRequest { sandbox_id: sandbox.id.clone() }).await.unwrap();
}

async fn ended(sandbox: &Sandbox, run: &str) {
    eventually(SOON, || async {
        let run = sandbox.get_run(run).await.map_err(|status| status.to_string())?;
        expect(run.exited.is_some(), "it goes on")
    })
    .await;
}

// 38
#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_over_the_death_of_its_daemon_and_no_byte_is_lost() {
    for config in CONFIGURATIONS {
        let Some(mut daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let init = daemon.init(&sandbox);
        let count = "trap end=1 TERM; i=0; while [ -z \"$end\" ]; do i=$((i+1)); echo $i; done; echo end >&2; exit 3";
        let mut run = sandbox.start(shell(count)).await.unwrap();
        run.read_until("\n1000\n").await.unwrap();
        let mut cursor = run.cursor();
        for _ in 0..3 {
            daemon.kill_and_restart().await;
            let sandbox = sandbox.through(&daemon);
            assert_eq!((daemon.init(&sandbox), sandbox.get().await.unwrap().phase()), (init, Phase::Running));
            // It goes on, and is followed from where the last reader stopped.
            let mut again = sandbox.attach(run.id(), cursor).await.unwrap();
            assert_eq!(again.started, run.started);
            while again.cursor() < cursor + 100_000 {
                again.next().await.unwrap();
            }
            cursor = again.cursor();
        }
        let sandbox = sandbox.through(&daemon);
        sandbox.kill(run.id(), libc::SIGTERM.unsigned_abs()).await.unwrap();
        let whole = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
        let lines: Vec<u64> = whole.stdout_text().lines().map(|line| line.parse().unwrap()).collect();
        assert!(lines.iter().copied().eq(1..=lines.len() as u64), "the lines are not 1 to {}", lines.len());
        assert_eq!((whole.stderr.as_slice(), whole.code()), (b"end\n".as_slice(), Some(3)));
    }
}

// 38
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_armed_again_with_what_remained() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let timed = BashRequest { timeout: duration(Duration::from_secs(3)), ..shell("echo partial; sleep 1000") };
    let begun = Instant::now();
    let mut run = sandbox.start(timed).await.unwrap();
    run.read_until("partial\n").await.unwrap();
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    let outcome = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
    assert_eq!((outcome.reason(), outcome.stdout_text().as_str()), (Reason::TimedOut, "partial\n"));
    assert!(begun.elapsed() >= Duration::from_secs(3));
    assert_eq!(outcome.started.deadline, run.started.deadline);
    assert_eq!(sandbox.bash("pgrep sleep").await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passed_meanwhile_is_kept_at_once() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let timed = BashRequest { timeout: duration(Duration::from_secs(1)), ..shell("echo partial; sleep 1000") };
    let begun = Instant::now();
    let run = sandbox.start(timed).await.unwrap();
    daemon.kill();
    eventually(SOON, || async { expect(begun.elapsed() > Duration::from_secs(1), "too early") }).await;
    daemon.restart().await;
    let outcome = sandbox.through(&daemon).attach(run.id(), 0).await.unwrap().finish().await.unwrap();
    assert_eq!((outcome.reason(), outcome.stdout_text().as_str()), (Reason::TimedOut, "partial\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_heard_is_heard_by_the_next_daemon_and_kept_for_those_after() {
    for config in CONFIGURATIONS {
        let Some(mut daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let mut run = sandbox.start(shell("mkfifo go; echo ready; read x < go; echo went; exit 7")).await.unwrap();
        run.read_until("ready\n").await.unwrap();
        let fifo = format!("/proc/{}/root/workspace/go", daemon.init(&sandbox));
        daemon.kill();
        std::fs::write(fifo, "\n").unwrap();
        for _ in 0..3 {
            daemon.restart().await;
            let sandbox = sandbox.through(&daemon);
            ended(&sandbox, run.id()).await;
            let outcome = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
            assert_eq!((outcome.code(), outcome.stdout_text().as_str()), (Some(7), "ready\nwent\n"));
            assert_eq!(sandbox.runs().await.len(), 1);
            daemon.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_goes_on() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let pty = Some(Pty { rows: 24, cols: 80, ..Pty::default() });
    let mut run = sandbox.start(BashRequest { pty, ..shell("echo ready; read line; echo \"<$line>\"") }).await.unwrap();
    run.read_until("ready").await.unwrap();
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    sandbox.input(run.id(), vec![Input::Data("hello\n".into())]).await.unwrap();
    let outcome = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
    assert!(outcome.stdout_text().contains("<hello>"), "{}", outcome.stdout_text());
    assert_eq!(outcome.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_keys_are_the_same_sandbox_and_the_same_run() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let request = CreateSandboxRequest { idempotency_key: "k".to_owned(), ..Default::default() };
    let sandbox = Sandbox::create(&daemon, request.clone()).await.unwrap();
    let keyed = BashRequest { idempotency_key: "r".to_owned(), ..shell("echo x >> count; sleep 1000") };
    let run = sandbox.start(keyed.clone()).await.unwrap();
    daemon.kill_and_restart().await;
    let again = Sandbox::create(&daemon, request.clone()).await.unwrap();
    assert_eq!(again.id, sandbox.id);
    assert_eq!(again.start(keyed).await.unwrap().id(), run.id());
    assert_eq!(again.read("cat count").await, "x");
    let other = CreateSandboxRequest { user: "nobody".to_owned(), ..request };
    assert_eq!(support::reason(&Sandbox::create(&daemon, other).await.unwrap_err()), "IDEMPOTENCY_CONFLICT");
}

// 39
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_sandbox_is_taken_over_frozen_and_wakes() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("mkfifo poke; (exec 3<>poke; read -r _ <&3; echo awake > out) &").await;
    hibernate(&daemon, &sandbox, Tier::Frozen).await;
    let init = daemon.init(&sandbox);
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    let found = sandbox.get().await.unwrap();
    assert_eq!((found.phase(), found.tier(), daemon.init(&sandbox)), (Phase::Hibernated, Tier::Frozen, init));
    assert_eq!(sandbox.read("echo > poke; until [ -s out ]; do :; done; cat out").await, "awake");
    assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Running);
}

// 39
#[tokio::test(flavor = "multi_thread")]
async fn a_death_while_no_daemon_ran_is_told_once_and_the_files_are_kept() {
    for config in CONFIGURATIONS {
        let Some(mut daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        sandbox.bash("echo kept > file").await;
        let run = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
        let init = daemon.init(&sandbox);
        daemon.kill();
        process::kill(init);
        eventually(SOON, || async { expect(!process::is_alive(init), "it lives") }).await;
        daemon.restart().await;
        let crashed = sandbox.through(&daemon).get().await.unwrap();
        assert_eq!(
            (crashed.phase(), crashed.failure.as_ref().unwrap().reason.as_str()),
            (Phase::Crashed, "SANDBOX_LOST")
        );
        daemon.kill_and_restart().await;
        let sandbox = sandbox.through(&daemon);
        assert_eq!(sandbox.get().await.unwrap().generation, crashed.generation);
        // The next call starts it again.
        assert_eq!(sandbox.read("cat file").await, "kept");
        let outcome = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
        assert_eq!((outcome.reason(), outcome.exited.status), (Reason::SandboxLost, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_sandbox_has_no_processes_and_all_its_files() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("head -c 1000000 /dev/urandom > data; sha256sum data > sum; sleep 1000 &").await;
    let init = daemon.init(&sandbox);
    for _ in 0..3 {
        hibernate(&daemon, &sandbox, Tier::Frozen).await;
        hibernate(&daemon, &sandbox, Tier::Stopped).await;
        assert!(!process::is_alive(init));
        daemon.kill_and_restart().await;
        let sandbox = sandbox.through(&daemon);
        let found = sandbox.get().await.unwrap();
        assert_eq!((found.phase(), found.tier()), (Phase::Hibernated, Tier::Stopped));
        assert_eq!(sandbox.bash("sha256sum -c sum; pgrep sleep").await.stdout_text(), "data: OK\n");
    }
    let sandbox = sandbox.through(&daemon);
    hibernate(&daemon, &sandbox, Tier::Stopped).await;
    wake(&daemon, &sandbox).await;
    assert_eq!(sandbox.read("sha256sum -c sum").await, "data: OK");
    hibernate(&daemon, &sandbox, Tier::Stopped).await;
    sandbox.destroy().await.unwrap();
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_end_leaves_all_to_the_next() {
    let Some(mut daemon) = Daemon::start_with(Options { durable: true, ..Options::default() }).await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("echo ready; read x < /dev/zero; sleep 1000")).await.unwrap();
    run.read_until("ready\n").await.unwrap();
    let asleep = daemon.sandbox().await;
    hibernate(&daemon, &asleep, Tier::Frozen).await;
    let (init, frozen) = (daemon.init(&sandbox), daemon.init(&asleep));
    daemon.replace().await;
    assert_eq!((daemon.init(&sandbox), daemon.init(&asleep)), (init, frozen));
    let sandbox = sandbox.through(&daemon);
    let exited = sandbox.kill(run.id(), 0).await.unwrap().exited.unwrap();
    assert!(matches!(exited.status, Some(Ending::Signal(_))), "{exited:?}");
    assert_eq!(asleep.through(&daemon).read("echo here").await, "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_left_in_the_background_goes_on_and_goes_with_its_sandbox() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("mkfifo go; (read x < go; echo alive > alive; exec sleep 1000) &").await;
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    assert_eq!(sandbox.read("echo > go; until [ -s alive ]; do :; done; cat alive").await, "alive");
    sandbox.destroy().await.unwrap();
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_environment_is_kept_and_told_to_nobody_but_the_sandbox() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let request = |value: &str| CreateSandboxRequest {
        env: [("TOKEN".to_owned(), "public".to_owned())].into(),
        secret_env: [("TOKEN".to_owned(), value.to_owned())].into(),
        idempotency_key: "key".to_owned(),
        ..Default::default()
    };
    let value = "hush-5b0e1c77";
    let sandbox = Sandbox::create(&daemon, request(value)).await.unwrap();
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    hibernate(&daemon, &sandbox, Tier::Stopped).await;
    assert_eq!(sandbox.read("echo $TOKEN").await, value);
    let told = sandbox.get().await.unwrap();
    assert_eq!(told.secret_env, ["TOKEN"]);
    assert!(!format!("{told:?}").contains(value), "{told:?}");
    assert!(!daemon.log().contains(value));
    // The run's output is what the sandbox itself has said; the journal of its runs has nothing of it.
    let kept = holders(&daemon.state(), value.as_bytes());
    assert!(kept.iter().all(|path| path.contains("/runs/") && !path.ends_with("/journal")), "{kept:?}");
    assert_eq!(Sandbox::create(&daemon, request(value)).await.unwrap().id, sandbox.id);
    let other = Sandbox::create(&daemon, request("other")).await.map(|sandbox| sandbox.id);
    assert_eq!(refusal(other), fault(Code::AlreadyExists, ErrorReason::IdempotencyConflict));
    let bad = CreateSandboxRequest { secret_env: [("A=B".to_owned(), String::new())].into(), ..Default::default() };
    let refused = daemon.sandboxes().create(bad).await.unwrap_err();
    assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("ENV_INVALID", "secret_env"));
}
