//! One connection to the guest: questions down, answers up, each with a deadline. Everything here blocks.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::FileError;
use crate::guest::socket;
use crate::guest::wire::{self, FileInfo, FileReply, FileRequest, Hello, Purpose, Welcome, file_reply, file_request};

/// Longest wait for an answer that takes the guest a few system calls. Room for a disk that is slow and a CPU that is
/// shared.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Longest wait for a page of entries.
pub const LIST_WAIT: Duration = Duration::from_secs(30);

/// Longest wait for what takes time with the size of a tree or file: removing all of it, copying it.
pub const BULK_WAIT: Duration = Duration::from_secs(300);

/// A connection. It holds the permit of the operation that it is for.
#[derive(Debug)]
pub struct Conversation {
    socket: UnixStream,
    receiver: wire::Receiver,
    user: String,
    path: String,
    /// Frames not yet sent: the greeting goes together with the first request, which saves a round trip.
    outgoing: Vec<u8>,
    is_welcome: bool,
    permit: OwnedSemaphorePermit,
}

impl Conversation {
    /// Connects to the guest. `path` is what errors will name.
    ///
    /// # Errors
    /// [`FileError::Lost`].
    pub fn begin(socket: &Path, user: &str, path: String, permit: OwnedSemaphorePermit) -> Result<Self, FileError> {
        let hello = Hello { version: wire::VERSION, purpose: Purpose::Files.into() };
        let connected = socket::connect(socket).and_then(|socket| Ok((socket, wire::frame(&hello)?)));
        let (socket, outgoing) = connected.map_err(|error| FileError::lost(&path, error))?;
        let (receiver, user) = (wire::Receiver::default(), user.to_owned());
        Ok(Self { socket, receiver, user, path, outgoing, is_welcome: false, permit })
    }

    /// Path that is spoken of.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// From now on, errors name this.
    pub fn speak_of(&mut self, path: String) {
        self.path = path;
    }

    /// Ends the connection, and hands over the permit.
    pub fn end(self) -> OwnedSemaphorePermit {
        self.permit
    }

    /// Asks for a regular file; without a file, its content is asked for by [`Conversation::fetch`] and given by
    /// [`Conversation::store`].
    ///
    /// # Errors
    /// Those of the guest; [`FileError::Lost`] also if what comes is no regular file: the guest is not trusted.
    pub fn open(&mut self, body: file_request::Body, wait: Duration) -> Result<(FileInfo, Option<File>), FileError> {
        let file_reply::Body::Opened(info) = self.ask(body, wait)? else { return Err(self.unexpected()) };
        let Some(file) = self.receiver.take_fd().map(File::from) else { return Ok((info, None)) };
        let metadata = file.metadata().map_err(|error| FileError::from_io(&self.path, &error))?;
        if metadata.is_file() { Ok((info, Some(file))) } else { Err(self.unexpected()) }
    }

    /// Reads from the file that was opened; answers fewer bytes than the buffer holds only at its end.
    ///
    /// # Errors
    /// Those of the guest; [`FileError::Lost`].
    pub fn fetch(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, FileError> {
        let mut filled = 0;
        for part in buffer.chunks_mut(wire::MAX_CONTENT) {
            let length = u32::try_from(part.len()).expect("a part is small");
            let fetch = wire::Fetch { offset: offset.saturating_add(filled as u64), length };
            let content = match self.ask(file_request::Body::Fetch(fetch), ANSWER_WAIT)? {
                file_reply::Body::Content(content) if content.bytes.len() <= part.len() => content.bytes,
                _ => return Err(self.unexpected()),
            };
            part[..content.len()].copy_from_slice(&content);
            filled += content.len();
            if content.len() < part.len() {
                break;
            }
        }
        Ok(filled)
    }

    /// Writes on in the file that was opened.
    ///
    /// # Errors
    /// Those of the guest; [`FileError::Lost`].
    pub fn store(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        for part in bytes.chunks(wire::MAX_CONTENT) {
            match self.ask(file_request::Body::Store(wire::Store { bytes: part.to_vec() }), ANSWER_WAIT)? {
                file_reply::Body::Done(_) => {}
                _ => return Err(self.unexpected()),
            }
        }
        Ok(())
    }

    /// Asks for what is answered by how a file stands.
    ///
    /// # Errors
    /// Those of the guest; [`FileError::Lost`].
    pub fn info(&mut self, body: file_request::Body) -> Result<FileInfo, FileError> {
        match self.ask(body, ANSWER_WAIT)? {
            file_reply::Body::Info(info) => Ok(info),
            _ => Err(self.unexpected()),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Those of the guest; [`FileError::Lost`].
    pub fn ask(&mut self, body: file_request::Body, wait: Duration) -> Result<file_reply::Body, FileError> {
        let request = FileRequest { user: self.user.clone(), body: Some(body) };
        let reply = self.exchange(&request, wait).map_err(|error| FileError::lost(&self.path, error))?;
        match reply.body {
            Some(file_reply::Body::Failed(failed)) => {
                Err(FileError::from_guest(&self.path, failed.fault, failed.errno))
            }
            Some(body) => Ok(body),
            None => Err(self.unexpected()),
        }
    }

    /// The guest has said something that does not fit.
    pub fn unexpected(&self) -> FileError {
        FileError::lost(&self.path, io::Error::new(io::ErrorKind::InvalidData, "an answer that does not fit"))
    }

    fn exchange(&mut self, request: &FileRequest, wait: Duration) -> io::Result<FileReply> {
        self.outgoing.extend(wire::frame(request)?);
        // The socket's buffer is larger than any request: the write timeout, which `connect` has set, is a safeguard.
        wire::send_all(self.socket.as_fd(), &self.outgoing, &[])?;
        self.outgoing.clear();
        let deadline = Instant::now() + wait;
        if !self.is_welcome {
            self.wait::<Welcome>(deadline)?;
            self.is_welcome = true;
        }
        self.wait(deadline)
    }

    fn wait<M: Message + Default>(&mut self, deadline: Instant) -> io::Result<M> {
        loop {
            if let Some(message) = self.receiver.next_message()? {
                return Ok(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.receiver.read(self.socket.as_fd()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
