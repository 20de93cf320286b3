//! A run's stdin, or its terminal: a task that writes what callers send, in order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use nix::errno::Errno;
use nix::unistd::write;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::guest::client::Guest;
use crate::guest::readiness;
use crate::guest::terminal;
use crate::guest::wire::PtySize;
use crate::ids::RunId;

/// Messages that may wait; a caller waits for its own to be written, so that more only serve several callers.
const QUEUE: usize = 4;

/// What a terminal takes for the end of input at the start of a line (VEOF in termios(3)).
const CTRL_D: &[u8] = b"\x04";

/// Something for a run's stdin.
#[derive(Debug)]
pub enum Input {
    /// Bytes.
    Data(Bytes),
    /// No more bytes.
    Eof,
    /// Another size of the terminal.
    Resize(PtySize),
}

/// Why input was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// stdin is closed, or was not asked for.
    Closed,
    /// There is no terminal.
    NoTerminal,
}

type Message = (Input, oneshot::Sender<Result<(), Refusal>>);

/// A handle on the task.
#[derive(Debug, Clone)]
pub struct Sender {
    messages: mpsc::Sender<Message>,
    is_terminal: bool,
}

impl Sender {
    /// Sends input and waits until it is written.
    pub async fn send(&self, input: Input) -> Result<(), Refusal> {
        if matches!(input, Input::Resize(_)) && !self.is_terminal {
            return Err(Refusal::NoTerminal);
        }
        let (reply, answer) = oneshot::channel();
        self.messages.send((input, reply)).await.map_err(|_| Refusal::Closed)?;
        answer.await.unwrap_or(Err(Refusal::Closed))
    }
}

/// Where input goes.
#[derive(Debug)]
pub enum Sink {
    /// The write end of a pipe.
    Pipe(OwnedFd),
    /// The master of a terminal, or a socket that stands for it.
    Terminal(OwnedFd),
}

/// The task: writes until the end of input, until nobody can send any more, or until it is dropped with the run.
pub struct Writer {
    fd: AsyncFd<OwnedFd>,
    is_terminal: bool,
    messages: mpsc::Receiver<Message>,
    guest: Guest,
    run: RunId,
}

impl Writer {
    /// A writer for a run of this guest, and its handle.
    ///
    /// # Errors
    /// Those of fcntl(2) and epoll_ctl(2).
    pub fn new(sink: Sink, guest: Guest, run: RunId) -> io::Result<(Self, Sender)> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let (fd, is_terminal) = match sink {
            Sink::Pipe(fd) => (fd, false),
            Sink::Terminal(fd) => (fd, true),
        };
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let fd = readiness::watch(fd, Interest::WRITABLE)?;
        let (sender, messages) = mpsc::channel(QUEUE);
        Ok((Self { fd, is_terminal, messages, guest, run }, Sender { messages: sender, is_terminal }))
    }

    /// Writes.
    pub async fn serve(mut self) {
        while let Some((input, reply)) = self.messages.recv().await {
            if matches!(input, Input::Eof) && !self.is_terminal {
                // Before the guest is told: the run may end of it at once, and this task with it. A caller that has left
                // does not need to know.
                let _ = reply.send(Ok(()));
                break;
            }
            let _ = reply.send(self.take(input).await);
        }
        self.close().await;
    }

    /// Ends the input: closes our end of the pipe, and has the guest close the one that it keeps.
    async fn close(self) {
        drop(self.fd);
        if self.is_terminal {
            return;
        }
        if let Err(error) = self.guest.close_input(&self.run).await {
            tracing::debug!(run.id = %self.run, %error, "the end of input could not be told");
        }
    }

    async fn take(&self, input: Input) -> Result<(), Refusal> {
        match input {
            Input::Data(data) => self.write(&data).await,
            Input::Eof => self.write(CTRL_D).await,
            Input::Resize(size) => self.resize(size).await,
        }
    }

    async fn resize(&self, size: PtySize) -> Result<(), Refusal> {
        let resized = match terminal::resize(self.fd.as_fd(), size) {
            // It is a socket, which stands for a terminal that is out of reach.
            Err(Errno::ENOTTY) => self.guest.resize(&self.run, size).await.is_ok(),
            resized => resized.is_ok(),
        };
        if resized { Ok(()) } else { Err(Refusal::Closed) }
    }

    async fn write(&self, mut data: &[u8]) -> Result<(), Refusal> {
        while !data.is_empty() {
            let mut ready = self.fd.writable().await.map_err(|_| Refusal::Closed)?;
            match write(&self.fd, data) {
                Ok(count) => data = &data[count..],
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                // EPIPE: nobody reads any more. EIO: the terminal is gone.
                Err(_) => return Err(Refusal::Closed),
            }
        }
        Ok(())
    }
}
