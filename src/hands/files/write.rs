//! Writing: into a file that the guest has opened beside the old one, and puts in its place at the end.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::str::FromStr;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::conversation::Conversation;
use super::{FileError, blocking, hex, joined};
use crate::guest::wire::{self, file_request};

/// Bytes that are written and hashed at a time: enough that going to the blocking pool costs next to nothing.
const BATCH: usize = 256 << 10;

/// How a file is to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Where, as the client says it.
    pub path: String,
    /// Permission bits; `None`: those of the file that is replaced, else 0644.
    pub mode: Option<u32>,
    /// Makes missing parents, with 0755.
    pub create_parents: bool,
    /// Follows the old content instead of replacing it.
    pub append: bool,
    /// What the bytes that come must have.
    pub expected_sha256: Option<Checksum>,
}

/// A SHA-256; its text is 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum([u8; 32]);

/// The text is no checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct ChecksumFormatError;

impl FromStr for Checksum {
    type Err = ChecksumFormatError;

    fn from_str(text: &str) -> Result<Self, ChecksumFormatError> {
        let bytes = if text.len() == 64 { hex::decode(text) } else { None };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(ChecksumFormatError)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(&self.0))
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Size of the file, in bytes.
    pub size: u64,
    /// Of the bytes that came.
    pub sha256: Checksum,
}

/// A file that is being written. Dropping it leaves the old file, and nothing beside it.
#[derive(Debug)]
pub struct Writing {
    path: String,
    expected: Option<Checksum>,
    batch: Vec<Bytes>,
    batch_size: usize,
    state: State,
}

/// The file and the sum of what was written to it.
#[derive(Debug)]
struct Sink {
    guest: Box<Conversation>,
    /// `None`: the guest could not hand it over, and is told each piece.
    file: Option<File>,
    hasher: Sha256,
}

#[derive(Debug)]
enum State {
    /// Nothing is being written.
    Idle(Sink),
    /// A batch is.
    Busy(JoinHandle<Result<Sink, FileError>>),
    /// A batch failed; the file is not whole.
    Failed,
}

impl Writing {
    pub(super) fn new(guest: Conversation, file: Option<File>, expected: Option<Checksum>) -> Self {
        let path = guest.path().to_owned();
        let state = State::Idle(Sink { guest: Box::new(guest), file, hasher: Sha256::new() });
        Self { path, expected, batch: Vec::new(), batch_size: 0, state }
    }

    /// Takes the next bytes. They are held until there are enough of them, and written while the next ones come; so at
    /// most two batches and one message are in memory. Cancel-safe: bytes that were taken are not lost.
    ///
    /// # Errors
    /// [`FileError::DiskFull`] and the like, also of bytes that came before. Nothing but dropping is of use then.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), FileError> {
        self.batch_size += bytes.len();
        self.batch.push(bytes);
        if self.batch_size < BATCH {
            return Ok(());
        }
        let mut sink = self.settle().await?;
        let batch = std::mem::take(&mut self.batch);
        self.batch_size = 0;
        self.state = State::Busy(tokio::task::spawn_blocking(move || sink.write(&batch).map(|()| sink)));
        Ok(())
    }

    /// Writes what is left and puts the file in its place.
    ///
    /// # Errors
    /// [`FileError::ChecksumMismatch`], [`FileError::DiskFull`] and the like: nothing was changed. [`FileError::Lost`]:
    /// it may have been.
    pub async fn finish(mut self) -> Result<Written, FileError> {
        let mut sink = self.settle().await?;
        let Self { path, expected, batch, .. } = self;
        blocking(path.clone(), move || {
            sink.write(&batch)?;
            let Sink { mut guest, file, hasher } = sink;
            let sha256 = Checksum(hasher.finalize().into());
            if expected.is_some_and(|expected| expected != sha256) {
                return Err(FileError::ChecksumMismatch { path });
            }
            let metadata = file.map(|file| file.metadata()).transpose();
            let metadata = metadata.map_err(|error| FileError::from_io(&path, &error))?;
            let info = guest.info(file_request::Body::Commit(wire::Commit {}))?;
            Ok(Written { size: metadata.map_or(info.size, |metadata| metadata.len()), sha256 })
        })
        .await
    }

    /// Waits for the batch that is being written. The caller puts the sink to use before it waits again.
    async fn settle(&mut self) -> Result<Sink, FileError> {
        if let State::Busy(task) = &mut self.state {
            let result = task.await;
            self.state = State::Failed;
            self.state = State::Idle(joined(&self.path, result)??);
        }
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(sink) => Ok(sink),
            State::Busy(_) | State::Failed => Err(FileError::from_io(&self.path, &io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl Sink {
    fn write(&mut self, batch: &[Bytes]) -> Result<(), FileError> {
        for bytes in batch {
            self.hasher.update(bytes);
            match &mut self.file {
                Some(file) => {
                    file.write_all(bytes).map_err(|error| FileError::from_io(self.guest.path(), &error))?;
                }
                None => self.guest.store(bytes)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_64_digits_of_either_case() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(text.to_uppercase().parse::<Checksum>().unwrap().to_string(), text);
        for text in ["", &text[1..], &format!("{text}0"), &format!("g{}", &text[1..]), &"é".repeat(32)] {
            assert_eq!(text.parse::<Checksum>(), Err(ChecksumFormatError));
        }
    }
}
