//! Deadlines, many runs at once, and memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use handsd::api::proto::BashRequest;
use handsd::api::proto::exited::Reason;

use crate::Effort;
use crate::node::{self, Node, argv};
use crate::sample::{Series, Value, median_rate};
use crate::table::{Row, Table, Target};

const OVERSHOOT_TARGET: Value = Value::Time(Duration::from_millis(50));
/// Of the daemon's own memory.
const SANDBOX_TARGET: Value = Value::Memory(100_000);

/// Long enough that the command is well under way.
const TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 0, nanos: 40_000_000 };

/// Callers at once.
const CALLERS: usize = 50;
/// Sandboxes over which their memory is averaged.
const SANDBOXES: usize = 50;
/// Runs after which the daemon's memory is looked at again.
const MANY_RUNS: usize = 1000;

/// How long after its deadline a run's last event comes.
pub async fn deadlines(node: &mut Node, effort: Effort, table: &mut Table) -> Result<()> {
    let sandbox = node.create().await?;
    let stubborn = ["sh", "-c", "trap '' TERM; while :; do :; done"];
    let items: [(_, &[&str]); 2] = [("overshoot of sleep", &["sleep", "60"]), ("overshoot, TERM ignored", &stubborn)];
    for (item, command) in items {
        let mut series = Series::default();
        for _ in 0..effort.rounds {
            let mut samples = Vec::with_capacity(effort.deadlines);
            for _ in 0..effort.deadlines {
                let request = BashRequest { timeout: Some(TIMEOUT), ..argv(&sandbox, command) };
                let run = node.run(request).await?;
                ensure!(run.exited.reason() == Reason::TimedOut, "it ended otherwise: {:?}", run.exited);
                samples.push(run.overshoot.context("a run without a deadline")?);
            }
            series.push(samples);
        }
        let targets = Target::at_most(series.p99(), OVERSHOOT_TARGET).into_iter().collect();
        table.push(Row { item, p50: series.p50(), p99: series.p99(), targets, ..Row::default() });
    }
    node.destroy(sandbox).await
}

/// Many callers at once, each with one run after the other.
pub async fn concurrent(node: &mut Node, effort: Effort, table: &mut Table) -> Result<()> {
    let sandbox = node.create().await?;
    let (mut series, mut rates) = (Series::default(), Vec::new());
    for _ in 0..effort.rounds {
        let begin = Instant::now();
        let callers = (0..CALLERS).map(|_| {
            let (mut hands, request) = (node.hands.clone(), argv(&sandbox, &["/bin/true"]));
            async move {
                let mut samples = Vec::with_capacity(effort.runs_each);
                for _ in 0..effort.runs_each {
                    let begin = Instant::now();
                    node::run(&mut hands, request.clone()).await?;
                    samples.push(begin.elapsed());
                }
                anyhow::Ok(samples)
            }
        });
        let samples = try_join_all(callers).await?.concat();
        rates.push(samples.len() as f64 / begin.elapsed().as_secs_f64());
        series.push(samples);
    }
    node.destroy(sandbox).await?;
    table.push(Row { item: "50 callers: one run", p50: series.p50(), p99: series.p99(), ..Row::default() });
    let p50 = median_rate(rates).map(Value::Runs);
    table.push(Row { item: "50 callers: runs", p50, ..Row::default() });
    Ok(())
}

/// The daemon's memory: idle, of a sandbox, and after many runs.
pub async fn memory(node: &mut Node, table: &mut Table) -> Result<()> {
    let memory = |item, bytes, targets: Option<Target>| {
        let targets = targets.into_iter().collect();
        Row { item, p50: Some(Value::Memory(bytes)), targets, ..Row::default() }
    };
    let idle = node.resident()?;
    table.push(memory("memory, idle", idle, None));
    // The first one makes what all share.
    let first = node.create().await?;
    let before = node.resident()?;
    let mut sandboxes = Vec::with_capacity(SANDBOXES);
    for _ in 0..SANDBOXES {
        sandboxes.push(node.create().await?);
    }
    let each = node.resident()?.saturating_sub(before) / SANDBOXES as u64;
    table.push(memory("memory of a sandbox", each, Target::at_most(Some(Value::Memory(each)), SANDBOX_TARGET)));
    for sandbox in sandboxes {
        node.destroy(sandbox).await?;
    }
    for _ in 0..MANY_RUNS {
        node.run(argv(&first, &["/bin/true"])).await?;
    }
    table.push(memory("memory after 1,000 runs", node.resident()?, None));
    node.destroy(first).await
}
