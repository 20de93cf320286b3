//! What is counted of the network of each sandbox.

use handsd::api::proto::NetworkUsage;

use crate::inside::{has_python, hibernate};
use crate::lab::Lab;
use crate::nat::{WORLD, ask, nat, reach};
use crate::proxy::{proxy, sandbox_with};
use crate::support::{Daemon, Options, Sandbox, probe};

async fn usage(sandbox: &Sandbox) -> NetworkUsage {
    sandbox.get().await.unwrap().network_usage.unwrap()
}

/// What the metrics tell of a sandbox: bytes received and sent, connections made and refused; none if it is not there.
async fn told(lab: &Lab, daemon: &Daemon, sandbox: &Sandbox) -> Vec<u64> {
    let address = daemon.http_address().await;
    let stream = lab.connect(&address).await;
    let (_, text) = probe::get_over(stream, &address, &format!("/metrics?api_key={}", daemon.key())).await;
    let lines = text.lines().filter(|line| line.starts_with("handsd_sandbox_network_") && line.contains(&sandbox.id));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_while_the_sandbox_is_there_and_gone_with_it() {
    let Some(mut lab) = Lab::new() else { return };
    if !has_python() {
        return;
    }
    lab.serve(WORLD);
    let Some(daemon) = lab.daemon_with(Options { http: true, ..Options::default() }).await else { return };
    let other = sandbox_with(&daemon, nat()).await.unwrap();
    let sandbox = sandbox_with(&daemon, nat()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(sandbox.read(&reach("203.0.113.2", false)).await, "203.0.113.2 saw 198.51.100.1");
    }
    assert_eq!(sandbox.read(&reach("203.0.113.2", true)).await, "203.0.113.2 saw 198.51.100.1");
    assert!(sandbox.read(&reach("10.9.0.2", false)).await.starts_with("failed: "));
    let counted = usage(&sandbox).await;
    assert_eq!(counted.connected, 3, "{counted:?}");
    // Whoever is not told soon enough asks again.
    assert!((1..4).contains(&counted.refused), "{counted:?}");
    // More than the words themselves, less than if they were counted twice.
    for bytes in [counted.sent_bytes, counted.received_bytes] {
        assert!((100..10_000).contains(&bytes), "{counted:?}");
    }
    let told_now = told(&lab, &daemon, &sandbox).await;
    let NetworkUsage { connected, refused, sent_bytes, received_bytes } = usage(&sandbox).await;
    assert_eq!(told_now, [received_bytes, sent_bytes, connected, refused]);
    assert_eq!(usage(&other).await.connected, 0);
    // Neither sleep nor a look at it changes anything.
    hibernate(&daemon, &sandbox).await;
    assert_eq!(usage(&sandbox).await.connected, 3);
    // Its number is another's afterwards, who has not done anything yet.
    sandbox.destroy().await.unwrap();
    assert_eq!(told(&lab, &daemon, &sandbox).await, Vec::<u64>::new());
    let next = sandbox_with(&daemon, nat()).await.unwrap();
    let NetworkUsage { connected, refused, .. } = usage(&next).await;
    assert_eq!((connected, refused), (0, 0));
    // And so of the proxy.
    let proxied = sandbox_with(&daemon, proxy(&["world.test"])).await.unwrap();
    for name in ["world.test", "files.world.test"] {
        proxied.read(&ask(name)).await;
    }
    let told_now = told(&lab, &daemon, &proxied).await;
    assert_eq!(told_now[2..], [1, 1], "{told_now:?}");
    proxied.destroy().await.unwrap();
    assert_eq!(told(&lab, &daemon, &proxied).await, Vec::<u64>::new());
}
