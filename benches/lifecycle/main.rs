//! What sleep, waking and the death of the daemon cost: measures a real `handsd`.
//!
//! ```text
//! cargo bench --bench lifecycle                1,000 sandboxes, a minute
//! cargo bench --bench lifecycle -- --quick     fewer, and noisier
//! ```
//!
//! Where a Docker engine answers, the same is done there in the same run. Where the node has no swap, one in compressed
//! memory (zram) is made for the time of the benchmark. It measures and does not judge: a target that is missed does not make it fail.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures_util::future::try_join_all;
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{
    BashRequest, CreateSandboxRequest, DestroySandboxRequest, HibernateSandboxRequest, ListSandboxesRequest, Phase,
    WakeSandboxRequest,
};
use handsd::client::{self, Address, Channel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::sleep;

use docker::Docker;
use memory::{Zram, resident};

#[allow(dead_code, reason = "each benchmark uses a part of it")]
#[path = "../hands/docker.rs"]
mod docker;
mod memory;

/// How long the daemon may take to serve, and to be gone.
const LIFE_DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Over which the processor time of a daemon with nothing to do is counted.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// Bytes that a sandbox holds before it sleeps.
const HELD: u64 = 200 << 20;
/// How long the kernel may take to page them out: a second does on a quiet machine.
const PAGE_OUT_DEADLINE: Duration = Duration::from_secs(20);
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

    async fn wake(&self, id: &str) -> Result<Duration> {
        let began = Instant::now();
        let request = WakeSandboxRequest { sandbox_id: id.to_owned() };
        client::sandboxes(self.channel.clone()).wake(request).await.context("Wake")?;
        Ok(began.elapsed())
    }

    async fn destroy(&self, ids: &[String]) -> Result<()> {
        for id in ids {
            let request = DestroySandboxRequest { sandbox_id: id.clone() };
            client::sandboxes(self.channel.clone()).destroy(request).await.context("Destroy")?;
        }
        Ok(())
    }

    async fn bash_true(&self, id: &str) -> Result<Duration> {
        let argv = vec!["true".to_owned()];
        self.bash(BashRequest { sandbox_id: id.to_owned(), argv, ..Default::default() }).await
    }

    /// Runs a command to its end; answers how long that took.
    async fn bash(&self, request: BashRequest) -> Result<Duration> {
        let began = Instant::now();
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

    /// The first process of a sandbox.
    fn init(&self, id: &str) -> Result<u32> {
        let record =
            fs::read(self.state.path().join("sandboxes").join(id).join("init.json")).context("find the sandbox")?;
        let record: serde_json::Value = serde_json::from_slice(&record)?;
        Ok(u32::try_from(record["pid"].as_u64().context("a record names its process")?)?)
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

/// Prints the median and the worst of a hundred; answers the median.
fn row(item: &str, samples: &mut [Duration], target: &str) -> Duration {
    samples.sort_unstable();
    let at = |part: usize| samples[(samples.len() - 1) * part / 100];
    let [median, worst] = [at(50), at(99)].map(|sample| sample.as_secs_f64() * 1e3);
    println!("{item:<44} p50 {median:>8.2} ms   p99 {worst:>8.2} ms   {target}");
    at(50)
}

/// Sleep and waking of one sandbox, beside Docker if there is one.
async fn sleep_and_wake(node: &Node, rounds: usize) -> Result<()> {
    let id = node.create().await?;
    let (mut awake, mut asleep, mut thawed, mut woken) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        awake.push(node.bash_true(&id).await?);
        asleep.push(node.hibernate(&id).await?);
        woken.push(node.bash_true(&id).await?);
        node.hibernate(&id).await?;
        thawed.push(node.wake(&id).await?);
    }
    row("Bash true in one that is awake", &mut awake, "");
    row("Hibernate", &mut asleep, "");
    row("Wake", &mut thawed, "");
    let ours = row("Bash true in one that sleeps", &mut woken, "target: p50 <= 2.5 ms");
    node.destroy(&[id]).await?;
    let mut docker = match Docker::open(&Docker::socket()) {
        Ok(docker) => docker,
        Err(error) => {
            println!("no Docker to compare with: {error:#}");
            return Ok(());
        }
    };
    let (mut paused, mut unpaused) = (Vec::new(), Vec::new());
    for _ in 0..rounds.div_ceil(3) {
        paused.push(docker.pause()?);
        unpaused.push(docker.unpause_and_exec(&["/bin/true"])?);
    }
    row("docker pause", &mut paused, "");
    let theirs = row("docker unpause, docker exec true", &mut unpaused, "");
    let times = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("{:<44} {times:>12.1} times         target: >= 5", "Bash true in one that sleeps is faster by");
    Ok(())
}

/// What is left in memory of a sandbox that held 200 MiB, once it sleeps.
async fn memory_asleep(node: &Node) -> Result<()> {
    let _zram = match Zram::open() {
        Ok(zram) => zram,
        Err(error) => {
            println!("no swap to page out to: {error:#}");
            return Ok(());
        }
    };
    let id = node.create().await?;
    let hold =
        format!("x=$(head -c {HELD} /dev/zero | tr '\\0' x); echo held; exec 3<>/tmp/never; read y <&3; echo $x");
    let line = format!("mkfifo /tmp/never; ({hold}) > /tmp/held & until [ -s /tmp/held ]; do sleep 0.1; done");
    let request = BashRequest { sandbox_id: id.clone(), command: Some(line), ..Default::default() };
    node.bash(request).await?;
    let init = node.init(&id)?;
    let awake = resident(init);
    anyhow::ensure!(awake > HELD, "it holds {awake} bytes only");
    node.hibernate(&id).await?;
    let until = Instant::now() + PAGE_OUT_DEADLINE;
    let mut least = resident(init);
    while least > HELD / 100 && Instant::now() < until {
        sleep(LOOK_AGAIN).await;
        least = resident(init);
    }
    let label = format!("resident of one with {} MiB, asleep", awake >> 20);
    println!("{label:<44} {:>8} KiB           target: <= 2048", least >> 10);
    let woken = node.bash_true(&id).await?;
    println!("{:<44} {:>12.2} ms", "Bash true in it", woken.as_secs_f64() * 1e3);
    node.destroy(&[id]).await
}

/// What many that sleep cost, and what it takes to take them over.
async fn many_asleep(node: &mut Node, frozen: usize, taken: usize) -> Result<()> {
    let before = node.resident()?;
    let mut ids = node.create_many(frozen).await?;
    for id in &ids {
        node.hibernate(id).await?;
    }
    let each = (node.resident()?.saturating_sub(before)) / frozen as u64;
    let label = format!("memory of the daemon, each of {frozen} frozen");
    println!("{label:<44} {:>8} KB            target: <= 100", each / 1000);
    let ticks = node.ticks()?;
    sleep(IDLE_TIME).await;
    let share = (node.ticks()? - ticks) as f64 / IDLE_TIME.as_secs_f64();
    let label = format!("idle daemon with {frozen} frozen");
    println!("{label:<44} {share:>8.2} % of a core   target: <= 0.5");

    node.destroy(&ids.split_off(taken)).await?;
    let asleep = node.replace().await?;
    anyhow::ensure!(node.phases(Phase::Hibernated).await? == taken, "not all were taken over as they were");
    let label = format!("taking over {taken} frozen");
    println!("{label:<44} {:>8.0} ms            target: 500 in <= 2 s", asleep.as_secs_f64() * 1e3);
    for id in &ids {
        node.bash_true(id).await?;
    }
    let running = node.replace().await?;
    anyhow::ensure!(node.phases(Phase::Running).await? == taken, "not all were taken over as they were");
    let label = format!("taking over {taken} awake");
    println!("{label:<44} {:>8.0} ms            target: 500 in <= 2 s", running.as_secs_f64() * 1e3);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { quick, .. } = Arguments::parse();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let (rounds, frozen, taken) = if quick { (20, 40, 20) } else { (300, 1000, 500) };
    let mut node = Node::start().await?;
    sleep_and_wake(&node, rounds).await?;
    memory_asleep(&node).await?;
    many_asleep(&mut node, frozen, taken).await?;
    node.stop().await
}
