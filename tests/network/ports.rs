//! Ports that are listened on, told as events.

use handsd::api::proto::{NodeEvent, NodeEventsRequest};

use crate::inside::{ECHO, has_python, hibernate, serve};
use crate::support::{Daemon, SOON, eventually, expect, shell};

/// What the node has told of ports so far: kind and number.
async fn told(daemon: &Daemon) -> Vec<(String, u32)> {
    let request = NodeEventsRequest { after_seq: 0, follow: false };
    let mut stream = daemon.node().events(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(NodeEvent { kind, port, .. }) = stream.message().await.unwrap() {
        told.extend(port.map(|port| (kind, port.port)));
    }
    told
}

async fn told_is(daemon: &Daemon, expected: &[(&str, u32)]) {
    eventually(SOON, || async {
        let told = told(daemon).await;
        let is_it = told.iter().map(|(kind, port)| (kind.as_str(), *port)).eq(expected.iter().copied());
        expect(is_it, format!("{told:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_told_when_it_opens_and_when_it_closes_and_by_no_other_daemon_again() {
    if !has_python() {
        return;
    }
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, ECHO, "127.0.0.1", 3000).await;
    told_is(&daemon, &[("port.opened", 3000)]).await;
    hibernate(&daemon, &sandbox).await;
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    let line = "exec python3 -c 'import socket, time; s = socket.create_server((\"0.0.0.0\", 4000)); time.sleep(1000)'";
    let server = sandbox.start(shell(line)).await.unwrap();
    told_is(&daemon, &[("port.opened", 3000), ("port.opened", 4000)]).await;
    sandbox.kill(server.id(), 0).await.unwrap();
    told_is(&daemon, &[("port.opened", 3000), ("port.opened", 4000), ("port.closed", 4000)]).await;
}
