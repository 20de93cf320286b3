//! TLS on both sides of a connection that the proxy reads: as the name towards the sandbox, and as a client towards the
//! name.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::network::authority::ALPN;

/// What a connection over TLS begins with: a record of the handshake (RFC 8446, section 5.1).
pub const HANDSHAKE: u8 = 22;

/// Answers a client that takes us for the name.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    config: Arc<ServerConfig>,
) -> io::Result<server::TlsStream<S>> {
    TlsAcceptor::from(config).accept(socket).await
}

/// Speaks TLS to the name, whose certificate has to be one that the node trusts.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    config: Arc<ClientConfig>,
    name: &str,
) -> io::Result<client::TlsStream<S>> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, socket).await
}

/// A client that trusts what the node trusts. Reads files.
pub fn client() -> io::Result<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why =
            found.errors.into_iter().next().map_or_else(|| "there are none".to_owned(), |error| error.to_string());
        return Err(io::Error::other(format!("the node's trusted certificates: {why}")));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows the suites of TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
