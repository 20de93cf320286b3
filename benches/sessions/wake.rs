//! From a message to a session that sleeps to its first tool call.

use std::time::{Duration, Instant};

use anyhow::Result;
use handsd::api::proto::GetSessionRequest;

use crate::node::Node;
use crate::percentiles;

/// Sandboxes go to sleep at once.
const CONFIG: &str = "[sandbox]\nidle_timeout = '50ms'\n";

/// Until both sandboxes of a session certainly sleep.
const ASLEEP: Duration = Duration::from_millis(200);

/// Measures and prints.
pub async fn measure(quick: bool) -> Result<()> {
    let rounds = if quick { 20 } else { 200 };
    let node = Node::start(CONFIG).await?;
    let id = node.session("say hello").await?;
    let mut head = node.wait(&id, 0, "turn.completed").await?.seq;
    let mut samples = Vec::new();
    for _ in 0..rounds {
        tokio::time::sleep(ASLEEP).await;
        let began = Instant::now();
        let (sent, called) = tokio::join!(node.send(&id, "bash true"), node.wait(&id, head, "tool.call"));
        sent?;
        called?;
        samples.push(began.elapsed());
        head = node.wait(&id, head, "turn.completed").await?.seq;
    }
    let (median, worst) = percentiles(samples);
    println!("message to first tool call, asleep {median:>8.1} ms  p99 {worst:.1} ms   the brain is kept");

    let mut samples = Vec::new();
    for _ in 0..rounds / 4 {
        let began = Instant::now();
        let id = node.session("bash true").await?;
        node.wait(&id, 0, "tool.call").await?;
        samples.push(began.elapsed());
        node.wait(&id, 0, "turn.completed").await?;
        let request = handsd::api::proto::ArchiveSessionRequest { session_id: id.clone() };
        node.sessions().archive(request).await?;
        while !node
            .sessions()
            .get(GetSessionRequest { session_id: id.clone() })
            .await?
            .into_inner()
            .hands_sandbox_id
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let (median, worst) = percentiles(samples);
    println!(
        "create to first tool call          {median:>8.1} ms  p99 {worst:.1} ms   two sandboxes and a brain are made"
    );
    node.daemon.stop().await
}
