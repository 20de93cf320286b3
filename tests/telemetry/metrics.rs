//! Every metric is seen to count what it says, and all of them as Prometheus wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use handsd::api::proto::{
    BashRequest, CreateSandboxRequest, DestroySandboxRequest, HibernateSandboxRequest, Runtime, WakeSandboxRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Daemon, Options, SOON, eventually, expect, probe, shell};

/// The samples of a scrape, by name and labels.
pub async fn scrape(daemon: &Daemon) -> BTreeMap<String, f64> {
    let (code, text) = probe::get(&daemon.http_address().await, &format!("/metrics?api_key={}", daemon.key())).await;
    assert_eq!(code, 200);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(key, value)| (key.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Waits until each of the samples has its value; one that is not there is 0.
pub async fn shows(daemon: &Daemon, expected: &[(&str, f64)]) {
    eventually(SOON, || async {
        let found = scrape(daemon).await;
        let off = expected.iter().find(|(key, value)| found.get(*key).copied().unwrap_or(0.0) != *value);
        expect(off.is_none(), format!("{off:?} of {found:#?}"))
    })
    .await;
}

async fn start(durable: bool) -> Option<Daemon> {
    Daemon::start_with(Options { http: true, durable, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_metric_counts_what_it_says() {
    let Some(daemon) = start(false).await else { return };
    shows(&daemon, &[("handsd_sandboxes{phase=\"running\"}", 0.0), ("handsd_healthy{check=\"store\"}", 1.0)]).await;

    let sandbox = daemon.sandbox().await;
    sandbox.run(shell("printf 12345")).await.unwrap();
    let timed_out =
        BashRequest { timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..shell("sleep 600 & sleep 601") };
    sandbox.run(timed_out).await.unwrap();
    let request = BashRequest { sandbox_id: sandbox.id.clone(), ..shell("sleep 602") };
    let running = daemon.hands().bash(request).await.unwrap();
    shows(
        &daemon,
        &[
            ("handsd_build_info{version=\"0.1.0\"}", 1.0),
            ("handsd_sandboxes{phase=\"running\"}", 1.0),
            ("handsd_runs", 1.0),
            ("handsd_runs_total{reason=\"exited\"}", 1.0),
            ("handsd_runs_total{reason=\"timed_out\"}", 1.0),
            ("handsd_run_duration_seconds_count", 2.0),
            ("handsd_run_deadline_overshoot_seconds_count", 1.0),
            ("handsd_run_output_bytes_total", 5.0),
            ("handsd_spool_bytes", 5.0),
            ("handsd_sandbox_step_duration_seconds_count{step=\"create\"}", 1.0),
            ("handsd_grpc_calls_in_flight", 1.0),
            ("handsd_grpc_calls_total{code=\"ok\",method=\"hands.v1.Sandboxes/Create\"}", 1.0),
            ("handsd_grpc_call_duration_seconds_count{method=\"hands.v1.Hands/Bash\"}", 2.0),
        ],
    )
    .await;
    assert!(scrape(&daemon).await["handsd_processes_killed_total"] >= 2.0);
    drop(running);
    let runs = sandbox.runs().await;
    for run in runs {
        let request = handsd::api::proto::KillRunRequest {
            sandbox_id: sandbox.id.clone(),
            run_id: run.run_id,
            ..Default::default()
        };
        // Two have ended by themselves.
        let _ = daemon.hands().kill_run(request).await;
    }
    shows(
        &daemon,
        &[
            ("handsd_runs", 0.0),
            ("handsd_runs_total{reason=\"canceled\"}", 1.0),
            ("handsd_grpc_calls_in_flight", 0.0),
            ("handsd_grpc_calls_total{code=\"canceled\",method=\"hands.v1.Hands/Bash\"}", 1.0),
        ],
    )
    .await;

    let mut sandboxes = daemon.sandboxes();
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), ..Default::default() };
    sandboxes.hibernate(request).await.unwrap();
    shows(
        &daemon,
        &[
            ("handsd_sandboxes{phase=\"hibernated\"}", 1.0),
            ("handsd_sandboxes{phase=\"running\"}", 0.0),
            ("handsd_sandbox_step_duration_seconds_count{step=\"hibernate\"}", 1.0),
        ],
    )
    .await;
    sandboxes.wake(WakeSandboxRequest { sandbox_id: sandbox.id.clone() }).await.unwrap();
    let missing = WakeSandboxRequest { sandbox_id: "sb_00000000000000000000".to_owned() };
    sandboxes.wake(missing).await.unwrap_err();
    sandbox.destroy().await.unwrap();
    shows(
        &daemon,
        &[
            ("handsd_sandboxes{phase=\"hibernated\"}", 0.0),
            ("handsd_sandbox_step_duration_seconds_count{step=\"wake\"}", 1.0),
            ("handsd_sandbox_step_duration_seconds_count{step=\"destroy\"}", 1.0),
            ("handsd_errors_total{reason=\"SANDBOX_NOT_FOUND\"}", 1.0),
        ],
    )
    .await;
    let samples = scrape(&daemon).await;
    for name in ["process_resident_memory_bytes", "process_open_fds", "handsd_store_lag_seconds"] {
        assert!(samples[name] > 0.0, "{name}");
    }
    let labels: String = samples.keys().cloned().collect();
    assert!(!labels.contains(&sandbox.id), "a label names a sandbox");
    let unknown: Vec<_> = in_dashboard().into_iter().filter(|name| !is_sampled(&samples, name)).collect();
    assert!(unknown.is_empty(), "the dashboard shows what there is not: {unknown:?}");
}

/// The names that the expressions of the dashboard ask for.
fn in_dashboard() -> BTreeSet<String> {
    fn expressions<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str));
                fields.values().for_each(|value| expressions(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| expressions(value, found)),
            _ => {}
        }
    }
    let dashboard = serde_json::from_str(include_str!("../../systemd/grafana.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let words =
        found.iter().flat_map(|text| text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'));
    let names = words.filter(|word| word.starts_with("handsd_") || word.starts_with("process_"));
    names.map(str::to_owned).collect()
}

/// A scrape has a sample of this name, whatever its labels.
fn is_sampled(samples: &BTreeMap<String, f64>, name: &str) -> bool {
    samples.keys().any(|key| key.split('{').next() == Some(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_and_what_is_started_again_are_counted() {
    let config = "[runtime]\nrestart_after = '10ms'\nbudget = 2\n".to_owned();
    let Some(daemon) = Daemon::start_with(Options { http: true, config, ..Options::default() }).await else { return };
    let sandbox = daemon.sandbox().await;
    let init = Pid::from_raw(i32::try_from(daemon.init(&sandbox)).unwrap());
    kill(init, Signal::SIGKILL).unwrap();
    let crashed = ("handsd_sandbox_crashes_total", 1.0);
    shows(&daemon, &[crashed, ("handsd_restarts_total{what=\"sandbox\"}", 0.0)]).await;
    sandbox.run(shell("true")).await.unwrap();
    shows(&daemon, &[crashed, ("handsd_restarts_total{what=\"sandbox\"}", 1.0)]).await;

    let runtime = Runtime { command: "exit 1".to_owned(), ..Default::default() };
    let request = CreateSandboxRequest { runtime: Some(runtime), ..Default::default() };
    let fails = daemon.sandboxes().create(request).await.unwrap().into_inner().id;
    // The first start is none again.
    shows(&daemon, &[("handsd_restarts_total{what=\"runtime\"}", 1.0)]).await;
    daemon.sandboxes().destroy(DestroySandboxRequest { sandbox_id: fails }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_that_are_taken_over_are_counted() {
    let Some(mut daemon) = start(true).await else { return };
    let sandbox = daemon.sandbox().await;
    daemon.kill_and_restart().await;
    // Of the second daemon: the first one's line is there still.
    eventually(SOON, || async { expect(daemon.log().matches("serving HTTP").count() == 2, "no HTTP yet") }).await;
    shows(&daemon, &[("handsd_sandbox_adoptions_total", 1.0), ("handsd_sandboxes{phase=\"running\"}", 1.0)]).await;
    let request = handsd::api::proto::DestroySandboxRequest { sandbox_id: sandbox.id.clone() };
    daemon.sandboxes().destroy(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_no_fault_with_them() {
    let Some(daemon) = start(false).await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.run(shell("true")).await.unwrap();
    let (_, text) = probe::get(&daemon.http_address().await, &format!("/metrics?api_key={}", daemon.key())).await;
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        println!("skipped: no promtool here (Debian's prometheus)");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}
