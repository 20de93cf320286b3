//! /livez, /readyz and /metrics. The first two are open to whoever reaches the port, and tell of the node but of no sandbox;
//! the numbers take the key.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Shared;
use super::problem::Verbatim;
use super::routes::Routes;
use crate::hands::Run;
use crate::health::policy::Check;
use crate::metrics::{Census, Traffic, metrics};
use crate::network::Usage;
use crate::network::policy::Policy;
use crate::sandbox::Sandboxes;

/// The phases of sandboxes that are not gone.
const PHASES: [&str; 8] =
    ["creating", "running", "hibernating", "hibernated", "waking", "crashed", "failed", "destroying"];

/// Their routes. /livez answers, so the daemon's loop runs; /readyz says whether it takes work, or what keeps it from that.
pub fn routes() -> Routes {
    Routes::default()
        .get("/livez", "Answers as long as the daemon does", alive)
        .get("/readyz", "Answers 200 if the node takes work, else 503, and what it looked at", ready)
        .get("/metrics", "What the daemon counts and measures, for Prometheus", scrape)
}

/// It answers.
#[derive(Debug, Serialize, Deserialize)]
struct AliveView {
    status: String,
}

/// What was looked at, and whether work is taken.
#[derive(Debug, Serialize, Deserialize)]
struct ReadyView {
    status: String,
    checks: Vec<CheckView>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CheckView {
    name: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

async fn alive() -> Json<AliveView> {
    Json(AliveView { status: "ok".to_owned() })
}

async fn ready(State(surface): State<Shared>) -> (StatusCode, Verbatim<Json<ReadyView>>) {
    let report = surface.health.borrow().clone();
    let (code, status) = match report.is_ready() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let checks = report.checks.iter().map(shown).collect();
    (code, Verbatim(Json(ReadyView { status: status.to_owned(), checks })))
}

async fn scrape(State(surface): State<Shared>) -> Response {
    // A few system calls for each sandbox with an address of its own.
    let rendering = tokio::task::spawn_blocking(move || metrics().render(&census(&surface.sandboxes)));
    match rendering.await.expect("nothing in it panics") {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be told");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn census(sandboxes: &Sandboxes) -> Census {
    // Every phase is told, so that one that nobody is in any more is 0 and not as it was.
    let mut phases: BTreeMap<&'static str, usize> = PHASES.map(|phase| (phase, 0)).into();
    let (mut running, mut spool_bytes, mut traffic) = (0, 0, Vec::new());
    let (all, _) = sandboxes.list(None, usize::MAX, &BTreeMap::new());
    for sandbox in all {
        let snapshot = sandbox.snapshot();
        *phases.entry(snapshot.phase.name()).or_default() += 1;
        let network = snapshot.network.filter(|network| matches!(network.policy(), Policy::Nat | Policy::Proxy(_)));
        traffic.extend(network.map(|network| {
            let Usage { connected, refused, sent, received } = network.usage();
            Traffic { sandbox: sandbox.profile().id.clone(), connected, refused, sent, received }
        }));
        let Ok(hands) = sandbox.hands() else { continue };
        running += hands.running();
        spool_bytes += hands.runs().iter().filter_map(Run::started).map(|started| started.spool.len()).sum::<u64>();
    }
    Census { phases: phases.into_iter().collect(), running, spool_bytes, traffic }
}

fn shown(check: &Check) -> CheckView {
    let detail = check.fault.as_ref().map(ToString::to_string);
    CheckView { name: check.name.to_owned(), ok: detail.is_none(), detail }
}
