//! The daemon under test, and calls to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::node_client::NodeClient;
use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::{
    BashRequest, CreateSandboxRequest, DestroySandboxRequest, Exited, NodeInfo, NodeInfoRequest, run_event,
};
use handsd::client::{self, Address, Channel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::Engine;
use crate::docker::IMAGE;

/// How long the daemon may take to serve, and to be gone.
const LIFE_DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A daemon with a state directory of its own. Dropped, it is killed.
pub struct Node {
    child: Child,
    state: TempDir,
    /// Commands and files.
    pub hands: HandsClient<Channel>,
    sandboxes: SandboxesClient<Channel>,
    node: NodeClient<Channel>,
}

/// A run that has ended.
pub struct Run {
    /// Its last event.
    pub exited: Exited,
    /// Bytes that came.
    pub bytes: u64,
    /// How long after its deadline the last event came.
    pub overshoot: Option<Duration>,
}

impl Node {
    /// Starts the daemon and waits until it serves. It keeps so many sandboxes in reserve.
    pub async fn start(engine: Engine, reserve: usize) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("hands-bench.").tempdir().context("make a state directory")?;
        let config = state.path().join("handsd.toml");
        fs::write(&config, config_text(engine, reserve)).context("write the configuration")?;
        let address = Address::Unix(state.path().join("h.sock"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_handsd"))
            .args(["serve", "--ephemeral"])
            .args([Path::new("--config"), &config, Path::new("--state-dir"), state.path()])
            .args(["--grpc", &address.to_string(), "--http", "off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start handsd")?;
        let until = Instant::now() + LIFE_DEADLINE;
        let channel = loop {
            match client::connect(&address).await {
                Ok(channel) => break channel,
                Err(error) if Instant::now() > until => return Err(error).context("handsd does not serve"),
                Err(_) => {}
            }
            if let Some(status) = child.try_wait().context("look after handsd")? {
                bail!("handsd ended: {status}");
            }
            sleep(LOOK_AGAIN).await;
        };
        let (hands, sandboxes) = (client::hands(channel.clone()), client::sandboxes(channel.clone()));
        Ok(Self { child, state, hands, sandboxes, node: client::node(channel) })
    }

    /// Ends the daemon, and its sandboxes with it.
    pub async fn stop(mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGTERM).context("stop handsd")?;
        let until = Instant::now() + LIFE_DEADLINE;
        while self.child.try_wait().context("look after handsd")?.is_none() {
            ensure!(Instant::now() < until, "handsd does not end");
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// Where it keeps its state.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Where it keeps a sandbox.
    pub fn sandbox_directory(&self, sandbox: &str) -> PathBuf {
        self.state().join("sandboxes").join(sandbox)
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("look at handsd")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("handsd has no memory")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
        Ok(kib << 10)
    }

    /// What it says of itself: the shortest call there is.
    pub async fn info(&mut self) -> Result<NodeInfo> {
        Ok(self.node.info(NodeInfoRequest {}).await.context("Node.Info")?.into_inner())
    }

    /// Makes a sandbox; answers its id.
    pub async fn create(&mut self) -> Result<String> {
        let made = self.sandboxes.create(CreateSandboxRequest::default()).await.context("Sandboxes.Create")?;
        Ok(made.into_inner().id)
    }

    /// Removes a sandbox.
    pub async fn destroy(&mut self, sandbox: String) -> Result<()> {
        self.sandboxes.destroy(DestroySandboxRequest { sandbox_id: sandbox }).await.context("Sandboxes.Destroy")?;
        Ok(())
    }

    /// Runs a command to its end.
    pub async fn run(&mut self, request: BashRequest) -> Result<Run> {
        run(&mut self.hands, request).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill. Without it something has failed, and that is told already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub async fn run(hands: &mut HandsClient<Channel>, request: BashRequest) -> Result<Run> {
    let mut events = hands.bash(request).await.context("Hands.Bash")?.into_inner();
    let (mut bytes, mut deadline) = (0, None);
    while let Some(event) = events.message().await.context("the stream of a run")? {
        match event.event {
            Some(run_event::Event::Started(started)) => deadline = started.deadline,
            Some(run_event::Event::Output(output)) => bytes += output.data.len() as u64,
            Some(run_event::Event::Exited(exited)) => {
                let deadline = deadline.map(SystemTime::try_from).transpose().context("a deadline")?;
                let overshoot = deadline.and_then(|deadline| deadline.elapsed().ok());
                return Ok(Run { exited, bytes, overshoot });
            }
            Some(run_event::Event::Gap(gap)) => bail!("bytes {} to {} are missing", gap.from, gap.to),
            None => {}
        }
    }
    bail!("a run without an end");
}

/// A program with its arguments.
pub fn argv(sandbox: &str, argv: &[&str]) -> BashRequest {
    let argv = argv.iter().map(ToString::to_string).collect();
    BashRequest { sandbox_id: sandbox.to_owned(), argv, ..BashRequest::default() }
}

/// No grace, so that a deadline shows what the daemon itself takes.
fn config_text(engine: Engine, reserve: usize) -> String {
    let common = "[log]\nfilter = \"error\"\n[run]\nkill_grace = \"0s\"\n[sandbox]\n";
    let common = format!("{common}reserve = {reserve}\n");
    match engine {
        Engine::Native => common,
        Engine::Docker => format!("{common}image = \"{IMAGE}\"\n[engine]\nkind = \"docker\"\n"),
    }
}
