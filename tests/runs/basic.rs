//! How commands are run, and how they end.

use std::collections::BTreeMap;

use handsd::api::proto::exited::Reason;
use handsd::api::proto::input_request::Input;
use handsd::api::proto::{BashRequest, CreateSandboxRequest, Eof, Limits};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{Daemon, SOON, Sandbox, argv, eventually, expect, fault, refusal, shell};
use handsd::api::proto::ErrorReason;

fn env(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

// 1. That `started` comes first and `exited` last, and each once, is checked for every stream in `support`.
#[tokio::test(flavor = "multi_thread")]
async fn hello_is_started_written_and_exited() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("echo hello").await;
    assert_eq!((outcome.stdout_text().as_str(), outcome.stderr_text().as_str()), ("hello\n", ""));
    assert_eq!((outcome.code(), outcome.reason()), (Some(0), Reason::Exited));
    assert!(outcome.started.run_id.starts_with("run_") && outcome.started.pid > 1, "{:?}", outcome.started);
    assert_eq!(outcome.exited.output_bytes, 6);
    assert!(!outcome.exited.degraded && outcome.exited.killed.is_empty());
    assert!(outcome.exited.elapsed.is_some());
}

// 2
#[tokio::test(flavor = "multi_thread")]
async fn argv_and_shell_agree() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let by_shell = sandbox.bash("printf '%s|' 'a b' '$HOME' ''").await;
    let by_argv = sandbox.run(argv(&["printf", "%s|", "a b", "$HOME", ""])).await.unwrap();
    assert_eq!(by_shell.stdout_text(), "a b|$HOME||");
    assert_eq!((by_shell.stdout, by_shell.exited.status), (by_argv.stdout, by_argv.exited.status));
    let empty = sandbox.bash("").await;
    assert_eq!((empty.code(), empty.stdout_text()), (Some(0), String::new()));
    let nothing = sandbox.run(BashRequest::default()).await;
    assert_eq!(refusal(nothing), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid));
}

// 3
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_separate_and_the_code_is_the_commands() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("printf out; printf err >&2; exit 7").await;
    assert_eq!((outcome.stdout_text().as_str(), outcome.stderr_text().as_str()), ("out", "err"));
    assert_eq!((outcome.code(), outcome.reason()), (Some(7), Reason::Exited));
}

// 17
#[tokio::test(flavor = "multi_thread")]
async fn killed_by_signal_9_is_told_from_exit_137() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let signalled = sandbox.bash("kill -9 $$").await;
    assert_eq!((signalled.signal(), signalled.code(), signalled.reason()), (Some(9), None, Reason::Signaled));
    let exited = sandbox.bash("exit 137").await;
    assert_eq!((exited.signal(), exited.code(), exited.reason()), (None, Some(137), Reason::Exited));
    let segv = sandbox.bash("kill -SEGV $$").await;
    assert_eq!((segv.signal(), segv.reason()), (Some(11), Reason::Signaled));
}

// 17
#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_is_its_own_reason() {
    let Some(daemon) = Daemon::start().await else { return };
    let limits = Some(Limits { memory_bytes: 64 << 20, ..Limits::default() });
    let sandbox = Sandbox::create(&daemon, CreateSandboxRequest { limits, ..Default::default() }).await.unwrap();
    assert_eq!(sandbox.made.limits.unwrap().memory_bytes, 64 << 20);
    // tail keeps a line that never ends in memory.
    let leader = sandbox.run(argv(&["tail", "/dev/zero"])).await.unwrap();
    assert_eq!((leader.signal(), leader.reason()), (Some(9), Reason::OomKilled));
    let child = sandbox.bash("tail /dev/zero; exit $?").await;
    assert_eq!((child.code(), child.reason()), (Some(137), Reason::OomKilled));
    // It was those runs that were out of memory, not the sandbox.
    let after = sandbox.bash("kill -9 $$").await;
    assert_eq!((after.signal(), after.reason()), (Some(9), Reason::Signaled));
}

// 19
#[tokio::test(flavor = "multi_thread")]
async fn no_zombie_is_left_of_an_orphan() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    // The middle process leaves its child to whoever adopts it, and that one ends later.
    let outcome = sandbox.bash("for n in 1 2 3 4 5; do (sleep 0.2 & sleep 0.$n &); done; wait").await;
    assert_eq!(outcome.code(), Some(0));
    eventually(SOON, || async {
        let states = sandbox.read("cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1; true").await;
        let sleeping = sandbox.processes().await;
        expect(sleeping.is_empty() && !states.contains('Z'), format!("{states:?} {sleeping:?}"))
    })
    .await;
}

// 20
#[tokio::test(flavor = "multi_thread")]
async fn the_runs_environment_is_over_the_sandboxes_and_that_over_the_images() {
    let Some(daemon) = Daemon::start().await else { return };
    let request = CreateSandboxRequest {
        env: env(&[("A", "sandbox"), ("B", "sandbox"), ("PATH", "/usr/bin:/bin")]),
        ..Default::default()
    };
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    let line = r#"printf '%s,' "$A" "$B" "$C" "$PATH""#;
    let run = BashRequest { env: env(&[("B", "run"), ("C", "x y=z")]), ..shell(line) };
    assert_eq!(sandbox.run(run).await.unwrap().stdout_text(), "sandbox,run,x y=z,/usr/bin:/bin,");
    let path = BashRequest { env: env(&[("PATH", "/bin")]), ..shell("echo $PATH") };
    assert_eq!(sandbox.run(path).await.unwrap().stdout_text(), "/bin\n");
    // Without either, the image's, or the usual one.
    let plain = daemon.sandbox().await;
    assert!(plain.read("echo $PATH").await.contains("/usr/bin"));
    // Nothing of the daemon's own comes in.
    assert_eq!(plain.read("env | grep -E '^(CARGO|RUST)' || true").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_the_workspace_or_where_it_is_told() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    assert_eq!(sandbox.read("pwd").await, "/workspace");
    sandbox.bash("mkdir -p deep/er").await;
    for (cwd, expected) in [("deep/er", "/workspace/deep/er"), ("/tmp", "/tmp"), ("/workspace/deep/..", "/workspace")] {
        let outcome = sandbox.run(BashRequest { cwd: cwd.to_owned(), ..argv(&["/bin/pwd"]) }).await.unwrap();
        assert_eq!(outcome.stdout_text().trim(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_as_the_user_it_is_told() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let cases =
        [("", "0:0"), ("nobody", "65534:65534"), ("1000:1000", "1000:1000"), ("root", "0:0"), ("7:nogroup", "7:65534")];
    for (user, expected) in cases {
        let request = BashRequest { user: user.to_owned(), ..shell("echo $(id -u):$(id -g); id -G >/dev/null") };
        assert_eq!(sandbox.run(request).await.unwrap().stdout_text().trim(), expected, "{user}");
    }
    // The user is who owns what is made, and cannot do what only root may.
    let request =
        BashRequest { user: "nobody".to_owned(), ..shell("touch /tmp/mine && stat -c %U /tmp/mine; touch /root/x") };
    let outcome = sandbox.run(request).await.unwrap();
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("nobody\n", Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_can_open_its_own_streams_by_their_names() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    for user in ["", "nobody"] {
        let line = "cat /dev/stdin > /dev/stdout; echo no > /dev/stderr";
        let request = BashRequest { user: user.to_owned(), stdin: true, ..shell(line) };
        let run = sandbox.start(request).await.unwrap();
        let input = vec![Input::Data("in\n".into()), Input::Eof(Eof {})];
        sandbox.input(run.id(), input).await.unwrap();
        let outcome = run.finish().await.unwrap();
        let told = (outcome.stdout_text(), outcome.stderr_text(), outcome.code());
        assert_eq!(told, ("in\n".to_owned(), "no\n".to_owned(), Some(0)), "as {user:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_oldest_first_with_what_was_asked_for() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let first = sandbox.bash("printf abc").await;
    let second = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
    let runs = sandbox.runs().await;
    let ids: Vec<_> = runs.iter().map(|run| run.run_id.as_str()).collect();
    assert_eq!(ids, [first.started.run_id.as_str(), second.id()]);
    assert_eq!((runs[0].command.as_deref(), runs[0].output_bytes), (Some("printf abc"), 3));
    assert_eq!(runs[0].exited.as_ref(), Some(&first.exited));
    assert_eq!((runs[1].argv.join(" ").as_str(), runs[1].pid), ("sleep 1000", second.started.pid));
    assert!(runs[1].exited.is_none() && !runs[1].pty);
    assert_eq!(
        (sandbox.get_run(second.id()).await.unwrap(), sandbox.get().await.unwrap().running),
        (runs[1].clone(), 1)
    );
    let exited = sandbox.kill(second.id(), 0).await.unwrap().exited.unwrap();
    assert_eq!(exited.reason(), Reason::Canceled);
    assert_eq!(second.finish().await.unwrap().exited, exited);
    assert_eq!(sandbox.get().await.unwrap().running, 0);
}

// 21
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_a_running_command_and_no_finished_one() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run =
        sandbox.start(shell("trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done")).await.unwrap();
    run.read_until("ready").await.unwrap();
    assert_eq!(sandbox.kill(run.id(), 10).await.unwrap().exited, None);
    run.read_until("usr1").await.unwrap();
    sandbox.kill(run.id(), 15).await.unwrap();
    let id = run.id().to_owned();
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.signal(), outcome.reason()), (Some(15), Reason::Signaled));
    for signal in [0, 9, 15] {
        assert_eq!(refusal(sandbox.kill(&id, signal).await), fault(Code::NotFound, ErrorReason::RunNotFound));
    }
    assert_eq!(refusal(sandbox.kill(&id, 65).await), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid));
    let unknown = sandbox.kill("run_00000000000000000000", 9).await;
    assert_eq!(refusal(unknown), fault(Code::NotFound, ErrorReason::RunNotFound));
}

// 23
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_runs_fifty_at_a_time_each_have_their_own_code() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut runs = JoinSet::new();
    let mut ended = 0;
    for n in 0..1000 {
        if runs.len() == 50 {
            ended += usize::from(runs.join_next().await.unwrap().unwrap());
        }
        let sandbox = sandbox.clone();
        runs.spawn(async move {
            let request = argv(&["sh", "-c", &format!("sleep 0.1; echo {n}; exit {}", n % 251)]);
            let outcome = sandbox.run(request).await.unwrap();
            assert_eq!((outcome.code(), outcome.stdout_text()), (Some(n % 251), format!("{n}\n")));
            true
        });
    }
    while let Some(ok) = runs.join_next().await {
        ended += usize::from(ok.unwrap());
    }
    assert_eq!(ended, 1000);
    assert_eq!(sandbox.processes().await, Vec::<String>::new());
    assert_eq!(sandbox.get().await.unwrap().running, 0);
}
