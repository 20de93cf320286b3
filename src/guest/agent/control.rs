//! The control connection: frames in, frames out, never waiting for the daemon.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;

use crate::guest::wire::{self, Done, FromGuest, Receiver, Refused, Step, ToGuest, from_guest, to_guest};

/// Frames that may wait for the daemon to read: more than the answers to a takeover of as many runs as a sandbox may have.
/// Beyond it the daemon is taken for dead and the connection is dropped; it will ask again when it connects anew.
const MAX_WAITING: usize = 1 << 16;

/// A connection to the daemon.
pub struct Control {
    socket: OwnedFd,
    receiver: Receiver,
    waiting: VecDeque<Outgoing>,
    over: bool,
}

/// What the daemon asks.
pub struct Request {
    /// Its number, for the answer.
    pub number: u64,
    /// `None` is something that this build does not know.
    pub body: Option<to_guest::Body>,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

struct Outgoing {
    frame: Vec<u8>,
    sent: usize,
    /// Until the first byte is sent.
    fds: Vec<Rc<OwnedFd>>,
}

impl Control {
    /// Takes over a connection on which the daemon has said hello.
    pub fn new(socket: OwnedFd, receiver: Receiver) -> io::Result<Self> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { socket, receiver, waiting: VecDeque::new(), over: false })
    }

    /// For poll.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// For poll.
    pub fn interest(&self) -> PollFlags {
        if self.waiting.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }

    /// The daemon does not take our answers or does not keep to the wire.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Takes in some of what has come. What is whole of it is to be taken before more is read, so that no more
    /// descriptors wait than one message brings.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing; `UnexpectedEof` if there will be nothing any more; those of the wire.
    pub fn read(&mut self) -> io::Result<()> {
        match self.receiver.read(self.socket.as_fd()) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next whole request.
    pub fn next(&mut self) -> Option<Request> {
        if self.over {
            return None;
        }
        let request = self.try_next();
        self.over = request.is_err();
        request.unwrap_or(None)
    }

    fn try_next(&mut self) -> io::Result<Option<Request>> {
        let Some(ToGuest { request: number, fds, body }) = self.receiver.next_message()? else { return Ok(None) };
        Ok(Some(Request { number, body, fds: self.receiver.take_fds(fds)? }))
    }

    /// Answers a request, or tells of an event if its number is 0. The descriptors stay ours, too.
    pub fn answer(&mut self, request: u64, body: from_guest::Body, fds: Vec<Rc<OwnedFd>>) {
        let count = u32::try_from(fds.len()).expect("an answer brings a few descriptors");
        let message = FromGuest { request, fds: count, body: Some(body) };
        let frame = wire::frame(&message).expect("answers are short");
        self.waiting.push_back(Outgoing { frame, sent: 0, fds });
        if self.flush().is_err() || self.waiting.len() > MAX_WAITING {
            self.over = true;
        }
    }

    /// Answers a request with an error.
    pub fn refuse(&mut self, request: u64, step: Step, errno: i32) {
        self.answer(request, from_guest::Body::Refused(Refused { step: step.into(), errno }), Vec::new());
    }

    /// Answers a request that is done.
    pub fn done(&mut self, request: u64) {
        self.answer(request, from_guest::Body::Done(Done {}), Vec::new());
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(outgoing) = self.waiting.front_mut() {
            let fds: Vec<_> = outgoing.fds.iter().map(AsRawFd::as_raw_fd).collect();
            match wire::send(self.socket.as_fd(), &outgoing.frame[outgoing.sent..], &fds) {
                Ok(count) => {
                    outgoing.sent += count;
                    outgoing.fds.clear();
                    if outgoing.sent == outgoing.frame.len() {
                        self.waiting.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
