//! One session's events to many streams: how late they are, and what that costs the daemon.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::daemon::KEY;
use crate::node::Node;

/// Messages a second to a session whose turn goes on: an event each.
const RATE: u64 = 10;

/// Bytes of an event as such a message makes it.
const FRAME: usize = 320;

/// Measures and prints.
pub async fn measure(node: &Node, quick: bool) -> Result<()> {
    let (streams, seconds) = if quick { (100, 3) } else { (1_000, 20) };
    let count = RATE * seconds;
    // Its turn goes on for longer than this, so that each message is one event, and nothing else is.
    let id = node.session("sleep 600").await?;
    let before = node.running(&id).await?;
    let readers = Readers::open(streams, count, &node.daemon.http, &id, before).await?;
    let (began, cpu) = (Instant::now(), node.daemon.cpu()?);
    let late = readers.follow(count, async || node.send(&id, "hello").await).await?;
    let took = began.elapsed().as_secs_f64();
    let used = (node.daemon.cpu()? - cpu).as_secs_f64();
    let events = streams as u64 * count;
    println!("SSE, {streams} streams × {RATE} events/s   {late}   from the message on");
    let floor = bare(streams, count).await?;
    println!("  bytes on bare sockets, floor   {floor}   {:.1} times as late", late.p99 / floor.p99);
    println!(
        "  daemon's processor time        {:>8.1} % of one, {:.1} µs an event and stream",
        used / took * 100.0,
        used * 1e6 / events as f64
    );
    println!("  daemon's memory, with them     {:>8.1} MiB", node.daemon.memory()? as f64 / f64::from(1 << 20));
    node.cancel(&id).await
}

/// How late events were, in milliseconds.
struct Late {
    p50: f64,
    p99: f64,
    worst: f64,
}

impl fmt::Display for Late {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, worst } = self;
        write!(formatter, "p50 {p50:>6.1} ms  p99 {p99:>6.1} ms  worst {worst:>6.1} ms")
    }
}

/// Streams that are open, and take so many events each.
struct Readers(JoinSet<Result<Vec<Instant>>>);

impl Readers {
    async fn open(streams: usize, count: u64, address: &str, id: &str, after: u64) -> Result<Self> {
        let ready = Arc::new(Barrier::new(streams + 1));
        let mut readers = JoinSet::new();
        for _ in 0..streams {
            readers.spawn(read(address.to_owned(), id.to_owned(), after, count, Arc::clone(&ready)));
        }
        ready.wait().await;
        Ok(Self(readers))
    }

    /// Has an event made at each tick, and answers how late they came.
    async fn follow(mut self, count: u64, mut make: impl AsyncFnMut() -> Result<()>) -> Result<Late> {
        let mut ticks = interval(Duration::from_millis(1_000 / RATE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = Vec::new();
        for _ in 0..count {
            ticks.tick().await;
            sent.push(Instant::now());
            make().await?;
        }
        let mut late = Vec::new();
        while let Some(read) = self.0.join_next().await {
            late.extend(read??.iter().zip(&sent).map(|(came, sent)| came.saturating_duration_since(*sent)));
        }
        late.sort();
        let at = |permille: usize| late[(late.len() - 1) * permille / 1_000].as_secs_f64() * 1e3;
        Ok(Late { p50: at(500), p99: at(990), worst: at(1_000) })
    }
}

/// The same bytes to as many sockets, by nothing but writes.
async fn bare(streams: usize, count: u64) -> Result<Late> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    let address = listener.local_addr()?.to_string();
    let accepting = async {
        let mut sockets = Vec::new();
        while sockets.len() < streams {
            let (mut socket, _) = listener.accept().await?;
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            sockets.push(socket);
        }
        anyhow::Ok(sockets)
    };
    let (readers, sockets) = tokio::join!(Readers::open(streams, count, &address, "", 0), accepting);
    let mut sockets = sockets?;
    let frame = format!("id: 1\ndata: {}\n\n", "x".repeat(FRAME));
    let send = async || {
        for socket in &mut sockets {
            socket.write_all(frame.as_bytes()).await?;
        }
        Ok(())
    };
    readers?.follow(count, send).await
}

/// When each event behind a `seq` came to one stream.
async fn read(address: String, id: String, after: u64, count: u64, ready: Arc<Barrier>) -> Result<Vec<Instant>> {
    let mut stream = TcpStream::connect(&address).await.context("connect")?;
    let request = format!(
        "GET /v3/sessions/{id}/events?stream=sse&after={after} HTTP/1.1\r\nHost: {address}\r\n\
         Authorization: Bearer {KEY}\r\n\r\n"
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
