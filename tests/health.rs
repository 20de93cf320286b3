//! Whether the node says how it is: quickly, with the cause, and that it is over.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Daemon, Disk, Options, SOON, eventually, expect, probe};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

mod support;

/// How soon a cause has to be told.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// The code of /readyz, and the names of the checks that fail.
async fn ready(daemon: &Daemon) -> (u16, Vec<String>) {
    let (code, body) = probe::get(&daemon.http_address().await, "/readyz").await;
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{code} {body:?}: {error}"));
    assert!(body["checks"].is_array(), "{code} {body}");
    let failing = body["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false);
    (code, failing.map(|check| check["name"].as_str().unwrap().to_owned()).collect())
}

async fn watch(daemon: &Daemon, service: &str) -> tonic::Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(daemon.connect().await).watch(request).await.unwrap().into_inner()
}

async fn next(statuses: &mut tonic::Streaming<HealthCheckResponse>) -> ServingStatus {
    let status = tokio::time::timeout(SOON, statuses.message()).await.expect("a status in time");
    status.unwrap().unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_within_two_seconds_and_so_is_its_end() {
    let Some(disk) = Disk::plain(96 << 20) else { return };
    let config = "[health]\nmin_free_disk = '32MiB'\n".to_owned();
    let options = Options { config, http: true, place: Some(disk.root()), ..Options::default() };
    let Some(daemon) = Daemon::start_with(options).await else { return };
    eventually(SOON, || async { expect(ready(&daemon).await == (200, vec![]), "not ready") }).await;
    let (mut node, mut sandboxes) = (watch(&daemon, "").await, watch(&daemon, "hands.v1.Sandboxes").await);
    let mut hands = watch(&daemon, "hands.v1.Hands").await;
    for statuses in [&mut node, &mut sandboxes, &mut hands] {
        assert_eq!(next(statuses).await, ServingStatus::Serving);
    }

    let filler = daemon.scratch().join("filler");
    let began = Instant::now();
    File::create(&filler).unwrap().write_all(&vec![1; 64 << 20]).unwrap();
    let written = began.elapsed();
    eventually(SOON, || async {
        let found = ready(&daemon).await;
        expect(found == (503, vec!["disk".to_owned()]), format!("{found:?}"))
    })
    .await;
    assert!(began.elapsed() < written + TOLD_WITHIN, "told after {:?}", began.elapsed());
    for statuses in [&mut node, &mut sandboxes] {
        assert_eq!(next(statuses).await, ServingStatus::NotServing);
    }
    let (code, _) = probe::get(&daemon.http_address().await, "/livez").await;
    assert_eq!(code, 200, "it is alive all the same");

    std::fs::remove_file(&filler).unwrap();
    for statuses in [&mut node, &mut sandboxes] {
        assert_eq!(next(statuses).await, ServingStatus::Serving);
    }
    assert_eq!(ready(&daemon).await, (200, vec![]));
    assert!(daemon.log().contains("check=\"disk\""), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_written_is_told_by_its_name() {
    let Some(disk) = Disk::plain(96 << 20) else { return };
    let config = "[health]\nmin_free_disk = 0\n".to_owned();
    let options = Options { config, http: true, place: Some(disk.root()), ..Options::default() };
    let Some(daemon) = Daemon::start_with(options).await else { return };
    // Fill the last block: a file without a name needs one.
    let mut filler = File::create(daemon.scratch().join("filler")).unwrap();
    while filler.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    eventually(SOON, || async {
        let found = ready(&daemon).await;
        expect(found == (503, vec!["state".to_owned()]), format!("{found:?}"))
    })
    .await;
    filler.set_len(0).unwrap();
    eventually(SOON, || async { expect(ready(&daemon).await.0 == 200, "not ready") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_ends_says_so_first() {
    let options = Options { http: true, ..Options::default() };
    let Some(mut daemon) = Daemon::start_with(options).await else { return };
    let mut statuses = watch(&daemon, "").await;
    assert_eq!(next(&mut statuses).await, ServingStatus::Serving);
    let told = tokio::spawn(async move { next(&mut statuses).await });
    assert!(daemon.stop().success());
    assert_eq!(told.await.unwrap(), ServingStatus::NotServing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_hangs_is_told_and_so_is_its_end() {
    let Some(daemon) = Daemon::start_with(Options { http: true, ..Options::default() }).await else { return };
    daemon.sandbox().await.destroy().await.unwrap();
    eventually(SOON, || async { expect(ready(&daemon).await.0 == 200, "not ready") }).await;
    let zygote = nix::unistd::Pid::from_raw(daemon.zygote().expect("the native engine has one").cast_signed());
    nix::sys::signal::kill(zygote, nix::sys::signal::Signal::SIGSTOP).unwrap();
    eventually(SOON, || async {
        let found = ready(&daemon).await;
        expect(found == (503, vec!["engine".to_owned()]), format!("{found:?}"))
    })
    .await;
    nix::sys::signal::kill(zygote, nix::sys::signal::Signal::SIGCONT).unwrap();
    eventually(SOON, || async { expect(ready(&daemon).await.0 == 200, "not ready") }).await;
    daemon.sandbox().await.destroy().await.unwrap();
}
