//! The node as a whole: its events, and emptying it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use handsd::api::proto::{
    DrainRequest, HibernateSandboxRequest, ListSandboxesRequest, NodeEvent, NodeEventsRequest, NodeInfo, Phase,
};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use support::{Daemon, Options, SOON, Sandbox, argv, duration, eventually, expect, field, process, reason, shell};

mod support;

async fn events(daemon: &Daemon, after_seq: u64) -> Vec<NodeEvent> {
    let request = NodeEventsRequest { after_seq, follow: false };
    let mut stream = daemon.node().events(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        events.push(event);
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_a_sandbox_is_an_event_over_restarts_and_none_is_lost_or_doubled() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), ..Default::default() };
    daemon.sandboxes().hibernate(request).await.unwrap();
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    assert_eq!(sandbox.read("echo awake").await, "awake");
    process::kill(daemon.init(&sandbox));
    eventually(SOON, || async { expect(sandbox.get().await.unwrap().phase() == Phase::Crashed, "it lives") }).await;
    daemon.kill_and_restart().await;
    sandbox.through(&daemon).destroy().await.unwrap();

    let all = eventually(SOON, || async {
        let all = events(&daemon, 0).await;
        expect(all.last().is_some_and(|event| event.kind == "sandbox.destroyed"), format!("{all:?}")).map(|()| all)
    })
    .await;
    let kinds: Vec<&str> = all.iter().map(|event| event.kind.strip_prefix("sandbox.").unwrap()).collect();
    let expected =
        ["creating", "running", "hibernating", "hibernated", "waking", "running", "crashed", "destroying", "destroyed"];
    assert_eq!(kinds, expected);
    assert!(all.iter().map(|event| event.seq).eq(1..=all.len() as u64));
    assert!(all.windows(2).all(|two| two[0].generation < two[1].generation && two[0].sandbox_id == two[1].sandbox_id));
    assert_eq!(all[6].failure.as_ref().unwrap().reason, "SANDBOX_LOST");
    assert_eq!(events(&daemon, 4).await, all[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_hears_what_comes_and_a_cursor_that_is_none_is_refused() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut following =
        daemon.node().events(NodeEventsRequest { after_seq: 0, follow: true }).await.unwrap().into_inner();
    let sandbox = daemon.sandbox().await;
    for (seq, kind) in [(1, "sandbox.creating"), (2, "sandbox.running")] {
        let event = following.message().await.unwrap().unwrap();
        assert_eq!((event.seq, event.kind.as_str(), event.sandbox_id.as_str()), (seq, kind, sandbox.id.as_str()));
    }
    let beyond = daemon.node().events(NodeEventsRequest { after_seq: 1000, follow: false }).await.unwrap_err();
    assert_eq!((beyond.code(), field(&beyond).as_str()), (Code::InvalidArgument, "after_seq"));
}

// 41
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_drained_makes_and_wakes_nothing_and_ends_when_all_sleep() {
    let Some(mut daemon) = Daemon::start_with(Options { durable: true, ..Options::default() }).await else { return };
    let (idle, busy) = (daemon.sandbox().await, daemon.sandbox().await);
    let run = busy.start(shell("mkfifo go; echo ready; read x < go; echo went")).await.unwrap();
    let fifo = format!("/proc/{}/root/workspace/go", daemon.init(&busy));
    let mut progress = daemon.node().drain(DrainRequest { timeout: None, stop: true }).await.unwrap().into_inner();
    while progress.message().await.unwrap().unwrap().awake > 1 {}
    assert_eq!(idle.get().await.unwrap().phase(), Phase::Hibernated);
    let refused = Sandbox::create(&daemon, Default::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "NODE_DRAINING"));
    assert_eq!(reason(&idle.run(argv(&["true"])).await.unwrap_err()), "NODE_DRAINING");
    std::fs::write(fifo, "\n").unwrap();
    assert_eq!(run.finish().await.unwrap().stdout_text(), "ready\nwent\n");
    let mut last = None;
    while let Ok(Some(now)) = progress.message().await {
        last = Some(now);
    }
    assert!(last.is_some_and(|last| last.done && last.awake == 0), "{last:?}");
    daemon.replace_ended().await;
    let listed = daemon.sandboxes().list(ListSandboxesRequest::default()).await.unwrap().into_inner().sandboxes;
    let phases: BTreeMap<String, Phase> = listed.iter().map(|it| (it.id.clone(), it.phase())).collect();
    assert_eq!(phases, [idle, busy].map(|it| (it.id, Phase::Hibernated)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_in_use_when_the_time_is_up_goes_on() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
    let request = DrainRequest { timeout: duration(Duration::from_millis(100)), stop: false };
    let mut progress = daemon.node().drain(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(now) = progress.message().await.unwrap() {
        last = Some(now);
    }
    assert!(last.is_some_and(|last| last.done && (last.awake, last.running) == (1, 1)), "{last:?}");
    assert!(sandbox.get_run(run.id()).await.unwrap().exited.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_umask_of_whoever_starts_it_changes_nothing_inside() {
    let wrapper = ["sh", "-c", "umask 077; exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    let Some(daemon) = Daemon::start_with(Options { wrapper, ..Options::default() }).await else { return };
    let sandbox = daemon.sandbox().await;
    assert_eq!(sandbox.read("setpriv --reuid 1000 --clear-groups ls / > /dev/null; umask").await, "0022");
}

/// A frame of HTTP/2 on the first stream.
fn frame(kind: u8, flags: u8, stream: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], body].concat()
}

/// Headers with the path of a socket for an authority, whose name stands there in full, as gRPC's C core writes it, or by its
/// number, as Java does.
fn headers_of_a_call(path: &str, name: &[u8], authority: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [
        &[0x86, 0x83, 0x44][..],
        &text(path),
        name,
        &text(authority),
        &[0x40],
        &text("te"),
        &text("trailers"),
        &[0x5f],
        &text("application/grpc"),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_the_path_of_the_socket_for_an_authority_is_served() {
    let Some(daemon) = Daemon::start().await else { return };
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let callers = [(&b"\x40\x0a:authority"[..], socket.replace('/', "%2F")), (&[0x41], socket.to_owned())];
    for (name, authority) in callers {
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let headers = headers_of_a_call("/hands.v1.Node/Info", name, &authority);
        let call = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            frame(1, 4, 1, &headers),
            frame(0, 1, 1, &[0; 5]),
        ];
        stream.write_all(&call.concat()).await.unwrap();
        // The first frame with data is the message; a reset would come instead.
        let message = loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.unwrap();
            let [high, middle, low, kind, ..] = header;
            let mut body = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
            stream.read_exact(&mut body).await.unwrap();
            assert_ne!(kind, 3, "reset with {body:?}");
            if kind == 0 {
                break body;
            }
        };
        assert_eq!(NodeInfo::decode(&message[5..]).unwrap().version, env!("CARGO_PKG_VERSION"));
    }
}
