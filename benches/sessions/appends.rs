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
    let store = Store::open(&directory.path().join("store.db"))?;
    for (sessions, events, how) in [
        (1, 1, "each waits for the one before"),
        (1, IN_FLIGHT, "eight events in a write"),
        (SESSIONS, 1, "each waits for the one before"),
        (SESSIONS, IN_FLIGHT, "eight events in a write"),
    ] {
        let count = if sessions * events > SESSIONS { count / 4 } else { count };
        // Before and after, as a disk that others use is now fast and now slow.
        let before = fdatasyncs(&directory, sessions, count / 2)?;
        let rate = appends(&store, sessions, events, count).await?;
        let floor = (before + fdatasyncs(&directory, sessions, count / 2)?) / 2.0 * (sessions * events) as f64;
        println!("durable appends, {sessions:>2} sessions     {rate:>10.0} /s   {how}");
        println!("  a sync for all, floor          {floor:>10.0} /s   {:.2} of it", rate / floor);
    }
    let (median, worst) = percentiles(latencies(&store, count).await?);
    println!("append to follower               {median:>10.3} ms  p99 {worst:.3} ms");
    store.close().await?;
    Ok(())
}

/// How often a second a page of each of so many sessions can be appended to a file, with one sync for all.
fn fdatasyncs(directory: &TempDir, pages: usize, count: usize) -> Result<f64> {
    let mut file = File::create(directory.path().join("floor"))?;
    let page = vec![7; 4096 * pages];
    let began = Instant::now();
    for _ in 0..count {
        file.write_all(&page)?;
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
