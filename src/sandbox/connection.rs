//! A connection to a port of a sandbox.
//!
//! A connection that is merely open keeps nobody awake: a browser may hold one for days. Bytes from outside wake the
//! sandbox, and it stays awake until it has answered, or has had long enough to. Bytes from inside count as use.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::idle::Lease;
use super::{Sandbox, SandboxError};
use crate::network::{ConnectError, Stream};

/// How long a sandbox stays awake for an answer that does not come. Longer than servers take over a request that somebody
/// waits for.
const ANSWER_WAIT: Duration = Duration::from_secs(5 * 60);

/// Why there is no connection to a port of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The sandbox cannot be used.
    #[error(transparent)]
    Sandbox(SandboxError),
    /// The port cannot.
    #[error("sandbox {id}")]
    Connect {
        /// Which.
        id: crate::ids::SandboxId,
        /// Why.
        #[source]
        source: ConnectError,
    },
}

/// A connection to a port of a sandbox.
pub struct Connection {
    stream: Stream,
    sandbox: Sandbox,
    answer: Answer,
}

/// Whether the sandbox owes an answer.
enum Answer {
    /// It does not; it may sleep.
    None,
    /// Bytes wait until it is awake.
    Waking(Pin<Box<dyn Future<Output = Result<Lease, SandboxError>> + Send>>),
    /// It does, until then.
    Due { _lease: Lease, until: Pin<Box<Sleep>> },
}

impl Connection {
    pub(super) fn new(stream: Stream, sandbox: Sandbox) -> Self {
        Self { stream, sandbox, answer: Answer::None }
    }

    /// Waits until the sandbox is awake, and keeps it so until it answers.
    fn poll_awake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.answer {
                Answer::None => {
                    let sandbox = self.sandbox.clone();
                    let waking = async move { sandbox.awake().await.map(|(_, lease)| lease) };
                    self.answer = Answer::Waking(Box::pin(waking));
                }
                Answer::Waking(waking) => {
                    let lease = ready!(waking.as_mut().poll(context));
                    self.answer = Answer::None;
                    let lease = lease.map_err(|error| io::Error::new(io::ErrorKind::BrokenPipe, error))?;
                    let until = Box::pin(sleep_until(Instant::now() + ANSWER_WAIT));
                    self.answer = Answer::Due { _lease: lease, until };
                }
                Answer::Due { until, .. } => {
                    until.as_mut().reset(Instant::now() + ANSWER_WAIT);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match (&mut self.answer, &read) {
            // To return the lease counts as use.
            (Answer::Due { .. }, Poll::Ready(_)) => self.answer = Answer::None,
            (Answer::Due { until, .. }, Poll::Pending) => {
                if until.as_mut().poll(context).is_ready() {
                    self.answer = Answer::None;
                }
            }
            (_, Poll::Ready(_)) => self.sandbox.touch(),
            (_, Poll::Pending) => {}
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_awake(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
