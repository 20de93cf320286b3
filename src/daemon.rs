//! Wiring: start-up in order, serving, and the way down.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::Flock;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

use crate::api::convert::Deadlines;
use crate::api::http;
use crate::api::http::access::Access;
use crate::api::http::preview::{self, Previews};
use crate::check;
use crate::config::{Config, ListenAddress};
use crate::credential::Credentials;
use crate::health::policy::Report;
use crate::health::{self, Watched};
use crate::ids::SandboxId;
use crate::notify;
use crate::sandbox::{Sandboxes, attend, reconcile, relieve};
use crate::seal::Sealer;
use crate::session::Sessions;
use crate::store::Store;
use crate::telemetry::chain;
use crate::telemetry::export::Exporter;
use crate::telemetry::spans::Spans;
use crate::webhook::{self, Reach, Webhooks};
use brains::brains;
pub use brains::cages;
use directory::{check_store, lock_state, open_store};
use engines::start_engine;
pub use error::DaemonError;
use front::Front;
use services::Services;
use settings::{defaults, node_info};
use strangers::remove_strangers;
pub use strangers::{Sweep, Swept, sweep};
use web::Web;

mod brains;
mod directory;
mod engines;
mod error;
mod front;
mod services;
mod settings;
mod strangers;
mod web;

/// How long calls that are under way may take to end when the daemon does.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// How long the sandboxes may take to be removed then.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// A daemon that serves.
pub struct Daemon {
    sandboxes: Sandboxes,
    sessions: Sessions,
    /// Told when a caller wants the daemon to end.
    end: CancellationToken,
    webhooks: Webhooks,
    servers: JoinSet<()>,
    stop: CancellationToken,
    /// From when it takes no more work.
    draining: CancellationToken,
    /// How the node is.
    health: watch::Sender<Report>,
    grpc: Vec<ListenAddress>,
    http: Option<SocketAddr>,
    front: Front,
    /// What is in force.
    config: Config,
    /// Keeps others away from the state directory.
    _lock: Flock<fs::File>,
}

impl Daemon {
    /// Starts: state, engine, what a killed daemon left, listeners.
    ///
    /// # Errors
    /// See [`DaemonError`].
    pub async fn start(config: &Config) -> Result<Self, DaemonError> {
        let lock = lock_state(&config.state_dir)?;
        check_store(&config.state_dir)?;
        let host = check::probe(&config.state_dir, None);
        let is_root = nix::unistd::geteuid().is_root();
        let (engine, resolver) = start_engine(config, is_root).await?;
        let store = open_store(&config.state_dir).await?;
        remove_strangers(&*engine, &store, &config.state_dir).await?;
        let defaults = defaults(config)?;
        let web = Web::bind(config).await?;
        let http = web.as_ref().map(Web::address);
        let node = node_info(config, &host, &*engine, is_root, http);
        let sealer = Arc::new(sealer(config)?);
        let boot = node.boot_id.clone();
        let sandboxes = Sandboxes::open(engine, store.clone(), Arc::clone(&sealer), defaults, boot).await;
        let sandboxes = sandboxes.map_err(DaemonError::Store)?;
        let stop = CancellationToken::new();
        let previews = open_previews(config, sandboxes.clone(), http, stop.clone())?;
        let credentials = Credentials::new(store.clone(), Arc::clone(&sealer));
        let sessions = open_sessions(config, is_root, credentials, sandboxes.clone(), previews.clone()).await?;
        let webhooks = open_webhooks(config, store.clone(), sessions.clone(), sealer).await?;
        let services = Services {
            previews,
            deadlines: Deadlines { default: config.run.timeout, max: config.run.max_timeout },
            sandboxes: sandboxes.clone(),
            sessions: sessions.clone(),
            node,
            end: CancellationToken::new(),
        };
        let (spans, exporter) = open_spans(config)?;
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = services.routes(health)?;
        let mut daemon = Self {
            draining: sandboxes.draining().child_token(),
            sandboxes,
            sessions,
            end: services.end.clone(),
            webhooks,
            servers: JoinSet::new(),
            stop,
            health: watch::Sender::default(),
            grpc: Vec::new(),
            http,
            front: Front::open(config, spans).map_err(DaemonError::Front)?,
            config: config.clone(),
            _lock: lock,
        };
        services::begin(&reporter).await;
        daemon.watch_over(reporter);
        if let Some(exporter) = exporter {
            daemon.servers.spawn(exporter.run(daemon.stop.clone()));
        }
        if let Some(resolver) = resolver {
            daemon.servers.spawn(resolver.serve(daemon.stop.clone()));
        }
        daemon.servers.spawn(services.previews.clone().wait());
        for address in &config.grpc {
            let at = daemon.front.serve(address, routes.clone(), &daemon.stop, &mut daemon.servers).await;
            daemon.grpc.push(at.map_err(DaemonError::Front)?);
        }
        if let Some(web) = web {
            let access = web::access(config, store).await?;
            daemon.serve_http(web, services, access);
        }
        Ok(daemon)
    }

    /// Where gRPC is served, with the ports that were chosen for port 0.
    #[must_use]
    pub fn grpc(&self) -> &[ListenAddress] {
        &self.grpc
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Puts in force what of a configuration can change while the daemon runs: clients, certificates, the audit log and
    /// the limits of calls. Answers the sections in which something else has changed, which takes a restart.
    ///
    /// # Errors
    /// [`DaemonError::Front`]; then nothing has changed.
    pub fn reload(&mut self, config: &Config) -> Result<Vec<&'static str>, DaemonError> {
        self.front.reload(config).map_err(DaemonError::Front)?;
        let waiting = self.config.waiting_for_restart(config);
        self.config.take_live(config);
        Ok(waiting)
    }

    /// Begins what goes on beside the requests.
    fn watch_over(&mut self, reporter: HealthReporter) {
        let watched = Watched {
            state_dir: self.config.state_dir.clone(),
            floors: self.config.health,
            of_engine: services::OF_ENGINE.to_vec(),
            of_daemon: services::OF_DAEMON.to_vec(),
        };
        let (sandboxes, published) = (self.sandboxes.clone(), self.health.clone());
        let (draining, stop) = (self.draining.clone(), self.stop.clone());
        self.servers.spawn(async move {
            let (engine, store) = (sandboxes.engine(), sandboxes.store());
            health::watch(engine, store, watched, reporter, published, draining, stop).await;
        });
        self.servers.spawn(notify::keep(self.sandboxes.clone(), self.health.subscribe(), self.stop.clone()));
        self.servers.spawn(reconcile(self.sandboxes.clone(), self.stop.clone()));
        self.servers.spawn(self.sandboxes.clone().keep_reserve(self.draining.clone()));
        self.servers.spawn(attend(self.sandboxes.clone(), self.stop.clone()));
        self.servers.spawn(relieve(self.sandboxes.clone(), self.config.sandbox.pressure, self.stop.clone()));
    }

    fn serve_http(&mut self, web: Web, services: Services, access: Access) {
        let tasks = TaskTracker::new();
        let settings = http::Settings {
            sandboxes: services.sandboxes,
            sessions: services.sessions,
            webhooks: self.webhooks.clone(),
            deadlines: services.deadlines,
            node: services.node,
            health: self.health.subscribe(),
            access,
            spans: self.front.spans(),
            stop: self.stop.clone(),
            tasks: tasks.clone(),
        };
        let router = preview::mount(http::router(settings), services.previews);
        let serving = web.serve(router, self.front.web(), tasks, self.stop.clone());
        self.servers.spawn(serving);
    }

    /// Waits until a caller wants the daemon to end. Cancel-safe.
    pub async fn told_to_end(&self) {
        self.end.cancelled().await;
    }

    /// Removes all sandboxes, and makes no more.
    pub async fn remove_all(&self) {
        self.draining.cancel();
        if timeout(CLOSE_DEADLINE, self.sandboxes.close()).await.is_err() {
            tracing::error!("not all sandboxes could be removed in time; the next start removes the rest");
        }
    }

    /// Ends: no new calls, and calls under way done or cut off. Sandboxes and their runs go on; the next daemon takes them
    /// over, as it would if this one were killed.
    pub async fn stop(mut self) {
        self.draining.cancel();
        self.webhooks.close().await;
        self.sessions.close().await;
        self.stop.cancel();
        let all = async { while self.servers.join_next().await.is_some() {} };
        if timeout(DRAIN_DEADLINE, all).await.is_err() {
            tracing::warn!("calls under way are cut off");
            self.servers.shutdown().await;
        }
        for address in &self.grpc {
            if let ListenAddress::Unix(path) = address {
                // It may be gone already, and the next start replaces it anyway.
                let _ = fs::remove_file(path);
            }
        }
        if let Err(error) = self.sandboxes.store().clone().close().await {
            tracing::error!(error = %chain(&error), "the store did not end well");
        }
    }
}

/// The node's key, which seals secrets.
fn sealer(config: &Config) -> Result<Sealer, DaemonError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    Sealer::open_key(credentials.as_deref(), &config.state_dir.join("seal.key")).map_err(DaemonError::Seal)
}

/// Where calls that have ended are handed over, and what sends them to a collector, if there is one.
fn open_spans(config: &Config) -> Result<(Spans, Option<Exporter>), DaemonError> {
    let Some(url) = &config.telemetry.otlp else { return Ok((Spans::default(), None)) };
    let (spans, exporter) = Exporter::open(url).map_err(DaemonError::Telemetry)?;
    Ok((spans, Some(exporter)))
}

/// The sessions, with the brains that are installed.
async fn open_sessions(
    config: &Config,
    is_root: bool,
    credentials: Credentials,
    sandboxes: Sandboxes,
    previews: Previews,
) -> Result<Sessions, DaemonError> {
    let preview =
        move |sandbox: &SandboxId, port| Some(previews.links(sandbox, port).url).filter(|url| !url.is_empty());
    let (store, contents) = (sandboxes.store().clone(), config.state_dir.join("content"));
    let opened =
        Sessions::open(store, credentials, sandboxes, contents, Arc::new(preview), brains(config, is_root)).await;
    opened.map_err(DaemonError::Sessions)
}

/// The webhooks of the sessions.
async fn open_webhooks(
    config: &Config,
    store: Store,
    sessions: Sessions,
    sealer: Arc<Sealer>,
) -> Result<Webhooks, DaemonError> {
    let settings = webhook::Settings {
        reach: if config.http.private_webhooks { Reach::Anywhere } else { Reach::Public },
        first_retry: config.http.webhook_retry,
    };
    Webhooks::open(store, sessions, sealer, settings).await.map_err(DaemonError::Webhooks)
}

/// The HTTP previews of ports, whose tokens are made with a key in the state directory.
fn open_previews(
    config: &Config,
    sandboxes: Sandboxes,
    http: Option<SocketAddr>,
    stop: CancellationToken,
) -> Result<Previews, DaemonError> {
    let tokens = preview::token::Tokens::open(&config.state_dir);
    let tokens = tokens.map_err(|source| DaemonError::State { path: config.state_dir.clone(), source })?;
    Ok(Previews::new(sandboxes, tokens, config.network.preview_domain.clone(), http, stop))
}
