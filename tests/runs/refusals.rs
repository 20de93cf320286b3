//! Commands that cannot be started: each for its own reason, and nothing is left of them.

use handsd::api::proto::{BackgroundPolicy, BashRequest, ErrorReason, Pty};
use std::time::Duration;
use tonic::{Code, Status};

use crate::support::{Daemon, Outcome, SOON, argv, duration, errno, eventually, expect, fault, field, reason, shell};

/// Code, reason, field and errno of an answer that has to be an error.
#[track_caller]
fn told(answer: Result<Outcome, Status>) -> (Code, String, String, String) {
    let status = answer.expect_err("it should have been refused");
    (status.code(), reason(&status), field(&status), errno(&status))
}

fn telling(code: Code, reason: ErrorReason, field: &str, errno: &str) -> (Code, String, String, String) {
    let (code, reason) = fault(code, reason);
    (code, reason, field.to_owned(), errno.to_owned())
}

// 4
#[tokio::test(flavor = "multi_thread")]
async fn each_way_a_program_cannot_start_has_its_own_reason() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let made = sandbox
        .bash(
            "printf '#!/no/such/interpreter\\n' > bad; printf '\\x7fELF garbage' > elf; touch plain; mkdir dir
             chmod +x bad elf; printf 'x' > file",
        )
        .await;
    assert_eq!(made.code(), Some(0));
    let long = "x".repeat(200 << 10);
    let in_cwd = |cwd: &str| BashRequest { cwd: cwd.to_owned(), ..shell("true") };
    let as_user = |user: &str| BashRequest { user: user.to_owned(), ..shell("true") };
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    use ErrorReason::{
        ArgumentsTooLong, CwdInvalid, ProgramFormat, ProgramNotExecutable, ProgramNotFound, UserNotFound,
    };
    let cases = [
        (argv(&["no-such-program"]), telling(NotFound, ProgramNotFound, "argv", "ENOENT")),
        (argv(&["/no/such/program"]), telling(NotFound, ProgramNotFound, "argv", "ENOENT")),
        (argv(&["./plain"]), telling(FailedPrecondition, ProgramNotExecutable, "argv", "EACCES")),
        (argv(&["./dir"]), telling(FailedPrecondition, ProgramNotExecutable, "argv", "EACCES")),
        (argv(&["./bad"]), telling(FailedPrecondition, ProgramFormat, "argv", "ENOENT")),
        (argv(&["./elf"]), telling(FailedPrecondition, ProgramFormat, "argv", "ENOEXEC")),
        (argv(&["true", &long]), telling(InvalidArgument, ArgumentsTooLong, "argv", "E2BIG")),
        (in_cwd("/no/such/directory"), telling(FailedPrecondition, CwdInvalid, "cwd", "ENOENT")),
        (in_cwd("file"), telling(FailedPrecondition, CwdInvalid, "cwd", "ENOTDIR")),
        (as_user("no-such-user"), telling(FailedPrecondition, UserNotFound, "user", "ENOENT")),
        (as_user("nobody:no-such-group"), telling(FailedPrecondition, UserNotFound, "user", "ENOENT")),
    ];
    // One between each of them, and the two that prepare.
    let started = cases.len() + 2;
    let wrote = cases.len();
    for (request, expected) in cases {
        let shown = format!("{:.80}", format!("{request:?}"));
        assert_eq!(told(sandbox.run(request).await), expected, "{shown}");
        // And the next one has not to suffer for it.
        assert_eq!(sandbox.read("echo fine").await, "fine", "after {shown}");
    }
    // Not root's directory, for the user.
    sandbox.bash("mkdir -m 700 closed").await;
    let closed = BashRequest { user: "nobody".to_owned(), ..in_cwd("closed") };
    assert_eq!(told(sandbox.run(closed).await), telling(FailedPrecondition, CwdInvalid, "cwd", "EACCES"));
    // No run of theirs is left behind, no file, and no cgroup.
    assert_eq!(sandbox.runs().await.len(), started);
    assert_eq!(sandbox.spools(&daemon).len(), wrote);
    let cgroup = daemon.cgroup(&sandbox);
    eventually(SOON, || async {
        let left = std::fs::read_dir(&cgroup).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
        expect(left == 0, format!("{left} cgroups in {}", cgroup.display()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_their_field() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let with_env =
        |key: &str, value: &str| BashRequest { env: [(key.to_owned(), value.to_owned())].into(), ..shell("true") };
    let with_timeout =
        |seconds, nanos| BashRequest { timeout: Some(prost_types::Duration { seconds, nanos }), ..shell("true") };
    let both = BashRequest { argv: vec!["true".to_owned()], ..shell("true") };
    let many = (0..1025).map(|n| (format!("K{n}"), String::new())).collect();
    use ErrorReason::{ArgumentInvalid, ArgumentsTooLong, EnvInvalid, RunDeadlineInvalid};
    let cases = [
        (BashRequest::default(), ArgumentInvalid, "argv"),
        (both, ArgumentInvalid, "argv"),
        (shell("echo \0"), ArgumentInvalid, "command"),
        (argv(&["echo", "\0"]), ArgumentInvalid, "argv"),
        (shell(&"x".repeat((1 << 20) + 1)), ArgumentsTooLong, "command"),
        (with_env("", "x"), EnvInvalid, "env"),
        (with_env("A=B", "x"), EnvInvalid, "env"),
        (with_env("A\0", "x"), EnvInvalid, "env"),
        (with_env("A", "x\0"), EnvInvalid, "env"),
        (BashRequest { env: many, ..shell("true") }, EnvInvalid, "env"),
        (with_timeout(-1, 0), RunDeadlineInvalid, "timeout"),
        (with_timeout(0, -1), RunDeadlineInvalid, "timeout"),
        (with_timeout(30 * 86_400, 1), RunDeadlineInvalid, "timeout"),
        (with_timeout(i64::MAX, 0), RunDeadlineInvalid, "timeout"),
        (BashRequest { cwd: "a\0b".to_owned(), ..shell("true") }, ArgumentInvalid, "cwd"),
        (BashRequest { user: "x".repeat(257), ..shell("true") }, ArgumentInvalid, "user"),
        (BashRequest { background_policy: 7, ..shell("true") }, ArgumentInvalid, "background_policy"),
        (BashRequest { idempotency_key: "k".repeat(129), ..shell("true") }, ArgumentInvalid, "idempotency_key"),
        (BashRequest { pty: Some(Pty { rows: 65_536, ..Pty::default() }), ..shell("true") }, ArgumentInvalid, "pty"),
    ];
    for (request, reason, field) in cases {
        let shown = format!("{:.80}", format!("{request:?}"));
        assert_eq!(told(sandbox.run(request).await), telling(Code::InvalidArgument, reason, field, ""), "{shown}");
    }
    assert!(sandbox.runs().await.is_empty());
    // At the bounds, all is well.
    let most = BashRequest { timeout: duration(Duration::from_secs(30 * 86_400)), ..shell("exit 3") };
    assert_eq!(sandbox.run(most).await.unwrap().code(), Some(3));
    let keep = BashRequest { background_policy: BackgroundPolicy::Keep.into(), ..with_env("A", "") };
    assert_eq!(sandbox.run(keep).await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_sandboxes_and_runs_are_not_found() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    for id in ["sb_00000000000000000000", "nonsense", "../../etc"] {
        let request = BashRequest { sandbox_id: id.to_owned(), ..shell("true") };
        let status = daemon.hands().bash(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), fault(Code::NotFound, ErrorReason::SandboxNotFound), "{id}");
    }
    let status = daemon.hands().bash(shell("true")).await.unwrap_err();
    assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "sandbox_id"));
    for id in ["run_00000000000000000000", "nonsense"] {
        let (attach, get) = (sandbox.attach(id, 0).await.unwrap_err(), sandbox.get_run(id).await.unwrap_err());
        for status in [attach, get] {
            assert_eq!((status.code(), reason(&status)), fault(Code::NotFound, ErrorReason::RunNotFound), "{id}");
        }
    }
    // A run of one sandbox is none of another.
    let other = daemon.sandbox().await;
    let run = sandbox.bash("true").await;
    let status = other.attach(&run.started.run_id, 0).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), fault(Code::NotFound, ErrorReason::RunNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_runs_at_once() {
    let Some(daemon) = Daemon::start_configured("[run]\nmax_runs = 2\n").await else { return };
    let sandbox = daemon.sandbox().await;
    let first = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
    let _second = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
    let third = sandbox.run(shell("true")).await;
    assert_eq!(told(third), telling(Code::ResourceExhausted, ErrorReason::TooManyRequests, "", ""));
    sandbox.kill(first.id(), 0).await.unwrap();
    assert_eq!(sandbox.bash("true").await.code(), Some(0));
}
