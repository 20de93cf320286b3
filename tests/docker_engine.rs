//! The Docker engine when Docker itself is killed, hangs, or comes back, and what it leaves alone.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use handsd::engine::docker::{Docker, Settings};
use handsd::engine::{EngineError, Spec};
use handsd::hands::Reason;
use handsd::image::ImageRef;
use tokio::time::{Instant, timeout};

use bench::{Bench, SOON, follow, shell};
use dockerd::Dockerd;

#[path = "support/bench.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod bench;
#[path = "support/dockerd.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod dockerd;
#[path = "support/rootfs.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod rootfs;

/// A dockerd that only this test uses.
async fn own(arguments: &'static [&'static str]) -> Option<Arc<Dockerd>> {
    tokio::task::spawn_blocking(|| Dockerd::start(arguments)).await.unwrap().map(Arc::new)
}

async fn on_dockerd(dockerd: &Arc<Dockerd>, act: fn(&Dockerd)) {
    let dockerd = Arc::clone(dockerd);
    tokio::task::spawn_blocking(move || act(&dockerd)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_live_restore_a_killed_dockerd_costs_no_run_and_no_byte() {
    let Some(dockerd) = own(&["--live-restore"]).await else { return };
    let bench = Bench::on(Arc::clone(&dockerd)).await;
    let sandbox = bench.sandbox().await;
    let run = sandbox.start(shell("echo before; while ! test -e go; do sleep 0.05; done; echo after")).await;
    on_dockerd(&dockerd, Dockerd::kill).await;
    assert_eq!(sandbox.run("echo meanwhile").await.text, "meanwhile\n");
    let refused = bench.engine.create(&bench.spec()).await;
    assert!(matches!(refused, Err(EngineError::Unavailable { .. })), "{refused:?}");
    assert!(matches!(bench.engine.remove(&sandbox.id).await, Err(EngineError::Unavailable { .. })));
    on_dockerd(&dockerd, Dockerd::restart).await;
    assert!(run.exited().is_none());
    sandbox.run("touch go").await;
    let outcome = follow(run).await;
    assert_eq!((outcome.text.as_str(), outcome.exited.reason), ("before\nafter\n", Reason::Exited));
    let another = bench.sandbox().await;
    assert_eq!(another.run("echo again").await.text, "again\n");
    another.remove().await;
    sandbox.remove().await;
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_live_restore_a_restarted_dockerd_ends_the_sandbox_and_its_run_is_lost() {
    let Some(dockerd) = own(&[]).await else { return };
    let bench = Bench::on(Arc::clone(&dockerd)).await;
    let sandbox = bench.sandbox().await;
    let run = sandbox.start(shell("echo before; sleep 4761")).await;
    on_dockerd(&dockerd, Dockerd::kill).await;
    // Nobody has told the container yet.
    assert_eq!(sandbox.run("echo meanwhile").await.text, "meanwhile\n");
    on_dockerd(&dockerd, Dockerd::restart).await;
    timeout(SOON, sandbox.init.ended()).await.expect("its end is noticed");
    let outcome = follow(run).await;
    assert_eq!((outcome.text.as_str(), outcome.exited.reason), ("before\n", Reason::SandboxLost));
    assert_eq!(outcome.exited.status, None);
    sandbox.remove().await;
    let another = bench.sandbox().await;
    assert_eq!(another.run("echo again").await.text, "again\n");
    another.remove().await;
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dockerd_that_hangs_fails_the_calls_that_need_it_in_time_and_no_others() {
    let Some(dockerd) = own(&[]).await else { return };
    let bench = Bench::on(Arc::clone(&dockerd)).await;
    let sandbox = bench.sandbox().await;
    on_dockerd(&dockerd, Dockerd::suspend).await;
    let began = Instant::now();
    let (refused, ()) = tokio::join!(async { bench.engine.create(&bench.spec()).await }, async {
        for _ in 0..20 {
            assert_eq!(sandbox.run("echo meanwhile").await.text, "meanwhile\n");
        }
    });
    assert!(matches!(refused, Err(EngineError::Unavailable { .. })), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(bench.engine.ping().await.is_err());
    on_dockerd(&dockerd, Dockerd::resume).await;
    bench.engine.ping().await.unwrap();
    sandbox.remove().await;
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_another_daemon_is_neither_listed_nor_removed() {
    let (Some(ours), Some(theirs)) = (Bench::docker().await, Bench::docker().await) else { return };
    let sandbox = theirs.sandbox().await;
    assert!(ours.engine.list().await.unwrap().is_empty());
    ours.engine.remove(&sandbox.id).await.unwrap();
    assert_eq!(sandbox.run("echo alive").await.text, "alive\n");
    sandbox.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_docker_does_not_know_is_refused_by_its_name() {
    let Some(dockerd) = tokio::task::spawn_blocking(dockerd::shared).await.unwrap() else { return };
    let state = tempfile::tempdir().unwrap();
    let settings = Settings { socket: dockerd.socket(), runtime: Some("nobodys".to_owned()), ..Settings::default() };
    let refused = Docker::open(state.path(), "test", settings, None).await.unwrap_err();
    assert!(
        matches!(&refused, EngineError::RuntimeUnknown { runtime, known }
        if runtime == "nobodys" && known.contains(&"runc".to_owned())),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_the_node_itself_is_refused_as_an_argument() {
    let Some(bench) = Bench::docker().await else { return };
    for image in [ImageRef::Host, ImageRef::Dir("/".into())] {
        let refused = bench.engine.create(&Spec { image, ..bench.spec() }).await;
        assert!(matches!(refused, Err(EngineError::ImageUnsupported { engine: "docker", .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_in_an_archive_are_left_to_others() {
    let Some(dockerd) = own(&[]).await else { return };
    let bench = Bench::on(Arc::clone(&dockerd)).await;
    let image = ImageRef::Archive(rootfs::write_archive(bench.directory.path()), None);
    let sandbox = bench.sandbox_of(Spec { image, ..bench.spec() }).await;
    let images = dockerd.json("/images/json");
    let names = images[0]["RepoTags"].as_array().unwrap();
    assert_eq!((images.as_array().map(Vec::len), names.len()), (Some(1), 1), "{images}");
    assert!(names[0].as_str().unwrap().starts_with("handsd/files:"), "{images}");
    sandbox.remove().await;
}
