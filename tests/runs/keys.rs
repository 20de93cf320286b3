//! Idempotency keys of runs.

use handsd::api::proto::{BashRequest, ErrorReason};
use tonic::Code;

use crate::support::{Daemon, fault, refusal, shell};

fn keyed(key: &str, line: &str) -> BashRequest {
    BashRequest { idempotency_key: key.to_owned(), ..shell(line) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_and_request_is_the_same_run_from_its_beginning() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let line = "echo once >> count; cat count";
    // At once, and after it has ended.
    let (first, second) = tokio::join!(sandbox.run(keyed("k", line)), sandbox.run(keyed("k", line)));
    let (first, second) = (first.unwrap(), second.unwrap());
    let third = sandbox.run(keyed("k", line)).await.unwrap();
    for outcome in [&first, &second, &third] {
        assert_eq!((&outcome.started, &outcome.exited), (&first.started, &first.exited));
        assert_eq!(outcome.stdout_text(), "once\n");
    }
    assert_eq!(sandbox.read("wc -l < count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_another_request_is_a_conflict() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.run(keyed("k", "true")).await.unwrap();
    let conflict = fault(Code::AlreadyExists, ErrorReason::IdempotencyConflict);
    assert_eq!(refusal(sandbox.run(keyed("k", "false")).await), conflict);
    let elsewhere = BashRequest { cwd: "/".to_owned(), ..keyed("k", "true") };
    assert_eq!(refusal(sandbox.run(elsewhere).await), conflict);
    assert_eq!(sandbox.run(keyed("l", "exit 4")).await.unwrap().code(), Some(4));
    // Of another sandbox it is another key.
    assert_eq!(daemon.sandbox().await.run(keyed("k", "exit 5")).await.unwrap().code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_run_that_could_not_start_is_free_again() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let request = BashRequest { cwd: "later".to_owned(), ..keyed("k", "pwd") };
    let refused = sandbox.run(request.clone()).await;
    assert_eq!(refusal(refused), fault(Code::FailedPrecondition, ErrorReason::CwdInvalid));
    sandbox.bash("mkdir later").await;
    assert_eq!(sandbox.run(request).await.unwrap().stdout_text(), "/workspace/later\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_goes_with_the_run() {
    let Some(daemon) = Daemon::start_configured("[run]\nretained_runs = 1\n").await else { return };
    let sandbox = daemon.sandbox().await;
    let first = sandbox.run(keyed("k", "true")).await.unwrap();
    sandbox.bash("true").await;
    crate::support::eventually(crate::support::SOON, || async {
        let again = sandbox.run(keyed("k", "true")).await.unwrap();
        crate::support::expect(again.started.run_id != first.started.run_id, "the evicted run is still there")
    })
    .await;
}
