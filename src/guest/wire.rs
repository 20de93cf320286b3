//! The wire between daemon and guest: frames of length-prefixed protobuf on a unix stream socket, with file descriptors
//! beside them.
//!
//! A frame is a little-endian `u32` length and that many bytes of one message. Descriptors travel as `SCM_RIGHTS` with
//! the first byte of the frame that they belong to (unix(7)). A frame says how many it brings, so that they are told
//! apart from those of the next one whatever becomes of it; each message says in which order.
//! The daemon opens every connection and says [`Hello`] first, which fixes what the connection is for:
//!
//! - **control**, one at a time: [`ToGuest`] down, [`FromGuest`] up; starts runs, signals them, reports their exits, and
//!   hands them to the next daemon when one has died; makes sockets inside the sandbox's network and hands them out;
//! - **files**, many: one [`FileRequest`] at a time is answered by one [`FileReply`], in order.
//!
//! Where a runtime lets no unix socket through, connections are carried by a trunk (see [`super::trunk`]), which has no
//! descriptors: a [`Spawn`] names channels instead, and the content of files travels in messages of its own.
//!
//! The messages are additive only, so that a newer daemon can drive the guest that an older one left behind: fields are
//! never removed or given another meaning, and [`VERSION`] grows when a daemon has to know that a field is understood.
//! Neither side trusts the other with memory: a frame above [`MAX_FRAME`] ends the connection before it is read.

use prost::Message;

pub use control::*;
pub use files::*;
pub use frame::{Receiver, frame, send, send_all};
pub use trunk::{Accepted, Close, Credit, Data, End, Packet, Ready, packet};

mod control;
mod files;
mod frame;
pub mod trunk;

/// What this build speaks.
pub const VERSION: u32 = 2;

/// Longest message of a frame, in bytes. Above the largest legal [`Spawn`] (1 MiB of arguments and environment) and the
/// largest page of entries.
pub const MAX_FRAME: usize = 8 << 20;

/// Most descriptors with one frame: both ends of stdin, stdout and stderr, the run's cgroup, and room to grow.
pub const MAX_FDS: usize = 8;

/// Most runs that have ended and were not released that the guest keeps. Beyond it those that ended first are forgotten:
/// it guards against a daemon that never releases, and no daemon that died has left so many behind.
pub const MAX_ENDED: usize = 4096;

/// First message on every connection.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// [`VERSION`] of the daemon.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// What the connection is for.
    #[prost(enumeration = "Purpose", tag = "2")]
    pub purpose: i32,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Purpose {
    /// Never sent.
    Unspecified = 0,
    /// Runs.
    Control = 1,
    /// Files.
    Files = 2,
}

/// Answers [`Hello`], on both kinds of connection.
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    /// [`VERSION`] of the guest.
    #[prost(uint32, tag = "1")]
    pub version: u32,
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = std::io::pipe().unwrap();
        (read.into(), write.into())
    }

    fn send_message(socket: &UnixStream, message: &impl Message, fds: &[RawFd]) {
        send_all(socket.as_fd(), &frame(message).unwrap(), fds).unwrap();
    }

    fn held(run: &str) -> Held {
        let ended = Some(Ended { code: None, signal: 9, written: None });
        Held { run: run.to_owned(), pid: 7, ended, keeper: true, stdin: true, pty: false }
    }

    #[test]
    fn a_message_reads_back_with_the_descriptors_that_it_brings() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = pipe();
        let message = FromGuest { request: 3, fds: 2, body: Some(from_guest::Body::Held(held("a"))) };
        send_message(&ours, &message, &[read.as_raw_fd(), write.as_raw_fd()]);
        let mut receiver = Receiver::default();
        assert_eq!(receiver.wait::<FromGuest>(theirs.as_fd()).unwrap(), Some(message));
        let mut fds = receiver.take_fds(2).unwrap().into_iter();
        let (mut there, mut back) = (std::fs::File::from(read), std::fs::File::from(fds.nth(1).unwrap()));
        back.write_all(b"x").unwrap();
        let mut byte = [0];
        io::Read::read_exact(&mut there, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn descriptors_of_a_message_of_a_newer_daemon_are_not_taken_for_those_of_the_next() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = pipe();
        // A body with a tag that this build does not know.
        let mut newer = ToGuest { request: 1, fds: 1, body: None }.encode_to_vec();
        newer.extend([0xfa, 0x3f, 0x00]);
        let length = u32::try_from(newer.len()).unwrap().to_le_bytes();
        send_all(ours.as_fd(), &[&length[..], &newer].concat(), &[read.as_raw_fd()]).unwrap();
        let takeover = ToGuest { request: 2, fds: 1, body: Some(to_guest::Body::Takeover(Takeover {})) };
        send_message(&ours, &takeover, &[write.as_raw_fd()]);
        let mut receiver = Receiver::default();
        let first: ToGuest = receiver.wait(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(first, ToGuest { request: 1, fds: 1, body: None });
        drop(receiver.take_fds(first.fds).unwrap());
        let second: ToGuest = receiver.wait(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(second, takeover);
        let fd = receiver.take_fds(second.fds).unwrap().remove(0);
        assert_eq!(nix::sys::stat::fstat(&fd).unwrap().st_ino, nix::sys::stat::fstat(&write).unwrap().st_ino);
        assert!(nix::unistd::write(&fd, b"x").is_ok(), "it is the write end");
    }

    #[test]
    fn a_message_that_lacks_descriptors_is_refused() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, _write) = pipe();
        let message = FromGuest { request: 3, fds: u32::MAX, body: None };
        send_message(&ours, &message, &[read.as_raw_fd()]);
        let mut receiver = Receiver::default();
        let message: FromGuest = receiver.wait(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(receiver.take_fds(message.fds).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn more_descriptors_than_messages_bring_end_the_connection() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, _write) = pipe();
        let fds = [read.as_raw_fd(); MAX_FDS];
        let mut receiver = Receiver::default();
        for _ in 0..2 {
            send(ours.as_fd(), b"x", &fds).unwrap();
            receiver.read(theirs.as_fd()).unwrap();
        }
        send(ours.as_fd(), b"x", &fds).unwrap();
        assert_eq!(receiver.read(theirs.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn requests_and_answers_read_back() {
        let run = "run".to_owned();
        let requests = [
            to_guest::Body::CloseInput(CloseInput { run: run.clone() }),
            to_guest::Body::Release(Release { run: run.clone() }),
            to_guest::Body::Takeover(Takeover {}),
            to_guest::Body::MakeSocket(MakeSocket { ipv6: true }),
            to_guest::Body::Listen(Listen { port: 65535 }),
        ];
        for body in requests {
            let message = ToGuest { request: 9, fds: 0, body: Some(body) };
            assert_eq!(ToGuest::decode(message.encode_to_vec().as_slice()).unwrap(), message);
        }
        for ended in [
            None,
            Some(Ended { code: Some(0), signal: 0, written: None }),
            Some(Ended { code: None, signal: 15, written: None }),
        ] {
            let message = Held { ended, ..held("run") };
            assert_eq!(Held::decode(message.encode_to_vec().as_slice()).unwrap(), message);
        }
    }
}
