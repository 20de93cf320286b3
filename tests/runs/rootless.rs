//! A daemon without root.

use handsd::api::proto::NodeInfoRequest;

use crate::support::{Daemon, Options, only_native, shell};
use handsd::api::proto::exited::Reason;
use handsd::api::proto::{BashRequest, ErrorReason};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_root_makes_a_sandbox_and_runs_commands() {
    if !only_native("its socket is root's") {
        return;
    }
    let options = Options { rootless: true, ..Options::default() };
    let Some(daemon) = Daemon::start_with(options).await else { return };
    assert!(daemon.node().info(NodeInfoRequest {}).await.unwrap().into_inner().rootless);
    let sandbox = daemon.sandbox().await;
    assert_eq!(sandbox.read("echo hello; id -u; pwd").await, "hello\n0\n/workspace");
    assert_eq!(sandbox.read("echo text > file && cat file && stat -c %u file").await, "text\n0");
    let timeout = crate::support::duration(Duration::from_millis(300));
    let outcome = sandbox.run(BashRequest { timeout, ..shell("setsid sleep 1000 & sleep 1000") }).await.unwrap();
    assert_eq!(outcome.reason(), Reason::TimedOut);
    assert_eq!(sandbox.processes().await, Vec::<String>::new());
    // There is one user only.
    let nobody = BashRequest { user: "nobody".to_owned(), ..shell("true") };
    let status = sandbox.run(nobody).await.unwrap_err();
    assert_eq!(crate::support::reason(&status), ErrorReason::UserNotFound.as_str_name());
    sandbox.destroy().await.unwrap();
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}
