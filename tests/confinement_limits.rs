//! What a sandbox uses up is its own: bombs and hogs end at their bounds, and the daemon and the neighbours go on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::{Duration, Instant};

use handsd::api::proto::exited::Reason;
use handsd::api::proto::{CreateSandboxRequest, ErrorReason, Limits};
use support::{Daemon, SOON, Sandbox, fault, refusal, shell};
use tokio::time::timeout;
use tonic::Code;

mod support;

const MIB: u64 = 1 << 20;

async fn limited(daemon: &Daemon, limits: Limits) -> Sandbox {
    let request = CreateSandboxRequest { limits: Some(limits), ..CreateSandboxRequest::default() };
    Sandbox::create(daemon, request).await.unwrap()
}

/// A neighbour answers, and another sandbox can be made.
async fn assert_daemon_is_well(daemon: &Daemon, neighbour: &Sandbox) {
    assert_eq!(timeout(SOON, neighbour.read("echo well")).await.expect("the neighbour answers"), "well");
    let new = timeout(SOON, daemon.sandbox()).await.expect("a sandbox can be made");
    new.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_ends_at_the_bound_of_its_sandbox() {
    let Some(daemon) = Daemon::start().await else { return };
    let neighbour = daemon.sandbox().await;
    let sandbox = limited(&daemon, Limits { pids: 64, ..Limits::default() }).await;
    // Each copy says how many of them there are, once it may not fork any more.
    let bomb = sandbox.start(shell("bomb() { bomb | bomb & }; bomb; sleep 1000")).await.unwrap();
    let pids = daemon.init(&sandbox);
    let count = || support::process::descendants(pids).len();
    support::eventually(SOON, || async { support::expect(count() > 30, format!("{} processes", count())) }).await;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(count() <= 64, "{} processes", count());
        assert_daemon_is_well(&daemon, &neighbour).await;
    }
    let id = bomb.id().to_owned();
    timeout(SOON, sandbox.kill(&id, 0)).await.expect("it can be ended").unwrap();
    let exited = timeout(SOON, bomb.finish()).await.unwrap().unwrap();
    assert_eq!(exited.reason(), Reason::Canceled);
    assert_eq!(sandbox.processes().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_sandbox_says_so_and_can_be_destroyed() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = limited(&daemon, Limits { pids: 8, ..Limits::default() }).await;
    let _fill = sandbox.start(shell("while :; do sleep 1000 & done 2>/dev/null")).await.unwrap();
    support::eventually(SOON, || async {
        match sandbox.run(shell("true")).await {
            Err(status) => support::expect(support::reason(&status) == "PROCESS_LIMIT", format!("{status:?}")),
            Ok(outcome) => Err(format!("{outcome:?}")),
        }
    })
    .await;
    // File tools need a thread of the guest's, for which there may be no room either; they do not hang.
    let files = support::Files::of(&daemon, &sandbox);
    let written = timeout(SOON, files.write("f", b"x")).await.expect("an answer");
    assert!(written.is_ok() || refusal(written) == fault(Code::ResourceExhausted, ErrorReason::ProcessLimit));
    timeout(SOON, sandbox.destroy()).await.expect("it can be destroyed").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_hog_is_killed_and_nobody_else() {
    let Some(daemon) = Daemon::start().await else { return };
    let neighbour = daemon.sandbox().await;
    let mut beside = neighbour.start(shell("echo up; sleep 1000")).await.unwrap();
    beside.read_until("up").await.unwrap();
    let sandbox = limited(&daemon, Limits { memory_bytes: 64 * MIB, ..Limits::default() }).await;
    let mut own = sandbox.start(shell("echo up; sleep 1000")).await.unwrap();
    own.read_until("up").await.unwrap();
    let hog = sandbox.run(shell("exec python3 -c 'x = bytearray(256 << 20); print(len(x))'")).await.unwrap();
    assert_eq!((hog.reason(), hog.stdout_text().as_str()), (Reason::OomKilled, ""));
    // Its own small neighbour lives on, and so does the sandbox.
    assert!(sandbox.get_run(own.id()).await.unwrap().exited.is_none());
    assert_eq!(sandbox.read("echo alive").await, "alive");
    assert!(neighbour.get_run(beside.id()).await.unwrap().exited.is_none());
    assert_daemon_is_well(&daemon, &neighbour).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_in_memory_count_as_memory() {
    let Some(daemon) = Daemon::start().await else { return };
    let neighbour = daemon.sandbox().await;
    let sandbox = limited(&daemon, Limits { memory_bytes: 32 * MIB, ..Limits::default() }).await;
    let fill = sandbox.run(shell("head -c 60M /dev/zero > /dev/shm/fill; echo $?")).await.unwrap();
    assert_ne!(fill.stdout_text().trim(), "0", "{fill:?}");
    // There is room left for processes, one of which can remove them.
    assert_eq!(sandbox.read("stat -c %s /dev/shm/fill; rm /dev/shm/fill").await, (16 * MIB).to_string());
    assert_daemon_is_well(&daemon, &neighbour).await;
    timeout(SOON, sandbox.destroy()).await.expect("it can be destroyed").unwrap();
    // Without a limit of memory there is still one on what is not seen as it grows.
    let rich = neighbour.run(shell("head -c 100M /dev/zero > /dev/shm/fill")).await.unwrap();
    assert_ne!(rich.code(), Some(0));
    assert_eq!(neighbour.read("stat -c %s /dev/shm/fill").await, (64 * MIB).to_string());
    assert_eq!(neighbour.read("awk '$5 == \"/tmp\"' /proc/self/mountinfo").await, "", "/tmp is on the disk");
    assert_daemon_is_well(&daemon, &neighbour).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processor_time_is_shared_as_asked() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = limited(&daemon, Limits { cpus: 0.2, ..Limits::default() }).await;
    let spin = "python3 -c 'import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\nprint(time.process_time())'";
    let used: f64 = sandbox.read(spin).await.parse().unwrap();
    assert!(used < 1.0, "{used} s of processor time in 2 s at 0.2 CPUs");
}
