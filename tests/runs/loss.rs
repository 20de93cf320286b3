//! A sandbox that goes away under its runs: how they ended is not known, and nobody says otherwise.

use handsd::api::proto::exited::Reason;
use handsd::api::proto::{ErrorReason, Phase};
use tonic::Code;

use crate::support::{Daemon, SOON, argv, eventually, expect, fault, process, reason, shell};

// 22
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_killed_leaves_its_runs_lost_and_never_at_code_0() {
    for config in ["", "[engine]\ncgroup = \"off\"\n"] {
        let Some(daemon) = Daemon::start_configured(config).await else { return };
        let (sandbox, other) = (daemon.sandbox().await, daemon.sandbox().await);
        let mut run = sandbox.start(shell("echo before; setsid sleep 1000 & sleep 1000")).await.unwrap();
        let beside = other.start(shell("sleep 0.5; echo alive")).await.unwrap();
        run.read_until("before\n").await.unwrap();
        process::kill(daemon.init(&sandbox));
        let id = run.id().to_owned();
        let outcome = run.finish().await.unwrap();
        assert_eq!((outcome.reason(), outcome.exited.status), (Reason::SandboxLost, None));
        let phase = eventually(SOON, || async {
            let message = sandbox.get().await.unwrap();
            let failure = message.failure.clone();
            expect(message.phase() == Phase::Crashed, format!("{message:?}")).map(|()| failure)
        });
        assert_eq!(phase.await.unwrap().reason, ErrorReason::SandboxLost.as_str_name());
        // It is started again for that, and knows what became of the run.
        let replay = sandbox.attach(&id, 0).await.unwrap().finish().await.unwrap();
        assert_eq!((replay.reason(), replay.stdout_text().as_str()), (Reason::SandboxLost, "before\n"));
        assert_eq!(sandbox.run(argv(&["true"])).await.unwrap().code(), Some(0));
        // Another sandbox is none the wiser.
        assert_eq!(beside.finish().await.unwrap().stdout_text(), "alive\n");
        sandbox.destroy().await.unwrap();
        let gone = sandbox.get().await.unwrap_err();
        assert_eq!((gone.code(), reason(&gone)), fault(Code::NotFound, ErrorReason::SandboxNotFound));
    }
}

// 22
#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_destroyed_ends_its_runs_as_lost() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("echo before; sleep 1000")).await.unwrap();
    run.read_until("before\n").await.unwrap();
    let killing = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
    sandbox.destroy().await.unwrap();
    for run in [run, killing] {
        let outcome = run.finish().await.unwrap();
        assert_eq!((outcome.reason(), outcome.exited.status), (Reason::SandboxLost, None));
    }
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

// 22
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_breaks_the_stream_and_says_nothing_of_an_exit() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("echo before; sleep 1000")).await.unwrap();
    run.read_until("before\n").await.unwrap();
    daemon.kill();
    let status = run.next().await.expect_err("the daemon is gone");
    assert!(
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled),
        "{status:?}"
    );
    // The run went on, and the next daemon knows it.
    daemon.restart().await;
    assert!(sandbox.through(&daemon).get_run(run.id()).await.unwrap().exited.is_none());
}
