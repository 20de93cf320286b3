//! What the daemon of a test makes its sandboxes with: the native engine, or, where `HANDSD_TEST_ENGINE` is "docker", the
//! Docker engine on a dockerd that the tests of a process share; where it is "docker-stdio", with guests that are reached by
//! stdio. A test says the same of all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use super::dockerd::{self, Dockerd};
use super::{Sandbox, leftovers};

/// The engine of a daemon.
#[derive(Debug, Clone)]
pub enum Engine {
    /// The embedded one.
    Native,
    /// Docker.
    Docker(Arc<Dockerd>),
}

fn is_docker() -> bool {
    match std::env::var("HANDSD_TEST_ENGINE").as_deref() {
        Ok("docker" | "docker-stdio") => true,
        Ok("native") | Err(_) => false,
        Ok(other) => panic!("HANDSD_TEST_ENGINE is {other:?}"),
    }
}

/// What a configuration needs for guests that are reached by stdio.
pub const STDIO: &str = "[engine.docker]\nguest = 'stdio'\n";

fn is_stdio() -> bool {
    std::env::var("HANDSD_TEST_ENGINE").is_ok_and(|engine| engine == "docker-stdio")
}

/// The configuration of a daemon, with what the tests are run with.
pub fn configuration(config: &str) -> String {
    if is_stdio() && !config.contains("[engine.docker]") { format!("{config}\n{STDIO}") } else { config.to_owned() }
}

/// Whether a test is of the native engine's own doings; says why it is skipped if these are others.
pub fn only_native(why: &str) -> bool {
    if is_docker() {
        println!("skipped on Docker: {why}");
    }
    !is_docker()
}

impl Engine {
    /// The one that the tests are run on; `None`, and why is printed, where it cannot be had.
    pub async fn chosen() -> Option<Self> {
        if !is_docker() {
            return Some(Self::Native);
        }
        let dockerd = tokio::task::spawn_blocking(dockerd::shared).await.expect("it does not panic")?;
        Some(Self::Docker(dockerd))
    }

    /// Docker, on a dockerd of a test's own that is started with these arguments; `None`, and why is printed, where it
    /// cannot be had.
    pub async fn docker(arguments: &'static [&'static str]) -> Option<(Arc<Dockerd>, Self)> {
        let started = tokio::task::spawn_blocking(|| Dockerd::start(arguments)).await.expect("it does not panic");
        let dockerd = Arc::new(started?);
        Some((Arc::clone(&dockerd), Self::Docker(dockerd)))
    }

    /// Tells a daemon that is about to be started.
    pub fn configure(&self, command: &mut Command) {
        if let Self::Docker(dockerd) = self {
            command.args(["--engine", "docker", "--image"]).arg(format!("tar:{}", dockerd.image().display()));
            command.env("DOCKER_HOST", format!("unix://{}", dockerd.socket().display()));
        }
    }

    /// The first process of a sandbox, on the node, if it is alive.
    pub fn init(&self, state: &Path, sandbox: &Sandbox) -> Option<u32> {
        match self {
            Self::Native => leftovers::init(&state.join("sandboxes").join(&sandbox.id)),
            Self::Docker(_) => {
                let pid = u32::try_from(self.inspect(state, sandbox)["State"]["Pid"].as_u64()?).ok()?;
                (pid > 0).then_some(pid)
            }
        }
    }

    /// Where what a sandbox has written is on the node.
    pub fn upper(&self, state: &Path, sandbox: &Sandbox) -> PathBuf {
        match self {
            Self::Native => state.join("sandboxes").join(&sandbox.id).join("0/upper"),
            Self::Docker(_) => {
                let container = self.inspect(state, sandbox);
                container["GraphDriver"]["Data"]["UpperDir"].as_str().expect("a container of overlay2").into()
            }
        }
    }

    /// The containers that there are of a daemon, by their names.
    pub fn containers(&self, state: &Path) -> Vec<String> {
        match self {
            Self::Native => Vec::new(),
            Self::Docker(dockerd) => dockerd.containers(&leftovers::instance(state)),
        }
    }

    /// Removes them, the daemon itself being gone.
    pub fn remove(&self, state: &Path) {
        if let Self::Docker(dockerd) = self {
            dockerd.resume();
            self.containers(state).iter().for_each(|container| dockerd.remove(container));
        }
    }

    fn inspect(&self, state: &Path, sandbox: &Sandbox) -> Value {
        match self {
            Self::Native => Value::Null,
            Self::Docker(dockerd) => dockerd.json(&format!("/containers/{}/json", container(state, sandbox))),
        }
    }
}

/// The name of a sandbox's container.
pub fn container(state: &Path, sandbox: &Sandbox) -> String {
    format!("handsd-{}-{}", leftovers::instance(state), sandbox.id)
}
