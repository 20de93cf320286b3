//! The daemon on the Docker engine, as a black box.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use handsd::client::{self, Address};
use tokio::time::{Instant, interval};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use dockerd::Dockerd;

#[path = "support/dockerd.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod dockerd;
#[path = "support/rootfs.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod rootfs;

/// Long enough for what takes milliseconds on a machine that is busy with other things, and for the daemon to look at
/// its engine.
const SOON: Duration = Duration::from_secs(60);

/// A daemon with a dockerd of its own.
struct Daemon {
    process: Child,
    directory: tempfile::TempDir,
    dockerd: Arc<Dockerd>,
}

impl Daemon {
    async fn start() -> Option<Self> {
        let dockerd = tokio::task::spawn_blocking(|| Dockerd::start(&[])).await.unwrap()?;
        let directory = tempfile::tempdir().unwrap();
        rootfs::write_tar(directory.path());
        let process = handsd(directory.path(), &dockerd, &["serve", "--http", "off"])
            .arg("--grpc")
            .arg(format!("unix:{}", socket(directory.path()).display()))
            .spawn()
            .unwrap();
        let daemon = Self { process, directory, dockerd: Arc::new(dockerd) };
        eventually(|| async { daemon.hands(&["info"]).status.success() }).await;
        Some(daemon)
    }

    /// Another command of the same program on the same state.
    fn handsd(&self, arguments: &[&str]) -> Output {
        handsd(self.directory.path(), &self.dockerd, arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .output()
            .unwrap()
    }

    fn hands(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hands"));
        command.arg("--addr").arg(format!("unix:{}", socket(self.directory.path()).display()));
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command prints that has to succeed.
    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.hands(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    async fn health(&self, service: &str) -> ServingStatus {
        let address: Address = format!("unix:{}", socket(self.directory.path()).display()).parse().unwrap();
        let channel = client::connect(&address).await.unwrap();
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
    }

    fn containers(&self) -> String {
        let answer = self.dockerd.get("/containers/json?all=1");
        answer.rsplit("\r\n").find(|line| line.starts_with('[')).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.dockerd.resume();
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("handsd.sock")
}

fn handsd(directory: &Path, dockerd: &Dockerd, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handsd"));
    command
        .args(arguments)
        .args(["--engine", "docker", "--state-dir"])
        .arg(directory.join("state"))
        .arg("--image")
        .arg(format!("tar:{}", directory.join("rootfs.tar").display()))
        .env("DOCKER_HOST", format!("unix://{}", dockerd.socket().display()))
        .stdin(Stdio::null());
    command
}

async fn eventually<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let (until, mut ticks) = (Instant::now() + SOON, interval(Duration::from_millis(50)));
    while !condition().await {
        assert!(Instant::now() < until, "it does not happen");
        ticks.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_of_docker_are_used_as_all_others() {
    let Some(daemon) = Daemon::start().await else { return };
    assert!(daemon.text(&["info"]).contains("docker"));
    let id = daemon.text(&["create", "--user", "agent", "--env", "A=b", "--memory", "256MiB"]);
    assert_eq!(daemon.text(&["bash", &id, "id -un; echo $A; pwd"]), "agent\nb\n/workspace");
    let refused = daemon.hands(&["create", "--image", "host"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ARGUMENT_INVALID"));
    daemon.text(&["destroy", &id]);
    assert_eq!(daemon.containers(), "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_docker_hangs_health_is_degraded_and_sandboxes_are_not() {
    let Some(daemon) = Daemon::start().await else { return };
    let id = daemon.text(&["create"]);
    assert_eq!(daemon.health("hands.v1.Sandboxes").await, ServingStatus::Serving);
    daemon.dockerd.suspend();
    eventually(|| async { daemon.health("hands.v1.Sandboxes").await == ServingStatus::NotServing }).await;
    assert_eq!(daemon.health("hands.v1.Hands").await, ServingStatus::Serving);
    assert_eq!(daemon.text(&["bash", &id, "echo alive"]), "alive");
    let refused = daemon.hands(&["create"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ENGINE_UNAVAILABLE"));
    daemon.dockerd.resume();
    eventually(|| async { daemon.health("hands.v1.Sandboxes").await == ServingStatus::Serving }).await;
    let another = daemon.text(&["create"]);
    assert_eq!(daemon.text(&["bash", &another, "echo again"]), "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_record_names_is_listed_by_a_dry_run_and_then_removed() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let id = daemon.text(&["create"]);
    assert!(!daemon.handsd(&["gc", "--dry-run"]).status.success(), "the daemon runs");
    daemon.process.kill().unwrap();
    daemon.process.wait().unwrap();
    // What is on record waits for the next daemon.
    assert!(daemon.handsd(&["gc"]).stdout.is_empty());
    assert!(daemon.containers().contains(&id));
    std::fs::remove_file(daemon.directory.path().join("state/store.db")).unwrap();
    let listed = |output: Output| String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    assert_eq!(listed(daemon.handsd(&["gc", "--dry-run"])), id);
    assert!(daemon.containers().contains(&id));
    assert_eq!(listed(daemon.handsd(&["gc"])), id);
    assert_eq!(daemon.containers(), "[]");
    assert_eq!(listed(daemon.handsd(&["gc", "--dry-run"])), "");
}
