//! Deadlines, and what is left of a run: nothing. All of it also without cgroups, where it says so.

use std::path::Path;
use std::time::Duration;

use handsd::api::proto::exited::Reason;
use handsd::api::proto::{BackgroundPolicy, BashRequest, KillRunRequest};

use crate::support::{Daemon, Outcome, SOON, Sandbox, argv, duration, eventually, expect, shell};

/// Hosts differ in whether runs have a cgroup each; both are tried on every host.
const DEGRADED: &str = "[engine]\ncgroup = \"off\"\n[run]\nkill_grace = \"300ms\"\n";
const WITH_CGROUPS: &str = "[run]\nkill_grace = \"300ms\"\n";

/// Far from any time that the commands of these tests take by themselves.
const FAR: Duration = Duration::from_secs(20);

fn within(limit: Duration, request: BashRequest) -> BashRequest {
    BashRequest { timeout: duration(limit), ..request }
}

/// Runs a command that would go on for ever, with a deadline of half a second.
async fn time_out(sandbox: &Sandbox, line: &str) -> Outcome {
    let outcome = sandbox.run(within(Duration::from_millis(500), shell(line))).await.unwrap();
    assert_eq!(outcome.reason(), Reason::TimedOut, "{line}");
    let elapsed = Duration::try_from(outcome.exited.elapsed.unwrap()).unwrap();
    assert!((Duration::from_millis(500)..FAR).contains(&elapsed), "{line}: {elapsed:?}");
    outcome
}

/// No process of a run is left, as the sandbox itself sees it, nor any cgroup of a run.
async fn assert_nothing_left(daemon: &Daemon, sandbox: &Sandbox) {
    assert_eq!(sandbox.processes().await, Vec::<String>::new());
    if daemon.cgroups().is_empty() {
        return;
    }
    let cgroup = daemon.cgroup(sandbox);
    eventually(SOON, || async { expect(runs_in(&cgroup).is_empty(), format!("{:?}", runs_in(&cgroup))) }).await;
}

fn runs_in(cgroup: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(cgroup).unwrap().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// What ends at a deadline, whichever way processes are found.
async fn everything_ends_at_the_deadline(config: &str, degraded: bool) {
    let Some(daemon) = Daemon::start_configured(config).await else { return };
    let sandbox = daemon.sandbox().await;
    // 6
    let sleep = sandbox.run(within(Duration::from_millis(500), argv(&["sleep", "1000"]))).await.unwrap();
    assert_eq!((sleep.reason(), sleep.signal(), sleep.exited.degraded), (Reason::TimedOut, Some(15), degraded));
    assert_eq!(sleep.killed(), ["sleep"]);
    assert_eq!(sleep.exited.killed[0].pid, sleep.started.pid);
    let deadline = std::time::SystemTime::try_from(sleep.started.deadline.unwrap()).unwrap();
    assert!(deadline <= std::time::SystemTime::now());
    assert_nothing_left(&daemon, &sandbox).await;
    // 7
    let partial = time_out(&sandbox, "printf partial; printf error >&2; sleep 1000").await;
    assert_eq!((partial.stdout_text().as_str(), partial.stderr_text().as_str()), ("partial", "error"));
    assert_nothing_left(&daemon, &sandbox).await;
    // 8
    let stubborn = time_out(&sandbox, "trap '' TERM; while :; do sleep 0.01; done").await;
    assert_eq!(stubborn.signal(), Some(9));
    assert_nothing_left(&daemon, &sandbox).await;
    // 9
    let nohup = time_out(&sandbox, "setsid nohup sleep 1000 & disown; sleep 1000").await;
    assert!(nohup.killed().len() >= 2, "{:?}", nohup.killed());
    assert_nothing_left(&daemon, &sandbox).await;
    let daemonised = "(setsid bash -c '(exec -a innocent sleep 1001) & exit' & exit) ; exec -a other sleep 1002";
    time_out(&sandbox, daemonised).await;
    assert_nothing_left(&daemon, &sandbox).await;
    // One that also ignores what it is told.
    time_out(&sandbox, "(setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 0.01; done' &) ; sleep 1000").await;
    assert_nothing_left(&daemon, &sandbox).await;
    // A stopped one cannot hear SIGTERM.
    time_out(&sandbox, "sleep 1000 & kill -STOP $!; kill -STOP $$").await;
    assert_nothing_left(&daemon, &sandbox).await;
}

// 6-9
#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_run_ends_at_its_deadline() {
    everything_ends_at_the_deadline(WITH_CGROUPS, false).await;
}

// 6-9
#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_run_ends_at_its_deadline_without_cgroups_too() {
    everything_ends_at_the_deadline(DEGRADED, true).await;
}

// 9
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_ends_at_its_deadline() {
    let Some(daemon) = Daemon::start_configured("[sandbox]\npids = 200\n[run]\nkill_grace = \"100ms\"\n").await else {
        return;
    };
    let sandbox = daemon.sandbox().await;
    time_out(&sandbox, "f() { f | f & }; f; sleep 1000").await;
    assert_nothing_left(&daemon, &sandbox).await;
}

// 8
#[tokio::test(flavor = "multi_thread")]
async fn who_hears_sigterm_has_the_grace_to_clean_up() {
    let Some(daemon) = Daemon::start_configured("[run]\nkill_grace = \"1m\"\n").await else { return };
    let sandbox = daemon.sandbox().await;
    let line = "trap 'sleep 0.5; echo cleaned; exit 3' TERM; while :; do sleep 0.01; done";
    let outcome = time_out(&sandbox, line).await;
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("cleaned\n", Some(3)));
}

// 10
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_no_other_run() {
    for config in [WITH_CGROUPS, DEGRADED] {
        let Some(daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let other = sandbox.start(shell("for n in $(seq 100); do echo $n; sleep 0.02; done")).await.unwrap();
        time_out(&sandbox, "setsid sleep 1000 & sleep 1000").await;
        let outcome = other.finish().await.unwrap();
        assert_eq!((outcome.code(), outcome.reason()), (Some(0), Reason::Exited));
        let lines: Vec<String> = outcome.stdout_text().lines().map(str::to_owned).collect();
        assert_eq!(lines, (1..=100).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_nothing_left(&daemon, &sandbox).await;
    }
}

// 11
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_left_is_kept_and_holds_nobody_up() {
    for config in [WITH_CGROUPS, DEGRADED] {
        let Some(daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let run = sandbox.start(shell("printf begun; sleep 1000 & printf done"));
        let outcome = tokio::time::timeout(FAR, run.await.unwrap().finish()).await.unwrap().unwrap();
        assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("begundone", Some(0)));
        assert!(outcome.exited.killed.is_empty());
        assert_eq!(sandbox.processes().await, ["sleep 1000"]);
        // It neither dies of its output nor blocks on it when nobody takes that any more.
        let writer = "(while [ ! -e stop ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done; touch stopped) & exit 0";
        sandbox.bash(writer).await;
        sandbox.bash("sleep 0.2; touch stop").await;
        eventually(SOON, || async {
            expect(sandbox.bash("test -e stopped").await.code() == Some(0), "the writer has not got through")
        })
        .await;
        assert_eq!(sandbox.processes().await, ["sleep 1000"]);
    }
}

// 11
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_left_is_ended_where_that_is_asked_for() {
    for config in [WITH_CGROUPS, DEGRADED] {
        let Some(daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let request = BashRequest {
            background_policy: BackgroundPolicy::Kill.into(),
            ..shell("sleep 1000 & setsid sleep 1001 & (trap '' TERM; sleep 1002) & echo done; exit 5")
        };
        let outcome = tokio::time::timeout(FAR, sandbox.run(request)).await.unwrap().unwrap();
        assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("done\n", Some(5)));
        assert_eq!(outcome.reason(), Reason::Exited);
        // By what name depends on how far they have come.
        assert!(outcome.killed().len() >= 3, "{:?}", outcome.killed());
        assert_nothing_left(&daemon, &sandbox).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_deadline_and_the_nodes_deadline() {
    let Some(daemon) = Daemon::start_configured("[run]\ntimeout = \"1s\"\nkill_grace = \"100ms\"\n").await else {
        return;
    };
    let sandbox = daemon.sandbox().await;
    let unset = sandbox.run(shell("sleep 1000")).await.unwrap();
    assert_eq!(unset.reason(), Reason::TimedOut);
    let never = sandbox.run(within(Duration::ZERO, shell("sleep 1.5; echo over"))).await.unwrap();
    assert_eq!((never.stdout_text().as_str(), never.reason()), ("over\n", Reason::Exited));
    assert!(never.started.deadline.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_run_ends_all_of_it_and_answers_when_nothing_is_left() {
    for config in [WITH_CGROUPS, DEGRADED] {
        let Some(daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let mut run = sandbox.start(shell("(trap '' TERM; setsid sleep 1001) & echo up; sleep 1000")).await.unwrap();
        run.read_until("up").await.unwrap();
        let request = KillRunRequest {
            sandbox_id: sandbox.id.clone(),
            run_id: run.id().to_owned(),
            signal: 0,
            grace: duration(Duration::from_millis(100)),
        };
        let exited = daemon.hands().kill_run(request).await.unwrap().into_inner().exited.unwrap();
        assert_eq!(exited.reason(), Reason::Canceled);
        assert!(exited.killed.len() >= 2, "{:?}", exited.killed);
        assert_nothing_left(&daemon, &sandbox).await;
        assert_eq!(run.finish().await.unwrap().exited, exited);
    }
}
