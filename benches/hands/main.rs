//! What the hands cost: measures a real `handsd` beside what the same work costs without it, and beside Docker.
//!
//! ```text
//! cargo bench --bench hands                        all of it, some minutes
//! cargo bench --bench hands -- --quick             fewer rounds: seconds, and noisier
//! cargo bench --bench hands -- --engine docker     sandboxes of the docker engine
//! cargo bench --bench hands -- latency memory      only these parts
//! ```
//!
//! Absolute times differ from machine to machine, so every item stands beside a floor and, where an engine of Docker
//! answers (`DOCKER_HOST`, else /var/run/docker.sock), beside the same work there, all measured in this run. It measures
//! and does not judge: a target that is missed does not make it fail.
//!
//! | file | owns |
//! |---|---|
//! | `node` | the daemon under test, and calls to it |
//! | `floor` | the same work without the daemon |
//! | `docker` | the same work through Docker's API |
//! | `latency` | round trips of short commands |
//! | `birth` | from nothing to the first command |
//! | `transfer` | output and files, in bytes per second |
//! | `load` | deadlines, many runs at once, memory |
//! | `sample` | samples and what is taken of them |
//! | `table` | what is printed |

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use docker::Docker;
use node::Node;
use table::Table;

mod birth;
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod docker;
mod floor;
mod latency;
mod load;
mod node;
mod sample;
mod table;
mod transfer;

/// Measures handsd beside the floor and beside Docker
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; everything if left out
    parts: Vec<Part>,
    /// Which engine makes the sandboxes
    #[arg(long, value_enum, default_value_t = Engine::Native)]
    engine: Engine,
    /// Fewer rounds: seconds instead of minutes, and noisier
    #[arg(long)]
    quick: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What makes the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Native,
    Docker,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Memory,
    Latency,
    Birth,
    Output,
    Files,
    Deadlines,
    Load,
}

impl Part {
    /// Memory first, while the daemon is fresh.
    const ALL: [Self; 7] =
        [Self::Memory, Self::Latency, Self::Birth, Self::Output, Self::Files, Self::Deadlines, Self::Load];
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Every item is measured in so many rounds, floor and Docker in the same round; what is told is the median round.
    rounds: usize,
    /// Samples of a round trip in each round.
    samples: usize,
    /// Samples of what takes Docker tens of milliseconds.
    docker_samples: usize,
    /// Sandboxes made in each round, back to back.
    creates: usize,
    /// Sandboxes made in each round, apart from each other.
    isolated: usize,
    /// Bytes of output of one run.
    stream_bytes: u64,
    /// Deadlines that pass in each round.
    deadlines: usize,
    /// Runs of each of the concurrent callers.
    runs_each: usize,
}

impl Effort {
    const FULL: Self = Self {
        rounds: 5,
        samples: 400,
        docker_samples: 20,
        creates: 30,
        isolated: 5,
        stream_bytes: 1 << 30,
        deadlines: 40,
        runs_each: 40,
    };
    const QUICK: Self = Self {
        rounds: 3,
        samples: 100,
        docker_samples: 4,
        creates: 10,
        isolated: 2,
        stream_bytes: 256 << 20,
        deadlines: 10,
        runs_each: 10,
    };
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    // One thread: the client must not take more of the machine from the daemon than it needs.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(measure(&arguments, effort))
}

async fn measure(arguments: &Arguments, effort: Effort) -> Result<()> {
    let mut docker = open_docker(arguments.engine)?;
    let mut node = Node::start(arguments.engine, 0).await?;
    print_heading(&mut node, effort).await?;
    let mut table = Table::new();
    for part in Part::ALL.into_iter().filter(|part| arguments.parts.is_empty() || arguments.parts.contains(part)) {
        let docker = docker.as_mut();
        match part {
            Part::Memory => load::memory(&mut node, &mut table).await?,
            Part::Latency => latency::round_trips(&mut node, docker, effort, &mut table).await?,
            Part::Birth => {
                birth::creates(arguments.engine, &mut node, docker, effort, &mut table).await?;
                birth::creates_from_reserve(arguments.engine, effort, &mut table).await?;
            }
            Part::Output => transfer::output(&mut node, docker, effort, &mut table).await?,
            Part::Files => transfer::files(&mut node, effort, &mut table).await?,
            Part::Deadlines => load::deadlines(&mut node, effort, &mut table).await?,
            Part::Load => load::concurrent(&mut node, effort, &mut table).await?,
        }
    }
    println!("{table}");
    node.stop().await
}

/// Docker, if it answers. Without it its column is left out, but its sandboxes cannot be.
fn open_docker(engine: Engine) -> Result<Option<Docker>> {
    let socket: PathBuf = Docker::socket();
    match Docker::open(&socket) {
        Ok(docker) => Ok(Some(docker)),
        Err(error) if engine == Engine::Docker => Err(error.context("--engine docker needs an engine that answers")),
        Err(error) => {
            println!("docker: no engine answers at {} ({error:#}); column left out", socket.display());
            Ok(None)
        }
    }
}

async fn print_heading(node: &mut Node, effort: Effort) -> Result<()> {
    let info = node.info().await?;
    let memory_gib = info.memory_bytes >> 30;
    println!("handsd {}, engine {}, cgroup {}", info.version, info.engine, info.cgroup);
    println!("Linux {}, {} processors, {memory_gib} GiB of memory", info.kernel, info.cpus);
    println!("{} rounds; the median round is told", effort.rounds);
    println!("floor: of a command, a spawn over the guest's wire plus Node.Info; of a create, unshare(1) of the same");
    println!(
        "namespaces, or with Docker create and start through its API; of output, a pipe read to its end; of a file,"
    );
    println!("plain reads and writes\n");
    Ok(())
}
