//! The control connection: frames in, frames out, never waiting for the daemon.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;

use crate::guest::wire::{self, Done, FromGuest, Receiver, Refused, Step, ToGuest, from_guest, to_guest};

/// Frames that may wait for the daemon to read. Beyond it the daemon is taken for dead and the connection is dropped; it
/// will ask again when it connects anew.
const MAX_WAITING: usize = 4096;

/// A connection to the daemon.
pub struct Control {
    socket: OwnedFd,
    receiver: Receiver,
    waiting: VecDeque<Outgoing>,
    over: bool,
}

struct Outgoing {
    frame: Vec<u8>,
    sent: usize,
    fd: Option<OwnedFd>,
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

    /// The daemon is gone or does not keep to the wire.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Takes in what has come, once. The kernel never gives the descriptors of two messages in one read, so that those of
    /// one request at most wait here if all whole requests are taken before the next read.
    pub fn read(&mut self) -> io::Result<()> {
        match self.receiver.read(self.socket.as_fd()) {
            Ok(0) => self.over = true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next whole request.
    pub fn next(&mut self) -> Option<(u64, Option<to_guest::Body>)> {
        match self.receiver.next_message::<ToGuest>() {
            Ok(message) => message.map(|message| (message.request, message.body)),
            Err(_) => {
                self.over = true;
                None
            }
        }
    }

    /// The next descriptor that came with the requests, in order.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.receiver.take_fd()
    }

    /// Answers a request.
    pub fn answer(&mut self, request: u64, body: from_guest::Body, fd: Option<OwnedFd>) {
        let message = FromGuest { request, body: Some(body) };
        let frame = wire::frame(&message).expect("answers are short");
        self.waiting.push_back(Outgoing { frame, sent: 0, fd });
        if self.flush().is_err() || self.waiting.len() > MAX_WAITING {
            self.over = true;
        }
    }

    /// Answers a request with an error.
    pub fn refuse(&mut self, request: u64, step: Step, errno: i32) {
        self.answer(request, from_guest::Body::Refused(Refused { step: step.into(), errno }), None);
    }

    /// Answers a request that is done.
    pub fn done(&mut self, request: u64) {
        self.answer(request, from_guest::Body::Done(Done {}), None);
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(outgoing) = self.waiting.front_mut() {
            let fds: Vec<_> = outgoing.fd.iter().map(AsRawFd::as_raw_fd).collect();
            match wire::send(self.socket.as_fd(), &outgoing.frame[outgoing.sent..], &fds) {
                Ok(count) => {
                    outgoing.sent += count;
                    outgoing.fd = None;
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::guest::wire::MAX_FDS;

    #[test]
    fn a_burst_of_requests_with_descriptors_is_taken_one_by_one() {
        let (daemon, guest) = UnixStream::pair().unwrap();
        let mut control = Control::new(guest.into(), Receiver::default()).unwrap();
        let fds = [daemon.as_raw_fd(); MAX_FDS];
        for request in 1..=20 {
            let frame = wire::frame(&ToGuest { request, body: None }).unwrap();
            wire::send_all(daemon.as_fd(), &frame, &fds).unwrap();
        }
        for expected in 1..=20 {
            control.read().unwrap();
            assert_eq!(control.next(), Some((expected, None)));
            assert_eq!(std::iter::from_fn(|| control.take_fd()).count(), MAX_FDS);
        }
        assert_eq!(control.next(), None);
    }
}
