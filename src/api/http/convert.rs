//! Between the JSON of the sandbox API and the domain. Pure.
//!
//! What comes in becomes the message that gRPC would have brought, so that [`crate::api::convert`] checks and bounds both.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::Problem;
use crate::api::status::Fault;
use crate::api::{convert as messages, proto};
use crate::guest::client::ExitStatus;
use crate::hands::files::{FileInfo, FileKind};
use crate::hands::{Exited, Program, Reason, Run, Started, Stdio};
use crate::ids::SandboxId;
use crate::sandbox::state::Phase;
use crate::sandbox::{IdleTimeout, Sandbox, Snapshot};

const MIB: u64 = 1 << 20;

/// Templates of the hosted service that stand for this node's default image.
const DEFAULT_TEMPLATES: [&str; 3] = ["", "base", "default"];

/// Deadline of a command whose caller waits for its result and names none, in seconds; the client's own default.
const RUN_TIMEOUT: u64 = 60;

/// What a shell answers for a command that a signal has ended: this and the signal's number.
const SIGNAL_CODE: i32 = 128;
/// What timeout(1) answers for a command that it has ended.
const TIMED_OUT_CODE: i32 = 124;
/// Nobody knows how the command has ended.
const LOST_CODE: i32 = -1;

/// A sandbox that is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateSandbox {
    /// An image reference, or a word for the node's default.
    #[serde(rename = "templateID")]
    template: String,
    /// Seconds without use after which it goes to sleep; 0: it does not.
    timeout: Option<u64>,
    envs: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
    cpu_count: f64,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    #[serde(rename = "diskMB")]
    disk_mb: u64,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Fields that this node has nothing for.
const LACKING: [&str; 8] =
    ["burst", "image", "previewAuth", "sandboxFamily", "secretStore", "snapshot", "volumes", "webhooks"];

impl CreateSandbox {
    /// The message that asks for the same.
    ///
    /// # Errors
    /// The first field that asks for what this node lacks.
    pub fn into_message(self, key: String) -> Result<proto::CreateSandboxRequest, Problem> {
        let is_wanted = |field: &&&str| self.rest.get(**field).is_some_and(|value| !is_nothing(value));
        if let Some(field) = LACKING.iter().find(is_wanted) {
            return Err(lacking(field));
        }
        let bytes = |megabytes: u64| megabytes.saturating_mul(MIB);
        Ok(proto::CreateSandboxRequest {
            image: if DEFAULT_TEMPLATES.contains(&self.template.as_str()) { String::new() } else { self.template },
            env: self.envs,
            labels: self.metadata,
            limits: Some(proto::Limits {
                memory_bytes: bytes(self.memory_mb),
                cpus: self.cpu_count,
                disk_bytes: bytes(self.disk_mb),
                ..Default::default()
            }),
            idle_timeout: self.timeout.map(seconds),
            idempotency_key: key,
            ..Default::default()
        })
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn lacking(field: &str) -> Problem {
    Problem { param: Some(field.to_owned()), ..Problem::lacking(field) }
}

fn seconds(seconds: u64) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}

/// An error of a message, about the field of the JSON that it came from.
#[must_use]
pub fn renamed(fault: Fault) -> Problem {
    let problem = Problem::from(fault);
    let renamed = problem.param.as_deref().and_then(|param| NAMES.iter().find(|(theirs, _)| *theirs == param));
    let Some((theirs, ours)) = renamed else { return problem };
    let message = match problem.message.strip_prefix(theirs) {
        Some(rest) => format!("{ours}{rest}"),
        None => problem.message,
    };
    Problem { message, param: Some((*ours).to_owned()), ..problem }
}

/// Fields of messages that have another name in JSON.
const NAMES: [(&str, &str); 8] = [
    ("argv", "cmd"),
    ("env", "envs"),
    ("idle_timeout", "timeout"),
    ("image", "templateID"),
    ("labels", "metadata"),
    ("limits.cpus", "cpuCount"),
    ("limits.disk_bytes", "diskMB"),
    ("limits.memory_bytes", "memoryMB"),
];

/// When a sandbox goes to sleep, from the client's seconds; 0 is never.
///
/// # Errors
/// It is too long.
pub fn idle(timeout: u64) -> Result<IdleTimeout, Problem> {
    messages::idle_timeout(seconds(timeout)).map_err(renamed)
}

/// Limits of nothing but memory.
#[must_use]
pub fn memory(megabytes: u64) -> proto::Limits {
    proto::Limits { memory_bytes: megabytes.saturating_mul(MIB), ..Default::default() }
}

/// A sandbox as it stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxView {
    #[serde(rename = "sandboxID")]
    id: String,
    /// In the client's words.
    status: &'static str,
    /// In ours.
    phase: &'static str,
    generation: u64,
    #[serde(rename = "templateID")]
    template: String,
    region: &'static str,
    #[serde(rename = "workerID")]
    worker: &'static str,
    metadata: BTreeMap<String, String>,
    /// Seconds; 0: never.
    timeout: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_count: Option<f64>,
    #[serde(rename = "memoryMB", skip_serializing_if = "Option::is_none")]
    memory_mb: Option<u64>,
    #[serde(rename = "diskMB", skip_serializing_if = "Option::is_none")]
    disk_mb: Option<u64>,
    started_at: String,
    engine: String,
    running: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A sandbox as it stands.
#[must_use]
pub fn sandbox(sandbox: &Sandbox, snapshot: &Snapshot) -> SandboxView {
    let profile = sandbox.profile();
    let (status, phase) = words(&snapshot.phase);
    SandboxView {
        id: profile.id.to_string(),
        status,
        phase,
        generation: snapshot.generation,
        template: profile.image.to_string(),
        region: "local",
        worker: "local",
        metadata: profile.labels.clone(),
        timeout: match snapshot.idle {
            IdleTimeout::After(timeout) => timeout.as_secs(),
            IdleTimeout::Never => 0,
        },
        cpu_count: snapshot.limits.cpus,
        memory_mb: snapshot.limits.memory.map(|bytes| bytes / MIB),
        disk_mb: snapshot.limits.disk.map(|bytes| bytes / MIB),
        started_at: time(profile.created_at),
        engine: profile.engine.clone(),
        running: snapshot.hands.as_ref().map_or(0, |hands| hands.running()),
        error: snapshot.phase.failure().map(|failure| failure.message.to_string()),
    }
}

/// A phase in the client's words and in ours.
fn words(phase: &Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Creating => ("creating", "creating"),
        Phase::Running => ("running", "running"),
        Phase::Hibernating => ("running", "hibernating"),
        Phase::Hibernated(_) => ("hibernated", "hibernated"),
        Phase::Waking(_) => ("hibernated", "waking"),
        Phase::Crashed(_) => ("error", "crashed"),
        Phase::Failed(_) => ("error", "failed"),
        Phase::Destroying => ("stopped", "destroying"),
        Phase::Destroyed => ("stopped", "destroyed"),
    }
}

/// A command that is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Exec {
    cmd: String,
    args: Vec<String>,
    envs: BTreeMap<String, String>,
    cwd: String,
    /// Seconds; 0: none.
    timeout: Option<u64>,
    max_run_after_disconnect: u64,
}

impl Exec {
    /// A command that callers attach to: its stdin is open, and it has no deadline unless the caller names one.
    ///
    /// # Errors
    /// It shall end with its client, which this node lacks.
    pub fn into_attachable(self, sandbox: String) -> Result<proto::BashRequest, Problem> {
        if self.max_run_after_disconnect > 0 {
            return Err(lacking("maxRunAfterDisconnect"));
        }
        Ok(proto::BashRequest { stdin: true, ..self.into_message(sandbox, 0) })
    }

    /// A command whose result is waited for.
    #[must_use]
    pub fn into_awaited(self, sandbox: String) -> proto::BashRequest {
        self.into_message(sandbox, RUN_TIMEOUT)
    }

    fn into_message(self, sandbox_id: String, timeout: u64) -> proto::BashRequest {
        let program = Some(self.cmd).filter(|cmd| !cmd.is_empty());
        proto::BashRequest {
            sandbox_id,
            argv: program.into_iter().chain(self.args).collect(),
            env: self.envs,
            cwd: self.cwd,
            timeout: Some(seconds(self.timeout.unwrap_or(timeout))),
            ..Default::default()
        }
    }
}

/// A terminal that is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Terminal {
    cols: u32,
    rows: u32,
    shell: String,
    cwd: String,
    envs: BTreeMap<String, String>,
}

/// Starts the best shell that the image has.
const ANY_SHELL: &str = "command -v bash >/dev/null && exec bash -i; exec sh -i";

impl Terminal {
    /// The message that asks for the same.
    #[must_use]
    pub fn into_message(self, sandbox_id: String) -> proto::BashRequest {
        let (command, argv) = match self.shell {
            shell if shell.is_empty() => (Some(ANY_SHELL.to_owned()), Vec::new()),
            shell => (None, vec![shell]),
        };
        proto::BashRequest {
            sandbox_id,
            command,
            argv,
            env: self.envs,
            cwd: self.cwd,
            timeout: Some(seconds(0)),
            pty: Some(proto::Pty { rows: self.rows, cols: self.cols, ..Default::default() }),
            ..Default::default()
        }
    }
}

/// A run as it stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    #[serde(rename = "sessionID")]
    id: String,
    #[serde(rename = "sandboxID")]
    sandbox: String,
    command: String,
    args: Vec<String>,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_ms: Option<u64>,
    output_bytes: u64,
    pty: bool,
    attached_clients: usize,
}

/// A run as it stands; `None` before it has started.
#[must_use]
pub fn run(sandbox: &SandboxId, run: &Run, attached_clients: usize) -> Option<RunView> {
    let Started { id, at, deadline, spool, .. } = run.started()?;
    let (command, args) = match &run.command().program {
        Program::Shell(line) => (line.clone(), Vec::new()),
        Program::Argv(argv) => {
            argv.split_first().map(|(program, args)| (program.clone(), args.to_vec())).unwrap_or_default()
        }
    };
    let exited = run.exited();
    Some(RunView {
        id: id.to_string(),
        sandbox: sandbox.to_string(),
        command,
        args,
        running: exited.is_none(),
        exit_code: exited.as_ref().map(exit_code),
        reason: exited.as_ref().map(|exited| reason(exited.reason)),
        started_at: time(at),
        deadline: deadline.map(time),
        elapsed_ms: exited.map(|exited| u64::try_from(exited.elapsed.as_millis()).unwrap_or(u64::MAX)),
        output_bytes: spool.len(),
        pty: matches!(run.command().stdio, Stdio::Terminal { .. }),
        attached_clients,
    })
}

/// How a command ended, as one number.
#[must_use]
pub fn exit_code(exited: &Exited) -> i32 {
    match (exited.reason, exited.status) {
        (Reason::TimedOut, _) => TIMED_OUT_CODE,
        (_, Some(ExitStatus::Code(code))) => code,
        (_, Some(ExitStatus::Signal(signal))) => SIGNAL_CODE + signal,
        (_, None) => LOST_CODE,
    }
}

/// Why it ended.
#[must_use]
pub fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Exited => "exited",
        Reason::Signaled => "signaled",
        Reason::TimedOut => "timed_out",
        Reason::Canceled => "canceled",
        Reason::OomKilled => "oom_killed",
        Reason::SandboxLost => "sandbox_lost",
    }
}

/// What a command has come to so far.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultView {
    /// It has not ended.
    pub running: bool,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What it wrote there.
    pub stdout: String,
    /// What it wrote there.
    pub stderr: String,
    /// There was more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// What went wrong with it that is not its own doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// From its start to its end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_ms: Option<u64>,
}

/// An entry of a directory.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView {
    name: String,
    path: String,
    is_dir: bool,
    size: u64,
    mode: u32,
    modified_at: i64,
}

/// An entry of a directory. Names are bytes; what is no UTF-8 in them is replaced.
#[must_use]
pub fn entry(info: &FileInfo) -> EntryView {
    let path = String::from_utf8_lossy(&info.path).into_owned();
    EntryView {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        path,
        is_dir: info.kind == FileKind::Directory,
        size: info.size,
        mode: info.mode,
        modified_at: info.mtime,
    }
}

/// A time as RFC 3339 writes it, in UTC.
#[must_use]
pub fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn create(json: Value) -> Result<proto::CreateSandboxRequest, Problem> {
        serde_json::from_value::<CreateSandbox>(json).unwrap().into_message(String::new())
    }

    #[test]
    fn what_the_client_asks_for_is_what_grpc_would_bring() {
        let message = create(json!({
            "templateID": "debian:12",
            "timeout": 0,
            "envs": { "A": "1" },
            "metadata": { "team": "x" },
            "cpuCount": 2,
            "memoryMB": 512,
            "burst": false,
            "webhooks": [],
        }));
        let message = message.unwrap();
        assert_eq!(message.image, "debian:12");
        assert_eq!(message.idle_timeout, Some(prost_types::Duration::default()));
        assert_eq!(message.limits.unwrap().memory_bytes, 512 << 20);
        assert_eq!(message.labels["team"], "x");
        assert_eq!(create(json!({ "templateID": "base" })).unwrap().image, "");
        assert_eq!(create(json!({ "templateID": "base" })).unwrap().idle_timeout, None);
    }

    #[test]
    fn what_this_node_lacks_is_named() {
        let problem = create(json!({ "image": { "base": "x", "steps": [] } })).unwrap_err();
        assert_eq!(problem.param.as_deref(), Some("image"));
        assert_eq!(problem.status, axum::http::StatusCode::NOT_IMPLEMENTED);
        let exec: Exec = serde_json::from_value(json!({ "cmd": "ls", "maxRunAfterDisconnect": 5 })).unwrap();
        assert_eq!(exec.into_attachable("sb".to_owned()).unwrap_err().param.as_deref(), Some("maxRunAfterDisconnect"));
    }

    #[test]
    fn an_end_is_one_number_and_a_lost_one_is_never_0() {
        let exited = |reason, status| exit_code(&Exited { reason, status, elapsed: Duration::ZERO, ..Exited::lost() });
        assert_eq!(exited(Reason::Exited, Some(ExitStatus::Code(7))), 7);
        assert_eq!(exited(Reason::Signaled, Some(ExitStatus::Signal(9))), 137);
        assert_eq!(exited(Reason::TimedOut, Some(ExitStatus::Code(0))), 124);
        assert_eq!(exited(Reason::SandboxLost, None), -1);
    }
}
