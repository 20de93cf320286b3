//! Many clients at once, some of them hostile: the well-behaved hardly notice, and the node stays well.
//!
//! `HANDSD_LOAD_SECONDS=60 cargo test --test load -- --nocapture` for the whole minute; eight seconds otherwise.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::{Duration, Instant};

use handsd::api::proto::{
    BashRequest, GetSandboxRequest, ListSandboxesRequest, NodeInfoRequest, WriteRequest, write_request,
};
use handsd::client::{self, Address};
use support::{Daemon, Options, argv, probe, process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;

mod support;

/// Clients that behave; each makes a call every second or two, as agents do.
const CLIENTS: u32 = 200;
/// Clients of each kind that do not.
const HOSTILE: usize = 20;
/// Between two calls of a client. They begin one after the other within it, so that they do not march in step.
const PACE: Duration = Duration::from_millis(1500);
/// Between two attempts of one that does not.
const HOSTILE_PACE: Duration = Duration::from_millis(100);
/// Between two calls of one that has the node to itself.
const QUIET_PACE: Duration = Duration::from_millis(20);
/// How much slower the well-behaved may be served than one of them who has the node to itself, at the 99th percentile. What
/// they have among themselves is printed, too.
const SLOWDOWN: u32 = 10;
/// Below it, a tenfold is the noise of a machine with two cores that runs 300 clients as well.
const NOISE: Duration = Duration::from_millis(100);
/// What the daemon may grow by, in KiB: the windows of some hundred connections.
const GROWTH: u64 = 256 << 10;

/// How long calls took: those that look something up, and commands from their start to their end.
#[derive(Debug, Default)]
struct Times {
    lookups: Vec<Duration>,
    commands: Vec<Duration>,
}

impl Times {
    fn of_all(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, times| {
            sum.lookups.extend(times.lookups);
            sum.commands.extend(times.commands);
            sum
        })
    }

    /// The 99th percentile of each.
    fn p99(mut self) -> [Duration; 2] {
        [&mut self.lookups, &mut self.commands].map(|times| {
            times.sort_unstable();
            times.get(times.len() * 99 / 100).copied().unwrap_or_default()
        })
    }
}

/// A client that behaves, until the end.
async fn behave(address: Address, sandbox: String, number: u32, pace: Duration, until: Instant) -> Times {
    let channel = client::connect(&address).await.unwrap();
    let (mut hands, mut sandboxes) = (client::hands(channel.clone()), client::sandboxes(channel.clone()));
    let mut node = client::node(channel);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + pace / CLIENTS * number, pace);
    let mut times = Times::default();
    let mut turn = number;
    while Instant::now() < until {
        ticks.tick().await;
        turn += 1;
        let began = Instant::now();
        match turn % 4 {
            0 => {
                let request = BashRequest { sandbox_id: sandbox.clone(), ..argv(&["true"]) };
                let mut events = hands.bash(request).await.unwrap().into_inner();
                while events.message().await.unwrap().is_some() {}
                times.commands.push(began.elapsed());
                continue;
            }
            1 => drop(sandboxes.get(GetSandboxRequest { sandbox_id: sandbox.clone() }).await.unwrap()),
            2 => drop(sandboxes.list(ListSandboxesRequest::default()).await.unwrap()),
            _ => drop(node.info(NodeInfoRequest {}).await.unwrap()),
        }
        times.lookups.push(began.elapsed());
    }
    times
}

/// All clients that behave.
fn load(node: &Address, sandbox: &str, until: Instant) -> JoinSet<Times> {
    (0..CLIENTS).map(|number| behave(node.clone(), sandbox.to_owned(), number, PACE, until)).collect()
}

/// Connects, says these bytes, and then nothing for as long as the node bears it; then does so again.
async fn stall(address: String, words: &'static [u8], until: Instant) {
    let mut pace = tokio::time::interval(HOSTILE_PACE);
    while Instant::now() < until {
        pace.tick().await;
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        // It may be closed at any time.
        let _ = stream.write_all(words).await;
        let left = until.saturating_duration_since(Instant::now());
        let _ = tokio::time::timeout(left, stream.read_to_end(&mut Vec::new())).await;
    }
}

/// Messages that are longer than any may be.
async fn oversize(address: Address, sandbox: String, until: Instant) {
    let channel = client::connect(&address).await.unwrap();
    let mut hands = handsd::api::proto::hands_client::HandsClient::new(channel);
    let mut pace = tokio::time::interval(HOSTILE_PACE);
    while Instant::now() < until {
        pace.tick().await;
        let header = handsd::api::proto::WriteHeader {
            sandbox_id: sandbox.clone(),
            path: "/tmp/big".to_owned(),
            ..Default::default()
        };
        let parts = [write_request::Part::Header(header), write_request::Part::Data(vec![0; 16 << 20].into())];
        let messages = parts.map(|part| WriteRequest { part: Some(part) });
        let status = hands.write(tokio_stream::iter(messages)).await.unwrap_err();
        assert!(!matches!(status.code(), Code::Internal | Code::Ok), "{status:?}");
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The preface, settings, and the beginning of a head that never ends.
const HALF_A_CALL: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x40\x01\0\0\0\0\x01";
const NONSENSE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x01\xff\xff\xff\xff\xff and so on";

#[tokio::test(flavor = "multi_thread")]
async fn hostile_clients_are_hardly_noticed_by_the_others() {
    let Some(daemon) = Daemon::start_with(Options { http: true, ..Options::default() }).await else { return };
    let seconds = std::env::var("HANDSD_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let address = daemon.tcp_address();
    let node = Address::Tcp(address.clone());
    let sandbox = daemon.sandbox().await;
    let quiet = Instant::now() + Duration::from_secs(seconds) / 4;
    let quiet = behave(node.clone(), sandbox.id.clone(), 0, QUIET_PACE, quiet).await.p99();
    let among = load(&node, &sandbox.id, Instant::now() + Duration::from_secs(seconds)).join_all().await;
    let among = Times::of_all(among).p99();
    let before = process::resident_kib(daemon.pid());

    let until = Instant::now() + Duration::from_secs(seconds);
    let mut hostile = JoinSet::new();
    for _ in 0..HOSTILE {
        for words in [b"" as &[u8], &PREFACE[..7], PREFACE, HALF_A_CALL, NONSENSE, b"GET / HTTP/1.1\r\n\r\n"] {
            hostile.spawn(stall(address.clone(), words, until));
        }
    }
    hostile.spawn(oversize(node.clone(), sandbox.id.clone(), until));
    let clients = load(&node, &sandbox.id, until);
    let watching = async {
        let mut most = 0;
        let mut looks = tokio::time::interval(Duration::from_millis(500));
        while Instant::now() < until {
            looks.tick().await;
            let (code, body) = probe::get(&daemon.http_address().await, "/readyz").await;
            assert_eq!(code, 200, "{body}");
            most = most.max(process::resident_kib(daemon.pid()));
        }
        most
    };
    let (times, most, ()) =
        tokio::join!(clients.join_all(), watching, async { while hostile.join_next().await.is_some() {} });
    let crowded = Times::of_all(times).p99();
    println!("p99 of lookups and of commands: {quiet:?} one client, {among:?} all, {crowded:?} all and hostile ones");
    println!("{before} KiB resident, {most} KiB at most");
    for (crowded, quiet) in crowded.into_iter().zip(quiet) {
        assert!(crowded <= (quiet * SLOWDOWN).max(NOISE), "{crowded:?}, and {quiet:?} alone");
    }
    assert!(most < before + GROWTH, "{most} KiB, and {before} KiB before");
    drop(sandbox);
}
