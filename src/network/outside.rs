//! The way out: names are resolved and connections made by the daemon, once each, so that what was checked is what is
//! connected to.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::refusal::{self, Refusal};
use super::silence;
use super::target::{Host, Target};

/// Names that are resolved at once, of all sandboxes. Each takes a thread for as long as the resolver waits.
const LOOKUPS: usize = 32;

/// How long a name may take. The system's resolver asks its servers twice within it.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(15);

/// How long a host may take to accept: two retransmissions of a lost first packet.
const CONNECT_DEADLINE: Duration = Duration::from_secs(8);

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// The way out of the node, for all of its sandboxes.
#[derive(Debug)]
pub struct Outside {
    /// Private ranges that may be reached all the same.
    reachable: Vec<IpNet>,
    /// After which a host is taken for gone.
    silence: Duration,
    lookups: Arc<Semaphore>,
    /// Of connections that the proxy reads; made when the first is.
    tls: OnceCell<Arc<ClientConfig>>,
}

/// Why nothing was connected.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// Every address of the name is refused.
    #[error("{address} may not be reached")]
    Refused {
        /// The first of them.
        address: IpAddr,
        /// What it is.
        #[source]
        refusal: Refusal,
    },
    /// The name has no address.
    #[error("resolve the name")]
    Lookup(#[source] io::Error),
    /// Nobody answers at its addresses.
    #[error("connect to {address}")]
    Connect {
        /// The last that was tried.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Outside {
    /// The way out, with private ranges that may be reached all the same. A host that is silent for longer than `silence`
    /// when it is asked whether it is there is taken for gone.
    #[must_use]
    pub fn new(reachable: Vec<IpNet>, silence: Duration) -> Self {
        Self { reachable, silence, lookups: Arc::new(Semaphore::new(LOOKUPS)), tls: OnceCell::new() }
    }

    /// Connects to a target, at one of its addresses that is not refused.
    ///
    /// # Errors
    /// See [`OutsideError`].
    pub async fn connect(&self, target: &Target) -> Result<TcpStream, OutsideError> {
        let addresses = self.resolve(target).await.map_err(OutsideError::Lookup)?;
        let own = refusal::own_addresses().map_err(|errno| OutsideError::Lookup(errno.into()))?;
        let mut failed = OutsideError::Lookup(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
        let mut tried = 0;
        for address in addresses {
            if let Some(refusal) = refusal::refusal(address.ip(), &own, &self.reachable) {
                // What an address that may be reached says is worth more.
                if tried == 0 {
                    failed = OutsideError::Refused { address: address.ip(), refusal };
                }
                continue;
            }
            match self.connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => failed = OutsideError::Connect { address, source },
            }
            tried += 1;
            if tried == MAX_ADDRESSES {
                break;
            }
        }
        Err(failed)
    }

    /// How TLS is spoken to a host: as a client that trusts what the node trusted when it was first asked.
    ///
    /// # Errors
    /// The node trusts nobody.
    pub(super) async fn tls(&self, load: fn() -> io::Result<Arc<ClientConfig>>) -> io::Result<Arc<ClientConfig>> {
        let load = || async { tokio::task::spawn_blocking(load).await.map_err(io::Error::other)? };
        self.tls.get_or_try_init(load).await.cloned()
    }

    /// The addresses of a target.
    async fn resolve(&self, target: &Target) -> io::Result<Vec<SocketAddr>> {
        let name = match &target.host {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, target.port)]),
            Host::Name(name) => (name.clone(), target.port),
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
        let lookup = async {
            let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
            // The permit stays with the thread, which nobody can stop.
            let lookup = move || name.to_socket_addrs().map(|found| (found.collect(), permit).0);
            tokio::task::spawn_blocking(lookup).await.map_err(io::Error::other)?
        };
        timeout(LOOKUP_DEADLINE, lookup).await.map_err(late)?
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
        let stream = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await.map_err(late)??;
        stream.set_nodelay(true)?;
        silence::bound(&stream, self.silence)?;
        Ok(stream)
    }
}
