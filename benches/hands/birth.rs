//! From nothing to the end of the first command.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::docker::Docker;
use crate::node::{Node, argv};
use crate::sample::{Series, Value};
use crate::table::{Row, Table, Target};
use crate::{Effort, Engine, floor};

/// Back to back.
const CREATE_TARGET: Value = Value::Time(Duration::from_millis(8));

/// From a reserve, which is of so many.
const RESERVE_TARGET: Value = Value::Time(Duration::from_millis(3));
const RESERVE: usize = 4;

/// Of the Docker engine, whose floor is to make and start a container through the API.
const TIMES_API: f64 = 1.1;

/// Between sandboxes that are made apart from each other: what the kernel does at once only if it has just been done, as
/// when it waits for a grace period of RCU, takes its time then.
const APART: Duration = Duration::from_millis(300);

/// Sandboxes with their first command, back to back and apart from each other.
pub async fn creates(
    engine: Engine,
    node: &mut Node,
    docker: Option<&mut Docker>,
    effort: Effort,
    table: &mut Table,
) -> Result<()> {
    let [mut together, mut apart, mut bare, mut theirs, mut destroys] = std::array::from_fn(|_| Series::default());
    let mut docker = docker;
    for _ in 0..effort.rounds {
        bare.push(match docker.as_deref_mut().filter(|_| engine == Engine::Docker) {
            Some(docker) => (0..effort.creates).map(|_| docker.create_and_start()).collect::<Result<_>>()?,
            None => (0..effort.creates).map_while(|_| floor::unshare()).collect(),
        });
        let (mut samples, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..effort.creates {
            let (birth, end) = create(node).await?;
            samples.push(birth);
            ends.push(end);
        }
        together.push(samples);
        destroys.push(ends);
        let mut samples = Vec::new();
        for _ in 0..effort.isolated {
            sleep(APART).await;
            samples.push(create(node).await?.0);
        }
        apart.push(samples);
        if let Some(docker) = docker.as_deref_mut() {
            let samples = (0..effort.docker_samples.div_ceil(4)).map(|_| docker.create_and_run());
            theirs.push(samples.collect::<Result<_>>()?);
        }
    }
    let (p50, floor, docker) = (together.p50(), bare.p50(), theirs.p50());
    let target = match engine {
        Engine::Native => Target::at_most(p50, CREATE_TARGET),
        Engine::Docker => Target::times_floor(p50, floor, TIMES_API),
    };
    let targets = target.into_iter().collect();
    let item = "create + first command";
    table.push(Row { item, p50, p99: together.p99(), floor, docker, targets });
    let item = "create + first, 300 ms apart";
    table.push(Row { item, p50: apart.p50(), p99: apart.p99(), floor, docker, ..Row::default() });
    table.push(Row { item: "destroy", p50: destroys.p50(), p99: destroys.p99(), ..Row::default() });
    Ok(())
}

/// The same on a node that keeps some in reserve: apart from each other, so that there is one whenever it is asked for.
pub async fn creates_from_reserve(engine: Engine, effort: Effort, table: &mut Table) -> Result<()> {
    let mut node = Node::start(engine, RESERVE).await?;
    let mut apart = Series::default();
    for _ in 0..effort.rounds {
        let mut samples = Vec::new();
        for _ in 0..effort.isolated {
            sleep(APART).await;
            samples.push(create(&mut node).await?.0);
        }
        apart.push(samples);
    }
    let targets = Target::at_most(apart.p50(), RESERVE_TARGET).into_iter().collect();
    let item = "the same, from a reserve";
    table.push(Row { item, p50: apart.p50(), p99: apart.p99(), targets, ..Row::default() });
    node.stop().await
}

async fn create(node: &mut Node) -> Result<(Duration, Duration)> {
    let begin = Instant::now();
    let sandbox = node.create().await?;
    node.run(argv(&sandbox, &["/bin/true"])).await?;
    let birth = begin.elapsed();
    let begin = Instant::now();
    node.destroy(sandbox).await?;
    Ok((birth, begin.elapsed()))
}
