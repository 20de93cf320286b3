//! Wiring: start-up in order, serving, and the way down.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::serve::ListenerExt;
use nix::fcntl::{Flock, FlockArg};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::api::convert::Deadlines;
use crate::api::grpc::hands::HandsService;
use crate::api::grpc::node::NodeService;
use crate::api::grpc::sandboxes::SandboxesService;
use crate::api::grpc::sessions::SessionsService;
use crate::api::http;
use crate::api::http::access::Access;
use crate::api::http::key::{ApiKey, KeyError};
use crate::api::http::preview::{self, Previews};
use crate::api::http::token::Tokens;
use crate::api::proto::DESCRIPTORS;
use crate::api::proto::hands_server::HandsServer;
use crate::api::proto::node_server::NodeServer;
use crate::api::proto::sandboxes_server::SandboxesServer;
use crate::api::proto::sessions_server::SessionsServer;
use crate::check;
use crate::client::MESSAGE_BYTES;
use crate::config::{Config, HttpConfig, ListenAddress};
use crate::engine::{Engine, EngineError};
use crate::hands;
use crate::health::policy::Report;
use crate::health::{self, Watched};
use crate::ids::SandboxId;
use crate::image::ImageRefError;
use crate::network::policy::Beyond;
use crate::notify;
use crate::sandbox::{Sandboxes, reconcile, strangers};
use crate::seal::{self, Sealer};
use crate::session::{SessionError, Sessions};
use crate::store::{Store, StoreError};
use crate::telemetry::chain;
use crate::webhook::{self, Reach, WebhookError, Webhooks};
use engines::start_engine;
use front::{Front, FrontError};
use settings::{defaults, node_info};

mod engines;
mod front;
mod settings;

/// How long calls that are under way may take to end when the daemon does.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// How long the sandboxes may take to be removed then.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon uses the state directory.
    #[error("another handsd uses the state directory {}", .0.display())]
    StateInUse(PathBuf),
    /// The state directory cannot be used.
    #[error("state directory {}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The default image is none.
    #[error("sandbox.image")]
    Image(#[source] ImageRefError),
    /// The network that sandboxes get is beyond the most that they may have.
    #[error("network.default")]
    Network(#[source] Beyond),
    /// The image store cannot be opened.
    #[error("the image store")]
    Images(#[source] crate::image::ImageError),
    /// The engine cannot be started.
    #[error("the engine")]
    Engine(#[source] EngineError),
    /// The store cannot be opened or read.
    #[error("the store")]
    Store(#[source] StoreError),
    /// gRPC cannot be served as configured.
    #[error(transparent)]
    Front(FrontError),
    /// The webhooks cannot be read.
    #[error("the webhooks")]
    Webhooks(#[source] WebhookError),
    /// There is no key to seal secrets with.
    #[error("the key for secrets")]
    Seal(#[source] seal::KeyError),
    /// There is no key for the HTTP surface.
    #[error("the HTTP surface")]
    Key(#[source] KeyError),
    /// The sessions cannot be read.
    #[error("the sessions")]
    Sessions(#[source] SessionError),
    /// Reflection refuses the descriptors.
    #[error("gRPC reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
}

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
        let host = check::probe(&config.state_dir, None);
        let is_root = nix::unistd::geteuid().is_root();
        let (engine, resolver) = start_engine(config, is_root).await?;
        let store = open_store(&config.state_dir).await?;
        remove_strangers(&*engine, &store, &config.state_dir).await?;
        let defaults = defaults(config)?;
        let http = bind_http(config).await?;
        let http_address = http.as_ref().map(|(_, address)| *address);
        let info = node_info(config, &host, engine.name(), is_root, http_address);
        let sandboxes = Sandboxes::open(engine, store.clone(), defaults, info.boot_id.clone()).await;
        let sandboxes = sandboxes.map_err(DaemonError::Store)?;
        let contents = config.state_dir.join("content");
        let sessions =
            Sessions::open(store.clone(), sandboxes.clone(), contents).await.map_err(DaemonError::Sessions)?;
        let webhooks = open_webhooks(config, store.clone(), sessions.clone()).await?;
        let stop = CancellationToken::new();
        let tokens = preview::token::Tokens::open(&config.state_dir);
        let tokens = tokens.map_err(|source| DaemonError::State { path: config.state_dir.clone(), source })?;
        let domain = config.network.preview_domain.clone();
        let previews = Previews::new(sandboxes.clone(), tokens, domain, http_address, stop.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        let end = CancellationToken::new();
        let draining = sandboxes.draining().child_token();
        let deadlines = Deadlines { default: config.run.timeout, max: config.run.max_timeout };
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(DaemonError::Reflection)?;
        let mut routes = Routes::builder();
        routes
            .add_service(sized(HandsServer::new(HandsService::new(sandboxes.clone(), deadlines))))
            .add_service(SandboxesServer::new(SandboxesService::new(sandboxes.clone(), previews.clone())))
            .add_service(SessionsServer::new(SessionsService::new(sessions.clone())))
            .add_service(NodeServer::new(NodeService::new(info.clone(), sandboxes.clone(), end.clone())))
            .add_service(health_service)
            .add_service(reflection);
        health.set_serving::<HandsServer<HandsService>>().await;
        health.set_serving::<SandboxesServer<SandboxesService>>().await;
        health.set_serving::<SessionsServer<SessionsService>>().await;
        health.set_serving::<NodeServer<NodeService>>().await;
        let mut daemon = Self {
            sandboxes,
            sessions,
            end,
            webhooks,
            servers: JoinSet::new(),
            stop,
            draining,
            health: watch::Sender::default(),
            grpc: Vec::new(),
            http: http_address,
            front: Front::open(config).map_err(DaemonError::Front)?,
            config: config.clone(),
            _lock: lock,
        };
        daemon.watch_over(health);
        if let Some(resolver) = resolver {
            daemon.servers.spawn(resolver.serve(daemon.stop.clone()));
        }
        daemon.servers.spawn(previews.clone().wait());
        let routes = routes.routes();
        for address in &config.grpc {
            let at = daemon.front.serve(address, routes.clone(), &daemon.stop, &mut daemon.servers).await;
            daemon.grpc.push(at.map_err(DaemonError::Front)?);
        }
        if let Some((listener, _)) = http {
            let access = access(config, store).await?;
            let settings = http::Settings {
                sandboxes: daemon.sandboxes.clone(),
                sessions: daemon.sessions.clone(),
                webhooks: daemon.webhooks.clone(),
                deadlines,
                node: info,
                health: daemon.health.subscribe(),
                access,
                stop: daemon.stop.clone(),
                tasks: TaskTracker::new(),
            };
            daemon.serve_http(listener, settings, previews);
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
            of_engine: vec![SandboxesServer::<SandboxesService>::NAME],
            of_daemon: vec![
                HandsServer::<HandsService>::NAME,
                SessionsServer::<SessionsService>::NAME,
                NodeServer::<NodeService>::NAME,
            ],
        };
        let (sandboxes, published) = (self.sandboxes.clone(), self.health.clone());
        let (draining, stop) = (self.draining.clone(), self.stop.clone());
        self.servers.spawn(async move {
            let (engine, store) = (sandboxes.engine(), sandboxes.store());
            health::watch(engine, store, watched, reporter, published, draining, stop).await;
        });
        self.servers.spawn(notify::keep(self.sandboxes.clone(), self.health.subscribe(), self.stop.clone()));
        self.servers.spawn(reconcile(self.sandboxes.clone(), self.stop.clone()));
    }

    fn serve_http(&mut self, listener: TcpListener, settings: http::Settings, previews: Previews) {
        let stop = self.stop.clone().cancelled_owned();
        let tasks = settings.tasks.clone();
        let router = preview::mount(http::router(settings), previews);
        let server = axum::serve(listener.tap_io(tune), router).with_graceful_shutdown(stop);
        self.servers.spawn(async move {
            log_end(async move { server.await }).await;
            tasks.close();
            tasks.wait().await;
        });
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

/// What is removed by [`sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Nothing: it is only listed.
    DryRun,
    /// All of it.
    Remove,
}

/// Whose sandboxes [`sweep`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Those that no record names, because a daemon was killed while it made or removed them.
    Strangers,
    /// Those too that the next daemon would take over.
    All,
}

/// Finds what the engine has. It is no daemon's now, because this holds the lock that a daemon would. Calls `found` with each before it is removed.
///
/// # Errors
/// See [`DaemonError`].
pub async fn sweep(
    config: &Config,
    sweep: Sweep,
    swept: Swept,
    mut found: impl FnMut(&SandboxId),
) -> Result<(), DaemonError> {
    let _lock = lock_state(&config.state_dir)?;
    let (engine, _) = start_engine(config, nix::unistd::geteuid().is_root()).await?;
    let store = open_store(&config.state_dir).await?;
    let recorded = store.sandboxes().await.map_err(DaemonError::Store)?;
    let all = engine.list().await.map_err(DaemonError::Engine)?;
    let ids = match swept {
        Swept::Strangers => strangers(all, &recorded),
        Swept::All => all,
    };
    for id in ids {
        found(&id);
        if sweep == Sweep::Remove {
            engine.remove(&id).await.map_err(DaemonError::Engine)?;
        }
    }
    Ok(())
}

/// Chunks of files and output are longer than gRPC's usual limit allows with what is around them.
fn sized<T: crate::api::proto::hands_server::Hands>(server: HandsServer<T>) -> HandsServer<T> {
    server.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

async fn log_end<E: std::error::Error>(server: impl Future<Output = Result<(), E>>) {
    if let Err(error) = server.await {
        tracing::error!(error = %chain(&error), "a listener ended");
    }
}

/// Listens for HTTP, if it is to be served, and says where.
async fn bind_http(config: &Config) -> Result<Option<(TcpListener, SocketAddr)>, DaemonError> {
    let Some(address) = config.http.listen else { return Ok(None) };
    let failed = |source| DaemonError::Listen { address: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok(Some((listener, bound)))
}

/// The webhooks, whose secrets are sealed with the node's key.
async fn open_webhooks(config: &Config, store: Store, sessions: Sessions) -> Result<Webhooks, DaemonError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let sealer = Sealer::open_key(credentials.as_deref(), &config.state_dir.join("seal.key"));
    let sealer = sealer.map_err(DaemonError::Seal)?;
    let settings = webhook::Settings {
        reach: if config.http.private_webhooks { Reach::Anywhere } else { Reach::Public },
        first_retry: config.http.webhook_retry,
    };
    Webhooks::open(store, sessions, sealer, settings).await.map_err(DaemonError::Webhooks)
}

/// Who may use the HTTP surface.
async fn access(config: &Config, store: Store) -> Result<Access, DaemonError> {
    let HttpConfig { hosts, origins, key_file, key, .. } = &config.http;
    let key = match key {
        Some(key) => ApiKey::new(key.expose()),
        None => ApiKey::load_or_make(key_file),
    };
    let key = key.map_err(DaemonError::Key)?;
    let tokens = Tokens::open(&key, store).await.map_err(DaemonError::Store)?;
    Ok(Access { key, tokens, hosts: hosts.clone(), origins: origins.clone() })
}

/// How long a client may leave unread what was sent to it. One that is slower is cut off, and comes back with a cursor.
const UNREAD: Duration = Duration::from_secs(60);

/// A small answer does not wait for more to come with it, and a client that does not read is not waited for.
fn tune(stream: &mut TcpStream) {
    let unread = u32::try_from(UNREAD.as_millis()).unwrap_or(u32::MAX);
    let cut_off = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::TcpUserTimeout, &unread);
    if let Err(error) = stream.set_nodelay(true).and_then(|()| cut_off.map_err(io::Error::from)) {
        tracing::debug!(%error, "a connection stays as it is");
    }
}

/// Makes the state directory and takes it for this daemon alone.
fn lock_state(path: &Path) -> Result<Flock<fs::File>, DaemonError> {
    let failed = |source| DaemonError::State { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed)?;
    let file = fs::File::options().create(true).append(true).open(path.join("lock")).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DaemonError::StateInUse(path.to_owned())),
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// Opens the store. Blocks for some milliseconds, while nobody is served.
async fn open_store(state: &Path) -> Result<Store, DaemonError> {
    let path = state.join("store.db");
    let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
    opened.unwrap_or(Err(StoreError::Gone)).map_err(DaemonError::Store)
}

/// Removes what no record names.
async fn remove_strangers(engine: &dyn Engine, store: &Store, state: &Path) -> Result<(), DaemonError> {
    let recorded = store.sandboxes().await.map_err(DaemonError::Store)?;
    for id in strangers(engine.list().await.map_err(DaemonError::Engine)?, &recorded) {
        tracing::info!(sandbox.id = %id, "removing what no record names");
        engine.remove(&id).await.map_err(DaemonError::Engine)?;
    }
    let entries = fs::read_dir(spools(state)).into_iter().flatten().flatten();
    let present = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for id in strangers(present, &recorded) {
        hands::remove_spools(spools(state).join(id.as_str())).await;
    }
    Ok(())
}

fn spools(state: &Path) -> PathBuf {
    state.join("runs")
}
