//! The gRPC front: listeners, TLS, and the guard in front of all services.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::api::grpc::connection::{self, Connection, Listener};
use crate::api::grpc::guard::Guard;
use crate::auth::Access;
use crate::auth::audit::Audit;
use crate::auth::policy::{Proof, Roster};
use crate::auth::rate::Meter;
use crate::auth::tls::{self, ClientCertificate, TlsError};
use crate::config::{Config, ListenAddress};
use crate::metrics::Peer;
use crate::network::silence;
use crate::telemetry::chain;
use crate::telemetry::spans::Spans;

/// Silence after which a client is asked for a sign of life, so that a stream that is quiet stays open through what forgets
/// quiet connections.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How often the silence that the kernel bounds a client may take to answer: whoever is heard of no more by then hangs, and
/// has not vanished.
const PING_PATIENCE: u32 = 2;

/// Bytes that a client may send on a stream, and on all of its streams, before the daemon has taken them.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Bytes of a frame that a client may send. HTTP/2's own 16 KiB would be as many frames of a file's chunk.
const FRAME: u32 = 256 << 10;

/// Streams of one connection at once.
const MAX_STREAMS: u32 = 1024;

/// Connections that are ready and that the server has not taken yet; it takes them as fast as it can.
const READY: usize = 16;

/// A unix socket that root and the daemon's user can connect to; and one that anybody can, to be told apart by the guard.
const OWN_SOCKET: u32 = 0o600;
const SHARED_SOCKET: u32 = 0o666;

/// Why the front cannot be opened, or not as the configuration has it now.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("the certificates")]
    Tls(#[source] TlsError),
    /// The audit log cannot be opened.
    #[error("the audit log {}", path.display())]
    Audit {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the listeners share. A reload changes it under them.
pub struct Front {
    access: watch::Sender<Arc<Access>>,
    tls: Option<watch::Sender<Arc<rustls::ServerConfig>>>,
    /// The same for HTTP, if it is served with TLS.
    web: Option<watch::Sender<Arc<rustls::ServerConfig>>>,
    meter: Meter,
    spans: Spans,
    connections: usize,
    /// After which a client is taken for gone.
    silence: Duration,
}

impl Front {
    /// Reads the certificates and opens the audit log.
    ///
    /// # Errors
    /// [`FrontError::Tls`] or [`FrontError::Audit`].
    pub fn open(config: &Config, spans: Spans) -> Result<Self, FrontError> {
        Ok(Self {
            access: watch::Sender::new(access(config)?),
            tls: certificates(config)?.map(watch::Sender::new),
            web: web_certificates(config)?.map(watch::Sender::new),
            meter: Meter::default(),
            spans,
            connections: config.limits.connections,
            silence: config.limits.silence,
        })
    }

    /// Where the spans of calls go.
    pub fn spans(&self) -> Spans {
        self.spans.clone()
    }

    /// Puts in force what can change while there are connections: clients, limits of calls, the audit log, and for
    /// connections from now on the certificates. Whether there is TLS cannot change.
    ///
    /// # Errors
    /// As [`Front::open`]; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), FrontError> {
        let (access, certificates, web) = (access(config)?, certificates(config)?, web_certificates(config)?);
        if let (Some(sender), Some(certificates)) = (&self.tls, certificates) {
            sender.send_replace(certificates);
        }
        if let (Some(sender), Some(certificates)) = (&self.web, web) {
            sender.send_replace(certificates);
        }
        self.access.send_replace(access);
        Ok(())
    }

    /// The certificates of HTTP, if it is served with TLS.
    #[must_use]
    pub fn web(&self) -> Option<watch::Receiver<Arc<rustls::ServerConfig>>> {
        self.web.as_ref().map(watch::Sender::subscribe)
    }

    /// Serves `routes` at an address until `stop`; the tasks are `tasks`'. Answers the address with the port that was chosen
    /// for port 0.
    ///
    /// # Errors
    /// [`FrontError::Listen`].
    pub async fn serve(
        &self,
        address: &ListenAddress,
        routes: Routes,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Result<ListenAddress, FrontError> {
        let failed = |source| FrontError::Listen { address: address.to_string(), source };
        let (listener, address) = match address {
            ListenAddress::Unix(path) => {
                let mode = if self.access.borrow().roster.has_other_users() { SHARED_SOCKET } else { OWN_SOCKET };
                (Listener::Unix(bind_unix(path, mode).map_err(failed)?), address.clone())
            }
            ListenAddress::Tcp(at) => {
                let listener = TcpListener::bind(at).await.map_err(failed)?;
                silence::bound(&listener, self.silence).map_err(failed)?;
                let at = listener.local_addr().map_err(failed)?;
                (self.tcp(listener, &at.to_string()), ListenAddress::Tcp(at))
            }
        };
        let (ready, connections) = mpsc::channel(READY);
        tasks.spawn(connection::accept(listener, Peer::GrpcClient, self.connections, ready, stop.clone()));
        let connections = ReceiverStream::new(connections).map(Ok::<Connection, io::Error>);
        let server = Server::builder()
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_PATIENCE * self.silence))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_concurrent_streams(MAX_STREAMS)
            .layer(Guard::new(self.access.subscribe(), self.meter.clone(), self.spans.clone()))
            .add_routes(routes);
        let stop = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            if let Err(error) = server.serve_with_incoming_shutdown(connections, stop).await {
                tracing::error!(error = %chain(&error), "a listener ended");
            }
        });
        Ok(address)
    }

    fn tcp(&self, listener: TcpListener, address: &str) -> Listener {
        match &self.tls {
            Some(tls) => Listener::Tls(listener, tls.subscribe()),
            None => {
                if self.access.borrow().roster.is_open_on_loopback() {
                    tracing::warn!(
                        address,
                        "whoever can connect commands every sandbox: no [[auth.clients]] are named"
                    );
                }
                Listener::Plain(listener)
            }
        }
    }
}

fn access(config: &Config) -> Result<Arc<Access>, FrontError> {
    let audit = config
        .auth
        .audit
        .as_ref()
        .map(|path| Audit::open(path).map_err(|source| FrontError::Audit { path: path.clone(), source }));
    Ok(Arc::new(Access {
        roster: Roster::new(config.auth.clients.clone(), nix::unistd::geteuid().as_raw()),
        limits: config.limits.calls,
        audit: audit.transpose()?,
    }))
}

fn certificates(config: &Config) -> Result<Option<Arc<rustls::ServerConfig>>, FrontError> {
    let has_token = config.auth.clients.iter().any(|client| matches!(client.proof, Proof::Token(_)));
    let client = if has_token { ClientCertificate::Asked } else { ClientCertificate::Required };
    config.tls.as_ref().map(|files| tls::load(files, client).map_err(FrontError::Tls)).transpose()
}

fn web_certificates(config: &Config) -> Result<Option<Arc<rustls::ServerConfig>>, FrontError> {
    let files = config.tls.as_ref().filter(|_| config.http.tls);
    files.map(|files| tls::load_web(files).map_err(FrontError::Tls)).transpose()
}

/// Binds a unix socket. One that is left of a daemon that was killed is replaced: the lock says that there is no other on
/// this state, and a live one elsewhere still answers. What is no socket is somebody's, and stays.
fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        // A regular file refuses connections too.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
            }
            fs::remove_file(path)?;
        }
        // Nothing is there, or something that bind refuses.
        Err(_) => {}
    }
    // Between bind and chmod nobody else may connect either.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(mask);
    let listener = listener?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
