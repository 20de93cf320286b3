//! The node: what it is, and how it is doing.

use axum::extract::State;
use serde_json::{Value, json};

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

async fn document(State(surface): State<Shared>) -> axum::Json<Value> {
    axum::Json(routes::document(&surface.operations))
}

async fn node(State(surface): State<Shared>) -> axum::Json<Value> {
    let info = &surface.node;
    let load = nix::sys::sysinfo::sysinfo().ok().map(|system| system.load_average());
    let load = load.map(|(one, five, fifteen)| [one, five, fifteen]);
    let started_at = info.started_at.and_then(|at| std::time::SystemTime::try_from(at).ok()).map(time);
    axum::Json(json!({
        "version": info.version,
        "engine": info.engine,
        "kernel": info.kernel,
        "cgroup": info.cgroup,
        "rootless": info.rootless,
        "lacks": info.lacks,
        "cpus": info.cpus,
        "memoryBytes": info.memory_bytes,
        "memoryAvailableBytes": available_memory(),
        "loadAverage": load,
        "startedAt": started_at,
        "ready": surface.health.borrow().is_ready(),
        "sandboxes": surface.sandboxes.count(),
        "maxSandboxes": surface.sandboxes.defaults().max_sandboxes,
        "running": surface.sandboxes.running(),
    }))
}

/// What the kernel says could be used without swapping (proc_meminfo(5)); a read of it never waits for a disk.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
