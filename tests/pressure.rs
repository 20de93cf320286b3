//! A node that is short of memory: what nobody uses sleeps, the longest idle first, and nothing else does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use handsd::api::proto::{CreateSandboxRequest, NodeEventsRequest, Phase, Tier};

use support::{Daemon, SOON, Sandbox, duration, eventually, expect, shell};

mod support;

/// More than any machine has.
const SHORT: &str = "[sandbox]\npressure_memory = '1000T'\n";

async fn sleeps(sandbox: &Sandbox, tier: Tier) {
    eventually(SOON, || async {
        let now = sandbox.get().await.unwrap();
        expect((now.phase(), now.tier()) == (Phase::Hibernated, tier), format!("{:?} {:?}", now.phase(), now.tier()))
    })
    .await;
}

/// The sandboxes that fell so deep asleep, in the order in which they last did.
async fn slept(daemon: &Daemon, tier: Tier) -> Vec<String> {
    let mut stream = daemon.node().events(NodeEventsRequest::default()).await.unwrap().into_inner();
    let mut ids = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        if event.kind == "sandbox.hibernated" && event.tier() == tier {
            // Before it was used it may have slept as well.
            ids.retain(|id| *id != event.sandbox_id);
            ids.push(event.sandbox_id);
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_freezes_and_is_stopped_while_what_is_used_goes_on() {
    let Some(daemon) = Daemon::start_configured(SHORT).await else { return };
    let busy = daemon.sandbox().await;
    let run = busy.start(shell("sleep 1000")).await.unwrap();
    let never = CreateSandboxRequest { idle_timeout: duration(std::time::Duration::ZERO), ..Default::default() };
    let never = Sandbox::create(&daemon, never).await.unwrap();
    let (first, second) = (daemon.sandbox().await, daemon.sandbox().await);
    first.bash("echo kept > file; setsid sleep 1000 &").await;
    second.bash("true").await;
    for sandbox in [&first, &second] {
        sleeps(sandbox, Tier::Stopped).await;
    }
    let in_order = [first.id.clone(), second.id.clone()];
    for tier in [Tier::Frozen, Tier::Stopped] {
        eventually(SOON, || async {
            let slept = slept(&daemon, tier).await;
            expect(slept == in_order, format!("{tier:?}: {slept:?}"))
        })
        .await;
    }
    for sandbox in [&busy, &never] {
        assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Running);
    }
    assert!(busy.get_run(run.id()).await.unwrap().exited.is_none());
    // It can be used all the same.
    assert_eq!(first.read("cat file").await, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_enough_memory_leaves_all_awake() {
    let config = "[sandbox]\npressure_memory = '0B'\npressure_stall = 'unlimited'\nidle_timeout = '3s'\n";
    let Some(daemon) = Daemon::start_configured(config).await else { return };
    let sandbox = daemon.sandbox().await;
    // It falls asleep when its own time has come, and not before.
    let made = std::time::Instant::now();
    sleeps(&sandbox, Tier::Frozen).await;
    assert!(made.elapsed() >= std::time::Duration::from_secs(2), "{:?}", made.elapsed());
}
