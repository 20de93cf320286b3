//! A daemon that is measured, with a state directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::sleep;

/// How long the daemon may take to serve, to do what is asked, and to be gone.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at whether it has.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The HTTP key of every daemon here.
pub const KEY: &str = "hands_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

/// The daemon, which removes all it made at its end. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    state: TempDir,
    /// Where it serves HTTP: `127.0.0.1:port`.
    pub http: String,
}

impl Daemon {
    /// Starts one with this configuration file, and waits until it serves.
    pub async fn start(config: &str) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("hands-bench.").tempdir().context("make a state directory")?;
        let (file, log) = (state.path().join("handsd.toml"), state.path().join("log"));
        fs::write(&file, config).context("write the configuration")?;
        let child = Command::new(env!("CARGO_BIN_EXE_handsd"))
            .args(["serve", "--ephemeral", "--http", "127.0.0.1:0"])
            .args(["--grpc", &format!("unix:{}", socket(state.path()).display())])
            .args([Path::new("--config"), &file, Path::new("--state-dir"), state.path()])
            .env("HANDSD_API_KEY", KEY)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("start handsd")?;
        let mut daemon = Self { child, state, http: String::new() };
        let until = Instant::now() + DEADLINE;
        loop {
            // The last thing that it says before it serves.
            let text = fs::read_to_string(&log)?;
            let line = text.lines().find(|line| line.contains("serving HTTP"));
            if let Some(address) = line.and_then(|line| line.split("address=").nth(1)) {
                daemon.http = address.trim().to_owned();
                return Ok(daemon);
            }
            if let Some(status) = daemon.child.try_wait().context("look after handsd")? {
                bail!("handsd ended: {status}\n{text}");
            }
            ensure!(Instant::now() < until, "handsd does not serve: {text}");
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Its socket for gRPC.
    pub fn socket(&self) -> PathBuf {
        socket(self.state.path())
    }

    /// Its resident memory, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kibibytes << 10)
    }

    /// Processor time that it has used (proc_pid_stat(5)).
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let each = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock")?;
        Ok(Duration::from_secs_f64(ticks as f64 / each as f64))
    }

    /// Ends it, and its sandboxes with it.
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

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that was stopped is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(state: &Path) -> PathBuf {
    state.join("h.sock")
}
