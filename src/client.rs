//! Connecting to a node: its address, and clients with the limits that the node counts on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};

use crate::api::proto::hands_client::HandsClient;
use crate::api::proto::node_client::NodeClient;
use crate::api::proto::sandboxes_client::SandboxesClient;
use crate::api::proto::sessions_client::SessionsClient;

pub mod events;

/// Largest message in either direction, in bytes. Chunks are at most 1 MiB and a page of a listing a few; gRPC's own
/// limit of 4 MiB would be too small for a page of long names.
pub const MESSAGE_BYTES: usize = 8 << 20;
/// Bytes the node may send on one stream before the client has read them: output must not wait for round trips.
const STREAM_WINDOW: u32 = 8 << 20;
/// The same for all streams of the connection together, so that one stalled reader leaves room for another.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of a frame that the node may send: those of a whole event of output. HTTP/2's own 16 KiB would be as many writes.
const FRAME: u32 = 256 << 10;
/// A node on the same network answers in milliseconds; after this it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A TCP peer that vanished says nothing: a ping after this much silence, and this long to answer it.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, by its path.
    Unix(PathBuf),
    /// `host:port`, spoken to without TLS.
    Tcp(String),
    /// `host:port`, with TLS.
    Tls(String),
}

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no address: expected unix:/path, /path, http://host:port, https://host:port or host:port")]
pub struct AddressError {
    /// What was given.
    pub text: String,
}

impl FromStr for Address {
    type Err = AddressError;

    /// Accepts `unix:/path`, `unix:///path`, `/path`, `http://host:port`, `https://host:port` and `host:port`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError { text: text.to_owned() };
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let (scheme, authority) = text.split_once("://").unwrap_or(("http", text));
        let authority = authority.trim_end_matches('/');
        let uri: Uri = format!("http://{authority}").parse().map_err(|_| error())?;
        let plain = uri.path() == "/" && uri.query().is_none();
        let is_whole = plain && uri.port_u16().is_some() && uri.host().is_some_and(|host| !host.is_empty());
        match scheme {
            "http" if is_whole => Ok(Self::Tcp(authority.to_owned())),
            "https" if is_whole => Ok(Self::Tls(authority.to_owned())),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(authority) => write!(formatter, "http://{authority}"),
            Self::Tls(authority) => write!(formatter, "https://{authority}"),
        }
    }
}

/// A connection, and what proves on each call who makes it.
pub type Channel = InterceptedService<tonic::transport::Channel, Bearer>;

/// What a client shows of itself. Files are in PEM.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The roots that sign the node's certificate; needed for TLS.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A token.
    pub token: Option<String>,
}

/// Shows the token on each call, if there is one.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or does not answer in time.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where it was tried.
        address: Address,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// TLS without roots trusts nobody.
    #[error("connecting to {address} takes the certificate of the CA that signed the node's")]
    NoCa {
        /// Where it was tried.
        address: Address,
    },
    /// A file of the credentials.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token holds what no header can.
    #[error("the token holds other than visible ASCII characters")]
    Token,
}

/// Connects to the node at `address` and shows nothing.
///
/// # Errors
/// As [`connect_with`].
pub async fn connect(address: &Address) -> Result<Channel, ClientError> {
    connect_with(address, &Credentials::default()).await
}

/// Connects to the node at `address`. The channel connects again by itself, at the next request after a break.
///
/// # Errors
/// [`ClientError::Connect`] if the first connection fails or takes longer than five seconds; the others if the credentials
/// cannot be used.
pub async fn connect_with(address: &Address, credentials: &Credentials) -> Result<Channel, ClientError> {
    let token = credentials.token.as_ref().map(|token| format!("Bearer {token}").parse());
    let mut token: Option<MetadataValue<Ascii>> = token.transpose().map_err(|_| ClientError::Token)?;
    if let Some(token) = &mut token {
        token.set_sensitive(true);
    }
    let channel = connect_transport(address, credentials).await?;
    Ok(InterceptedService::new(channel, Bearer(token)))
}

async fn connect_transport(
    address: &Address,
    credentials: &Credentials,
) -> Result<tonic::transport::Channel, ClientError> {
    let failed = |source| ClientError::Connect { address: address.clone(), source };
    match address {
        Address::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            // The name goes into the `:authority` header only; the connector knows the path.
            endpoint("http://localhost").map_err(failed)?.connect_with_connector(connector).await.map_err(failed)
        }
        Address::Tcp(authority) => {
            let endpoint = endpoint(&format!("http://{authority}")).map_err(failed)?;
            remote(endpoint).connect().await.map_err(failed)
        }
        Address::Tls(authority) => {
            let Some(ca) = &credentials.ca else { return Err(ClientError::NoCa { address: address.clone() }) };
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let Some((certificate, key)) = &credentials.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            let endpoint = endpoint(&format!("https://{authority}")).map_err(failed)?;
            remote(endpoint).tls_config(tls).map_err(failed)?.connect().await.map_err(failed)
        }
    }
}

/// Commands and files, with room for the largest message.
#[must_use]
pub fn hands(channel: Channel) -> HandsClient<Channel> {
    HandsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

/// Sandboxes, with room for the largest message.
#[must_use]
pub fn sandboxes(channel: Channel) -> SandboxesClient<Channel> {
    SandboxesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

/// Agents and sessions, with room for the largest message.
#[must_use]
pub fn sessions(channel: Channel) -> SessionsClient<Channel> {
    SessionsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

/// The node itself, with room for the largest message.
#[must_use]
pub fn node(channel: Channel) -> NodeClient<Channel> {
    NodeClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}

/// Notices that the node vanished.
fn remote(endpoint: Endpoint) -> Endpoint {
    endpoint.http2_keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT)
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|source| ClientError::Read { path: path.to_owned(), source })
}

fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    #[test]
    fn every_spelling_of_a_socket_is_the_same_path() {
        for text in ["unix:/run/h.sock", "unix:///run/h.sock", "/run/h.sock"] {
            assert_eq!(parse(text), Ok(Address::Unix("/run/h.sock".into())), "{text}");
        }
    }

    #[test]
    fn a_host_needs_a_port_and_nothing_else() {
        for text in ["http://127.0.0.1:7420", "http://127.0.0.1:7420/", "127.0.0.1:7420"] {
            assert_eq!(parse(text), Ok(Address::Tcp("127.0.0.1:7420".to_owned())), "{text}");
        }
        assert_eq!(parse("[::1]:7420"), Ok(Address::Tcp("[::1]:7420".to_owned())));
        for text in [
            "",
            "localhost",
            "http://localhost",
            "https://localhost",
            "ftp://a:1",
            "unix:",
            "unix:relative",
            "a:1/x",
            ":1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_can_be_read() {
        for text in ["unix:/run/h.sock", "http://node-3:7420", "https://node-3:7420"] {
            assert_eq!(parse(text).map(|address| address.to_string()), Ok(text.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_socket_nobody_listens_on_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = Address::Unix(directory.path().join("none.sock"));
        let error = connect(&address).await.expect_err("nobody listens");
        assert_eq!(error.to_string(), format!("cannot connect to {address}"));
    }
}
