//! Reads a spool, while it grows and after.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::files::Files;
use super::layout::{Extent, Next, Span};
use super::{Chunk, SpoolError};

/// Most bytes of a chunk.
const CHUNK: u64 = 256 << 10;
/// What was written last is in the page cache, as far back as this: it is read without leaving the task, since a hop to
/// another thread costs more than the copy.
const WARM: u64 = 8 << 20;

/// A handle on the output of a run, to make readers of. Outlives the writer and the directory: the open files hold what
/// is stored.
#[derive(Debug, Clone)]
pub struct Spool {
    files: Arc<Files>,
    state: watch::Receiver<Extent>,
}

impl Spool {
    pub(super) fn new(files: Arc<Files>, state: watch::Receiver<Extent>) -> Spool {
        Spool { files, state }
    }

    /// Bytes of output so far, kept or not: the cursor at the end.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.state.borrow().len
    }

    /// There was no output yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader of all from `cursor` on. It holds nothing but its place until it is asked for the next chunk, so one that
    /// stalls costs nobody anything.
    ///
    /// # Errors
    /// [`SpoolError::CursorBeyond`].
    pub fn read_from(&self, cursor: u64) -> Result<SpoolReader, SpoolError> {
        let len = self.len();
        if cursor > len {
            return Err(SpoolError::CursorBeyond { cursor, len });
        }
        Ok(SpoolReader { files: Arc::clone(&self.files), state: self.state.clone(), cursor, span: Span::UNKNOWN })
    }
}

/// Reads the output of a run from a cursor on: what is there, then what comes.
#[derive(Debug)]
pub struct SpoolReader {
    files: Arc<Files>,
    state: watch::Receiver<Extent>,
    cursor: u64,
    /// The last one read from: the index is searched from there.
    span: Span,
}

impl SpoolReader {
    /// Where the next chunk begins.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next chunk: as much as there is up to 256 KiB, of one stream. Waits while there is nothing.
    ///
    /// Cancel-safe: the place moves on only as a chunk is returned, so a call that was dropped has taken nothing.
    ///
    /// # Errors
    /// [`SpoolError::File`]; [`SpoolError::Abandoned`] once all that was stored is read.
    pub async fn next(&mut self) -> Result<Chunk, SpoolError> {
        loop {
            let extent = *self.state.borrow_and_update();
            match extent.next(self.cursor) {
                Next::Read { to } => {
                    if let Some(chunk) = self.read(extent, to).await? {
                        return Ok(chunk);
                    }
                }
                Next::Gap { to } => {
                    let from = std::mem::replace(&mut self.cursor, to);
                    return Ok(Chunk::Gap { from, to });
                }
                Next::Wait => self.state.changed().await.map_err(|_| SpoolError::Abandoned)?,
                Next::End => return Ok(Chunk::End),
            }
        }
    }

    /// Reads up to `to`, at most; `None` if the bytes were punched out meanwhile.
    async fn read(&mut self, extent: Extent, to: u64) -> Result<Option<Chunk>, SpoolError> {
        let (from, known) = (self.cursor, self.span);
        let result = if extent.stored - from <= WARM {
            read(&self.files, extent, known, from..to)
        } else {
            let files = Arc::clone(&self.files);
            let reading = spawn_blocking(move || read(&files, extent, known, from..to));
            reading.await.map_err(|_| SpoolError::Gone)?
        };
        let (span, mut data) = result.map_err(self.files.failed("reading the spool in"))?;
        self.span = span;
        // What is kept by now was kept when it was read, as the tail's start is published before anything is punched.
        let Next::Read { to } = self.state.borrow().next(from) else { return Ok(None) };
        data.truncate(usize::try_from(to - from).unwrap_or(usize::MAX));
        self.cursor += data.len() as u64;
        Ok(Some(Chunk::Output { stream: span.stream, cursor: from, data: Bytes::from(data) }))
    }
}

/// The bytes of `range`, as far as they are of one stream and no more than a chunk.
fn read(files: &Files, extent: Extent, known: Span, range: Range<u64>) -> io::Result<(Span, Vec<u8>)> {
    let span = known.find(range.start, &extent, |number| files.record(number))?;
    let size = (range.end.min(span.to) - range.start).min(CHUNK);
    let mut data = vec![0; usize::try_from(size).expect("a chunk fits memory")];
    files.read(&mut data, range.start)?;
    Ok((span, data))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bytes_at, put, spool};
    use super::*;
    use crate::hands::output::Stream;

    #[tokio::test]
    async fn bytes_that_are_punched_out_before_they_are_read_are_not_handed_out() {
        let (_directory, mut writer, spool) = spool(64 << 10);
        put(&mut writer, Stream::Stdout, &bytes_at(0, 60 << 10));
        let before = *spool.state.borrow();
        put(&mut writer, Stream::Stdout, &bytes_at(60 << 10, 200 << 10));
        let mut in_the_hole = spool.read_from(20 << 10).unwrap();
        assert_eq!(in_the_hole.read(before, 60 << 10).await.unwrap(), None);
        assert_eq!(in_the_hole.cursor(), 20 << 10);
        let mut in_the_head = spool.read_from(1).unwrap();
        let Some(Chunk::Output { data, .. }) = in_the_head.read(before, 60 << 10).await.unwrap() else {
            panic!("the head is kept");
        };
        assert_eq!(data, bytes_at(1, (16 << 10) - 1));
    }
}
