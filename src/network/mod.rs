//! The network of a sandbox: what it may reach, and how it is reached.
//!
//! | file | owns |
//! |---|---|
//! | `dial` | connecting to a port inside |
//! | `ports` | which ports are listened on inside |
//!
//! In is the same in every mode: the guest makes a socket inside, and the daemon connects it (see
//! `guest::agent::sockets`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::guest::client::Guest;

pub use dial::ConnectError;
pub use ports::Port;

mod dial;
mod ports;

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
}

impl Network {
    /// The network of a sandbox whose guest is ready; `pid` is the guest's process id on the node.
    #[must_use]
    pub fn new(guest: Guest, pid: u32) -> Self {
        Self { shared: Arc::new(Shared { guest, proc: PathBuf::from(format!("/proc/{pid}/net")) }) }
    }

    /// Connects to a port of the sandbox's loopback: over IPv4, and over IPv6 if nobody listens there. The sandbox has to
    /// be awake.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, port: u16) -> Result<TcpStream, ConnectError> {
        dial::connect(&self.shared.guest, port).await
    }

    /// The TCP ports that are listened on, in order. Of a sandbox that sleeps, too.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn ports(&self) -> io::Result<Vec<Port>> {
        ports::list(&self.shared.proc)
    }
}
