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
//! | `tls` | TLS on both sides of a connection that is read |
//!
//! To a name that a secret is bound to, the proxy does not only pass bytes on: it reads the request, also the one in a
//! tunnel and the one in TLS, where it answers for the name by an authority that the sandbox trusts.
//!
//! One connection is one request: the daemon asks the host to close after its answer, so that it has to read one head
//! only, and every request is judged by itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::outside::{Outside, OutsideError};
use super::pace::Pace;
use super::policy::Policy;
use super::relay::{Moved, relay};
use super::secrets::{Binding, Carriage, Secrets};
use super::target::Target;
use super::{Listener, Stream};
use crate::ids::SandboxId;
use crate::metrics::{Peer, metrics};
use crate::telemetry::chain;
use request::{Asked, BadRequest, Extra};

mod answer;
mod request;
mod socks;
mod tls;

/// The port of the sandbox's loopback, beside those of the daemon.
pub const PORT: u16 = 7422;

/// Connections of one sandbox at once; more wait in the listener's backlog. Each costs two descriptors and 32 KiB.
const MAX_CONNECTIONS: usize = 2048;

/// Ports that a request in a tunnel need not name.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

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
    /// How fast.
    pub pace: Pace,
}

/// What is needed to serve the connections of one sandbox.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// For the log.
    pub id: SandboxId,
    /// What it may reach now.
    pub policy: watch::Receiver<Policy>,
    /// Its secrets, if it has any.
    pub secrets: watch::Receiver<Option<Arc<Secrets>>>,
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
    /// It was connected to, and is not whom the node takes it for.
    #[error("{target}: TLS")]
    Tls {
        /// What was asked for.
        target: Target,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Denied {
    /// The node does not want it; else it did not work.
    fn is_policy(&self) -> bool {
        match self {
            Self::NotListed(_) | Self::Outside { source: OutsideError::Refused { .. }, .. } => true,
            Self::Bad(_) | Self::Outside { .. } | Self::Tls { .. } => false,
        }
    }
}

impl Proxy {
    /// Serves connections until it is told to stop; they end then.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let serving = async {
            loop {
                while connections.len() >= MAX_CONNECTIONS {
                    connections.join_next().await;
                }
                match listener.accept().await {
                    Ok(socket) => {
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

    async fn connection(self, mut client: Stream) {
        let served = self.serve_one(&mut client).await;
        if let Err(error) = served {
            // A client may leave whenever it likes.
            tracing::debug!(sandbox.id = %self.id, %error, "a connection through the proxy broke");
        }
    }

    async fn serve_one(&self, client: &mut Stream) -> io::Result<()> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing was asked for in time");
        client.set_nodelay()?;
        let mut first = [0];
        let peeked = timeout(HEAD_DEADLINE, client.peek(&mut first)).await.map_err(late)??;
        if peeked == 0 {
            return Ok(());
        }
        let asked = match first[0] {
            socks::VERSION => timeout(HEAD_DEADLINE, socks::read(client)).await,
            _ => timeout(HEAD_DEADLINE, self.read_head(client)).await,
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
                let secrets = self.secrets.borrow().clone();
                match secrets {
                    Some(secrets) if asked.is_tunnel && secrets.of(&asked.target, Carriage::Tls).next().is_some() => {
                        self.read_tunnel(client, host, asked, &secrets).await
                    }
                    Some(_) | None => self.relay(client, host, &asked.first, &asked.target).await,
                }
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

    async fn read_head(&self, client: &mut Stream) -> io::Result<Result<Asked, BadRequest>> {
        let secrets = self.secrets.borrow().clone();
        let extras = |target: &Target| {
            secrets.as_ref().map_or_else(Vec::new, |secrets| extras(secrets, target, Carriage::Plain))
        };
        read_head(client, |bytes| request::parse(bytes, extras)).await
    }

    /// Serves the one request of a tunnel to a name that a secret is bound to, in TLS or without.
    async fn read_tunnel(
        &self,
        client: &mut Stream,
        host: TcpStream,
        asked: Asked,
        secrets: &Secrets,
    ) -> io::Result<()> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing was asked for in time");
        let target = asked.target;
        if !asked.first.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client did not wait for its tunnel"));
        }
        let mut first = [0];
        let peeked = timeout(HEAD_DEADLINE, client.peek(&mut first)).await.map_err(late)??;
        if peeked == 0 || first[0] != tls::HANDSHAKE {
            let extras = extras(secrets, &target, Carriage::Plain);
            if extras.is_empty() {
                return self.relay(client, host, &[], &target).await;
            }
            let head = read_head(client, |bytes| request::parse_in_tunnel(bytes, &target, HTTP_PORT, &extras));
            return match timeout(HEAD_DEADLINE, head).await.map_err(late)?? {
                Ok(first) => self.relay(client, host, &first, &target).await,
                Err(bad) => refuse(client, &answer::http(&Denied::Bad(bad))).await,
            };
        }
        let extras = extras(secrets, &target, Carriage::Tls);
        let name = target.host.to_string();
        let config = secrets.authority().answer_for(&name).map_err(io::Error::other)?;
        let mut client = timeout(HEAD_DEADLINE, tls::accept(client, config)).await.map_err(late)??;
        let head = read_head(&mut client, |bytes| request::parse_in_tunnel(bytes, &target, HTTPS_PORT, &extras));
        let first = match timeout(HEAD_DEADLINE, head).await.map_err(late)?? {
            Ok(first) => first,
            Err(bad) => return refuse(&mut client, &answer::http(&Denied::Bad(bad))).await,
        };
        let connecting = async { tls::connect(host, self.outside.tls(tls::client).await?, &name).await };
        match timeout(HEAD_DEADLINE, connecting).await.map_err(late).flatten() {
            Ok(host) => self.relay(client, host, &first, &target).await,
            Err(source) => refuse(&mut client, &answer::http(&Denied::Tls { target, source })).await,
        }
    }

    /// Sends what was asked for first, and then moves bytes until both have ended or the policy has changed its mind.
    async fn relay<A, B>(&self, client: A, mut host: B, first: &[u8], target: &Target) -> io::Result<()>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let moved = Moved::default();
        host.write_all(first).await?;
        self.traffic.moved.forth.fetch_add(first.len() as u64, Ordering::Relaxed);
        moved.forth.fetch_add(first.len() as u64, Ordering::Relaxed);
        let mut policy = self.policy.clone();
        let revoked = policy.wait_for(|policy| !permits(policy, target));
        let ended = tokio::select! {
            ended = relay(client, host, &self.traffic.pace, &moved, &self.traffic.moved) => ended,
            _ = revoked => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not on the allowlist any more")),
        };
        if matches!(&ended, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
            metrics().vanished(Peer::ProxiedHost);
        }
        let (sent, received) = (moved.forth.into_inner(), moved.back.into_inner());
        tracing::debug!(sandbox.id = %self.id, %target, sent, received, verdict = "connected", "proxy");
        ended
    }
}

/// Whether a policy lets the proxy connect to a target.
fn permits(policy: &Policy, target: &Target) -> bool {
    matches!(policy, Policy::Proxy(allow) if allow.permits(target))
}

/// The headers that requests to a target get.
fn extras(secrets: &Secrets, target: &Target, carriage: Carriage) -> Vec<Extra> {
    let extra = |binding: &Binding| (binding.header.as_str().to_owned(), binding.value.expose().to_vec());
    secrets.of(target, carriage).map(extra).collect()
}

/// Reads the head of an HTTP request, and what comes with it, until it is understood.
async fn read_head<T>(
    client: &mut (impl AsyncRead + Unpin),
    parse: impl Fn(&[u8]) -> Result<Option<T>, BadRequest>,
) -> io::Result<Result<T, BadRequest>> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let room = (request::MAX_HEAD - bytes.len()) as u64;
        if client.take(room).read_buf(&mut bytes).await? == 0 {
            return Ok(Err(if room == 0 { BadRequest::TooLong } else { BadRequest::Incomplete }));
        }
        if let Some(read) = parse(&bytes).transpose() {
            return Ok(read);
        }
    }
}

/// Tells a client that nothing was connected, and waits until it has had time to hear it.
async fn refuse(client: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &[u8]) -> io::Result<()> {
    client.write_all(answer).await?;
    client.shutdown().await?;
    let mut rest = client.take(LINGER_BYTES);
    // However it ends: the answer was given.
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::network::policy::Allow;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_its_request_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy {
            id: SandboxId::random(),
            policy: watch::channel(Policy::Proxy(Allow::default())).1,
            secrets: watch::channel(None).1,
            outside: Arc::new(Outside::new(Vec::new(), HEAD_DEADLINE)),
            traffic: Arc::default(),
        };
        let mut serving = JoinSet::new();
        serving.spawn(proxy.serve(listener.into(), CancellationToken::new()));
        for request in [&b""[..], b"CONNECT a.com", b"GET http://a.com/ HTTP/1.1\r\n", b"\x05\xff"] {
            let began = Instant::now();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(request).await.unwrap();
            // A byte from time to time is no more than none.
            let ended = loop {
                tokio::select! {
                    ended = client.read_u8() => break ended,
                    () = sleep(HEAD_DEADLINE / 4) => {
                        if !request.is_empty() && client.write_all(b"a").await.is_err() {
                            break Err(io::ErrorKind::BrokenPipe.into());
                        }
                    }
                }
            };
            assert!(ended.is_err(), "{request:?}: {ended:?}");
            assert!(
                (HEAD_DEADLINE..HEAD_DEADLINE * 2).contains(&began.elapsed()),
                "{request:?}: {:?}",
                began.elapsed()
            );
        }
    }
}
