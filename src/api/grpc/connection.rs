//! Connections of clients, of gRPC and of HTTP: accepted, secured, bounded in number, and counted if a client vanishes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::authority::Rewriter;
use crate::auth::policy::Peer;
use crate::auth::tls;
use crate::metrics::{self, metrics};

/// How long a client may take to say its first word, and to shake hands: a few round trips to the other side of the world.
/// Whoever takes longer only holds a descriptor.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// When the process has no descriptor left, nobody says when there is one again.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where connections come from.
pub enum Listener {
    /// Processes of this machine.
    Unix(UnixListener),
    /// This machine, through its loopback.
    Plain(TcpListener),
    /// Anywhere. What was read last holds for the connections from then on.
    Tls(TcpListener, watch::Receiver<Arc<ServerConfig>>),
}

/// A connection that is ready for HTTP.
pub struct Connection {
    io: Io,
    /// What it is counted as if its client vanishes.
    kind: metrics::Peer,
    peer: Arc<Peer>,
    /// Its place among as many as there may be.
    _room: OwnedSemaphorePermit,
}

enum Io {
    Unix(UnixStream, Rewriter),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts until it is told to stop, at most `most` connections at once: the next one waits until another has ended.
pub async fn accept(
    listener: Listener,
    kind: metrics::Peer,
    most: usize,
    ready: mpsc::Sender<Connection>,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(most));
    let mut handshakes = JoinSet::new();
    let accepting = async {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
            let socket = loop {
                match listener.accept().await {
                    Ok(socket) => break socket,
                    Err(error) if is_of_the_client(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "no connection can be accepted");
                        sleep(ACCEPT_RETRY).await;
                    }
                }
            };
            while handshakes.try_join_next().is_some() {}
            let ready = ready.clone();
            handshakes.spawn(async move {
                match timeout(HANDSHAKE_DEADLINE, socket.secure()).await {
                    // If nobody takes it, the daemon ends.
                    Ok(Ok((io, peer))) => {
                        let _ = ready.send(Connection { io, kind, peer: Arc::new(peer), _room: permit }).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a client did not become a connection"),
                    Err(_) => tracing::debug!("a client connected and was silent"),
                }
            });
        }
    };
    let _: Option<()> = stop.run_until_cancelled(accepting).await;
}

/// The error is of a connection that ended before it was accepted (accept(2)).
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// What was accepted.
enum Socket {
    Unix(UnixStream),
    Plain(TcpStream),
    Tls(TcpStream, Arc<ServerConfig>),
}

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Unix(listener) => Socket::Unix(listener.accept().await?.0),
            Self::Plain(listener) => Socket::Plain(listener.accept().await?.0),
            Self::Tls(listener, config) => Socket::Tls(listener.accept().await?.0, Arc::clone(&config.borrow())),
        })
    }
}

impl Socket {
    /// Shakes hands, or waits for the client's first word, which is its to say.
    async fn secure(self) -> io::Result<(Io, Peer)> {
        match self {
            Self::Unix(stream) => {
                stream.ready(Interest::READABLE).await?;
                let uid = stream.peer_cred()?.uid();
                Ok((Io::Unix(stream, Rewriter::new()), Peer::Local { uid }))
            }
            Self::Plain(stream) => {
                stream.set_nodelay(true)?;
                stream.ready(Interest::READABLE).await?;
                Ok((Io::Tcp(stream), Peer::Loopback))
            }
            Self::Tls(stream, config) => {
                stream.set_nodelay(true)?;
                let stream = TlsAcceptor::from(config).accept(stream).await?;
                let names = tls::client_names(stream.get_ref().1);
                Ok((Io::Tls(Box::new(stream)), Peer::Tls { names }))
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = match &mut self.io {
            Io::Unix(stream, rewriter) => {
                let before = buffer.filled().len();
                let read = Pin::new(stream).poll_read(cx, buffer);
                rewriter.rewrite(&mut buffer.filled_mut()[before..]);
                read
            }
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        // A server reads all the time, so that it hears of it once.
        if matches!(&read, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut) {
            metrics().vanished(self.kind);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
            Io::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Unix(stream, _) => stream.is_write_vectored(),
            Io::Tcp(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(stream, _) => Pin::new(stream).poll_flush(cx),
            Io::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
