//! The proxy of a sandbox: what leaves it in mode `proxy`.
//!
//! The guest listens on a port of the sandbox's loopback and hands the listener out; the daemon accepts, from then on, as
//! if it were its own. Programs inside find it by the variables that every tool knows. It speaks HTTP (absolute URIs and
//! CONNECT) and SOCKS5 on the same port; the first byte says which.
//!
//! | file | owns |
//! |---|---|
//! | `request` | the head of an HTTP request, read and rewritten (pure) |
//! | `answer` | what a client hears when nothing was connected (pure) |
//! | `socks` | SOCKS5 |
//!
//! One connection is one request: the daemon asks the host to close after its answer, so that it has to read one head
//! only, and every request is judged by itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::outside::{Outside, OutsideError};
use super::policy::Policy;
use super::relay::{Moved, relay};
use super::target::Target;
use crate::ids::SandboxId;
use crate::telemetry::chain;
use request::{Asked, BadRequest};

mod answer;
mod request;
mod socks;

/// The port of the sandbox's loopback, beside those of the daemon.
pub const PORT: u16 = 7422;

/// Connections of one sandbox at once; more wait in the listener's backlog. Each costs two descriptors and 32 KiB.
const MAX_CONNECTIONS: usize = 2048;

/// How long a client may take to say what it wants.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client that was refused may go on sending, and how many bytes: one that is cut off while it sends does not
/// read the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 1 << 20;

/// Pause when the daemon has no descriptor left for a connection and no connection of this proxy can give one back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What has gone through the proxy of a sandbox.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Connections that were made.
    pub connected: AtomicU64,
    /// Connections that were refused by policy.
    pub refused: AtomicU64,
    /// Bytes that left the sandbox (`forth`) and that came back.
    pub moved: Moved,
}

/// What is needed to serve the connections of one sandbox.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// For the log.
    pub id: SandboxId,
    /// What it may reach now.
    pub policy: watch::Receiver<Policy>,
    /// The way out.
    pub outside: Arc<Outside>,
    /// Counts.
    pub traffic: Arc<Traffic>,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
enum Denied {
    /// It is none.
    #[error("the request cannot be understood")]
    Bad(#[source] BadRequest),
    /// The allowlist does not have it.
    #[error("{0} is not on the allowlist of the sandbox")]
    NotListed(Target),
    /// It could not be connected to.
    #[error("{target}")]
    Outside {
        /// What was asked for.
        target: Target,
        /// Why not.
        #[source]
        source: OutsideError,
    },
}

impl Denied {
    /// The node does not want it; else it did not work.
    fn is_policy(&self) -> bool {
        match self {
            Self::NotListed(_) | Self::Outside { source: OutsideError::Refused { .. }, .. } => true,
            Self::Bad(_) | Self::Outside { .. } => false,
        }
    }
}

impl Proxy {
    /// Serves connections until it is told to stop; they end then.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let serving = async {
            loop {
                while connections.len() >= MAX_CONNECTIONS {
                    connections.join_next().await;
                }
                match listener.accept().await {
                    Ok((socket, _)) => {
                        connections.spawn(self.clone().connection(socket));
                    }
                    Err(error) => {
                        tracing::warn!(sandbox.id = %self.id, %error, "the proxy cannot accept a connection");
                        if connections.join_next().await.is_none() {
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
                // Those that have ended are let go of.
                while connections.try_join_next().is_some() {}
            }
        };
        stop.run_until_cancelled(serving).await;
        connections.shutdown().await;
    }

    async fn connection(self, mut client: TcpStream) {
        let served = self.serve_one(&mut client).await;
        if let Err(error) = served {
            // A client may leave whenever it likes.
            tracing::debug!(sandbox.id = %self.id, %error, "a connection through the proxy broke");
        }
    }

    async fn serve_one(&self, client: &mut TcpStream) -> io::Result<()> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing was asked for in time");
        client.set_nodelay(true)?;
        let mut first = [0];
        let peeked = timeout(HEAD_DEADLINE, client.peek(&mut first)).await.map_err(late)??;
        if peeked == 0 {
            return Ok(());
        }
        let asked = match first[0] {
            socks::VERSION => timeout(HEAD_DEADLINE, socks::read(client)).await,
            _ => timeout(HEAD_DEADLINE, read_head(client)).await,
        };
        let asked = asked.map_err(late)??;
        let is_socks = first[0] == socks::VERSION;
        let connected = match asked {
            Ok(asked) => self.connect(&asked.target).await.map(|host| (asked, host)),
            Err(bad) => Err(Denied::Bad(bad)),
        };
        match connected {
            Ok((asked, host)) => {
                client.write_all(if is_socks { socks::CONNECTED } else { asked.answer() }).await?;
                self.relay(client, host, asked).await
            }
            Err(denied) => {
                let answer = if is_socks { answer::socks(&denied).to_vec() } else { answer::http(&denied) };
                refuse(client, &answer).await
            }
        }
    }

    /// Connects to what the policy permits.
    async fn connect(&self, target: &Target) -> Result<TcpStream, Denied> {
        let connected = if permits(&self.policy.borrow(), target) {
            let connected = self.outside.connect(target).await;
            connected.map_err(|source| Denied::Outside { target: target.clone(), source })
        } else {
            Err(Denied::NotListed(target.clone()))
        };
        let counter = match &connected {
            Ok(_) => Some(&self.traffic.connected),
            Err(denied) => {
                tracing::debug!(sandbox.id = %self.id, %target, verdict = %chain(denied), "proxy");
                denied.is_policy().then_some(&self.traffic.refused)
            }
        };
        counter.map(|counter| counter.fetch_add(1, Ordering::Relaxed));
        connected
    }

    /// Sends what was asked for first, and then moves bytes until both have ended or the policy has changed its mind.
    async fn relay(&self, client: &mut TcpStream, mut host: TcpStream, asked: Asked) -> io::Result<()> {
        let moved = Moved::default();
        host.write_all(&asked.first).await?;
        self.traffic.moved.forth.fetch_add(asked.first.len() as u64, Ordering::Relaxed);
        moved.forth.fetch_add(asked.first.len() as u64, Ordering::Relaxed);
        let mut policy = self.policy.clone();
        let revoked = policy.wait_for(|policy| !permits(policy, &asked.target));
        let ended = tokio::select! {
            ended = relay(client, host, &moved, &self.traffic.moved) => ended,
            _ = revoked => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not on the allowlist any more")),
        };
        let (sent, received) = (moved.forth.into_inner(), moved.back.into_inner());
        tracing::debug!(sandbox.id = %self.id, target = %asked.target, sent, received, verdict = "connected", "proxy");
        ended
    }
}

/// Whether a policy lets the proxy connect to a target.
fn permits(policy: &Policy, target: &Target) -> bool {
    matches!(policy, Policy::Proxy(allow) if allow.permits(target))
}

/// Reads the head of an HTTP request, and what came with it.
async fn read_head(client: &mut TcpStream) -> io::Result<Result<Asked, BadRequest>> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let room = (request::MAX_HEAD - bytes.len()) as u64;
        if client.take(room).read_buf(&mut bytes).await? == 0 {
            return Ok(Err(if room == 0 { BadRequest::TooLong } else { BadRequest::Incomplete }));
        }
        match request::parse(&bytes) {
            Ok(None) => {}
            Ok(Some(asked)) => return Ok(Ok(asked)),
            Err(bad) => return Ok(Err(bad)),
        }
    }
}

/// Tells a client that nothing was connected, and waits until it has had time to hear it.
async fn refuse(client: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    client.write_all(answer).await?;
    client.shutdown().await?;
    let mut rest = client.take(LINGER_BYTES);
    // However it ends: the answer was given.
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}
