//! Frames: messages and descriptors in and out of a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use prost::Message;

use super::{MAX_FDS, MAX_FRAME};

/// A message as a frame.
///
/// # Errors
/// `InvalidInput` for one above [`MAX_FRAME`].
pub fn frame(message: &impl Message) -> io::Result<Vec<u8>> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let Some(prefix) = prefix else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame too long"));
    };
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    message.encode(&mut bytes).expect("a Vec grows");
    Ok(bytes)
}

/// Sends part of a frame, with descriptors if these are its first bytes; answers how many bytes went. Never raises
/// SIGPIPE.
///
/// # Errors
/// Those of sendmsg(2), `WouldBlock` on a non-blocking socket among them: then nothing went, no descriptor either.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(sent)
}

/// Sends a whole frame on a blocking socket.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_all(socket: BorrowedFd<'_>, frame: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let mut sent = 0;
    while sent < frame.len() {
        match send(socket, &frame[sent..], if sent == 0 { fds } else { &[] }) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes frames out of a socket: bytes and descriptors as they come in, messages as they are whole.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    fds: std::collections::VecDeque<OwnedFd>,
}

/// Bytes asked for at a time. Most frames are far shorter.
const READ_SIZE: usize = 16 << 10;

impl Receiver {
    /// Reads once; answers how many bytes came, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of recvmsg(2), `WouldBlock` on a non-blocking socket among them; `InvalidData` if descriptors were lost or
    /// are more than any message brings.
    pub fn read(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let start = self.bytes.len();
        self.bytes.resize(start + READ_SIZE, 0);
        let result = receive(socket, &mut self.bytes[start..], &mut self.fds);
        self.bytes.truncate(start + *result.as_ref().unwrap_or(&0));
        if self.fds.len() > 2 * MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than messages"));
        }
        result
    }

    /// Takes in bytes that came by another way than a socket.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What has come and is no whole message yet. No messages can be taken after that.
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes
    }

    /// The next whole message, or `None` until more bytes are read.
    ///
    /// # Errors
    /// `InvalidData` for a frame that is too long or is no such message; the connection is of no use then.
    pub fn next_message<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some(prefix) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        let Some(body) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = M::decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }

    /// Reads on a blocking socket until a message is whole; `None` at the end of the stream.
    ///
    /// # Errors
    /// As [`Receiver::read`] and [`Receiver::next_message`]; `UnexpectedEof` if the stream ends within a frame.
    pub fn wait<M: Message + Default>(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<M>> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(Some(message));
            }
            match self.read(socket) {
                Ok(0) if self.bytes.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next descriptor that came, in order.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// The next descriptors that came, in order: those of the message that was taken last.
    ///
    /// # Errors
    /// `InvalidData` if fewer came; the connection is of no use then.
    pub fn take_fds(&mut self, count: u32) -> io::Result<Vec<OwnedFd>> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > self.fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message lacks descriptors"));
        }
        Ok(self.fds.drain(..count).collect())
    }
}

/// One recvmsg(2); descriptors come close-on-exec.
fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut std::collections::VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows of them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were lost"));
    }
    Ok(message.bytes)
}
