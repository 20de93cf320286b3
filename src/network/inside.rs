//! Connections to ports inside and from inside: TCP sockets of the sandbox's own network, or sockets that stand for those
//! where only bytes get out (see `guest::relay`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net as unix;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::sys::socket::{AddressFamily, MsgFlags, SockaddrLike, SockaddrStorage, getsockname, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// A connection.
#[derive(Debug)]
pub struct Stream(Either<TcpStream, UnixStream>);

impl Stream {
    /// One whose bytes are carried, by its descriptor, which does not block.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn carried(socket: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(unix::UnixStream::from(socket)).map(Either::Right).map(Self)
    }

    /// Sends small messages at once. What carries bytes does so anyway.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_nodelay(&self) -> io::Result<()> {
        match &self.0 {
            Either::Left(stream) => stream.set_nodelay(true),
            Either::Right(_) => Ok(()),
        }
    }

    /// Waits for bytes and looks at them; none are there at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// Those of recv(2).
    pub async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let stream = match &self.0 {
            Either::Left(stream) => return stream.peek(bytes).await,
            Either::Right(stream) => stream,
        };
        let look = || recv(stream.as_raw_fd(), bytes, MsgFlags::MSG_PEEK).map_err(io::Error::from);
        stream.async_io(Interest::READABLE, look).await
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(Either::Left(stream))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Where connections from inside come in.
#[derive(Debug)]
pub struct Listener(Either<TcpListener, UnixListener>);

impl Listener {
    /// That of a descriptor, which does not block.
    ///
    /// # Errors
    /// Those of getsockname(2) and epoll_ctl(2).
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
        if address.family() == Some(AddressFamily::Unix) {
            UnixListener::from_std(socket.into()).map(Either::Right).map(Self)
        } else {
            TcpListener::from_std(socket.into()).map(Either::Left).map(Self)
        }
    }

    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// Those of accept(2).
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.0 {
            Either::Left(listener) => Ok(listener.accept().await?.0.into()),
            Either::Right(listener) => Ok(Stream(Either::Right(listener.accept().await?.0))),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Either::Left(listener))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_stands_for_a_listener_gives_streams_that_can_be_looked_into() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port");
        let listening = unix::UnixListener::bind(&path).unwrap();
        listening.set_nonblocking(true).unwrap();
        let listener = Listener::new(listening.into()).unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        let mut stream = listener.accept().await.unwrap();
        stream.set_nodelay().unwrap();
        let (mut looked, mut read) = ([0], String::new());
        let say = async {
            tokio::task::yield_now().await;
            client.write_all(b"hello").await.unwrap();
            drop(client);
        };
        let (peeked, ()) = tokio::join!(stream.peek(&mut looked), say);
        assert_eq!((peeked.unwrap(), looked), (1, *b"h"));
        stream.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "hello");
        assert_eq!(stream.peek(&mut looked).await.unwrap(), 0);
    }
}
