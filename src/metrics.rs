//! What the daemon counts and measures, for Prometheus.
//!
//! The metrics are of the process, as the log is: any room notes what it sees by [`metrics`], and /metrics shows them all.
//! What can be counted when it is asked for (sandboxes by phase, runs, spools) is counted then and not kept.
//!
//! Names follow Prometheus' conventions: `handsd_`, base units, `_total` for counters. Labels have few values, all of them
//! ours: never a path or what a caller wrote, and an id only of a sandbox with a network, for as long as there is one.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::ids::SandboxId;

/// From a guest's spawn to a long build, in seconds.
const RUN_BUCKETS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0];
/// From a freeze to a slow disk, in seconds.
const STEP_BUCKETS: &[f64] = &[0.0001, 0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0];
/// From a call that looks something up to one that waits, in seconds.
const CALL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 300.0];
/// Around the 50 ms in which a run has to be ended, in seconds.
const OVERSHOOT_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Outcomes of a span.
const SENT: &str = "sent";
const LOST: &str = "lost";

/// All of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    calls_in_flight: IntGauge,
    errors: IntCounterVec,
    steps: HistogramVec,
    runs: IntCounterVec,
    run_seconds: HistogramVec,
    output_bytes: IntCounter,
    overshoot: HistogramVec,
    killed: IntCounter,
    adoptions: IntCounter,
    crashes: IntCounter,
    restarts: IntCounterVec,
    vanished: IntCounterVec,
    sandboxes: IntGaugeVec,
    running: IntGauge,
    spool_bytes: IntGauge,
    store_lag: prometheus::Gauge,
    healthy: IntGaugeVec,
    spans: IntCounterVec,
}

/// A step of a sandbox's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeStep {
    /// From nothing to a guest that answers.
    Create,
    /// To sleep.
    Hibernate,
    /// From sleep.
    Wake,
    /// To nothing.
    Destroy,
}

/// What was started again because it had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarted {
    /// A sandbox that crashed.
    Sandbox,
    /// The process that a sandbox keeps running.
    Runtime,
}

/// Who was at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Somebody who calls the daemon.
    GrpcClient,
    /// Somebody who does so over HTTP, or looks at a preview.
    HttpClient,
    /// A host that a sandbox is connected to through its proxy.
    ProxiedHost,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    /// Why, in a word.
    pub reason: &'static str,
    /// From its start to its end.
    pub elapsed: Duration,
    /// How long after its deadline; `None` if it did not end by that.
    pub late: Option<Duration>,
    /// What it had written.
    pub output_bytes: u64,
    /// How many processes had to be ended with it.
    pub killed: usize,
}

/// What is counted when it is asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Census {
    /// Sandboxes by the name of their phase.
    pub phases: Vec<(&'static str, usize)>,
    /// Runs that have not ended.
    pub running: usize,
    /// Bytes of output of all runs that can be attached to.
    pub spool_bytes: u64,
    /// The network of each sandbox that has one.
    pub traffic: Vec<Traffic>,
}

/// What a sandbox's network was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// Connections that were made.
    pub connected: u64,
    /// Connections that were refused by policy.
    pub refused: u64,
    /// Bytes that left it.
    pub sent: u64,
    /// Bytes that came to it.
    pub received: u64,
}

/// Those of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> =
        LazyLock::new(|| Metrics::new().expect("names are well-formed, and each is there once"));
    &METRICS
}

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let build = gauges(&registry, "handsd_build_info", "Version of the daemon; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let add = &registry;
        let help = "What was started again because it had ended: sandboxes, and the runtimes in them.";
        let restarts = counters(&registry, "handsd_restarts_total", help, &["what"])?;
        for what in [Restarted::Sandbox, Restarted::Runtime] {
            restarts.with_label_values(&[what.name()]);
        }
        let spans = counters(&registry, "handsd_spans_total", "Spans of calls, by what became of them.", &["outcome"])?;
        // Both are there from the beginning, so that the first loss is a growth.
        for outcome in [SENT, LOST] {
            spans.with_label_values(&[outcome]);
        }
        Ok(Self {
            calls: counters(add, "handsd_grpc_calls_total", "Calls that have ended.", &["method", "code"])?,
            call_seconds: histograms(
                add,
                ("handsd_grpc_call_duration_seconds", "From the head of a call to the end of its reply."),
                &["method"],
                CALL_BUCKETS,
            )?,
            calls_in_flight: gauge(add, "handsd_grpc_calls_in_flight", "Calls that have not ended, open streams too.")?,
            errors: counters(
                add,
                "handsd_errors_total",
                "Calls that failed, by the reason they were told.",
                &["reason"],
            )?,
            steps: histograms(
                add,
                ("handsd_sandbox_step_duration_seconds", "Steps of sandboxes' lives, whether or not they succeeded."),
                &["step"],
                STEP_BUCKETS,
            )?,
            runs: counters(add, "handsd_runs_total", "Runs that have ended, by how.", &["reason"])?,
            run_seconds: histograms(
                add,
                ("handsd_run_duration_seconds", "From start to end of runs."),
                &[],
                RUN_BUCKETS,
            )?,
            output_bytes: counter(add, "handsd_run_output_bytes_total", "Bytes that ended runs had written.")?,
            overshoot: histograms(
                add,
                ("handsd_run_deadline_overshoot_seconds", "From the deadline of a run to its end, the grace included."),
                &[],
                OVERSHOOT_BUCKETS,
            )?,
            killed: counter(add, "handsd_processes_killed_total", "Processes that were ended with their runs.")?,
            adoptions: counter(add, "handsd_sandbox_adoptions_total", "Sandboxes taken over from an earlier daemon.")?,
            crashes: counter(add, "handsd_sandbox_crashes_total", "Sandboxes that ended by themselves.")?,
            restarts,
            vanished: counters(
                add,
                "handsd_connections_vanished_total",
                "Connections that were cut because nothing was heard of their peer any more.",
                &["peer"],
            )?,
            sandboxes: gauges(add, "handsd_sandboxes", "Sandboxes, by phase.", &["phase"])?,
            running: gauge(add, "handsd_runs", "Runs that have not ended.")?,
            spool_bytes: gauge(add, "handsd_spool_bytes", "Output of runs that can be attached to.")?,
            store_lag: {
                let gauge = prometheus::Gauge::new("handsd_store_lag_seconds", "How long the store took to answer.")?;
                registry.register(Box::new(gauge.clone()))?;
                gauge
            },
            healthy: gauges(add, "handsd_healthy", "1 if the check found nothing amiss, else 0.", &["check"])?,
            spans,
            registry,
        })
    }

    /// A call begins.
    pub fn call_began(&self) {
        self.calls_in_flight.inc();
    }

    /// It has ended. `method` is one of ours, or "other".
    pub fn call_ended(&self, method: &str, code: &str, taken: Duration) {
        self.calls_in_flight.dec();
        self.calls.with_label_values(&[method, code]).inc();
        self.call_seconds.with_label_values(&[method]).observe(taken.as_secs_f64());
    }

    /// A call has failed for this reason.
    pub fn failed(&self, reason: &str) {
        self.errors.with_label_values(&[reason]).inc();
    }

    /// Measures a step of a sandbox's life until what it answers is dropped.
    pub fn step(&self, step: LifeStep) -> prometheus::HistogramTimer {
        let name = match step {
            LifeStep::Create => "create",
            LifeStep::Hibernate => "hibernate",
            LifeStep::Wake => "wake",
            LifeStep::Destroy => "destroy",
        };
        self.steps.with_label_values(&[name]).start_timer()
    }

    /// A run has ended.
    pub fn run_ended(&self, end: &RunEnd) {
        self.runs.with_label_values(&[end.reason]).inc();
        self.run_seconds.with_label_values::<&str>(&[]).observe(end.elapsed.as_secs_f64());
        self.output_bytes.inc_by(end.output_bytes);
        self.killed.inc_by(end.killed as u64);
        if let Some(late) = end.late {
            self.overshoot.with_label_values::<&str>(&[]).observe(late.as_secs_f64());
        }
    }

    /// A sandbox was taken over from an earlier daemon.
    pub fn adopted(&self) {
        self.adoptions.inc();
    }

    /// A sandbox has ended by itself.
    pub fn crashed(&self) {
        self.crashes.inc();
    }

    /// Something was started again because it had ended.
    pub fn restarted(&self, what: Restarted) {
        self.restarts.with_label_values(&[what.name()]).inc();
    }

    /// A connection was cut because nothing was heard of its peer any more.
    pub fn vanished(&self, peer: Peer) {
        let name = match peer {
            Peer::GrpcClient => "grpc_client",
            Peer::HttpClient => "http_client",
            Peer::ProxiedHost => "proxied_host",
        };
        self.vanished.with_label_values(&[name]).inc();
    }

    /// The store has answered after so long.
    pub fn store_answered(&self, after: Duration) {
        self.store_lag.set(after.as_secs_f64());
    }

    /// A check of the node's health.
    pub fn checked(&self, check: &str, is_good: bool) {
        self.healthy.with_label_values(&[check]).set(i64::from(is_good));
    }

    /// The collector has taken so many spans.
    pub fn spans_sent(&self, count: u64) {
        self.spans.with_label_values(&[SENT]).inc_by(count);
    }

    /// So many spans reach no collector.
    pub fn spans_lost(&self, count: u64) {
        self.spans.with_label_values(&[LOST]).inc_by(count);
    }

    /// All of them as Prometheus reads them, with what was just counted.
    ///
    /// # Errors
    /// [`prometheus::Error`] if a metric cannot be told, which would be a fault of ours.
    pub fn render(&self, census: &Census) -> prometheus::Result<String> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (phase, count) in &census.phases {
            self.sandboxes.with_label_values(&[*phase]).set(gauge(*count));
        }
        self.running.set(gauge(census.running));
        self.spool_bytes.set(i64::try_from(census.spool_bytes).unwrap_or(i64::MAX));
        let mut families = self.registry.gather();
        families.extend(traffic(&census.traffic)?);
        TextEncoder::new().encode_to_string(&families)
    }
}

impl Restarted {
    fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Runtime => "runtime",
        }
    }
}

/// What was counted of the networks of sandboxes. Made anew each time, so that nothing is told of one that is gone.
fn traffic(sandboxes: &[Traffic]) -> prometheus::Result<Vec<MetricFamily>> {
    let registry = Registry::new();
    let (name, help) = ("handsd_sandbox_network_bytes_total", "Bytes that left a sandbox, and that came to it.");
    let bytes = counters(&registry, name, help, &["sandbox", "direction"])?;
    let (name, help) =
        ("handsd_sandbox_network_connections_total", "Connections out of a sandbox, made and refused by policy.");
    let connections = counters(&registry, name, help, &["sandbox", "verdict"])?;
    for Traffic { sandbox, connected, refused, sent, received } in sandboxes {
        let sandbox = sandbox.as_str();
        bytes.with_label_values(&[sandbox, "sent"]).inc_by(*sent);
        bytes.with_label_values(&[sandbox, "received"]).inc_by(*received);
        connections.with_label_values(&[sandbox, "connected"]).inc_by(*connected);
        connections.with_label_values(&[sandbox, "refused"]).inc_by(*refused);
    }
    Ok(registry.gather())
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn histograms(
    registry: &Registry,
    (name, help): (&str, &str),
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    let histograms = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
    registry.register(Box::new(histograms.clone()))?;
    Ok(histograms)
}
