//! The HTTP front: its listener, and who may use it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::DaemonError;
use crate::api::http::access::Access;
use crate::api::http::key::ApiKey;
use crate::api::http::token::Tokens;
use crate::config::{Config, HttpConfig};
use crate::store::Store;
use crate::telemetry::chain;

/// A listener that nobody has been let into yet.
pub struct Web {
    listener: TcpListener,
    address: SocketAddr,
    /// How long a client may leave unread what was sent to it. One that is slower is cut off, and comes back with a cursor.
    unread: Duration,
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
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some(Self { listener, address, unread: config.http.unread_timeout }))
    }

    /// Where, with the port that was chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, and until the tasks that requests have begun are done.
    pub async fn serve(self, router: Router, tasks: TaskTracker, stop: CancellationToken) {
        let unread = self.unread;
        let server = axum::serve(self.listener.tap_io(move |stream| tune(stream, unread)), router);
        if let Err(error) = server.with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(error = %chain(&error), "a listener ended");
        }
        tasks.close();
        tasks.wait().await;
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

/// A small answer does not wait for more to come with it, and a client that does not read is not waited for.
fn tune(stream: &mut TcpStream, unread: Duration) {
    let unread = u32::try_from(unread.as_millis()).unwrap_or(u32::MAX);
    let cut_off = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::TcpUserTimeout, &unread);
    if let Err(error) = stream.set_nodelay(true).and_then(|()| cut_off.map_err(io::Error::from)) {
        tracing::debug!(%error, "a connection stays as it is");
    }
}
