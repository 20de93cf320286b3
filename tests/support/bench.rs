//! An engine to test: with a state directory of its own, an image for it, and hands on what it makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handsd::engine::docker::{Docker, Settings};
use handsd::engine::native::{Ids, Native};
use handsd::engine::{Engine, Limits, Process, Spec, Uplink, cgroup};
use handsd::guest::client::Guest;
use handsd::hands::{self, BackgroundPolicy, Command, Deadline, Event, Events, Exited, Hands, Program, Stdio};
use handsd::ids::SandboxId;
use handsd::image::{ImageRef, ImageSettings, ImageStore, Ownership};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dockerd::{self, Dockerd};
use super::rootfs;

/// Long enough for what takes milliseconds on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(30);

/// The first id on the node of what the native engine makes here; other daemons use others.
const ID_BASE: u32 = 0x5000_0000;

/// An engine with a state directory of its own, and an image for it.
pub struct Bench {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// A small Linux.
    pub image: ImageRef,
    /// Its state, and a place for the test's own files.
    pub directory: tempfile::TempDir,
    /// Ends last.
    dockerd: Option<Arc<Dockerd>>,
}

impl Bench {
    /// The native engine; `None` without root.
    pub async fn native() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: cgroups and ids of other users need root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let engine = open_native(directory.path());
        let image = ImageRef::Tar(rootfs::write_tar(directory.path()));
        Some(Self { engine: Arc::new(engine), image, directory, dockerd: None })
    }

    /// The Docker engine, on the dockerd that all tests share; `None` without one.
    pub async fn docker() -> Option<Self> {
        let dockerd = tokio::task::spawn_blocking(dockerd::shared).await.unwrap()?;
        Some(Self::on(dockerd).await)
    }

    /// The Docker engine, on a dockerd.
    pub async fn on(dockerd: Arc<Dockerd>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = open_docker(directory.path(), &dockerd).await;
        let image = ImageRef::Tar(rootfs::write_tar(directory.path()));
        Self { engine: Arc::new(engine), image, directory, dockerd: Some(dockerd) }
    }

    /// Another daemon's engine on the same state: what it would see after this one was killed.
    pub async fn reopened(&self) -> Arc<dyn Engine> {
        match &self.dockerd {
            None => Arc::new(open_native(self.directory.path())),
            Some(dockerd) => Arc::new(open_docker(self.directory.path(), dockerd).await),
        }
    }

    /// An ordinary sandbox to be.
    pub fn spec(&self) -> Spec {
        Spec {
            id: SandboxId::random(),
            image: self.image.clone(),
            limits: Limits::default(),
            workspace: PathBuf::from("/work/space"),
            user: None,
            uplink: Uplink::None,
        }
    }

    /// An ordinary sandbox.
    pub async fn sandbox(&self) -> Sandbox {
        self.sandbox_of(self.spec()).await
    }

    /// A sandbox whose guest has answered.
    pub async fn sandbox_of(&self, spec: Spec) -> Sandbox {
        let (started, image) = self.engine.create(&spec).await.unwrap();
        let (guest, connection) = Guest::connect(&started.socket, started.listener).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(connection.serve());
        let settings = hands::Settings {
            env: image.env,
            user: spec.user.clone().or(image.user).unwrap_or_default(),
            workspace: spec.workspace.to_string_lossy().into_owned(),
            kill_grace: Duration::from_millis(200),
            retention: SOON,
            retained_runs: 100,
            max_runs: 100,
            guest: String::new(),
            output_cap: 64 << 20,
        };
        let spools = self.directory.path().join("spools").join(spec.id.as_str());
        let (socket, cgroup) = (started.socket.clone(), started.cgroup.clone());
        let hands = Hands::open(guest, socket, cgroup, spools, settings, || None::<()>).await.unwrap();
        let engine = Arc::clone(&self.engine);
        Sandbox { id: spec.id, hands, init: started.init, pid: started.pid, socket: started.socket, engine, tasks }
    }

    /// All that is left on the node of this engine's sandboxes.
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.directory.path();
        let entries = std::fs::read_dir(state.join("sandboxes")).into_iter().flatten().flatten();
        let mut left: Vec<String> = entries.map(|entry| entry.path().display().to_string()).collect();
        if let Some(unified) = cgroup::Host::probe().unwrap().unified() {
            let ours = unified.join("handsd").join(instance(state));
            let entries = std::fs::read_dir(ours).into_iter().flatten().flatten();
            let directories = entries.filter(|entry| entry.file_type().unwrap().is_dir());
            left.extend(directories.map(|entry| entry.path().display().to_string()));
        }
        if let Some(dockerd) = &self.dockerd {
            let containers = dockerd.get("/containers/json?all=1");
            left.extend(containers.contains(&instance(state)).then_some(containers));
        }
        left
    }
}

/// A sandbox that is removed by the test, or with its engine's state.
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Commands and files.
    pub hands: Hands,
    /// Its first process.
    pub init: Process,
    /// The id of that on the node.
    pub pid: u32,
    /// The guest's socket.
    pub socket: PathBuf,
    engine: Arc<dyn Engine>,
    tasks: JoinSet<()>,
}

/// What a run wrote, and how it ended.
pub struct Outcome {
    /// Both streams, as they came.
    pub text: String,
    /// The end.
    pub exited: Exited,
}

impl Sandbox {
    /// Starts a command.
    pub async fn start(&self, command: Command) -> hands::Run {
        self.hands.start(command, None, None::<()>).await.unwrap()
    }

    /// Runs a line of the shell to its end.
    pub async fn run(&self, line: &str) -> Outcome {
        follow(self.start(shell(line)).await).await
    }

    /// Removes it, and ends what looks after it.
    pub async fn remove(mut self) {
        self.engine.remove(&self.id).await.unwrap();
        self.tasks.shutdown().await;
        self.hands.close().await;
    }
}

/// A line for the shell.
pub fn shell(line: &str) -> Command {
    Command {
        program: Program::Shell(line.to_owned()),
        cwd: String::new(),
        env: BTreeMap::new(),
        user: None,
        deadline: Deadline::After(SOON),
        stdio: Stdio::Output,
        background: BackgroundPolicy::Keep,
    }
}

/// Follows a run to its end.
pub async fn follow(run: hands::Run) -> Outcome {
    let mut events = Events::from(run, 0).unwrap();
    let mut text = Vec::new();
    let all = async {
        while let Some(event) = events.next().await.unwrap() {
            match event {
                Event::Output { data, .. } => text.extend_from_slice(&data),
                Event::Exited(exited) => return exited,
                Event::Started(_) | Event::Gap { .. } => {}
            }
        }
        panic!("a run ends with its exit");
    };
    let exited = timeout(2 * SOON, all).await.expect("the run ends");
    Outcome { text: String::from_utf8(text).unwrap(), exited }
}

fn instance(state: &Path) -> String {
    format!("test-{}", state.file_name().unwrap().to_string_lossy().trim_start_matches('.'))
}

fn open_native(state: &Path) -> Native {
    let settings = ImageSettings { ownership: Ownership::Keep, ..ImageSettings::default() };
    let images = ImageStore::open(state.join("images"), settings).unwrap();
    let cgroups = cgroup::Tree::open(cgroup::Host::probe().unwrap(), &instance(state)).unwrap();
    let executable = PathBuf::from(env!("CARGO_BIN_EXE_handsd"));
    Native::open(state, executable, images, cgroups, Ids::Range(ID_BASE)).unwrap()
}

async fn open_docker(state: &Path, dockerd: &Dockerd) -> Docker {
    let cgroups = cgroup::Containers::open(cgroup::Host::probe().unwrap(), &instance(state)).unwrap();
    let settings = Settings { socket: dockerd.socket(), ..Settings::default() };
    Docker::open(state, &instance(state), settings, cgroups).await.unwrap()
}
