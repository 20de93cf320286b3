//! What every engine has to keep, held against each of them: through `trait Engine`, and the hands on what it makes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use handsd::engine::{EngineError, Limits, Spec};
use handsd::guest::client::{ExitStatus, Guest};
use handsd::guest::wire::PtySize;
use handsd::hands::files::{FileError, ReadRange, WriteOptions};
use handsd::hands::{BackgroundPolicy, Command, Deadline, Input, Program, Reason, RunError, Stdio};
use handsd::ids::SandboxId;
use handsd::image::{ImageError, ImageRef};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use bench::{Bench, SOON, follow, shell};

#[path = "support/bench.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod bench;
#[path = "support/dockerd.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod dockerd;
#[path = "support/rootfs.rs"]
mod rootfs;

/// Each clause of the contract becomes a test of each engine.
macro_rules! contract {
    ($($clause:ident),* $(,)?) => {
        mod native {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                if let Some(bench) = super::Bench::native().await {
                    super::$clause(bench).await;
                }
            })*
        }
        mod docker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                if let Some(bench) = super::Bench::docker().await {
                    super::$clause(bench).await;
                }
            })*
        }
    };
}

contract![
    a_command_runs_in_the_workspace_and_its_output_and_code_come_back,
    a_deadline_ends_all_that_a_run_has_started_and_nothing_else,
    processes_that_stay_behind_are_kept_or_killed_as_asked,
    input_and_terminals_reach_the_run,
    files_are_written_and_read_as_the_sandboxs_user,
    limits_hold,
    a_run_that_the_kernel_kills_for_want_of_memory_says_so,
    nobody_inside_can_reach_the_guest_or_the_node,
    runs_make_no_namespaces_and_gain_no_rights,
    the_end_of_the_first_process_is_noticed,
    what_is_removed_leaves_nothing,
    another_daemon_finds_and_removes_what_a_killed_one_left,
    an_archive_brings_its_environment_and_its_user,
    an_image_that_is_not_there_is_the_callers_fault,
    many_sandboxes_are_made_and_removed_at_once,
];

async fn a_command_runs_in_the_workspace_and_its_output_and_code_come_back(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let outcome = sandbox.run("pwd; id -u; echo $HOME; exit 7").await;
    assert_eq!(outcome.text, "/work/space\n0\n/root\n");
    assert_eq!((outcome.exited.reason, outcome.exited.degraded), (Reason::Exited, false));
    assert_eq!(outcome.exited.status, Some(ExitStatus::Code(7)));
    let missing = Command { program: Program::Argv(vec!["/no/such".to_owned()]), ..shell("") };
    assert!(matches!(sandbox.hands.start(missing, None, None::<()>).await, Err(RunError::Refused { .. })));
    sandbox.remove().await;
}

async fn a_deadline_ends_all_that_a_run_has_started_and_nothing_else(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let other = sandbox.start(shell("sleep 4711")).await;
    // A daemon that has left its session, its parent and its name behind.
    let line =
        "(setsid bash -c '(exec -a renamed sleep 4712) & (exec -a too sleep 4713) &' &); echo partial; sleep 4714";
    let doomed = Command { deadline: Deadline::After(Duration::from_millis(800)), ..shell(line) };
    let outcome = follow(sandbox.start(doomed).await).await;
    assert_eq!((outcome.exited.reason, outcome.text.as_str()), (Reason::TimedOut, "partial\n"));
    assert!(!outcome.exited.degraded);
    assert!(outcome.exited.killed.len() >= 3, "{:?}", outcome.exited.killed);
    let left = sandbox.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await.text;
    assert!(left.contains("sleep 4711"), "{left}");
    for number in ["4712", "4713", "4714"] {
        assert!(!left.contains(&format!("{number} ")), "{left}");
    }
    assert!(other.exited().is_none());
    let exited = other.cancel(Duration::ZERO).await.unwrap();
    assert_eq!(exited.reason, Reason::Canceled);
    sandbox.remove().await;
}

async fn processes_that_stay_behind_are_kept_or_killed_as_asked(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let line = "sleep 4721 >/dev/null 2>&1 & echo done";
    let kept = sandbox.run(line).await;
    assert_eq!(kept.text, "done\n");
    assert_eq!(sandbox.run("pgrep -xc sleep").await.text, "1\n");
    let killed = follow(sandbox.start(Command { background: BackgroundPolicy::Kill, ..shell(line) }).await).await;
    assert_eq!(killed.exited.killed.len(), 1, "{:?}", killed.exited.killed);
    assert_eq!(sandbox.run("pgrep -xc sleep").await.text, "1\n");
    sandbox.remove().await;
}

async fn input_and_terminals_reach_the_run(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let cat = sandbox.start(Command { stdio: Stdio::Pipes, ..shell("cat; echo end") }).await;
    cat.input(Input::Data("hello\n".into())).await.unwrap();
    cat.input(Input::Eof).await.unwrap();
    assert_eq!(follow(cat).await.text, "hello\nend\n");
    let stdio = Stdio::Terminal { size: PtySize { rows: 24, cols: 80 }, term: "dumb".to_owned() };
    let size = follow(sandbox.start(Command { stdio, ..shell("stty size; echo $TERM") }).await).await;
    assert_eq!(size.text, "24 80\r\ndumb\r\n");
    sandbox.remove().await;
}

async fn files_are_written_and_read_as_the_sandboxs_user(bench: Bench) {
    let spec = Spec { user: Some("agent".to_owned()), ..bench.spec() };
    let sandbox = bench.sandbox_of(spec).await;
    assert_eq!(sandbox.run("id -un; stat -c %U . ..; touch mine").await.text, "agent\nagent\nroot\n");
    let files = sandbox.hands.files();
    let options =
        WriteOptions { path: "a/b".to_owned(), mode: None, create_parents: true, append: false, expected_sha256: None };
    let mut writing = files.write(options).await.unwrap();
    writing.push("content".into()).await.unwrap();
    writing.finish().await.unwrap();
    assert_eq!(sandbox.run("cat a/b; stat -c :%U a/b").await.text, "content:agent\n");
    let shadow = sandbox.hands.files().read("/root/x", ReadRange::Bytes { offset: 0, limit: None }).await;
    assert!(matches!(shadow, Err(FileError::Permission { .. })), "{:?}", shadow.map(drop));
    sandbox.remove().await;
}

async fn limits_hold(bench: Bench) {
    let limits = Limits { pids: Some(32), memory: Some(256 << 20), cpus: Some(0.5), ..Limits::default() };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    let outcome = sandbox.run("for i in $(seq 64); do sleep 4731 & done 2>&1 | grep -c . ; pgrep -xc sleep").await;
    let running: u32 = outcome.text.lines().last().unwrap_or_default().parse().unwrap_or(0);
    assert!(running < 32, "{}", outcome.text);
    sandbox.remove().await;
    let spec = Spec { limits: Limits { disk: Some(1 << 30), ..Limits::default() }, ..bench.spec() };
    let refused = bench.engine.create(&spec).await;
    assert!(matches!(refused, Err(EngineError::LimitUnsupported { field: "disk_bytes", .. })));
}

async fn a_run_that_the_kernel_kills_for_want_of_memory_says_so(bench: Bench) {
    let limits = Limits { memory: Some(32 << 20), ..Limits::default() };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    let outcome = sandbox.run("exec bash -c 'x=a; while :; do x=$x$x; done'").await;
    assert_eq!(outcome.exited.reason, Reason::OomKilled, "{:?} {}", outcome.exited, outcome.text);
    // The sandbox lives.
    assert_eq!(sandbox.run("echo still").await.text, "still\n");
    sandbox.remove().await;
}

async fn nobody_inside_can_reach_the_guest_or_the_node(bench: Bench) {
    let sandbox = bench.sandbox().await;
    // Root inside: no signal reaches PID 1, nothing of it can be read, and its place is not to be written to.
    let line = "kill -9 1; cat /proc/1/environ; readlink /proc/1/fd/*; ls -A /.hands/io; touch /.hands/io/x /.hands/guest; \
                mount -t tmpfs none /tmp; echo 1 > /proc/sysrq-trigger; ls -A /.hands/io";
    let outcome = sandbox.run(&format!("{{ {line}; }} 2>/dev/null; echo alive")).await;
    assert_eq!(outcome.text, "alive\n");
    let guest = bench.engine.guest_path();
    let line =
        format!("echo x >> {guest} && echo written; rm -f {guest}; mv {guest} /tmp/g; test -x {guest} && echo there");
    assert_eq!(sandbox.run(&format!("{{ {line}; }} 2>/dev/null")).await.text, "there\n");
    let sockets = sandbox.run("find / -xdev -name '*.sock' 2>/dev/null; grep -c . /proc/net/unix").await.text;
    assert!(!sockets.contains("docker.sock") && !sockets.contains("guest.sock"), "{sockets}");
    // Whoever connects to the socket must be outside, and whoever listens there is the guest.
    assert!(Guest::connect(&sandbox.socket, std::process::id()).await.is_err());
    assert!(Guest::connect(&sandbox.socket, sandbox.pid).await.is_ok());
    sandbox.remove().await;
}

async fn runs_make_no_namespaces_and_gain_no_rights(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let line = "unshare -Ur true 2>/dev/null && echo user; unshare -m true 2>/dev/null && echo mount; \
                grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; grep CapEff /proc/self/status";
    let outcome = sandbox.run(line).await;
    // Docker's default capabilities.
    assert_eq!(outcome.text, "NoNewPrivs:1\nSeccomp:2\nCapEff:\t00000000a80425fb\n");
    sandbox.remove().await;
}

async fn the_end_of_the_first_process_is_noticed(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let run = sandbox.start(shell("echo before; sleep 4741")).await;
    let has_written = async {
        while run.started().expect("it has started").spool.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, has_written).await.expect("it writes");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sandbox.pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    timeout(SOON, sandbox.init.ended()).await.expect("it is noticed");
    let outcome = follow(run).await;
    assert_eq!((outcome.exited.reason, outcome.exited.status), (Reason::SandboxLost, None));
    assert_eq!(outcome.text, "before\n");
    sandbox.remove().await;
}

async fn what_is_removed_leaves_nothing(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let (id, pid) = (sandbox.id.clone(), sandbox.pid);
    let _running = sandbox.start(shell("setsid sleep 4751 & mkdir -p deep/er; chmod 0 deep; sleep 4752")).await;
    assert!(!bench.leftovers().is_empty());
    sandbox.remove().await;
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    bench.engine.remove(&id).await.unwrap();
    bench.engine.remove(&SandboxId::random()).await.unwrap();
}

async fn another_daemon_finds_and_removes_what_a_killed_one_left(bench: Bench) {
    let sandbox = bench.sandbox().await;
    let id = sandbox.id.clone();
    assert_eq!(bench.engine.list().await.unwrap(), std::slice::from_ref(&id));
    let other = bench.reopened().await;
    assert_eq!(other.list().await.unwrap(), std::slice::from_ref(&id));
    other.remove(&id).await.unwrap();
    timeout(SOON, sandbox.init.ended()).await.expect("it has ended");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    sandbox.remove().await;
}

async fn an_archive_brings_its_environment_and_its_user(bench: Bench) {
    let path = rootfs::write_archive(bench.directory.path());
    for name in [None, Some("small:1".to_owned())] {
        let image = ImageRef::Archive(path.clone(), name);
        let sandbox = bench.sandbox_of(Spec { image, ..bench.spec() }).await;
        assert_eq!(sandbox.run("echo $FROM; id -un; stat -c %U .").await.text, "image\nagent\nagent\n");
        sandbox.remove().await;
    }
    let image = ImageRef::Archive(path, Some("other:1".to_owned()));
    let refused = bench.engine.create(&Spec { image, ..bench.spec() }).await;
    assert!(matches!(refused, Err(EngineError::Image { source: ImageError::NotInArchive { .. }, .. })), "{refused:?}");
}

async fn an_image_that_is_not_there_is_the_callers_fault(bench: Bench) {
    let spec = Spec { image: ImageRef::Tar("/no/such.tar".into()), ..bench.spec() };
    let refused = bench.engine.create(&spec).await;
    assert!(matches!(refused, Err(EngineError::Image { source: ImageError::NotFound, .. })), "{refused:?}");
    let nonsense = bench.directory.path().join("nonsense.tar");
    std::fs::write(&nonsense, [b'x'; 2048]).unwrap();
    let refused = bench.engine.create(&Spec { image: ImageRef::Tar(nonsense), ..bench.spec() }).await;
    assert!(matches!(refused, Err(EngineError::Image { source: ImageError::Invalid { .. }, .. })), "{refused:?}");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

async fn many_sandboxes_are_made_and_removed_at_once(bench: Bench) {
    let bench = Arc::new(bench);
    let began = Instant::now();
    let mut all = JoinSet::new();
    for number in 0..6 {
        let bench = Arc::clone(&bench);
        all.spawn(async move {
            let sandbox = bench.sandbox().await;
            assert_eq!(sandbox.run(&format!("echo {number}")).await.text, format!("{number}\n"));
            sandbox.remove().await;
        });
    }
    while let Some(result) = all.join_next().await {
        result.unwrap();
    }
    assert!(began.elapsed() < 4 * SOON);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}
