//! Round trips of short commands.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::Effort;
use crate::docker::Docker;
use crate::floor::{self, Wire};
use crate::node::{Node, argv};
use crate::sample::{Series, Value};
use crate::table::{Row, Table, Target};

/// Of guest and gRPC together; leaves as much again for cgroup, spool and tasks.
const TIMES_FLOOR: f64 = 2.0;
const TIMES_DOCKER: f64 = 25.0;

/// One command, measured in every way.
struct Item {
    name: &'static str,
    host_name: &'static str,
    argv: &'static [&'static str],
    ours: Series,
    host: Series,
    guest: Series,
    docker: Series,
}

impl Item {
    fn new(name: &'static str, host_name: &'static str, argv: &'static [&'static str]) -> Self {
        let [ours, host, guest, docker] = std::array::from_fn(|_| Series::default());
        Self { name, host_name, argv, ours, host, guest, docker }
    }
}

/// `true` and `sh -c true`, from the request to the last event.
pub async fn round_trips(
    node: &mut Node,
    mut docker: Option<&mut Docker>,
    effort: Effort,
    table: &mut Table,
) -> Result<()> {
    let mut items = [
        Item::new("Bash argv true", "  posix_spawn on the node", &["/bin/true"]),
        Item::new("Bash sh -c true", "  posix_spawn on the node", &["/bin/sh", "-c", "true"]),
    ];
    let mut info = Series::default();
    let sandbox = node.create().await?;
    let mut wire = Wire::open(node).await?;
    for _ in 0..effort.rounds {
        info.push(repeat_info(node, effort.samples).await?);
        for item in &mut items {
            item.host.push((0..effort.samples).map(|_| floor::spawn(item.argv)).collect::<Result<_>>()?);
            if let Some(wire) = &mut wire {
                let mut samples = Vec::with_capacity(effort.samples);
                for _ in 0..effort.samples {
                    samples.push(wire.spawn(item.argv).await?);
                }
                item.guest.push(samples);
            }
            item.ours.push(repeat_run(node, &sandbox, item.argv, effort.samples).await?);
            if let Some(docker) = docker.as_deref_mut() {
                let time = |_| docker.exec(item.argv).map(|exec| exec.elapsed);
                item.docker.push((0..effort.docker_samples).map(time).collect::<Result<_>>()?);
            }
        }
    }
    if let Some(wire) = wire {
        wire.close(node).await?;
    }
    node.destroy(sandbox).await?;
    report(&items, &info, table);
    Ok(())
}

fn report(items: &[Item], info: &Series, table: &mut Table) {
    let round_trip = info.quantile(0.5).unwrap_or_default();
    table.push(Row { item: "Node.Info", p50: info.p50(), p99: info.p99(), ..Row::default() });
    for item in items {
        // Without a guest that can be spoken to, the program itself is the floor.
        let spawn = item.guest.quantile(0.5).or_else(|| item.host.quantile(0.5));
        let floor = spawn.map(|spawn| Value::Time(spawn + round_trip));
        let (p50, docker) = (item.ours.p50(), item.docker.p50());
        let targets =
            [Target::times_floor(p50, floor, TIMES_FLOOR), Target::faster_than_docker(p50, docker, TIMES_DOCKER)];
        let targets = targets.into_iter().flatten().collect();
        table.push(Row { item: item.name, p50, p99: item.ours.p99(), floor, docker, targets });
        table.push(Row { item: item.host_name, p50: item.host.p50(), p99: item.host.p99(), ..Row::default() });
        let name = "  spawn over the guest's wire";
        table.push(Row { item: name, p50: item.guest.p50(), p99: item.guest.p99(), ..Row::default() });
    }
}

async fn repeat_info(node: &mut Node, times: usize) -> Result<Vec<Duration>> {
    let mut samples = Vec::with_capacity(times);
    for _ in 0..times {
        let begin = Instant::now();
        node.info().await?;
        samples.push(begin.elapsed());
    }
    Ok(samples)
}

async fn repeat_run(node: &mut Node, sandbox: &str, command: &[&str], times: usize) -> Result<Vec<Duration>> {
    let mut samples = Vec::with_capacity(times);
    for _ in 0..times {
        let request = argv(sandbox, command);
        let begin = Instant::now();
        let run = node.run(request).await?;
        samples.push(begin.elapsed());
        ensure!(run.exited.status.is_some() && run.bytes == 0, "{command:?} ended otherwise: {:?}", run.exited);
    }
    Ok(samples)
}
