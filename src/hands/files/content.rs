//! The content of a file that is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tokio::sync::OwnedSemaphorePermit;

use super::FileError;
use super::conversation::Conversation;

/// An open file.
#[derive(Debug)]
pub enum Content {
    /// The guest has handed it over.
    Here {
        /// The file.
        file: File,
        /// Of the operation that it is for.
        _permit: OwnedSemaphorePermit,
    },
    /// The guest could not, and is asked for each piece.
    There(Box<Conversation>),
}

impl Content {
    /// Fills the buffer from an offset; answers fewer bytes than that only at the end of the file. Blocks.
    ///
    /// # Errors
    /// Those of pread(2) or of the guest; `path` is what they name.
    pub fn read(&mut self, path: &str, buffer: &mut [u8], offset: u64) -> Result<usize, FileError> {
        match self {
            Self::Here { file, .. } => read(file, buffer, offset).map_err(|error| FileError::from_io(path, &error)),
            // No file is as long as what pread(2) would call negative.
            Self::There(_) if i64::try_from(offset).is_err() => Ok(0),
            Self::There(guest) => guest.fetch(buffer, offset),
        }
    }
}

fn read(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        let offset = start.saturating_add(length as u64);
        // No file is as long as what pread(2) would call negative.
        if i64::try_from(offset).is_err() {
            break;
        }
        match file.read_at(&mut buffer[length..], offset) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
