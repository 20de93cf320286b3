//! The daemon on the Docker engine, as a black box: what others do to its containers and to dockerd.
//!
//! What holds on every engine is in the tests of the native one, which the gate runs on Docker too.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use handsd::api::proto::exited::Reason;
use handsd::api::proto::{
    CreateSandboxRequest, ErrorReason, HibernateSandboxRequest, Limits, NodeInfoRequest, Phase, Tier,
    WakeSandboxRequest,
};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use support::dockerd::Dockerd;
use support::engine::container;
use support::{
    Daemon, Disk, Engine, Files, Options, SOON, Sandbox, argv, errno, eventually, expect, fault, process, reason,
    refusal, shell,
};

#[path = "../support/mod.rs"]
mod support;

#[path = "../network/inside.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod inside;
mod settings;
mod stdio;

/// A daemon with a dockerd of its own.
async fn start(arguments: &'static [&'static str]) -> Option<(Arc<Dockerd>, Daemon)> {
    start_configured(arguments, "").await
}

/// The same, with a configuration file.
async fn start_configured(arguments: &'static [&'static str], config: &str) -> Option<(Arc<Dockerd>, Daemon)> {
    let (dockerd, engine) = Engine::docker(arguments).await?;
    let options = Options { engine: Some(engine), config: config.to_owned(), ..Options::default() };
    Some((dockerd, Daemon::start_with(options).await?))
}

async fn on_dockerd(dockerd: &Arc<Dockerd>, act: fn(&Dockerd)) {
    let dockerd = Arc::clone(dockerd);
    tokio::task::spawn_blocking(move || act(&dockerd)).await.unwrap();
}

async fn health(daemon: &Daemon, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(daemon.connect().await).check(request).await.unwrap().into_inner().status()
}

/// Waits until the daemon says so of the service that needs the engine; that of runs does not.
async fn healthy(daemon: &Daemon, status: ServingStatus) {
    eventually(SOON * 2, || async {
        let now = health(daemon, "hands.v1.Sandboxes").await;
        expect(now == status, format!("{now:?}"))
    })
    .await;
    assert_eq!(health(daemon, "hands.v1.Hands").await, ServingStatus::Serving);
}

async fn becomes(sandbox: &Sandbox, phase: Phase) {
    eventually(SOON, || async {
        let now = sandbox.get().await.unwrap();
        expect(now.phase() == phase, format!("{now:?}"))
    })
    .await;
}

async fn refuses_creates(daemon: &Daemon) {
    let refused = Sandbox::create(daemon, CreateSandboxRequest::default()).await;
    assert_eq!(refusal(refused), fault(Code::Unavailable, ErrorReason::EngineUnavailable));
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_of_docker_are_used_as_all_others() {
    let Some((dockerd, daemon)) = start(&[]).await else { return };
    assert_eq!(daemon.node().info(NodeInfoRequest {}).await.unwrap().into_inner().engine, "docker");
    let request = CreateSandboxRequest {
        user: "agent".to_owned(),
        env: [("A".to_owned(), "b".to_owned())].into(),
        limits: Some(Limits { memory_bytes: 256 << 20, ..Limits::default() }),
        ..CreateSandboxRequest::default()
    };
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    assert_eq!(sandbox.read("id -un; echo $A; pwd").await, "agent\nb\n/workspace");
    let of_the_node = CreateSandboxRequest { image: "host".to_owned(), ..CreateSandboxRequest::default() };
    let refused = Sandbox::create(&daemon, of_the_node).await;
    assert_eq!(refusal(refused), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid));
    sandbox.destroy().await.unwrap();
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
    assert_eq!(dockerd.json("/containers/json?all=1").as_array().map(Vec::len), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_kills_is_a_crash_that_is_told_at_once() {
    let Some((dockerd, daemon)) = start(&[]).await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("echo kept > file").await;
    let mut run = sandbox.start(shell("echo before; sleep 1000")).await.unwrap();
    run.read_until("before\n").await.unwrap();
    dockerd.order(&container(&daemon.state(), &sandbox), "kill");
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.reason(), outcome.exited.status), (Reason::SandboxLost, None));
    becomes(&sandbox, Phase::Crashed).await;
    let failure = sandbox.get().await.unwrap().failure.unwrap();
    assert_eq!(failure.reason, ErrorReason::SandboxLost.as_str_name());
    // With the code, unless Docker is slow to hear of it itself.
    assert!(failure.message.contains("; Docker "), "{failure:?}");
    assert_eq!(sandbox.read("cat file").await, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_removes_is_told_and_cannot_be_woken_but_destroyed() {
    let Some((dockerd, mut daemon)) = start(&[]).await else { return };
    let (awake, asleep, alone) = (daemon.sandbox().await, daemon.sandbox().await, daemon.sandbox().await);
    let request = HibernateSandboxRequest { sandbox_id: asleep.id.clone(), tier: Tier::Stopped.into() };
    daemon.sandboxes().hibernate(request).await.unwrap();
    let mut run = awake.start(shell("echo before; sleep 1000")).await.unwrap();
    run.read_until("before\n").await.unwrap();
    let remove = |daemon: &Daemon, sandbox: &Sandbox| dockerd.remove(&container(&daemon.state(), sandbox));
    remove(&daemon, &awake);
    remove(&daemon, &asleep);
    assert_eq!(run.finish().await.unwrap().reason(), Reason::SandboxLost);
    daemon.kill();
    remove(&daemon, &alone);
    daemon.restart().await;
    for sandbox in [awake, asleep, alone].map(|sandbox| sandbox.through(&daemon)) {
        becomes(&sandbox, Phase::Failed).await;
        assert_eq!(sandbox.get().await.unwrap().failure.unwrap().message, "its files are gone");
        let refused = refusal(sandbox.run(shell("true")).await.map(|outcome| outcome.code()));
        assert_eq!(refused, fault(Code::FailedPrecondition, ErrorReason::SandboxNotRunning));
        sandbox.destroy().await.unwrap();
    }
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_pauses_sleeps_and_is_woken_by_whoever_needs_it() {
    let Some((dockerd, daemon)) = start(&[]).await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(shell("while [ ! -e go ]; do sleep 0.01; done; echo went; exit 3")).await.unwrap();
    let container = container(&daemon.state(), &sandbox);
    dockerd.order(&container, "pause");
    becomes(&sandbox, Phase::Hibernated).await;
    dockerd.order(&container, "unpause");
    becomes(&sandbox, Phase::Running).await;
    dockerd.order(&container, "pause");
    becomes(&sandbox, Phase::Hibernated).await;
    assert_eq!(sandbox.read("touch go; echo awake").await, "awake");
    assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Running);
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.code(), outcome.stdout_text().as_str()), (Some(3), "went\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_ends_for_want_of_memory_is_told() {
    let Some((_dockerd, daemon)) = start(&[]).await else { return };
    let limits = Some(Limits { memory_bytes: 32 << 20, ..Limits::default() });
    let sandbox = Sandbox::create(&daemon, CreateSandboxRequest { limits, ..Default::default() }).await.unwrap();
    let outcome = sandbox.run(argv(&["tail", "/dev/zero"])).await.unwrap();
    assert_eq!(outcome.reason(), Reason::OomKilled);
    eventually(SOON, || async { expect(daemon.log().contains("for want of memory"), "it says nothing") }).await;
    assert_eq!(sandbox.read("echo alive").await, "alive");
}

// 29
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_of_dockers_old_files_are_whole_and_runs_go_on() {
    let Some(disk) = Disk::plain(256 << 20) else { return };
    let root = disk.root();
    let started = tokio::task::spawn_blocking(move || Dockerd::start_in(&root, &[])).await.unwrap();
    let Some(dockerd) = started else { return };
    let engine = Some(Engine::Docker(Arc::new(dockerd)));
    let Some(daemon) = Daemon::start_with(Options { engine, ..Options::default() }).await else { return };
    let sandbox = daemon.sandbox().await;
    let files = Files::of(&daemon, &sandbox);
    files.write("f", b"old").await.unwrap();
    assert_ne!(sandbox.bash("cat /dev/zero > fill").await.code(), Some(0));
    for path in ["f", "new"] {
        let status = files.write(path, &vec![1; 4 << 20]).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), fault(Code::ResourceExhausted, ErrorReason::DiskFull));
        assert_eq!(errno(&status), "ENOSPC");
    }
    assert_eq!(files.read("f").await.unwrap(), b"old");
    // What the daemon keeps is elsewhere: output and records are whole.
    assert_eq!(sandbox.read("seq 100000 | tail -n 1").await, "100000");
    files.remove("fill").await.unwrap();
    files.write("f", b"new").await.unwrap();
    assert_eq!(sandbox.read("ls -A; cat f").await, "f\nnew");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_docker_hangs_health_is_degraded_and_sandboxes_are_not() {
    let Some((dockerd, daemon)) = start(&[]).await else { return };
    let sandbox = daemon.sandbox().await;
    healthy(&daemon, ServingStatus::Serving).await;
    on_dockerd(&dockerd, Dockerd::suspend).await;
    healthy(&daemon, ServingStatus::NotServing).await;
    assert_eq!(sandbox.read("echo alive").await, "alive");
    refuses_creates(&daemon).await;
    on_dockerd(&dockerd, Dockerd::resume).await;
    healthy(&daemon, ServingStatus::Serving).await;
    assert_eq!(daemon.sandbox().await.read("echo again").await, "again");
}

// 35
#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_docker_does_not_serve_leaves_it_asleep_with_its_files() {
    let Some((dockerd, daemon)) = start(&["--live-restore"]).await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("echo kept > file").await;
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: Tier::Stopped.into() };
    daemon.sandboxes().hibernate(request).await.unwrap();
    on_dockerd(&dockerd, Dockerd::kill).await;
    let request = WakeSandboxRequest { sandbox_id: sandbox.id.clone() };
    let (mut one, mut two) = (daemon.sandboxes(), daemon.sandboxes());
    let (first, second) = tokio::join!(one.wake(request.clone()), two.wake(request));
    for refused in [first, second] {
        assert_eq!(refusal(refused), fault(Code::Unavailable, ErrorReason::EngineUnavailable));
    }
    let now = sandbox.get().await.unwrap();
    assert_eq!((now.phase(), now.tier(), now.running), (Phase::Hibernated, Tier::Stopped, 0));
    on_dockerd(&dockerd, Dockerd::restart).await;
    healthy(&daemon, ServingStatus::Serving).await;
    assert_eq!(sandbox.read("cat file").await, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_live_restore_nothing_is_lost_when_docker_is_killed_and_it_is_heard_again() {
    let Some((dockerd, daemon)) = start(&["--live-restore"]).await else { return };
    let sandbox = daemon.sandbox().await;
    let init = daemon.init(&sandbox);
    let run = sandbox.start(shell("while [ ! -e go ]; do sleep 0.01; done; echo went; exit 3")).await.unwrap();
    on_dockerd(&dockerd, Dockerd::kill).await;
    healthy(&daemon, ServingStatus::NotServing).await;
    assert_eq!(sandbox.read("echo meanwhile").await, "meanwhile");
    refuses_creates(&daemon).await;
    on_dockerd(&dockerd, Dockerd::restart).await;
    healthy(&daemon, ServingStatus::Serving).await;
    assert_eq!((daemon.init(&sandbox), sandbox.get().await.unwrap().phase()), (init, Phase::Running));
    // By the stream of events, or by the look that is taken before it is there again.
    dockerd.order(&container(&daemon.state(), &sandbox), "pause");
    becomes(&sandbox, Phase::Hibernated).await;
    assert_eq!(sandbox.read("touch go; echo awake").await, "awake");
    assert_eq!(run.finish().await.unwrap().code(), Some(3));
    assert_eq!(daemon.sandbox().await.read("echo again").await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_live_restore_what_a_restarted_docker_ends_is_lost_and_starts_again_on_its_files() {
    let Some((dockerd, daemon)) = start(&[]).await else { return };
    let sandbox = daemon.sandbox().await;
    let init = daemon.init(&sandbox);
    let mut run = sandbox.start(shell("echo kept > file; echo before; sleep 1000")).await.unwrap();
    run.read_until("before\n").await.unwrap();
    on_dockerd(&dockerd, Dockerd::kill).await;
    healthy(&daemon, ServingStatus::NotServing).await;
    // Nobody has told the container yet.
    assert_eq!(sandbox.read("cat file").await, "kept");
    on_dockerd(&dockerd, Dockerd::restart).await;
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.reason(), outcome.exited.status), (Reason::SandboxLost, None));
    assert!(!process::is_alive(init));
    becomes(&sandbox, Phase::Crashed).await;
    assert_eq!(sandbox.get().await.unwrap().failure.unwrap().reason, ErrorReason::SandboxLost.as_str_name());
    healthy(&daemon, ServingStatus::Serving).await;
    assert_eq!(sandbox.read("cat file").await, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_record_names_is_listed_by_a_dry_run_and_then_removed() {
    let Some((dockerd, mut daemon)) = start(&[]).await else { return };
    let sandbox = daemon.sandbox().await;
    assert!(!daemon.handsd(&["gc", "--dry-run"]).output().unwrap().status.success(), "the daemon runs");
    daemon.kill();
    let listed = |output: Output| String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    let is_there = || dockerd.get("/containers/json?all=1").contains(&sandbox.id);
    // What is on record waits for the next daemon.
    assert_eq!(listed(daemon.handsd(&["gc"]).output().unwrap()), "");
    assert!(is_there());
    daemon.forget_sandboxes();
    assert_eq!(listed(daemon.handsd(&["gc", "--dry-run"]).output().unwrap()), sandbox.id);
    assert!(is_there());
    assert_eq!(listed(daemon.handsd(&["gc"]).output().unwrap()), sandbox.id);
    assert!(!is_there());
    assert_eq!(listed(daemon.handsd(&["gc", "--dry-run"]).output().unwrap()), "");
}

/// Makes it look as if no image had been used for two days.
fn age_images(daemon: &Daemon) {
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    for note in fs::read_dir(daemon.state().join("docker-images")).unwrap() {
        File::options().append(true).open(note.unwrap().path()).unwrap().set_modified(long_ago).unwrap();
    }
}

fn images(dockerd: &Dockerd) -> Vec<String> {
    let images = dockerd.json("/images/json");
    let names = images.as_array().unwrap().iter().flat_map(|image| image["RepoTags"].as_array().unwrap());
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_nothing_is_made_of_goes_and_none_that_others_brought() {
    let Some((dockerd, mut daemon)) = start(&[]).await else { return };
    let sandbox = daemon.sandbox().await;
    let [image] = images(&dockerd).try_into().unwrap();
    assert!(image.starts_with("handsd/files:"), "{image}");
    let listed = |daemon: &Daemon| {
        let output = daemon.handsd(&["gc", "--dry-run"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    // As long as there is a sandbox, awake or not, its image is needed.
    age_images(&daemon);
    daemon.kill();
    assert_eq!(listed(&daemon), "");
    daemon.restart().await;
    sandbox.through(&daemon).destroy().await.unwrap();
    daemon.kill();
    assert_eq!(listed(&daemon), format!("image {image}"));
    assert_eq!(images(&dockerd), std::slice::from_ref(&image));
    // Somebody else's name for it keeps it; ours goes with the next daemon.
    dockerd.tag(&image, "foreign", "1");
    daemon.restart().await;
    eventually(SOON, || async { expect(images(&dockerd) == ["foreign:1"], format!("{:?}", images(&dockerd))) }).await;
    assert_eq!(daemon.sandbox().await.read("echo again").await, "again");
}
