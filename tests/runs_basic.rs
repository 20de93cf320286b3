//! Commands, their output and how they end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use handsd::api::proto::exited::Reason;

use support::{Daemon, argv};

mod support;

// 1
#[tokio::test(flavor = "multi_thread")]
async fn hello_is_started_written_and_exited() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("echo hello").await;
    assert_eq!((outcome.stdout_text().as_str(), outcome.stderr_text().as_str()), ("hello\n", ""));
    assert_eq!((outcome.code(), outcome.reason()), (Some(0), Reason::Exited));
    let outcome = sandbox.run(argv(&["echo", "hello"])).await.unwrap();
    assert_eq!(outcome.stdout_text(), "hello\n");
}
