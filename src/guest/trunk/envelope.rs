//! What others wrap the stream in.

use std::io;

use crate::guest::wire::{MAX_FRAME, Receiver};

/// Length of the head that Docker puts before each piece of output.
const HEAD: usize = 8;

/// What is around the bytes that come.
#[derive(Debug)]
pub enum Envelope {
    /// Nothing.
    None,
    /// The multiplexing of Docker's attach: before each piece a byte for the stream that it is of, three of nothing, and
    /// its length as a big-endian `u32`.
    Docker {
        /// What has come of the next head.
        head: Vec<u8>,
        /// Bytes that are left of this piece.
        left: usize,
    },
}

impl Envelope {
    /// Docker's.
    #[must_use]
    pub fn docker() -> Self {
        Self::Docker { head: Vec::with_capacity(HEAD), left: 0 }
    }

    /// Takes the bytes out of what came.
    ///
    /// # Errors
    /// `InvalidData` for a piece that no Docker sends.
    pub fn open(&mut self, mut bytes: &[u8], receiver: &mut Receiver) -> io::Result<()> {
        let Self::Docker { head, left } = self else {
            receiver.feed(bytes);
            return Ok(());
        };
        while !bytes.is_empty() {
            if *left == 0 {
                let (more, rest) = bytes.split_at(bytes.len().min(HEAD - head.len()));
                head.extend_from_slice(more);
                bytes = rest;
                if let Some(length) = head.get(4..HEAD).and_then(|length| length.first_chunk()) {
                    *left = u32::from_be_bytes(*length) as usize;
                    head.clear();
                }
                if *left > MAX_FRAME {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a piece of output too long"));
                }
            } else {
                let (piece, rest) = bytes.split_at(bytes.len().min(*left));
                receiver.feed(piece);
                *left -= piece.len();
                bytes = rest;
            }
        }
        Ok(())
    }
}
