//! Durable appends: what the store makes of many sessions that write, and of one.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use handsd::ids::{AgentId, EventId, SessionId};
use handsd::store::{Added, Change, LogEntry, LogQuery, NewSession, Store};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::percentiles;

/// A body as most events have it.
const BODY: &str =
    r#"{"actor":{"type":"agent"},"body":{"tool":"bash","args_summary":"cargo test","call_id":"toolu_01"}}"#;
/// Sessions that write at the same time.
const SESSIONS: usize = 64;
/// Writes of each that are on their way at once: a driver writes what has come together, and waits.
const IN_FLIGHT: usize = 8;

/// Measures and prints.
pub async fn measure(quick: bool) -> Result<()> {
    let count = if quick { 200 } else { 2_000 };
    let directory = tempfile::Builder::new().prefix("hands-bench.").tempdir().context("make a directory")?;
    let floor = fdatasyncs(&directory, count)?;
    println!("fdatasync of one append, floor   {floor:>10.0} /s");
    let store = Store::open(&directory.path().join("store.db"))?;
    let one = appends(&store, 1, 1, count).await?;
    println!("durable appends, one session     {one:>10.0} /s   each waits for the one before");
    let batched = appends(&store, 1, 8, count).await?;
    println!("durable appends, one session     {batched:>10.0} /s   eight events in a write");
    let many = appends(&store, SESSIONS, 1, count).await?;
    println!("durable appends, {SESSIONS} sessions     {many:>10.0} /s   each waits for the one before");
    let many = appends(&store, SESSIONS, IN_FLIGHT, count / 4).await?;
    println!("durable appends, {SESSIONS} sessions     {many:>10.0} /s   {IN_FLIGHT} events in a write");
    let (median, worst) = percentiles(latencies(&store, count).await?);
    println!("append to follower               {median:>10.3} ms  p99 {worst:.3} ms");
    store.close().await?;
    Ok(())
}

/// How often a second a record can be appended to a file and synced.
fn fdatasyncs(directory: &TempDir, count: usize) -> Result<f64> {
    let mut file = File::create(directory.path().join("floor"))?;
    let began = Instant::now();
    for _ in 0..count {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

async fn session(store: &Store) -> Result<(SessionId, u64)> {
    let id = SessionId::random();
    let session = NewSession {
        id: id.clone(),
        agent: AgentId::random().to_string(),
        status: "idle",
        key: None,
        profile: "{}".to_owned(),
        state: "{}".to_owned(),
        entries: Vec::new(),
        claims: Vec::new(),
        destinations: Vec::new(),
    };
    match store.add_session(session).await? {
        Added::New(number) => Ok((id, number)),
        other => anyhow::bail!("a new session is {other:?}"),
    }
}

fn change(id: &SessionId, head: u64, events: u64) -> Change {
    let entry = |seq| LogEntry {
        id: EventId::of(id, seq),
        at: SystemTime::now(),
        level: 1,
        kind: "tool.call".to_owned(),
        turn: None,
        body: BODY.to_owned(),
    };
    Change { head, entries: (head + 1..=head + events).map(entry).collect(), ..Change::default() }
}

/// Events a second when so many sessions write `count` times so many events.
async fn appends(store: &Store, sessions: usize, events: usize, count: usize) -> Result<f64> {
    let events = events as u64;
    let mut writers = JoinSet::new();
    let mut made = Vec::new();
    for _ in 0..sessions {
        made.push(session(store).await?);
    }
    let began = Instant::now();
    for (id, number) in made {
        let store = store.clone();
        writers.spawn(async move {
            for round in 0..count as u64 {
                store.change_session(number, change(&id, round * events, events)).await?;
            }
            Ok::<(), handsd::store::StoreError>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok((sessions * count) as f64 * events as f64 / began.elapsed().as_secs_f64())
}

/// From before an append to when a follower has read it.
async fn latencies(store: &Store, count: usize) -> Result<Vec<Duration>> {
    let (id, number) = session(store).await?;
    let mut grown = store.follow_log(number);
    let (sender, mut times) = tokio::sync::mpsc::channel::<Instant>(1);
    let follower = store.clone();
    let id = Arc::new(id);
    let reading = async move {
        let (mut samples, mut after) = (Vec::with_capacity(count), 0);
        while samples.len() < count {
            let query = LogQuery { after, level: 3, kind: None, turn: None };
            let entries = match grown.news(&query).entries {
                Some(entries) => entries,
                None => follower.log(number, query, 64).await?.into_iter().map(Arc::new).collect(),
            };
            if entries.is_empty() {
                grown.changed().await.context("the log ended")?;
            }
            for entry in entries {
                after = entry.id.seq();
                let began = times.recv().await.context("every entry has a time")?;
                samples.push(began.elapsed());
            }
        }
        Ok::<_, anyhow::Error>(samples)
    };
    let writing = async {
        for head in 0..count as u64 {
            sender.send(Instant::now()).await.context("the follower is there")?;
            store.change_session(number, change(&id, head, 1)).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (samples, written) = tokio::join!(reading, writing);
    written?;
    samples
}
