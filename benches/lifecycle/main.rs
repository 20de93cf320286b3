//! What sleep, waking and the death of the daemon cost: measures a real `handsd`.
//!
//! ```text
//! cargo bench --bench lifecycle                500 sandboxes, a minute
//! cargo bench --bench lifecycle -- --quick     fewer, and noisier
//! ```
//!
//! It measures and does not judge: a target that is missed does not make it fail.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures_util::future::try_join_all;
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{BashRequest, CreateSandboxRequest, HibernateSandboxRequest, ListSandboxesRequest, Phase};
use handsd::client::{self, Address, Channel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::sleep;

/// How long the daemon may take to serve, and to be gone.
const LIFE_DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Over which the processor time of a daemon with nothing to do is counted.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// Sandboxes that are made at once.
const MAKERS: usize = 8;

/// Measures sleep, waking and taking over
#[derive(Debug, Parser)]
struct Arguments {
    /// Fewer rounds: seconds instead of a minute, and noisier
    #[arg(long)]
    quick: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A daemon with a state directory of its own.
struct Node {
    child: Child,
    state: TempDir,
    channel: Channel,
}

impl Node {
    async fn start() -> Result<Self> {
        let state = tempfile::Builder::new().prefix("hands-bench.").tempdir().context("make a state directory")?;
        fs::write(state.path().join("handsd.toml"), "[sandbox]\nidle_timeout = 'unlimited'\n[log]\nfilter = 'warn'\n")?;
        let (child, channel) = serve(state.path()).await?;
        Ok(Self { child, state, channel })
    }

    /// Kills it, and starts another; answers how long that took to serve.
    async fn replace(&mut self) -> Result<Duration> {
        self.child.kill().context("kill handsd")?;
        self.child.wait().context("wait for handsd")?;
        let began = Instant::now();
        (self.child, self.channel) = serve(self.state.path()).await?;
        Ok(began.elapsed())
    }

    /// Ends it with all its sandboxes.
    async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM).context("stop handsd")?;
        let until = Instant::now() + LIFE_DEADLINE;
        while self.child.try_wait().context("look after handsd")?.is_none() {
            anyhow::ensure!(Instant::now() < until, "handsd does not end");
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn create(&self) -> Result<String> {
        let made = client::sandboxes(self.channel.clone()).create(CreateSandboxRequest::default()).await;
        Ok(made.context("Create")?.into_inner().id)
    }

    async fn create_many(&self, count: usize) -> Result<Vec<String>> {
        let makers = (0..MAKERS).map(|maker| async move {
            let mut ids = Vec::new();
            for _ in (maker..count).step_by(MAKERS) {
                ids.push(self.create().await?);
            }
            anyhow::Ok(ids)
        });
        Ok(try_join_all(makers).await?.concat())
    }

    async fn hibernate(&self, id: &str) -> Result<Duration> {
        let began = Instant::now();
        let request = HibernateSandboxRequest { sandbox_id: id.to_owned(), ..Default::default() };
        client::sandboxes(self.channel.clone()).hibernate(request).await.context("Hibernate")?;
        Ok(began.elapsed())
    }

    async fn bash_true(&self, id: &str) -> Result<Duration> {
        let began = Instant::now();
        let request = BashRequest { sandbox_id: id.to_owned(), argv: vec!["true".to_owned()], ..Default::default() };
        let mut events = client::hands(self.channel.clone()).bash(request).await.context("Bash")?.into_inner();
        while let Some(event) = events.message().await? {
            if let Some(Event::Exited(_)) = event.event {
                return Ok(began.elapsed());
            }
        }
        bail!("a run without an end")
    }

    async fn phases(&self, phase: Phase) -> Result<usize> {
        let request = ListSandboxesRequest { page_size: 1000, ..Default::default() };
        let listed = client::sandboxes(self.channel.clone()).list(request).await.context("List")?.into_inner();
        Ok(listed.sandboxes.iter().filter(|sandbox| sandbox.phase() == phase).count())
    }

    /// Its resident memory, in bytes.
    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("look at handsd")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("handsd has no memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>().context("read VmRSS")? << 10)
    }

    /// Its processor time so far, in clock ticks of 10 ms.
    fn ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("look at handsd")?;
        let fields = stat.rsplit_once(')').context("a stat has a name")?.1.split_ascii_whitespace();
        let times: Vec<u64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        Ok(times.iter().sum())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn serve(state: &Path) -> Result<(Child, Channel)> {
    let address = Address::Unix(state.join("h.sock"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_handsd"))
        .args(["serve", "--ephemeral", "--http", "off", "--grpc", &address.to_string()])
        .args([Path::new("--state-dir"), state, Path::new("--config"), &state.join("handsd.toml")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start handsd")?;
    let until = Instant::now() + LIFE_DEADLINE;
    loop {
        match client::connect(&address).await {
            Ok(channel) => return Ok((child, channel)),
            Err(error) if Instant::now() > until => return Err(error).context("handsd does not serve"),
            Err(_) => sleep(LOOK_AGAIN).await,
        }
        if let Some(status) = child.try_wait().context("look after handsd")? {
            bail!("handsd ended: {status}");
        }
    }
}

fn row(item: &str, samples: &mut [Duration], target: &str) {
    samples.sort_unstable();
    let at = |part: usize| samples[(samples.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!("{item:<44} p50 {:>8.2} ms   p99 {:>8.2} ms   {target}", at(50), at(99));
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { quick, .. } = Arguments::parse();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let (rounds, many) = if quick { (20, 20) } else { (300, 500) };
    let mut node = Node::start().await?;
    let id = node.create().await?;
    let (mut awake, mut asleep, mut woken) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        awake.push(node.bash_true(&id).await?);
        asleep.push(node.hibernate(&id).await?);
        woken.push(node.bash_true(&id).await?);
    }
    row("Bash true in one that is awake", &mut awake, "");
    row("Hibernate", &mut asleep, "");
    row("Bash true in one that sleeps", &mut woken, "target: p50 <= 2.5 ms");

    let before = node.resident()?;
    let ids = node.create_many(many).await?;
    for id in &ids {
        node.hibernate(id).await?;
    }
    let each = (node.resident()?.saturating_sub(before)) / many as u64;
    println!(
        "{:<44} {:>8} KB            target: <= 100 KB",
        format!("memory of the daemon, each of {many} frozen"),
        each / 1000
    );
    let ticks = node.ticks()?;
    sleep(IDLE_TIME).await;
    let share = (node.ticks()? - ticks) as f64 / IDLE_TIME.as_secs_f64();
    println!("{:<44} {share:>8.2} % of a core   target: <= 0.5 %", format!("idle daemon with {many} frozen"));

    let frozen = node.replace().await?;
    anyhow::ensure!(node.phases(Phase::Hibernated).await? == many, "not all were taken over as they were");
    println!("{:<44} {:>8.0} ms", format!("taking over {many} frozen"), frozen.as_secs_f64() * 1e3);
    for id in &ids {
        node.bash_true(id).await?;
    }
    let running = node.replace().await?;
    anyhow::ensure!(node.phases(Phase::Running).await? == many + 1, "not all were taken over as they were");
    println!(
        "{:<44} {:>8.0} ms            target: 500 in <= 2 s",
        format!("taking over {many} awake"),
        running.as_secs_f64() * 1e3
    );
    node.stop().await
}
