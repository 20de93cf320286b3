//! An upgrade in place: this daemon takes over what an older one left, with the guest of that older build in every sandbox.
//! `HANDSD_PREVIOUS` names the older binary, which `.ci/run nightly` builds. There is no way back: an older daemon refuses a
//! store that a newer one has opened.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::path::PathBuf;

use handsd::api::proto::input_request::Input;
use handsd::api::proto::{BashRequest, CreateSandboxRequest, HibernateSandboxRequest, Phase, Pty, Tier};

use support::{Daemon, Options, Sandbox, shell};

mod support;

/// The older daemon, if there is one.
fn previous() -> Option<PathBuf> {
    let program = std::env::var_os("HANDSD_PREVIOUS").map(PathBuf::from);
    if program.is_none() {
        println!("skipped: HANDSD_PREVIOUS names no older daemon");
    }
    program
}

async fn hibernate(daemon: &Daemon, sandbox: &Sandbox, tier: Tier) {
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: tier.into() };
    daemon.sandboxes().hibernate(request).await.unwrap();
}

/// What a daemon leaves to another one.
struct Left {
    awake: Sandbox,
    frozen: Sandbox,
    stopped: Sandbox,
    init: u32,
    /// Counts without end.
    counting: String,
    cursor: u64,
    /// Waits for a line on its terminal.
    terminal: String,
}

fn keyed(key: &str) -> CreateSandboxRequest {
    CreateSandboxRequest { idempotency_key: key.to_owned(), ..CreateSandboxRequest::default() }
}

async fn leave(daemon: &Daemon) -> Left {
    let awake = Sandbox::create(daemon, keyed("awake")).await.unwrap();
    let count = "trap end=1 TERM; i=0; while [ -z \"$end\" ]; do i=$((i+1)); echo $i; done; exit 3";
    let mut counting = awake.start(BashRequest { idempotency_key: "count".to_owned(), ..shell(count) }).await.unwrap();
    counting.read_until("\n1000\n").await.unwrap();
    let pty = Some(Pty { rows: 24, cols: 80, ..Pty::default() });
    let mut terminal =
        awake.start(BashRequest { pty, ..shell("echo ready; read line; echo \"<$line>\"") }).await.unwrap();
    terminal.read_until("ready").await.unwrap();
    let frozen = daemon.sandbox().await;
    frozen.bash("mkfifo poke; (exec 3<>poke; read -r _ <&3; echo woken > out) &").await;
    hibernate(daemon, &frozen, Tier::Frozen).await;
    let stopped = daemon.sandbox().await;
    stopped.bash("echo kept > file").await;
    hibernate(daemon, &stopped, Tier::Stopped).await;
    let (init, cursor) = (daemon.init(&awake), counting.cursor());
    let (counting, terminal) = (counting.id().to_owned(), terminal.id().to_owned());
    Left { awake, frozen, stopped, init, counting, cursor, terminal }
}

/// All of it is there, as it was, and can be used.
async fn take(daemon: &Daemon, left: &Left) {
    let [awake, frozen, stopped] = [&left.awake, &left.frozen, &left.stopped].map(|sandbox| sandbox.through(daemon));
    let phase = |sandbox: Sandbox| async move {
        let now = sandbox.get().await.unwrap();
        (now.phase(), now.tier())
    };
    assert_eq!(phase(awake.clone()).await.0, Phase::Running);
    assert_eq!(phase(frozen.clone()).await, (Phase::Hibernated, Tier::Frozen));
    assert_eq!(phase(stopped.clone()).await, (Phase::Hibernated, Tier::Stopped));
    assert_eq!(daemon.init(&awake), left.init);
    assert_eq!(Sandbox::create(daemon, keyed("awake")).await.unwrap().id, awake.id);
    // Runs go on from the byte where they were.
    let mut counting = awake.attach(&left.counting, left.cursor).await.unwrap();
    while counting.cursor() < left.cursor + 100_000 {
        counting.next().await.unwrap();
    }
    awake.kill(&left.counting, libc::SIGTERM.unsigned_abs()).await.unwrap();
    let whole = awake.attach(&left.counting, 0).await.unwrap().finish().await.unwrap();
    let lines: Vec<u64> = whole.stdout_text().lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.iter().copied().eq(1..=lines.len() as u64), "the lines are not 1 to {}", lines.len());
    assert_eq!(whole.code(), Some(3));
    awake.input(&left.terminal, vec![Input::Data("hello\n".into())]).await.unwrap();
    let answered = awake.attach(&left.terminal, 0).await.unwrap().finish().await.unwrap();
    assert!(answered.stdout_text().contains("<hello>"), "{}", answered.stdout_text());
    // And new ones begin.
    assert_eq!(awake.read("sleep 0.1 & wait; echo more > more; cat more").await, "more");
    assert_eq!(frozen.read("echo > poke; until [ -s out ]; do :; done; cat out").await, "woken");
    assert_eq!(stopped.read("cat file").await, "kept");
    for sandbox in [awake, frozen, stopped] {
        sandbox.destroy().await.unwrap();
    }
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_daemon_takes_over_what_an_older_one_left() {
    let Some(program) = previous() else { return };
    let options = Options { program: Some(program), ..Options::default() };
    let Some(mut daemon) = Daemon::start_with(options).await else { return };
    let left = leave(&daemon).await;
    daemon.kill();
    daemon.restart_as(None).await;
    take(&daemon, &left).await;
}
