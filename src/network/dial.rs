//! Connecting to a port inside a sandbox.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::inside::Stream;
use crate::guest::client::{Guest, GuestError};
use crate::guest::wire::Step;

/// How long a server inside may take to have a place for a connection. The loopback itself answers at once; one whose
/// backlog is full has something to do first.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no connection to a port inside.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("nobody listens on port {port}")]
    Closed {
        /// Which.
        port: u16,
    },
    /// Somebody listens and accepts nothing.
    #[error("port {port} did not accept a connection within {} s", CONNECT_DEADLINE.as_secs())]
    Silent {
        /// Which.
        port: u16,
    },
    /// The guest made no socket, or no connection.
    #[error("make a socket inside")]
    Guest(#[source] GuestError),
    /// The kernel did not connect it.
    #[error("connect to port {port}")]
    Socket {
        /// Which.
        port: u16,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Connects to a port of the loopback, whichever of its addresses a server has.
pub async fn connect(guest: &Guest, port: u16) -> Result<Stream, ConnectError> {
    match connect_to_any(guest, port).await {
        Err(ConnectError::Guest(unsupported @ GuestError::Refused { errno: Errno::EOPNOTSUPP, .. })) => {
            carried(guest, port, unsupported).await
        }
        connected => connected.map(Stream::from),
    }
}

/// The same where no socket gets out: the guest connects, and what comes back carries the bytes. One of an earlier version
/// cannot, as it has said.
async fn carried(guest: &Guest, port: u16, unsupported: GuestError) -> Result<Stream, ConnectError> {
    let socket = guest.connect_to(port).await.map_err(|error| match error {
        GuestError::Refused { errno: Errno::ECONNREFUSED, .. } => ConnectError::Closed { port },
        GuestError::Refused { errno: Errno::ETIMEDOUT, .. } | GuestError::Silent => ConnectError::Silent { port },
        GuestError::Refused { step: Step::Request, .. } => ConnectError::Guest(unsupported),
        error => ConnectError::Guest(error),
    })?;
    Stream::carried(socket).map_err(|source| ConnectError::Socket { port, source })
}

async fn connect_to_any(guest: &Guest, port: u16) -> Result<TcpStream, ConnectError> {
    match connect_to(guest, Ipv4Addr::LOCALHOST.into(), port).await {
        Err(ConnectError::Closed { .. }) => match connect_to(guest, Ipv6Addr::LOCALHOST.into(), port).await {
            // A sandbox without IPv6.
            Err(ConnectError::Guest(GuestError::Refused { .. }) | ConnectError::Socket { .. }) => {
                Err(ConnectError::Closed { port })
            }
            connected => connected,
        },
        connected => connected,
    }
}

async fn connect_to(guest: &Guest, address: IpAddr, port: u16) -> Result<TcpStream, ConnectError> {
    let socket = guest.make_socket(address.is_ipv6()).await.map_err(ConnectError::Guest)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    match timeout(CONNECT_DEADLINE, socket.connect(SocketAddr::new(address, port))).await {
        Ok(Ok(stream)) => {
            // Small messages in both directions are what most connections carry.
            stream.set_nodelay(true).map_err(|source| ConnectError::Socket { port, source })?;
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(ConnectError::Closed { port }),
        Ok(Err(source)) => Err(ConnectError::Socket { port, source }),
        Err(_) => Err(ConnectError::Silent { port }),
    }
}
