//! One session's events to many streams: how late they are, and what that costs the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;

/// Messages a second to a session whose turn goes on: an event each.
const RATE: u64 = 10;

/// Measures and prints.
pub async fn measure(node: &Node, quick: bool) -> Result<()> {
    let (streams, seconds) = if quick { (100, 3) } else { (1_000, 20) };
    let count = RATE * seconds;
    // Its turn goes on for longer than this, so that each message is one event, and nothing else is.
    let id = node.session("sleep 600").await?;
    let before = node.running(&id).await?;
    let ready = Arc::new(Barrier::new(streams + 1));
    let mut readers = JoinSet::new();
    for _ in 0..streams {
        readers.spawn(read(node.address.clone(), node.key.clone(), id.clone(), before, count, Arc::clone(&ready)));
    }
    ready.wait().await;
    let (began, cpu) = (Instant::now(), node.cpu()?);
    let mut ticks = interval(Duration::from_millis(1_000 / RATE));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = Vec::new();
    for _ in 0..count {
        ticks.tick().await;
        sent.push(Instant::now());
        node.send(&id, "hello").await?;
    }
    let mut late = Vec::new();
    while let Some(read) = readers.join_next().await {
        let times = read??;
        late.extend(times.iter().zip(&sent).map(|(came, sent)| came.saturating_duration_since(*sent)));
    }
    let took = began.elapsed().as_secs_f64();
    let used = (node.cpu()? - cpu).as_secs_f64();
    late.sort();
    let at = |permille: usize| late[(late.len() - 1) * permille / 1_000].as_secs_f64() * 1e3;
    println!(
        "SSE, {streams} streams × {RATE} events/s  p50 {:>6.1} ms  p99 {:>6.1} ms  worst {:>6.1} ms   from the message on",
        at(500),
        at(990),
        at(1_000)
    );
    println!(
        "  daemon's processor time        {:>8.1} % of one, {:.1} µs an event and stream",
        used / took * 100.0,
        used * 1e6 / late.len() as f64
    );
    println!("  daemon's memory, with them     {:>8.1} MiB", node.memory()? as f64 / f64::from(1 << 20));
    node.cancel(&id).await
}

/// When each event behind a `seq` came to one stream.
async fn read(
    address: String,
    key: String,
    id: String,
    after: u64,
    count: u64,
    ready: Arc<Barrier>,
) -> Result<Vec<Instant>> {
    let mut stream = TcpStream::connect(&address).await.context("connect")?;
    let request = format!(
        "GET /v3/sessions/{id}/events?stream=sse&after={after} HTTP/1.1\r\nHost: {address}\r\n\
         Authorization: Bearer {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next_line().await?.context("no answer")?;
    anyhow::ensure!(first.contains(" 200 "), "{first}");
    ready.wait().await;
    let mut times = Vec::new();
    while (times.len() as u64) < count {
        // Chunks begin with frames, and their heads are no lines of one.
        if lines.next_line().await?.context("the stream ended")?.starts_with("id: ") {
            times.push(Instant::now());
        }
    }
    Ok(times)
}
