//! A trunk: the one stream to a guest that no unix socket leads to, and the channels in it.
//!
//! Some runtimes keep the sandbox behind a kernel of its own (gVisor, Kata), which a unix socket of the node does not
//! reach into. There the guest's own stdin and stdout are the stream, and whoever made the container attaches to them.
//! The other side is a [`relay`](super::relay) on the node, which speaks the ordinary wire to the daemon.
//!
//! ```text
//! daemon ── socket, pipes ── relay ══ trunk ══ guest ── pipes ── runs
//! ```
//!
//! A channel joins a descriptor here to one on the other side. Whoever sends may be [`WINDOW`] bytes ahead of whoever
//! takes, so that a reader that stalls stalls its own channel only, and with it the process that writes: no more is kept
//! of it on the way. Both sides are single-threaded poll loops and never wait for anything else.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::unistd::{read, write};

use super::wire::trunk::{Accepted, Close, Credit, Data, End, GUESTS, Open, Packet, Ready, packet};
use super::wire::{self, Receiver};
use channel::Channel;
pub use channel::Flow;
pub use envelope::Envelope;

mod channel;
mod envelope;

/// Bytes of a channel that may be on their way. Enough that the stream is never idle while Docker passes it on.
pub const WINDOW: usize = 256 << 10;

/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

/// Bytes that may wait for the stream before no more are read for it.
const BACKLOG: usize = 256 << 10;

/// Channels at once; a guest has three for each run, and one for each connection.
const MAX_CHANNELS: usize = 1 << 17;

/// One side of a trunk.
#[derive(Debug)]
pub struct Trunk {
    input: OwnedFd,
    output: OwnedFd,
    envelope: Envelope,
    receiver: Receiver,
    outgoing: VecDeque<u8>,
    channels: BTreeMap<u32, Channel>,
    happened: VecDeque<Happened>,
}

/// What is to be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the stream comes from.
    Input,
    /// Where it goes to.
    Output,
    /// A channel's own descriptor.
    Channel(u32),
}

/// What the other side has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The guest serves.
    Ready(Ready),
    /// A connection was opened. What comes of it is held until it is joined by [`Trunk::adopt`].
    Opened(Open),
    /// One from inside was accepted. The same holds for it.
    Accepted(Accepted),
}

impl Trunk {
    /// A trunk in two descriptors, which may be of one socket. They are non-blocking from now on. The receiver holds what
    /// came of the stream before.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn new(input: OwnedFd, output: OwnedFd, envelope: Envelope, receiver: Receiver) -> io::Result<Self> {
        set_nonblocking(&input)?;
        set_nonblocking(&output)?;
        let (outgoing, channels, happened) = (VecDeque::new(), BTreeMap::new(), VecDeque::new());
        Ok(Self { input, output, envelope, receiver, outgoing, channels, happened })
    }

    /// Where the stream comes from.
    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// What to wait for, and with what of it to come back to [`Trunk::serve`].
    pub fn interests(&self) -> impl Iterator<Item = (Place, BorrowedFd<'_>, PollFlags)> {
        let input = Some((Place::Input, self.input.as_fd(), PollFlags::POLLIN));
        let waits = !self.outgoing.is_empty();
        let output = waits.then(|| (Place::Output, self.output.as_fd(), PollFlags::POLLOUT));
        let is_clear = self.outgoing.len() < BACKLOG;
        let channels = self.channels.iter().filter_map(move |(number, channel)| {
            let (local, flags) = channel.interest(is_clear)?;
            Some((Place::Channel(*number), local, flags))
        });
        input.into_iter().chain(output).chain(channels)
    }

    /// Does what can be done without waiting, in a place that is ready.
    ///
    /// # Errors
    /// Whatever ends the trunk: `UnexpectedEof` at the end of the stream, `InvalidData` if the other side does not keep to
    /// the wire, those of read(2) and write(2).
    pub fn serve(&mut self, place: Place) -> io::Result<()> {
        match place {
            Place::Input => self.hear(),
            Place::Output => self.flush(),
            Place::Channel(number) => {
                self.serve_channel(number);
                Ok(())
            }
        }
    }

    /// What has happened since it was asked last.
    pub fn happened(&mut self) -> Option<Happened> {
        self.happened.pop_front()
    }

    /// Joins a channel to a descriptor, which is non-blocking from now on.
    ///
    /// # Errors
    /// Those of fcntl(2); `InvalidInput` if there is such a channel, or too many.
    pub fn join(&mut self, number: u32, local: OwnedFd, flow: Flow) -> io::Result<()> {
        set_nonblocking(&local)?;
        self.insert(number, Channel::joined(local, flow))
    }

    /// Joins a channel that the other side has opened to a descriptor, which is non-blocking from now on.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn adopt(&mut self, number: u32, local: OwnedFd, flow: Flow) -> io::Result<()> {
        set_nonblocking(&local)?;
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.join(local, flow);
        }
        self.serve_channel(number);
        Ok(())
    }

    /// A channel whose bytes are sent by [`Trunk::send`] and taken by [`Trunk::take`].
    ///
    /// # Errors
    /// `InvalidInput` if there is such a channel, or too many.
    pub fn hold(&mut self, number: u32) -> io::Result<()> {
        self.insert(number, Channel::held())
    }

    /// Says that the guest serves.
    pub fn say_ready(&mut self) {
        self.say(packet::Body::Ready(Ready { version: wire::VERSION }));
    }

    /// Opens a connection on the other side.
    pub fn say_open(&mut self, open: Open) {
        self.say(packet::Body::Open(open));
    }

    /// Says that a connection from inside was accepted.
    pub fn say_accepted(&mut self, accepted: Accepted) {
        self.say(packet::Body::Accepted(accepted));
    }

    /// How many connections of those that the guest has accepted there are.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.channels.range(GUESTS..).count()
    }

    /// There is room for more bytes of a channel that is held, and for any of the trunk's.
    #[must_use]
    pub fn has_room(&self, number: u32) -> bool {
        self.outgoing.len() < BACKLOG && self.channels.get(&number).is_some_and(|channel| channel.credit > 0)
    }

    /// Sends bytes of a channel, also more than there is room for: [`Trunk::has_room`] comes before.
    pub fn send(&mut self, number: u32, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            if let Some(channel) = self.channels.get_mut(&number) {
                channel.spend(chunk.len());
                self.say(packet::Body::Data(Data { channel: number, bytes: chunk.to_vec() }));
            }
        }
    }

    /// The bytes of a channel that is held that have come.
    pub fn take(&mut self, number: u32) -> Vec<u8> {
        let Some(channel) = self.channels.get_mut(&number) else { return Vec::new() };
        let bytes: Vec<u8> = channel.inbound.drain(..).collect();
        let owed = channel.taken(bytes.len());
        self.give_credit(number, owed);
        bytes
    }

    /// Ends a channel that there is only on the other side.
    pub fn say_closed(&mut self, number: u32) {
        self.say(packet::Body::Close(Close { channel: number }));
    }

    /// Ends a channel, on both sides.
    pub fn close(&mut self, number: u32) {
        if self.channels.remove(&number).is_some() {
            self.say_closed(number);
        }
    }

    /// How many bytes of a channel have passed its descriptor here; `None` once it is over.
    #[must_use]
    pub fn passed(&self, number: u32) -> Option<u64> {
        self.channels.get(&number).map(|channel| channel.passed)
    }

    /// And how many more are in that descriptor, to be read.
    #[must_use]
    pub fn waiting(&self, number: u32) -> Option<u64> {
        self.channels.get(&number).and_then(Channel::waiting)
    }

    fn insert(&mut self, number: u32, channel: Channel) -> io::Result<()> {
        if self.channels.len() == MAX_CHANNELS || self.channels.contains_key(&number) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.channels.insert(number, channel);
        Ok(())
    }

    /// Reads from the stream once.
    fn hear(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        let count = match read(&self.input, &mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        self.envelope.open(&chunk[..count], &mut self.receiver)?;
        while let Some(packet) = self.receiver.next_message::<Packet>()? {
            self.take_in(packet)?;
        }
        Ok(())
    }

    fn take_in(&mut self, packet: Packet) -> io::Result<()> {
        match packet.body {
            Some(packet::Body::Ready(ready)) => self.happened.push_back(Happened::Ready(ready)),
            Some(packet::Body::Open(open)) => {
                // Its first bytes may come before anybody has heard of it.
                self.hold(open.channel)?;
                self.happened.push_back(Happened::Opened(open));
            }
            Some(packet::Body::Accepted(accepted)) => {
                self.hold(accepted.channel)?;
                self.happened.push_back(Happened::Accepted(accepted));
            }
            Some(packet::Body::Data(Data { channel, bytes })) => {
                // What is said of a channel that has just been closed here is not heard.
                if let Some(found) = self.channels.get_mut(&channel) {
                    found.receive(&bytes)?;
                    self.serve_channel(channel);
                }
            }
            Some(packet::Body::Credit(Credit { channel, bytes })) => {
                if let Some(channel) = self.channels.get_mut(&channel) {
                    channel.credit = channel.credit.saturating_add(i64::from(bytes));
                }
            }
            Some(packet::Body::End(End { channel })) => {
                if let Some(found) = self.channels.get_mut(&channel) {
                    found.end_inbound();
                    self.serve_channel(channel);
                }
            }
            Some(packet::Body::Close(Close { channel })) => self.end(channel),
            // A newer side's word.
            None => {}
        }
        Ok(())
    }

    /// The other side has ended a channel, which is over when all that came of it is delivered.
    fn end(&mut self, number: u32) {
        if self.channels.get_mut(&number).is_some_and(Channel::finish) {
            self.channels.remove(&number);
        }
    }

    /// Moves what can be moved between a channel's descriptor and the stream.
    fn serve_channel(&mut self, number: u32) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        let Ok(delivered) = channel.deliver() else { return self.close(number) };
        let owed = channel.taken(delivered);
        self.give_credit(number, owed);
        if self.outgoing.len() < BACKLOG {
            self.collect(number);
        }
        if self.channels.get(&number).is_some_and(Channel::is_finished) {
            self.channels.remove(&number);
        }
    }

    /// Sends what a channel's descriptor gives.
    fn collect(&mut self, number: u32) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        match channel.collect() {
            Ok(Some(bytes)) => self.say(packet::Body::Data(Data { channel: number, bytes })),
            Ok(None) => {}
            Err(Errno::EPIPE) if channel.end_outbound() => self.say(packet::Body::End(End { channel: number })),
            Err(_) => self.close(number),
        }
    }

    fn give_credit(&mut self, number: u32, bytes: u32) {
        if bytes > 0 {
            self.say(packet::Body::Credit(Credit { channel: number, bytes }));
        }
    }

    fn say(&mut self, body: packet::Body) {
        let frame = wire::frame(&Packet { body: Some(body) }).expect("packets are short");
        self.outgoing.extend(frame);
    }

    /// Sends what waits, as far as the stream takes it.
    fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match write(&self.output, self.outgoing.as_slices().0) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests;
