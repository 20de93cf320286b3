//! The HTTP surface: the sessions and the sandbox API of OpenComputer's client, a page to look at, and probes.
//!
//! | file | owns |
//! |---|---|
//! | `access` | what stands before every route: request ids, `Host`, `Origin`, the key |
//! | `span` | a request in the log and in traces |
//! | `policy` | what of these a request needs (pure) |
//! | `key` | the key and its file |
//! | `problem`, `status` | errors in the form of each API; from the domain's to them (pure) |
//! | `routes` | the table of routes, and the OpenAPI document made of it |
//! | `schema` | what a type reads from JSON, for that document |
//! | `body` | JSON and queries whose errors name the field |
//! | `convert` | between the JSON of the sandbox API and the domain (pure) |
//! | `probes` | /livez, /readyz and /metrics |
//! | `node`, `sandboxes`, `exec`, `terminal`, `files` | a resource each |
//! | `socket`, `watch` | a run over a WebSocket; the sandboxes as an event stream |
//! | `mcp` | tools of sandboxes and sessions, for any client of the Model Context Protocol |
//! | `lacking` | what the client knows and this node does not have |
//! | `v3` | durable sessions |
//! | `token` | client tokens |
//! | `page` | the page |
//! | [`preview`] | what listens in sandboxes, in front of all else |

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, Method, StatusCode};
use axum::{Router, middleware};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::compression::predicate::{NotForContentType, Predicate};
use tower_http::compression::{CompressionLayer, DefaultPredicate};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::convert::Deadlines;
use super::proto::NodeInfo;
use crate::health::policy::Report;
use crate::sandbox::Sandboxes;
use crate::session::Sessions;
use crate::telemetry::spans::Spans;
use crate::webhook::Webhooks;

pub mod access;
mod body;
mod convert;
mod exec;
mod files;
pub mod key;
mod lacking;
mod mcp;
mod node;
mod page;
pub mod policy;
pub mod preview;
mod probes;
pub mod problem;
mod routes;
mod sandboxes;
mod schema;
mod socket;
mod span;
mod status;
mod terminal;
pub mod token;
mod v3;
mod watch;

use access::Access;
use mcp::Mcp;
use problem::Problem;
use routes::Operation;
use socket::Viewers;

/// Bytes of a body that is JSON. A command with its environment is at most 1 MiB, and JSON may write each byte as six.
const MAX_BODY: usize = 8 << 20;

/// What the surface needs of the daemon.
pub struct Settings {
    /// The sandboxes.
    pub sandboxes: Sandboxes,
    /// The sessions.
    pub sessions: Sessions,
    /// Their webhooks.
    pub webhooks: Webhooks,
    /// Bounds of deadlines.
    pub deadlines: Deadlines,
    /// What does not change of the node while the daemon runs.
    pub node: NodeInfo,
    /// How the node is.
    pub health: channel::Receiver<Report>,
    /// Who may come in.
    pub access: Access,
    /// Where the spans of requests go.
    pub spans: Spans,
    /// Streams end when it is told.
    pub stop: CancellationToken,
    /// Owns the conversations that outlive their request.
    pub tasks: TaskTracker,
}

/// What handlers share.
struct Surface {
    sandboxes: Sandboxes,
    sessions: Sessions,
    webhooks: Webhooks,
    access: Arc<Access>,
    deadlines: Deadlines,
    node: NodeInfo,
    health: channel::Receiver<Report>,
    cpus: f64,
    stop: CancellationToken,
    tasks: TaskTracker,
    viewers: Viewers,
    mcp: Mcp,
    operations: Vec<Operation>,
}

type Shared = Arc<Surface>;

/// The whole surface.
pub fn router(settings: Settings) -> Router {
    let Settings { sandboxes, sessions, webhooks, deadlines, node, health, access, spans, stop, tasks } = settings;
    let routes = node::routes()
        .and(probes::routes())
        .and(page::routes())
        .and(sandboxes::routes())
        .and(exec::routes())
        .and(terminal::routes())
        .and(files::routes())
        .and(v3::routes())
        .and(mcp::routes())
        .and(lacking::routes());
    let (router, operations) = routes.finish();
    let cpus = f64::from(node.cpus);
    let viewers = Viewers::default();
    let mcp = Mcp::new(sandboxes.clone(), sessions.clone(), stop.clone());
    let access = Arc::new(access);
    let surface = Surface {
        sandboxes,
        sessions,
        webhooks,
        access: Arc::clone(&access),
        deadlines,
        node,
        health,
        cpus,
        stop,
        tasks,
        viewers,
        mcp,
        operations,
    };
    // The last one is the outermost.
    router
        .fallback(nowhere)
        .with_state(Arc::new(surface))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&access), access::guard))
        .layer(cors(access))
        // Reads errors that are text, to give them the form of all others.
        .layer(middleware::from_fn_with_state(spans, access::frame))
        .layer(compression())
}

async fn nowhere() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing here")
}

/// Text only: a file's bytes pass as fast as they can, and an event is not held back until a block is full.
fn compression() -> CompressionLayer<impl Predicate> {
    CompressionLayer::new()
        .compress_when(DefaultPredicate::new().and(NotForContentType::const_new("application/octet-stream")))
}

/// Answers browsers that ask whether a page of another site may ask; whether it may is the guard's to say.
fn cors(access: Arc<Access>) -> CorsLayer {
    let allowed = AllowOrigin::predicate(move |origin, parts| access.allows(origin, parts));
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(Any)
        .expose_headers(["x-request-id", "x-next-cursor", "mcp-session-id"].map(HeaderName::from_static))
}
