//! The HTTP front: its listener, and who may use it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::DaemonError;
use crate::api::grpc::connection::{self, Connection};
use crate::api::http::access::Access;
use crate::api::http::key::ApiKey;
use crate::api::http::token::Tokens;
use crate::config::{Config, HttpConfig};
use crate::metrics::Peer;
use crate::network::silence;
use crate::store::Store;

/// Connections that are ready and that the server has not taken yet; it takes them as fast as it can.
const READY: usize = 16;

/// How long a client may take for the head of a request, and with nothing in between two of them; and how long it may be
/// silent within the body of one. Whoever takes longer only holds a connection.
const PATIENCE: Duration = Duration::from_secs(60);

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
        let listener = match certificates {
            None => connection::Listener::Plain(self.listener),
            Some(certificates) => connection::Listener::Tls(self.listener, certificates),
        };
        let (ready, connections) = mpsc::channel(READY);
        let accepting = connection::accept(listener, Peer::HttpClient, self.connections, ready, stop.clone());
        tokio::join!(accepting, serve(connections, router, stop));
        tasks.close();
        tasks.wait().await;
    }
}

/// Serves connections whose clients have begun to speak, until `stop`; what is under way then is finished.
async fn serve(mut ready: mpsc::Receiver<Connection>, router: Router, stop: CancellationToken) {
    let router = router.layer(RequestBodyTimeoutLayer::new(PATIENCE));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // For the WebSockets of previews.
    server.http2().enable_connect_protocol();
    let (graceful, mut serving) = (GracefulShutdown::new(), JoinSet::new());
    while let Some(Some(connection)) = stop.run_until_cancelled(ready.recv()).await {
        while serving.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection_with_upgrades(TokioIo::new(connection), service).into_owned();
        let connection = graceful.watch(connection);
        serving.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    graceful.shutdown().await;
    while serving.join_next().await.is_some() {}
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

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_finish_a_request_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let web = Web { listener, address, connections: 8 };
        let stop = CancellationToken::new();
        let router = Router::new().route("/", post(|body: String| async move { body }));
        let serving = web.serve(router, None, TaskTracker::new(), stop.clone());
        let clients = async {
            for (said, answer) in [
                ("POST / HT", ""),
                ("POST / HTTP/1.1\r\nhost: h\r\n", ""),
                ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf", "HTTP/1.1 400 "),
                ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nhalf", "HTTP/1.1 200 "),
            ] {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_all(said.as_bytes()).await.unwrap();
                let mut answered = String::new();
                client.read_to_string(&mut answered).await.unwrap();
                assert!(answered.starts_with(answer) && answered.is_empty() == answer.is_empty(), "{said}: {answered}");
            }
            stop.cancel();
        };
        tokio::join!(serving, clients);
    }
}
