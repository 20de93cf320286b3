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
use crate::hands::files::{FileInfo, FileKind};
use crate::network::secrets::Place;
use crate::sandbox::state::Phase;
use crate::sandbox::{IdleTimeout, Sandbox, Snapshot};
use runtime::{Runtime, RuntimeView};

mod runs;
mod runtime;

pub use runs::{Exec, HandleView, ResultView, RunView, Terminal, exit_code, handle, run};

const MIB: u64 = 1 << 20;

/// The region and the worker of every sandbox, of which the client wants to know.
const LOCAL: &str = "local";

/// Templates of the hosted service that stand for this node's default image.
const DEFAULT_TEMPLATES: [&str; 3] = ["", "base", "default"];

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
    // What the hosted service does not know.
    /// What it keeps running.
    runtime: Option<Runtime>,
    /// Environment that is told to nobody.
    secret_envs: BTreeMap<String, String>,
    // What this node has nothing for.
    burst: Value,
    image: Value,
    preview_auth: Value,
    sandbox_family: Value,
    secret_store: Value,
    snapshot: Value,
    volumes: Value,
    webhooks: Value,
}

impl CreateSandbox {
    /// The message that asks for the same.
    ///
    /// # Errors
    /// The first field that asks for what this node lacks.
    pub fn into_message(self, key: String) -> Result<proto::CreateSandboxRequest, Problem> {
        let unknown = [
            ("burst", &self.burst),
            ("image", &self.image),
            ("previewAuth", &self.preview_auth),
            ("sandboxFamily", &self.sandbox_family),
            ("secretStore", &self.secret_store),
            ("snapshot", &self.snapshot),
            ("volumes", &self.volumes),
            ("webhooks", &self.webhooks),
        ];
        if let Some((field, _)) = unknown.into_iter().find(|(_, value)| !is_nothing(value)) {
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
            runtime: self.runtime.map(Runtime::into_message),
            secret_env: self.secret_envs,
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
const NAMES: [(&str, &str); 12] = [
    ("argv", "cmd"),
    ("env", "envs"),
    ("idle_timeout", "timeout"),
    ("image", "templateID"),
    ("labels", "metadata"),
    ("limits.cpus", "cpuCount"),
    ("limits.disk_bytes", "diskMB"),
    ("limits.memory_bytes", "memoryMB"),
    ("runtime.env", "runtime.envs"),
    ("runtime.health.start_period", "runtime.health.startPeriod"),
    ("runtime.stop_grace", "runtime.stopGrace"),
    ("secret_env", "secretEnvs"),
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
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxView {
    #[serde(rename = "sandboxID")]
    id: String,
    /// In the client's words.
    status: String,
    /// In ours.
    phase: String,
    generation: u64,
    #[serde(rename = "templateID")]
    template: String,
    region: String,
    #[serde(rename = "workerID")]
    worker: String,
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
    /// How what it keeps running stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<RuntimeView>,
    /// Where its secrets go, and the names of its secret environment. What they are is told to nobody.
    secrets: Vec<SecretView>,
    secret_envs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Where a secret goes: into which header of requests to which names.
#[derive(Debug, Serialize, Deserialize)]
struct SecretView {
    name: String,
    header: String,
    /// It goes over connections without TLS too.
    plain: bool,
}

impl From<&Place> for SecretView {
    fn from(Place { rule, header, plain }: &Place) -> Self {
        Self { name: rule.to_string(), header: header.as_str().to_owned(), plain: *plain }
    }
}

/// A sandbox as it stands.
#[must_use]
pub fn sandbox(sandbox: &Sandbox, snapshot: &Snapshot) -> SandboxView {
    let profile = sandbox.profile();
    SandboxView {
        id: profile.id.to_string(),
        status: status(&snapshot.phase).to_owned(),
        phase: snapshot.phase.name().to_owned(),
        generation: snapshot.generation,
        template: profile.image.to_string(),
        region: LOCAL.to_owned(),
        worker: LOCAL.to_owned(),
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
        runtime: snapshot.runtime.as_ref().map(runtime::view),
        secrets: snapshot.secrets.iter().map(SecretView::from).collect(),
        secret_envs: profile.secret_env.iter().cloned().collect(),
        error: snapshot.phase.failure().map(|failure| failure.message.to_string()),
    }
}

/// A phase in the client's words.
fn status(phase: &Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Running | Phase::Hibernating => "running",
        Phase::Hibernated(_) | Phase::Waking(_) => "hibernated",
        Phase::Crashed(_) | Phase::Failed(_) => "error",
        Phase::Destroying | Phase::Destroyed => "stopped",
    }
}

/// An entry of a directory.
#[derive(Debug, Serialize, Deserialize)]
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
    fn what_is_to_be_kept_running_is_what_grpc_would_bring() {
        let message = create(json!({ "runtime": {
            "command": "exec ./serve",
            "restart": "always",
            "health": { "command": "curl localhost", "interval": 0.5 },
            "stopGrace": 3,
        } }));
        let runtime = message.unwrap().runtime.unwrap();
        assert_eq!((runtime.command.as_str(), runtime.restart()), ("exec ./serve", proto::runtime::Restart::Always));
        assert_eq!(runtime.stop_grace, Some(prost_types::Duration { seconds: 3, nanos: 0 }));
        let health = runtime.health.unwrap();
        assert_eq!(health.interval, Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 }));
        assert_eq!(health.check, Some(proto::health::Check::Command("curl localhost".to_owned())));
        let problem = renamed(Fault::argument("runtime.stop_grace", "is too long"));
        assert_eq!(problem.message, "runtime.stopGrace: is too long");
    }

    #[test]
    fn what_this_node_lacks_is_named() {
        let problem = create(json!({ "image": { "base": "x", "steps": [] } })).unwrap_err();
        assert_eq!(problem.param.as_deref(), Some("image"));
        assert_eq!(problem.status, axum::http::StatusCode::NOT_IMPLEMENTED);
    }
}
