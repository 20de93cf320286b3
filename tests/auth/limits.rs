//! What one caller may ask for.

use handsd::api::proto::{CreateSandboxRequest, DestroySandboxRequest, NodeInfoRequest, WatchSandboxRequest};
use tonic::Code;

use crate::support::{Daemon, SOON, eventually, expect, reason};

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_rate_are_refused_and_others_are_not() {
    let Some(daemon) = Daemon::start_configured("[limits]\ncalls_per_second = 20\n").await else { return };
    let mut refused = 0;
    for _ in 0..60 {
        match daemon.node().info(NodeInfoRequest {}).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "TOO_MANY_REQUESTS"));
                refused += 1;
            }
        }
    }
    assert!((1..=40).contains(&refused), "{refused} of 60 calls were refused");
    eventually(SOON, || async { daemon.node().info(NodeInfoRequest {}).await.map_err(|status| status.to_string()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_is_a_call_until_it_is_closed() {
    let Some(daemon) = Daemon::start_configured("[limits]\ncalls_per_client = 2\n").await else { return };
    let id = daemon.sandboxes().create(CreateSandboxRequest::default()).await.unwrap().into_inner().id;
    let request = WatchSandboxRequest { sandbox_id: id.clone(), ..Default::default() };
    let first = daemon.sandboxes().watch(request.clone()).await.unwrap();
    let second = daemon.sandboxes().watch(request.clone()).await.unwrap();
    let status = daemon.sandboxes().watch(request.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "TOO_MANY_REQUESTS");
    assert!(status.message().contains("as many as one may have"), "{status:?}");
    drop(first);
    eventually(SOON, || async {
        let reply = daemon.sandboxes().watch(request.clone()).await;
        expect(reply.is_ok(), format!("{:?}", reply.err()))
    })
    .await;
    drop(second);
    eventually(SOON, || async {
        let request = DestroySandboxRequest { sandbox_id: id.clone() };
        daemon.sandboxes().destroy(request).await.map_err(|status| status.to_string())
    })
    .await;
}
