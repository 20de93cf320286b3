//! The daemon under test.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

/// How long the daemon may take to serve, to do what is asked, and to be gone.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The key of every daemon here.
const KEY: &str = "hands_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

/// A daemon with a state directory of its own, which removes all it made at its end. Dropped, it is killed.
pub struct Node {
    child: Child,
    _state: TempDir,
    client: Client,
    /// `127.0.0.1:port`
    pub address: String,
    /// The API key.
    pub key: String,
}

impl Node {
    /// Starts the daemon, waits until it serves, and makes the agent that all sessions here have.
    pub async fn start() -> Result<Self> {
        // Fails if somebody else was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let state = tempfile::Builder::new().prefix("hands-bench.").tempdir().context("make a state directory")?;
        let log = state.path().join("log");
        let socket = format!("unix:{}", state.path().join("h.sock").display());
        let child = Command::new(env!("CARGO_BIN_EXE_handsd"))
            .args(["serve", "--ephemeral", "--http", "127.0.0.1:0", "--grpc", &socket])
            .args([Path::new("--state-dir"), state.path()])
            .env("HANDSD_API_KEY", KEY)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?)
            .spawn()
            .context("start handsd")?;
        let until = Instant::now() + DEADLINE;
        let address = loop {
            let text = fs::read_to_string(&log)?;
            let line = text.lines().find(|line| line.contains("serving HTTP"));
            let found = line.and_then(|line| Some(line[line.find("127.0.0.1:")?..].to_owned()));
            if let Some(found) = found {
                break found
                    .split(|letter: char| letter.is_whitespace() || letter == '\x1b')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
            }
            ensure!(Instant::now() < until, "handsd does not serve: {text}");
            sleep(LOOK_AGAIN).await;
        };
        let node = Self { child, _state: state, client: Client::new(), address, key: KEY.to_owned() };
        let agent = json!({ "name": "bench", "runtime": "script" });
        node.request(Method::POST, "/v3/agents").json(&agent).send().await?.error_for_status()?;
        Ok(node)
    }

    /// A request with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address)).bearer_auth(&self.key)
    }

    /// A session that begins with a script.
    pub async fn session(&self, input: &str) -> Result<String> {
        let wish = json!({ "agent": "bench", "input": input });
        let made = self.request(Method::POST, "/v3/sessions").json(&wish).send().await?.error_for_status()?;
        let made: Value = made.json().await?;
        Ok(made["session"]["id"].as_str().context("no id")?.to_owned())
    }

    /// Gives a session a message.
    pub async fn send(&self, id: &str, text: &str) -> Result<()> {
        let path = format!("/v3/sessions/{id}/messages");
        self.request(Method::POST, &path).json(&json!({ "text": text })).send().await?.error_for_status()?;
        Ok(())
    }

    /// Ends the turn of a session.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        self.request(Method::POST, &format!("/v3/sessions/{id}/cancel")).send().await?.error_for_status()?;
        Ok(())
    }

    /// Waits until a turn is under way; the newest `seq` then.
    pub async fn running(&self, id: &str) -> Result<u64> {
        self.status(id, "running").await
    }

    /// Waits until nothing is to be done.
    pub async fn finished(&self, id: &str) -> Result<u64> {
        self.status(id, "idle").await
    }

    async fn status(&self, id: &str, wanted: &str) -> Result<u64> {
        let until = Instant::now() + DEADLINE;
        loop {
            let session: Value = self
                .request(Method::GET, &format!("/v3/sessions/{id}"))
                .send()
                .await?
                .error_for_status()?
                .json()
                .await?;
            if session["status"] == wanted {
                return session["head"].as_u64().context("no head");
            }
            ensure!(Instant::now() < until, "the session is never {wanted}: {session}");
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Resident memory of the daemon, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kibibytes << 10)
    }

    /// Processor time that the daemon has used (proc_pid_stat(5)).
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let each = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock")?;
        Ok(Duration::from_secs_f64(ticks as f64 / each as f64))
    }

    /// Ends the daemon, and its sandboxes with it.
    pub async fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stop handsd")?;
        let until = Instant::now() + DEADLINE;
        while self.child.try_wait().context("look after handsd")?.is_none() {
            ensure!(Instant::now() < until, "handsd does not end");
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
