//! Every default and every bound of the configuration, each with its reason.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{CgroupUse, EngineKind, LogFormat};
use crate::engine::cgroup;
use crate::engine::docker::{Pull, UserNamespace};
use crate::runtime::{Kind, claude, codex};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// More bytes than any one machine has: a size above it is a slip of the pen.
const MAX_SIZE: u64 = 1 << 50;

/// Where a system service keeps its state (the file system hierarchy standard).
pub(super) const ROOT_STATE_DIR: &str = "/var/lib/handsd";
/// Where a system service puts its socket; systemd's `RuntimeDirectory=handsd` makes the directory.
pub(super) const ROOT_SOCKET: &str = "/run/handsd/handsd.sock";
/// The HTTP API, its page, liveness and readiness, beside the gRPC port.
pub(super) const HTTP: SocketAddr = loopback(7421);

/// The API key's file in the state directory.
pub(super) const KEY_FILE: &str = "api.key";
/// A session's caller must not reach into the node's own network.
pub(super) const PRIVATE_WEBHOOKS: bool = false;
/// A browser on the node itself has no use for a certificate that names another address.
pub(super) const HTTP_TLS: bool = false;
/// A receiver that restarts is back within it.
pub(super) const WEBHOOK_RETRY: Duration = Duration::from_secs(5);
/// Milliseconds serve tests; all pauses together are thousands of the first one.
pub(super) const WEBHOOK_RETRY_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(1)..=MINUTE.saturating_mul(10);

/// A laptop that was closed for a moment goes on where it was; one that is slower comes back with a cursor.
pub(super) const UNREAD_TIMEOUT: Duration = MINUTE;
/// Less than a second would cut off who is only busy, and after an hour nobody comes back.
pub(super) const UNREAD_TIMEOUT_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=MINUTE.saturating_mul(60);

/// What a person who operates the node cares about: starts, ends, and what failed.
pub(super) const LOG_FILTER: &str = "info";
/// Most first runs are in a terminal.
pub(super) const LOG_FORMAT: LogFormat = LogFormat::Human;

/// The node's own programs: the only image that is there without a download.
pub(super) const IMAGE: &str = "host";
/// At the top of the tree, where a daemon that nobody manages may be.
pub(super) const CGROUP_PARENT: &str = cgroup::PARENT;
/// No bound: only the operator knows how many sandboxes share the node's memory.
pub(super) const MEMORY: Option<u64> = None;
/// Below it, no shell and its children fit; requests have the same bound.
pub(super) const MEMORY_BOUNDS: RangeInclusive<u64> = 16 * MIB..=MAX_SIZE;
/// No bound: the scheduler shares fairly, and an idle processor serves nobody.
pub(super) const CPUS: Option<f64> = None;
/// The kernel's smallest quota is one millisecond in its period of a hundred; no kernel is built for more than the upper one.
pub(super) const CPUS_BOUNDS: RangeInclusive<f64> = 0.01..=8192.0;
/// A parallel build fits; a fork bomb ends well before the 32,768 process ids that small nodes have.
pub(super) const PIDS: Option<u64> = Some(4096);
/// The guest, a shell and a short pipeline; the kernel counts no further than the upper one.
pub(super) const PIDS_BOUNDS: RangeInclusive<u64> = 8..=4 * MIB;
/// No bound: only the operator knows what the node's network bears.
pub(super) const BANDWIDTH: Option<u64> = None;
/// What the kernel passes on as one piece; requests have the same bound.
pub(super) const BANDWIDTH_BOUNDS: RangeInclusive<u64> = 64 * KIB..=MAX_SIZE;
/// Longer than a model thinks between two commands; short enough that a forgotten sandbox does not keep its memory.
pub(super) const IDLE_TIMEOUT: Option<Duration> = Some(MINUTE.saturating_mul(10));
/// A millisecond serves tests; "unlimited" is the word for longer than the upper one.
pub(super) const IDLE_TIMEOUT_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY.saturating_mul(30);
/// Processes are state too: they are ended only where the operator says so.
pub(super) const STOP_AFTER: Option<Duration> = None;
/// As with the idle timeout.
pub(super) const STOP_AFTER_BOUNDS: RangeInclusive<Duration> = IDLE_TIMEOUT_BOUNDS;
/// A wake takes a millisecond from memory and tens of them from files: so many keep the processors busy, and more would
/// only make each of them slower.
pub(super) const MAX_WAKES: usize = 64;
/// The upper one is as good as no bound.
pub(super) const MAX_WAKES_BOUNDS: RangeInclusive<usize> = 1..=100_000;
/// An idle sandbox costs 0.6 MiB of the kernel's and the guest's memory: 1.2 GiB for all of these.
pub(super) const MAX_SANDBOXES: usize = 2000;
/// The upper one would cost 60 GiB in the same way.
pub(super) const MAX_SANDBOXES_BOUNDS: RangeInclusive<usize> = 1..=100_000;
/// Nobody finds a sandbox on the node that was not asked for, unless the operator wants some.
pub(super) const RESERVE: usize = 0;
/// The upper one is more than any burst that a machine could serve at once.
pub(super) const RESERVE_BOUNDS: RangeInclusive<usize> = 0..=256;

/// Four times as much as the daemon itself has to have: sleep comes before the kernel begins to kill.
pub(super) const PRESSURE_MEMORY: u64 = 256 * MIB;
/// Zero asks for nothing; a test asks for more than there is.
pub(super) const PRESSURE_MEMORY_BOUNDS: RangeInclusive<u64> = 0..=MAX_SIZE;
/// With nearly half of the time lost to waiting for memory, work does not get done any more.
pub(super) const PRESSURE_STALL: Option<f64> = Some(40.0);
/// Percent.
pub(super) const PRESSURE_STALL_BOUNDS: RangeInclusive<f64> = 0.0..=100.0;

/// A millisecond serves tests; what is started again after more than a day is not kept running.
pub(super) const RESTART_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
/// At 1 the first end is the last; the upper one is as good as no bound, and the record of a sandbox holds so many times.
pub(super) const RESTART_BUDGET_BOUNDS: RangeInclusive<usize> = 1..=1000;

/// A build or a test suite ends in it, and what hangs is noticed while somebody still waits for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);
/// A run that may take for ever has to be asked for by the request, never by a default.
pub(super) const TIMEOUT_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=MAX_TIMEOUT;
/// Longer than any job worth keeping in one process.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Enough to flush files and say goodbye; short enough that a deadline means something.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(2);
/// A database may want minutes to shut down; zero kills at once.
pub(super) const KILL_GRACE_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
/// A client that lost its connection comes back within it, restarts of its machine included.
pub(super) const RETENTION: Duration = MINUTE.saturating_mul(10);
/// Retained output takes disk for as long as this.
pub(super) const RETENTION_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=DAY.saturating_mul(30);
/// An agent that runs a command every three seconds keeps all of the retention time.
pub(super) const RETAINED_RUNS: usize = 256;
/// Each retained run is a file or two.
pub(super) const RETAINED_RUNS_BOUNDS: RangeInclusive<usize> = 0..=65_536;
/// A verbose build of a large project fits; a program that writes for ever does not fill the disk.
pub(super) const OUTPUT_CAP: u64 = 4 * GIB;
/// Below one full pipe, head and tail would be too short to tell anything.
pub(super) const OUTPUT_CAP_BOUNDS: RangeInclusive<u64> = 64 * KIB..=MAX_SIZE;
/// Of a sandbox's 4,096 processes, each of so many runs may have eight.
pub(super) const MAX_RUNS: usize = 512;
/// More runs than a small node has process ids are of no use.
pub(super) const MAX_RUNS_BOUNDS: RangeInclusive<usize> = 1..=32_768;

/// The largest images of tool chains unpack to about half of it; an archive that unpacks to more is a bomb.
pub(super) const MAX_UNPACKED: u64 = 20 * GIB;
/// Nothing unpacks to less than the lower one.
pub(super) const MAX_UNPACKED_BOUNDS: RangeInclusive<u64> = MIB..=MAX_SIZE;

/// A control plane keeps a few connections, and a person one.
pub(super) const CONNECTIONS: usize = 1024;
/// Each connection is a descriptor, of which a process has a few thousand at least.
pub(super) const CONNECTIONS_BOUNDS: RangeInclusive<usize> = 1..=65_536;
/// A way that is gone for longer than a minute is seldom back before people try again.
pub(super) const SILENCE: Duration = MINUTE;
/// Whoever is asked once a second may miss one question; after an hour nobody comes back.
pub(super) const SILENCE_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(2)..=MINUTE.saturating_mul(60);
/// Each of 2,000 sandboxes has somebody who watches it and somebody who uses it.
pub(super) const CALLS: usize = 8192;
/// One caller may be the only one: a control plane.
pub(super) const CALLS_PER_CLIENT: usize = 4096;
/// A call under way costs some 50 KiB.
pub(super) const CALLS_BOUNDS: RangeInclusive<usize> = 1..=100_000;
/// No bound: only the operator knows which callers compete.
pub(super) const RATE: Option<u32> = None;
/// A node serves 50,000 small calls a second at the most.
pub(super) const RATE_BOUNDS: RangeInclusive<u32> = 1..=1_000_000;

/// Who wants a network asks for it.
pub(super) const NETWORK: &str = "none";
/// All that keeps sandboxes away from the node and from each other.
pub(super) const NETWORK_CEILING: &str = "nat";
/// 65,533 sandboxes, out of a range that is for the measuring of networks (RFC 2544), so that hardly anybody has it.
pub(super) const SUBNET: &str = "198.18.0.0/16";
/// More than a million sandboxes, and one.
pub(super) const SUBNET_BITS: RangeInclusive<u8> = 12..=30;
/// Browsers know that every name below it is this machine.
pub(super) const PREVIEW_DOMAIN: &str = "localhost";
/// Of a ceiling "proxy": every name.
pub(super) const NETWORK_CEILING_ALLOW: &str = "*";

/// Room for the outputs of runs under way, and for the store to say goodbye.
pub(super) const MIN_FREE_DISK: u64 = 256 * MIB;
/// Room for the daemon and a few guests, before the kernel begins to kill.
pub(super) const MIN_FREE_MEMORY: u64 = 64 * MIB;
/// Zero asks for nothing.
pub(super) const MIN_FREE_BOUNDS: RangeInclusive<u64> = 0..=MAX_SIZE;

/// Nothing has to be installed for it.
pub(super) const ENGINE: EngineKind = EngineKind::Native;
/// Limits and whole kills, wherever the host offers them.
pub(super) const CGROUP: CgroupUse = CgroupUse::Auto;
/// Far above /etc/subuid, which starts at 100,000 and grows by 65,536 a user. systemd-nspawn picks from 0x0008_0000 to
/// 0x6fff_ffff by a hash of the container's name, so that a clash is unlikely.
pub(super) const ID_BASE: u32 = 0x4000_0000;
/// Below are the node's own users; above, the range would reach the ids that mean "nobody in particular".
pub(super) const ID_BASE_BOUNDS: RangeInclusive<u32> = ID_COUNT..=u32::MAX - ID_COUNT;
/// How many user and group ids sandboxes have, from `id_base` on: the 16 bits that every Unix has had.
pub const ID_COUNT: u32 = 65_536;

/// Where Docker listens unless it was told otherwise.
pub(super) const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Docker cannot make sandboxes of the node's own programs; this one has what most first commands want.
pub(super) const DOCKER_IMAGE: &str = "debian:12";
/// The daemon's own, as with the native engine.
pub(super) const NETWORK_MODE: &str = "own";
/// As Docker's own command line does.
pub(super) const PULL: Pull = Pull::Missing;
/// Whoever has configured Docker knows best.
pub(super) const USER_NAMESPACE: UserNamespace = UserNamespace::Engine;

/// The version of a runtime that the tests are run with, where others speak other dialects.
pub(super) const fn tested(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Claude => Some(claude::VERSION),
        Kind::Codex => Some(codex::VERSION),
        Kind::Acp | Kind::Script => None,
    }
}
/// The providers themselves.
pub(super) const ANTHROPIC_URL: &str = "https://api.anthropic.com";
pub(super) const OPENAI_URL: &str = "https://api.openai.com";
/// A model that has read a long text may think for a minute before its first word.
pub(super) const MODEL_FIRST_BYTE: Duration = Duration::from_secs(120);
/// Providers send signs of life every few seconds.
pub(super) const MODEL_IDLE: Duration = Duration::from_secs(120);
/// The runtimes wait for ten minutes by themselves.
pub(super) const MODEL_TIMEOUT_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(540);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
