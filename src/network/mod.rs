//! The network of a sandbox: what it may reach, and how it is reached.
//!
//! | file | owns |
//! |---|---|
//! | [`policy`] | the modes, the allowlist, and what a request may ask for (pure) |
//! | [`target`] | names, addresses and ports (pure) |
//! | `refusal` | addresses that no sandbox reaches |
//! | `outside` | the way out: one lookup, one check, one connection |
//! | `dns` | the resolver of sandboxes in mode `nat` |
//! | `proxy` | what leaves a sandbox in mode `proxy` |
//! | [`secrets`] | what is put into the headers of requests to a name |
//! | `authority` | the certificates by which the proxy answers for such a name |
//! | [`pace`] | how many bytes a second go through the proxy |
//! | [`relay`] | bytes between two sockets |
//! | `usage` | what was sent and got |
//! | [`silence`] | how long a peer may be silent before it is taken for gone |
//! | `dial` | connecting to a port inside |
//! | `inside` | what such connections are, and those from inside |
//! | `ports` | which ports are listened on inside |
//!
//! In is the same in every mode: the guest makes a socket inside, and the daemon connects it (see
//! `guest::agent::sockets`). Where no socket gets out, the guest connects it too, and its bytes are carried.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guest::client::{Guest, GuestError};
use crate::ids::SandboxId;
use pace::Pace;
use policy::Policy;
use proxy::{Proxy, Traffic};
use secrets::Secrets;

pub use authority::{Authority, AuthorityError};
pub use dial::ConnectError;
pub use dns::Resolver;
pub use inside::{Listener, Stream};
pub use outside::{Outside, OutsideError};
pub use ports::{Port, PortChange, port_changes};
pub use refusal::{REFUSED_V4, Refusal};
pub use usage::{Counted, Counter, Usage};

mod authority;
mod dial;
mod dns;
mod inside;
mod outside;
pub mod pace;
pub mod policy;
mod ports;
mod proxy;
mod refusal;
pub mod relay;
pub mod secrets;
pub mod silence;
pub mod target;
mod usage;

/// A handle on the network of one sandbox.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    guest: Guest,
    /// What the kernel says of the sandbox's network, which is what it says of the guest's.
    proc: PathBuf,
    policy: watch::Sender<Policy>,
    secrets: watch::Sender<Option<Arc<Secrets>>>,
    counter: Option<Arc<dyn Counter>>,
    traffic: Arc<Traffic>,
    /// Owns the proxy.
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// What the network of a sandbox is to be.
#[derive(Debug)]
pub struct Plan {
    /// The sandbox, for the log.
    pub id: SandboxId,
    /// What it may reach.
    pub policy: Policy,
    /// Its secrets, if it has any.
    pub secrets: Option<Arc<Secrets>>,
    /// Bytes a second that go through its proxy, each way; `None`: as many as come.
    pub bandwidth: Option<u64>,
    /// The way out of the node.
    pub outside: Arc<Outside>,
}

/// Why a sandbox has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The guest does not listen.
    #[error("listen on port {port} inside")]
    Guest {
        /// On which port.
        port: u16,
        /// Why.
        #[source]
        source: GuestError,
    },
    /// The listener is of no use.
    #[error("accept connections from inside")]
    Listener(#[source] io::Error),
}

impl Network {
    /// The network of a sandbox whose guest is ready; `pid` is the guest's process id on the node, and `counter` who counts
    /// if the sandbox has an address of its own. Of a sandbox that another daemon has made, it finds what that one left.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn start(
        guest: Guest,
        pid: u32,
        counter: Option<Arc<dyn Counter>>,
        plan: Plan,
    ) -> Result<Self, NetworkError> {
        let Plan { id, policy, secrets, bandwidth, outside } = plan;
        let listener = match &policy {
            Policy::Proxy(_) => Some(listen(&guest, proxy::PORT).await?),
            Policy::None | Policy::Nat | Policy::Host => None,
        };
        let shared = Shared {
            guest,
            proc: PathBuf::from(format!("/proc/{pid}/net")),
            policy: watch::Sender::new(policy),
            secrets: watch::Sender::new(secrets),
            counter,
            traffic: Arc::new(Traffic { pace: Pace::new(bandwidth), ..Traffic::default() }),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        };
        if let Some(listener) = listener {
            let (policy, traffic) = (shared.policy.subscribe(), Arc::clone(&shared.traffic));
            let secrets = shared.secrets.subscribe();
            let proxy = Proxy { id, policy, secrets, outside, traffic };
            shared.tasks.spawn(proxy.serve(listener, shared.closing.clone()));
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What it may reach now.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.shared.policy.borrow().clone()
    }

    /// Changes what it may reach, at once: connections that are not permitted any more are cut. The mode has to stay.
    pub fn set_policy(&self, policy: Policy) {
        self.shared.policy.send_replace(policy);
    }

    /// Changes its secrets, for requests from now on.
    pub fn set_secrets(&self, secrets: Arc<Secrets>) {
        self.shared.secrets.send_replace(Some(secrets));
    }

    /// Changes how many bytes a second go through its proxy, each way.
    pub fn set_bandwidth(&self, bandwidth: Option<u64>) {
        self.shared.traffic.pace.set(bandwidth);
    }

    /// What has gone out and come back; of a sandbox with an address of its own, the kernel is asked, which takes some
    /// microseconds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        if *self.shared.policy.borrow() == Policy::Nat {
            return usage::of_address(&self.shared.proc, self.shared.counter.as_deref());
        }
        let Traffic { connected, refused, moved, .. } = &*self.shared.traffic;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            connected: count(connected),
            refused: count(refused),
            sent: count(&moved.forth),
            received: count(&moved.back),
        }
    }

    /// Listens on a port of the sandbox's loopback, for what goes on inside; the same port again is the same listener.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn listen(&self, port: u16) -> Result<Listener, NetworkError> {
        listen(&self.shared.guest, port).await
    }

    /// Connects to a port of the sandbox's loopback: over IPv4, and over IPv6 if nobody listens there. The sandbox has to
    /// be awake.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, port: u16) -> Result<Stream, ConnectError> {
        dial::connect(&self.shared.guest, port).await
    }

    /// The TCP ports that are listened on, in order, but for the proxy's. Of a sandbox that sleeps, too.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn ports(&self) -> io::Result<Vec<Port>> {
        self.list_ports(ports::ALL)
    }

    /// The same for whoever looks often: of very many, only some, and always the same ones.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn first_ports(&self) -> io::Result<Vec<Port>> {
        self.list_ports(ports::FIRST)
    }

    /// How many TCP sockets there are inside, which is cheap to ask.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn sockets(&self) -> io::Result<u64> {
        ports::sockets(&self.shared.proc)
    }

    fn list_ports(&self, bytes: u64) -> io::Result<Vec<Port>> {
        let mut ports = ports::list(&self.shared.proc, bytes)?;
        if let Policy::Proxy(_) = *self.shared.policy.borrow() {
            ports.retain(|port| port.port != proxy::PORT);
        }
        Ok(ports)
    }

    /// Ends what goes out, and waits until it has.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

async fn listen(guest: &Guest, port: u16) -> Result<Listener, NetworkError> {
    let listener = guest.listen(port).await.map_err(|source| NetworkError::Guest { port, source })?;
    Listener::new(listener).map_err(NetworkError::Listener)
}

/// The variables by which programs find the proxy. ALL_PROXY has the HTTP one as well: there are clients that refuse to
/// start if it names SOCKS and they were built without.
#[must_use]
pub fn environment(policy: &Policy) -> BTreeMap<String, String> {
    let Policy::Proxy(_) = policy else { return BTreeMap::new() };
    let proxy = format!("http://127.0.0.1:{}", proxy::PORT);
    let own = "localhost,127.0.0.1,::1".to_owned();
    let both = |name: &str, value: &str| [(name.to_owned(), value.to_owned()), (name.to_lowercase(), value.to_owned())];
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].into_iter().flat_map(|name| both(name, &proxy));
    proxies.chain(both("NO_PROXY", &own)).collect()
}

/// Where a sandbox with secrets has the certificates that it trusts: its image's, and that of its proxy's authority.
pub const CERTIFICATES: &str = "/etc/hands/certificates.pem";

/// The variables by which programs find them. Each replaces what a program trusts otherwise, but for Node's, which adds.
#[must_use]
pub fn certificate_environment() -> BTreeMap<String, String> {
    let names = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"];
    names.into_iter().map(|name| (name.to_owned(), CERTIFICATES.to_owned())).collect()
}
