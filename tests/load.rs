//! Many clients at once, some of them hostile: the well-behaved hardly notice, and the node stays well.
//!
//! `HANDSD_LOAD_SECONDS=60 cargo test --test load -- --nocapture` for the whole minute; eight seconds otherwise.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::{Duration, Instant};

use handsd::api::proto::{
    BashRequest, GetSandboxRequest, ListSandboxesRequest, NodeInfoRequest, WriteRequest, write_request,
};
use handsd::client::{self, Address, Channel};
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
/// How much slower the well-behaved may be served than when they are among themselves, at the 99th percentile.
const SLOWDOWN: u32 = 10;
/// Below it, a tenfold is the noise of a machine with two cores that runs 300 clients as well.
const NOISE: Duration = Duration::from_millis(100);
/// What the daemon may grow by, in KiB: the windows of some hundred connections.
const GROWTH: u64 = 256 << 10;

/// The 99th percentile.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

async fn timed_info(channel: &Channel) -> Duration {
    let began = Instant::now();
    client::node(channel.clone()).info(NodeInfoRequest {}).await.unwrap();
    began.elapsed()
}

/// A client that behaves, until the end: how long its calls for the node's state took.
async fn behave(address: Address, sandbox: String, number: u32, until: Instant) -> Vec<Duration> {
    let channel = client::connect(&address).await.unwrap();
    let (mut hands, mut sandboxes) = (client::hands(channel.clone()), client::sandboxes(channel.clone()));
    let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + PACE / CLIENTS * number, PACE);
    let mut times = Vec::new();
    let mut turn = number;
    while Instant::now() < until {
        pace.tick().await;
        turn += 1;
        match turn % 4 {
            0 => {
                let request = BashRequest { sandbox_id: sandbox.clone(), ..argv(&["true"]) };
                let mut events = hands.bash(request).await.unwrap().into_inner();
                while events.message().await.unwrap().is_some() {}
            }
            1 => drop(sandboxes.get(GetSandboxRequest { sandbox_id: sandbox.clone() }).await.unwrap()),
            2 => drop(sandboxes.list(ListSandboxesRequest::default()).await.unwrap()),
            _ => times.push(timed_info(&channel).await),
        }
    }
    times
}

/// All clients that behave.
fn load(node: &Address, sandbox: &str, until: Instant) -> JoinSet<Vec<Duration>> {
    (0..CLIENTS).map(|number| behave(node.clone(), sandbox.to_owned(), number, until)).collect()
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
    let alone = load(&node, &sandbox.id, Instant::now() + Duration::from_secs(seconds)).join_all().await;
    let alone = p99(alone.into_iter().flatten().collect());
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
    let crowded = p99(times.into_iter().flatten().collect());
    println!("p99 of Info: {alone:?} alone, {crowded:?} in hostile company; {before} KiB resident, {most} KiB at most");
    assert!(crowded <= (alone * SLOWDOWN).max(NOISE), "{crowded:?}, and {alone:?} alone");
    assert!(most < before + GROWTH, "{most} KiB, and {before} KiB before");
    drop(sandbox);
}
