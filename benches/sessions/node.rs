//! The daemon under test.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use handsd::api::proto::sessions_client::SessionsClient;
use handsd::api::proto::{CreateAgentRequest, CreateSessionRequest, EventsRequest, SendRequest, SessionEvent};
use handsd::client::{self, Address, Channel};
use tempfile::TempDir;
use tokio::time::sleep;

/// How long the daemon may take to serve, and to be gone.
const LIFE_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A daemon with a state directory of its own, which removes all it made at its end. Dropped, it is killed.
pub struct Node {
    child: Child,
    _state: TempDir,
    channel: Channel,
}

impl Node {
    /// Starts the daemon and waits until it serves.
    pub async fn start(config: &str) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("hands-bench.").tempdir().context("make a state directory")?;
        let file = state.path().join("handsd.toml");
        fs::write(&file, config).context("write the configuration")?;
        let address = Address::Unix(state.path().join("h.sock"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_handsd"))
            .args(["serve", "--ephemeral"])
            .args([Path::new("--config"), &file, Path::new("--state-dir"), state.path()])
            .args(["--grpc", &address.to_string(), "--http", "off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start handsd")?;
        let until = Instant::now() + LIFE_DEADLINE;
        loop {
            match client::connect(&address).await {
                Ok(channel) => return Ok(Self { child, _state: state, channel }),
                Err(error) if Instant::now() > until => return Err(error).context("handsd does not serve"),
                Err(_) => {}
            }
            if let Some(status) = child.try_wait().context("look after handsd")? {
                bail!("handsd ended: {status}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Agents and sessions.
    pub fn sessions(&self) -> SessionsClient<Channel> {
        client::sessions(self.channel.clone())
    }

    /// Makes the agent that all sessions here have.
    pub async fn agent(&self) -> Result<()> {
        let request =
            CreateAgentRequest { name: "bench".to_owned(), runtime: "script".to_owned(), ..Default::default() };
        self.sessions().create_agent(request).await?;
        Ok(())
    }

    /// A session.
    pub async fn session(&self, input: &str) -> Result<String> {
        let request = CreateSessionRequest { agent: "bench".to_owned(), input: input.to_owned(), ..Default::default() };
        Ok(self.sessions().create(request).await?.into_inner().id)
    }

    /// Gives a session a message.
    pub async fn send(&self, id: &str, text: &str) -> Result<()> {
        let request = SendRequest { session_id: id.to_owned(), text: text.to_owned(), ..Default::default() };
        self.sessions().send(request).await?;
        Ok(())
    }

    /// The next event of a type behind a `seq`.
    pub async fn wait(&self, id: &str, after: u64, kind: &str) -> Result<SessionEvent> {
        let (session_id, kind) = (id.to_owned(), kind.to_owned());
        let request = EventsRequest { session_id, after, follow: true, r#type: kind, ..Default::default() };
        let mut events = self.sessions().events(request).await?.into_inner();
        let event = tokio::time::timeout(LIFE_DEADLINE, events.message()).await.context("no event comes")??;
        event.context("the log ended")
    }

    /// Resident memory of the daemon, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kibibytes << 10)
    }

    /// Ends the daemon, and its sandboxes with it.
    pub async fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stop handsd")?;
        let until = Instant::now() + LIFE_DEADLINE;
        while self.child.try_wait().context("look after handsd")?.is_none() {
            anyhow::ensure!(Instant::now() < until, "handsd does not end");
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // One that was stopped is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
