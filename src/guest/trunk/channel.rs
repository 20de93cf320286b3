//! One channel of a trunk.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{read, write};

use super::{CHUNK, WINDOW};
use crate::guest::wire::MAX_FRAME;

/// Which way the bytes of a channel go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// From the descriptor here to the other side: the read end of a pipe.
    Out,
    /// From the other side to the descriptor: the write end of a pipe.
    In,
    /// Both, until either side is at its end: a socket of the daemon's, a terminal.
    Both,
    /// Both, each with an end of its own: a connection.
    Duplex,
}

/// One side of a channel.
#[derive(Debug)]
pub struct Channel {
    /// Its descriptor; `None` of one that is held.
    local: Option<(OwnedFd, Flow)>,
    /// What has come and was not taken yet.
    pub inbound: VecDeque<u8>,
    /// Bytes that may still be sent. A whole frame may go beyond it.
    pub credit: i64,
    /// Bytes that were taken, and that the other side has not been told of.
    owed: usize,
    /// Bytes that have passed the descriptor.
    pub passed: u64,
    /// The other side has said that it is over: what has come is still delivered.
    is_finishing: bool,
    /// Of one with two ends: that of what comes.
    inbound_end: InboundEnd,
    /// And that of what goes: the descriptor gives no more, which was said.
    is_exhausted: bool,
}

/// How far the bytes that come are at their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InboundEnd {
    /// There may be more of them.
    Open,
    /// There will be no more of them.
    Known,
    /// The descriptor has all of them, and was told.
    Told,
}

impl Channel {
    /// One with a descriptor.
    pub fn joined(local: OwnedFd, flow: Flow) -> Self {
        Self::new(Some((local, flow)))
    }

    /// One without.
    pub fn held() -> Self {
        Self::new(None)
    }

    /// Gives a descriptor to one without.
    pub fn join(&mut self, local: OwnedFd, flow: Flow) {
        self.local = Some((local, flow));
    }

    fn new(local: Option<(OwnedFd, Flow)>) -> Self {
        let credit = i64::try_from(WINDOW).expect("a window is small");
        Self {
            local,
            inbound: VecDeque::new(),
            credit,
            owed: 0,
            passed: 0,
            is_finishing: false,
            inbound_end: InboundEnd::Open,
            is_exhausted: false,
        }
    }

    /// What to wait for, if the stream is clear for more. A descriptor of which nothing is wanted is not looked at: its
    /// end would be told again and again.
    pub fn interest(&self, is_clear: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let (local, flow) = self.local.as_ref()?;
        let mut flags = PollFlags::empty();
        let may_send = is_clear && self.credit > 0 && !self.is_finishing && !self.is_exhausted;
        flags.set(PollFlags::POLLIN, *flow != Flow::In && may_send);
        flags.set(PollFlags::POLLOUT, !self.inbound.is_empty());
        (!flags.is_empty()).then(|| (local.as_fd(), flags))
    }

    /// Bytes are sent.
    pub fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Takes in bytes of the other side.
    ///
    /// # Errors
    /// `InvalidData` if it sends more than it was allowed to.
    pub fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.inbound.len() + bytes.len() > WINDOW + MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than there is room for"));
        }
        self.inbound.extend(bytes);
        Ok(())
    }

    /// Counts bytes as taken; answers how many the other side is to be told of now: not each few of them.
    pub fn taken(&mut self, bytes: usize) -> u32 {
        self.owed += bytes;
        let told = if self.owed >= WINDOW / 4 { std::mem::take(&mut self.owed) } else { 0 };
        u32::try_from(told).expect("a window and a frame are small")
    }

    /// Gives the descriptor what has come, as far as it takes it; answers how many bytes that were.
    ///
    /// # Errors
    /// Those of write(2): nobody reads it any more.
    pub fn deliver(&mut self) -> nix::Result<usize> {
        let Some((local, _)) = &self.local else { return Ok(0) };
        let mut delivered = 0;
        while !self.inbound.is_empty() {
            match write(local, self.inbound.as_slices().0) {
                Ok(count) => {
                    self.inbound.drain(..count);
                    delivered += count;
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.passed += delivered as u64;
        if self.inbound.is_empty() && self.inbound_end == InboundEnd::Known {
            self.inbound_end = InboundEnd::Told;
            // One that is gone needs not be told.
            let _ = shutdown(local.as_raw_fd(), Shutdown::Write);
        }
        Ok(delivered)
    }

    /// Takes bytes from the descriptor, if there are any and they may be sent.
    ///
    /// # Errors
    /// Those of read(2); `EPIPE` if there will be none any more.
    pub fn collect(&mut self) -> nix::Result<Option<Vec<u8>>> {
        let Some((local, Flow::Out | Flow::Both | Flow::Duplex)) = &self.local else { return Ok(None) };
        let most = usize::try_from(self.credit).unwrap_or(0).min(CHUNK);
        if most == 0 || self.is_finishing || self.is_exhausted {
            return Ok(None);
        }
        let mut chunk = vec![0; most];
        match read(local, &mut chunk) {
            Ok(0) => Err(Errno::EPIPE),
            Ok(count) => {
                chunk.truncate(count);
                self.spend(count);
                self.passed += count as u64;
                Ok(Some(chunk))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The descriptor is at its end. Answers whether the other direction has one of its own.
    pub fn end_outbound(&mut self) -> bool {
        self.is_exhausted = true;
        matches!(self.local, Some((_, Flow::Duplex)))
    }

    /// The other side sends no more, and may still be sent to.
    pub fn end_inbound(&mut self) {
        if self.inbound_end == InboundEnd::Open {
            self.inbound_end = InboundEnd::Known;
        }
    }

    /// The other side has nothing more to say. Answers whether it is over at once.
    pub fn finish(&mut self) -> bool {
        self.is_finishing = true;
        self.is_finished()
    }

    /// It is over, and all that came is delivered.
    pub fn is_finished(&self) -> bool {
        let are_both_ended = self.is_exhausted && self.inbound_end == InboundEnd::Told;
        self.inbound.is_empty() && (self.is_finishing || are_both_ended)
    }

    /// Bytes that are in the descriptor, to be read.
    pub fn waiting(&self) -> Option<u64> {
        let (local, _) = self.local.as_ref()?;
        let mut count: libc::c_int = 0;
        // SAFETY: FIONREAD writes an int to where it is told, and that one is ours.
        let result = unsafe { libc::ioctl(local.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        Errno::result(result).ok().and_then(|_| u64::try_from(count).ok())
    }
}
