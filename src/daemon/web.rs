//! The HTTP front: its listener, and who may use it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::DaemonError;
use crate::api::grpc::connection::{self, Connection};
use crate::api::http::access::Access;
use crate::api::http::key::ApiKey;
use crate::api::http::token::Tokens;
use crate::config::{Config, HttpConfig};
use crate::metrics::Peer;
use crate::network::silence;
use crate::store::Store;
use crate::telemetry::chain;

/// Connections that are ready and that the server has not taken yet; it takes them as fast as it can.
const READY: usize = 16;

/// A listener that nobody has been let into yet.
pub struct Web {
    listener: TcpListener,
    address: SocketAddr,
    /// At most so many at once.
    connections: usize,
}

impl Web {
    /// Listens for HTTP, if it is to be served.
    ///
    /// # Errors
    /// [`DaemonError::Listen`].
    pub async fn bind(config: &Config) -> Result<Option<Self>, DaemonError> {
        let Some(address) = config.http.listen else { return Ok(None) };
        let failed = |source| DaemonError::Listen { address: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        // A client that does not read is cut off too, to come back with a cursor.
        silence::bound(&listener, config.http.unread_timeout).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some(Self { listener, address, connections: config.limits.connections }))
    }

    /// Where, with the port that was chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, and until the tasks that requests have begun are done; with TLS if there are certificates.
    pub async fn serve(
        self,
        router: Router,
        certificates: Option<watch::Receiver<Arc<ServerConfig>>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let stopped = stop.clone().cancelled_owned();
        let listener = match certificates {
            None => connection::Listener::Plain(self.listener),
            Some(certificates) => connection::Listener::Tls(self.listener, certificates),
        };
        let (ready, connections) = mpsc::channel(READY);
        let accepting = connection::accept(listener, Peer::HttpClient, self.connections, ready, stop);
        let ready = Ready { connections, address: self.address };
        let serving = axum::serve(ready, router).with_graceful_shutdown(stopped);
        let ((), served) = tokio::join!(accepting, serving);
        if let Err(error) = served {
            tracing::error!(error = %chain(&error), "a listener ended");
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Connections whose clients have begun to speak.
struct Ready {
    connections: mpsc::Receiver<Connection>,
    address: SocketAddr,
}

impl Listener for Ready {
    type Io = Connection;
    type Addr = SocketAddr;

    /// With the node's own address: nobody asks for the client's.
    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => (connection, self.address),
            // Nobody accepts any more: the daemon ends.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Who may use the HTTP surface.
pub async fn access(config: &Config, store: Store) -> Result<Access, DaemonError> {
    let HttpConfig { hosts, origins, key_file, key, .. } = &config.http;
    let key = match key {
        Some(key) => ApiKey::new(key.expose()),
        None => ApiKey::load_or_make(key_file),
    };
    let key = key.map_err(DaemonError::Key)?;
    let tokens = Tokens::open(&key, store).await.map_err(DaemonError::Store)?;
    Ok(Access { key, tokens, hosts: hosts.clone(), origins: origins.clone() })
}
