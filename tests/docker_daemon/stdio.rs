//! Guests that are reached by the stdin and stdout of their containers. Any runtime can be asked to do without sockets, so
//! that Docker's own stands for those that have to.

use std::process::Command;
use std::time::Instant;

use handsd::api::proto::input_request::Input;
use handsd::api::proto::{BashRequest, Eof, Pty};
use sha2::{Digest, Sha256};

use super::support::duration;
use super::support::engine::STDIO;
use super::*;

/// 112.5 MB, every line another.
const BIG: &str = "seq 10000000 22499999";
const BIG_SIZE: usize = 112_500_000;

async fn reached_by_stdio() -> Option<(Arc<Dockerd>, Daemon)> {
    start_configured(&[], STDIO).await
}

/// The sum of what it writes.
fn big() -> Vec<u8> {
    let written = Command::new("sh").args(["-c", BIG]).output().unwrap().stdout;
    assert_eq!(written.len(), BIG_SIZE);
    Sha256::digest(written).to_vec()
}

/// The process that stands for a sandbox's guest.
fn relay(daemon: &Daemon, sandbox: &Sandbox) -> u32 {
    let note = daemon.state().join("sandboxes").join(&sandbox.id).join("relay");
    fs::read_to_string(note).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_files_and_input_work_without_a_socket_and_what_does_not_says_so() {
    let Some((dockerd, daemon)) = reached_by_stdio().await else { return };
    assert_eq!(daemon.node().info(NodeInfoRequest {}).await.unwrap().into_inner().guest_passage, "stdio");
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("printf out; printf err >&2; exit 7").await;
    assert_eq!((outcome.stdout_text(), outcome.stderr_text(), outcome.code()), ("out".into(), "err".into(), Some(7)));
    let missing = refusal(sandbox.run(argv(&["/missing"])).await.map(|outcome| outcome.code()));
    assert_eq!(missing, fault(Code::NotFound, ErrorReason::ProgramNotFound));

    let run = sandbox.start(BashRequest { stdin: true, ..shell("cat; echo end") }).await.unwrap();
    let sent = vec![Input::Data(vec![b'x'; 300_000].into()), Input::Eof(Eof {})];
    sandbox.input(run.id(), sent).await.unwrap();
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.stdout.len(), outcome.code()), (300_000 + "end\n".len(), Some(0)));

    let files = Files::of(&daemon, &sandbox);
    for size in [0, 1, (4 << 20) + 1] {
        let content: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[1] ^ at.to_le_bytes()[0]).collect();
        files.write("file", &content).await.unwrap();
        assert!(files.read("file").await.unwrap() == content, "{size}");
    }
    assert_eq!(sandbox.read("stat -c %s file; ls | wc -l").await, "4194305\n1");

    let terminal = BashRequest { pty: Some(Pty { rows: 24, cols: 80, ..Pty::default() }), ..shell("true") };
    let refused = refusal(sandbox.start(terminal).await.map(|run| run.id().to_owned()));
    assert_eq!(refused, fault(Code::FailedPrecondition, ErrorReason::TerminalUnsupported));

    let relay = relay(&daemon, &sandbox);
    sandbox.destroy().await.unwrap();
    eventually(SOON, || async { expect(!process::is_alive(relay), "the relay lives") }).await;
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
    assert_eq!(dockerd.json("/containers/json?all=1").as_array().map(Vec::len), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_whole_and_a_deadline_ends_those_that_escape() {
    let Some((_dockerd, daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut sum = Sha256::new();
    let exited = sandbox.start(shell(BIG)).await.unwrap().finish_into(&mut sum).await.unwrap();
    assert_eq!((exited.output_bytes, sum.finalize().to_vec()), (BIG_SIZE as u64, big()));
    assert!(exited.degraded, "{exited:?}");

    let escape = "echo partial; setsid nohup sleep 4763 >/dev/null 2>&1 & sh -c 'sleep 4763 &' & sleep 4763";
    let timed = BashRequest { timeout: duration(Duration::from_secs(1)), ..shell(escape) };
    let began = Instant::now();
    let outcome = sandbox.run(timed).await.unwrap();
    assert_eq!((outcome.reason(), outcome.stdout_text().as_str()), (Reason::TimedOut, "partial\n"));
    assert!(began.elapsed() < SOON);
    assert_eq!(sandbox.bash("pgrep sleep || echo none").await.stdout_text(), "none\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_costs_no_byte_of_a_sandbox_without_a_socket() {
    let Some((_dockerd, mut daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let (init, relay) = (daemon.init(&sandbox), relay(&daemon, &sandbox));
    let mut run = sandbox.start(BashRequest { stdin: true, ..shell(&format!("{BIG}; cat; exit 3")) }).await.unwrap();
    run.read_bytes(10_000_000).await.unwrap();
    let ended = sandbox.start(shell("echo short; exit 4")).await.unwrap();
    for _ in 0..2 {
        daemon.kill_and_restart().await;
        assert_eq!(daemon.init(&sandbox.through(&daemon)), init);
    }
    let sandbox = sandbox.through(&daemon);
    let sent = vec![Input::Data(b"input\n".to_vec().into()), Input::Eof(Eof {})];
    sandbox.input(run.id(), sent).await.unwrap();
    let outcome = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
    let (big_part, tail) = outcome.stdout.split_at(BIG_SIZE);
    assert_eq!((Sha256::digest(big_part).to_vec(), tail), (big(), b"input\n".as_slice()));
    assert_eq!(outcome.code(), Some(3));
    let short = sandbox.attach(ended.id(), 0).await.unwrap().finish().await.unwrap();
    assert_eq!((short.stdout_text().as_str(), short.code()), ("short\n", Some(4)));
    assert!(process::is_alive(relay));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_without_a_socket_sleeps_and_wakes_and_is_started_again_when_its_relay_dies() {
    let Some((_dockerd, daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")).await.unwrap();
    run.read_until("10\n").await.unwrap();
    sandbox.kill(run.id(), libc::SIGKILL.unsigned_abs()).await.unwrap();
    sandbox.bash("echo kept > file").await;
    for tier in [Tier::Frozen, Tier::Stopped] {
        let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: tier.into() };
        daemon.sandboxes().hibernate(request).await.unwrap();
        assert_eq!(sandbox.read("cat file").await, "kept", "{tier:?}");
    }
    process::kill(relay(&daemon, &sandbox));
    eventually(SOON, || async {
        let read = sandbox.run(shell("cat file")).await.map_err(|status| status.to_string())?;
        expect(read.stdout_text() == "kept\n", "not yet")
    })
    .await;
}
