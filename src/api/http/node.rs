//! The node: what it is, and how it is doing.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Shared;
use super::convert::time;
use super::routes::{self, Routes};

/// Its routes.
pub fn routes() -> Routes {
    Routes::default().get("/api/node", "Shows what the node is, and its load", node).get(
        "/openapi.json",
        "This document",
        document,
    )
}

/// The node as it stands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    version: String,
    engine: String,
    kernel: String,
    cgroup: String,
    rootless: bool,
    lacks: Vec<String>,
    cpus: u32,
    memory_bytes: u64,
    memory_available_bytes: Option<u64>,
    /// Of one, five and fifteen minutes; none where the kernel does not tell.
    load_average: Vec<f64>,
    started_at: Option<String>,
    ready: bool,
    sandboxes: usize,
    max_sandboxes: usize,
    /// Runs that have not ended.
    running: usize,
}

async fn document(State(surface): State<Shared>) -> axum::Json<Value> {
    axum::Json(routes::document(&surface.operations))
}

async fn node(State(surface): State<Shared>) -> axum::Json<NodeView> {
    let info = surface.node.clone();
    let load = nix::sys::sysinfo::sysinfo().ok().map(|system| system.load_average());
    axum::Json(NodeView {
        version: info.version,
        engine: info.engine,
        kernel: info.kernel,
        cgroup: info.cgroup,
        rootless: info.rootless,
        lacks: info.lacks,
        cpus: info.cpus,
        memory_bytes: info.memory_bytes,
        memory_available_bytes: available_memory(),
        load_average: load.map(|(one, five, fifteen)| vec![one, five, fifteen]).unwrap_or_default(),
        started_at: info.started_at.and_then(|at| std::time::SystemTime::try_from(at).ok()).map(time),
        ready: surface.health.borrow().is_ready(),
        sandboxes: surface.sandboxes.count(),
        max_sandboxes: surface.sandboxes.defaults().max_sandboxes,
        running: surface.sandboxes.running(),
    })
}

/// What the kernel says could be used without swapping (proc_meminfo(5)); a read of it never waits for a disk.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
