//! Moves output into the spool.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;
use tokio::sync::watch;

use super::SpoolError;
use super::files::{Files, signed};
use super::layout::{Extent, Layout, Record, Stream};
use super::reader::Spool;

/// Bytes read at a time where splice(2) does not serve: from a terminal, and of what is dropped.
const SCRATCH: usize = 64 << 10;

/// What a drain came upon in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing more for now.
    Empty,
    /// The end: nobody can write to this source any more.
    End,
    /// Its limit. There may be more.
    More,
}

/// Fills a spool. There is one at a time.
///
/// Dropped without [`SpoolWriter::close`] it leaves its readers with [`SpoolError::Abandoned`], never with an end that
/// may not be one.
#[derive(Debug)]
pub struct SpoolWriter {
    files: Arc<Files>,
    layout: Layout,
    /// Ahead of what is published only within a drain.
    extent: Extent,
    /// What the output is of at its end.
    stream: Stream,
    /// A write has failed: what comes is counted and dropped.
    dropping: bool,
    /// The index says so too, so that what `data` is short of is not taken for output after a restart.
    noted: bool,
    published: watch::Sender<Extent>,
    scratch: Vec<u8>,
}

impl SpoolWriter {
    /// A spool in `directory`, which is made with the first output, as are its files. It keeps about `cap` bytes on disk;
    /// less than 64 KiB counts as that. Output is dropped if there is a spool already.
    #[must_use]
    pub fn create(directory: &Path, cap: u64) -> (SpoolWriter, Spool) {
        let layout = Layout::new(cap);
        SpoolWriter::new(Files::new(directory, &layout), layout, layout.empty(), Stream::Stdout)
    }

    /// Takes up the spool that a killed daemon left in `directory`, byte for byte where it was left: for more output, or,
    /// closed at once, for its readers. Bytes that were dropped for want of disk stay a gap.
    ///
    /// # Errors
    /// [`SpoolError::File`].
    pub fn open(directory: &Path) -> Result<(SpoolWriter, Spool), SpoolError> {
        let (files, left) = Files::open(directory)?;
        let (mut writer, spool) = SpoolWriter::new(files, left.layout, left.extent, left.stream);
        writer.dropping = left.dropping;
        writer.noted = left.dropping;
        Ok((writer, spool))
    }

    fn new(files: Files, layout: Layout, extent: Extent, stream: Stream) -> (SpoolWriter, Spool) {
        let (published, state) = watch::channel(extent);
        let files = Arc::new(files);
        let spool = Spool::new(Arc::clone(&files), state);
        let scratch = Vec::new();
        (SpoolWriter { files, layout, extent, stream, dropping: false, noted: false, published, scratch }, spool)
    }

    /// Bytes of output so far, kept or not: the cursor at the end.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.extent.len
    }

    /// There was no output yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extent.len == 0
    }

    /// Moves what a pipe holds, up to `limit` bytes. The pipe must be non-blocking. May wait for the disk, as any write.
    ///
    /// # Errors
    /// [`SpoolError::Source`] if the pipe itself fails. A spool that cannot be written is no error: see [`super`].
    pub fn drain(&mut self, stream: Stream, pipe: BorrowedFd<'_>, limit: usize) -> Result<Drained, SpoolError> {
        self.drain_with(stream, limit, |writer, room| writer.splice(stream, pipe, room))
    }

    /// As [`SpoolWriter::drain`], for the master of a terminal, which must be non-blocking. Its output is stdout.
    ///
    /// # Errors
    /// As there.
    pub fn drain_terminal(&mut self, master: BorrowedFd<'_>, limit: usize) -> Result<Drained, SpoolError> {
        self.drain_with(Stream::Stdout, limit, |writer, room| writer.copy(master, room))
    }

    /// Says that no more bytes will come: readers see the end.
    pub fn close(mut self) {
        self.extent.ended = true;
        self.publish();
    }

    /// Drains, and says to readers what has come: once for all of it, since each time may wake them on other threads.
    fn drain_with(
        &mut self,
        stream: Stream,
        limit: usize,
        step: impl FnMut(&mut SpoolWriter, usize) -> Result<Step, Errno>,
    ) -> Result<Drained, SpoolError> {
        let before = self.extent.len;
        let drained = self.take_steps(stream, limit, step);
        if self.extent.len > before {
            self.publish();
        }
        drained
    }

    /// Steps, each within the room that there is, until one comes upon something else than bytes.
    fn take_steps(
        &mut self,
        stream: Stream,
        limit: usize,
        mut step: impl FnMut(&mut SpoolWriter, usize) -> Result<Step, Errno>,
    ) -> Result<Drained, SpoolError> {
        let mut left = limit;
        while left > 0 {
            let room = self.make_room(left);
            match step(self, room) {
                Ok(Step::Moved(count)) => left = left.saturating_sub(count),
                Ok(Step::Empty) | Err(Errno::EAGAIN) => return Ok(Drained::Empty),
                Ok(Step::End) => return Ok(Drained::End),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(SpoolError::Source { stream, source: errno.into() }),
            }
        }
        Ok(Drained::More)
    }

    fn splice(&mut self, stream: Stream, pipe: BorrowedFd<'_>, room: usize) -> Result<Step, Errno> {
        if (stream != self.stream || !self.files.are_made()) && !self.dropping {
            // Files and records are made for bytes that do come, so not for the end of a stream that was silent.
            if let Some(step) = look(pipe)? {
                return Ok(step);
            }
            self.switch_to(stream);
        }
        if self.dropping {
            return self.discard(pipe, room);
        }
        let data = match self.files.data() {
            Ok(data) => data,
            Err(error) => {
                self.start_dropping(&error);
                return self.discard(pipe, room);
            }
        };
        let mut offset = signed(self.extent.stored);
        match splice(pipe, None, data, Some(&mut offset), room, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => Ok(Step::End),
            Ok(count) => {
                self.stored(count);
                Ok(Step::Moved(count))
            }
            Err(errno @ (Errno::EAGAIN | Errno::EINTR)) => Err(errno),
            // What was moved before the failure was answered as a short count, so nothing has left the pipe here.
            Err(errno) => {
                self.start_dropping(&errno.into());
                self.discard(pipe, room)
            }
        }
    }

    fn copy(&mut self, master: BorrowedFd<'_>, room: usize) -> Result<Step, Errno> {
        self.switch_to(Stream::Stdout);
        if self.dropping {
            return self.discard(master, room);
        }
        let mut scratch = self.take_scratch();
        let result = read(master, &mut scratch, room);
        if let Ok(Step::Moved(count)) = result {
            let stored = self.files.data().and_then(|data| data.write_all_at(&scratch[..count], self.extent.stored));
            match stored {
                Ok(()) => self.stored(count),
                Err(error) => {
                    self.start_dropping(&error);
                    self.dropped(count);
                }
            }
        }
        self.scratch = scratch;
        result
    }

    /// Reads bytes to drop them.
    fn discard(&mut self, source: BorrowedFd<'_>, room: usize) -> Result<Step, Errno> {
        let mut scratch = self.take_scratch();
        let result = read(source, &mut scratch, room);
        if let Ok(Step::Moved(count)) = result {
            self.dropped(count);
        }
        self.scratch = scratch;
        result
    }

    fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH, 0);
        scratch
    }

    /// Grows the hole if it has to, and says how much may be moved: 1 to `limit` bytes.
    fn make_room(&mut self, limit: usize) -> usize {
        if self.dropping {
            return limit;
        }
        if self.layout.room(&self.extent) == 0 {
            let from = self.extent.tail_start;
            self.extent.tail_start = self.layout.tail_start(self.extent.stored, self.extent.records);
            self.publish();
            if let Err(error) = self.files.punch(from, self.extent.tail_start) {
                self.start_dropping(&error);
                return limit;
            }
        }
        usize::try_from(self.layout.room(&self.extent)).unwrap_or(usize::MAX).min(limit)
    }

    /// Writes the record of a switch, where the output is of another stream at its end and the index has room.
    fn switch_to(&mut self, stream: Stream) {
        let full = stream == Stream::Stderr && !self.layout.may_record_stderr(self.extent.records);
        if stream == self.stream || full {
            return;
        }
        let record = Record { offset: self.extent.stored, stream };
        match self.files.write_record(self.extent.records, record) {
            Ok(()) => {
                self.extent.records += 1;
                self.stream = stream;
            }
            Err(error) => self.start_dropping(&error),
        }
    }

    fn stored(&mut self, count: usize) {
        self.extent.stored += count as u64;
        self.extent.len = self.extent.stored;
    }

    fn dropped(&mut self, count: usize) {
        self.extent.len += count as u64;
        if self.noted {
            // Keeps the count across a restart, and is of no other use. It takes no blocks, so a full disk does not stop it.
            let _ = self.files.set_len(self.extent.len);
        }
    }

    fn start_dropping(&mut self, error: &io::Error) {
        let cursor = self.extent.stored;
        tracing::warn!(
            cursor,
            error = error as &dyn std::error::Error,
            "output cannot be stored: it is dropped from here"
        );
        self.dropping = true;
        self.noted = self.files.write_dropped(cursor).is_ok();
    }

    fn publish(&self) {
        self.published.send_replace(self.extent);
    }
}

/// What one step came to.
enum Step {
    /// So many bytes.
    Moved(usize),
    /// No bytes for now.
    Empty,
    /// No bytes any more.
    End,
}

/// Looks into a pipe or terminal without reading: `None` if bytes wait there, else what a step comes to.
fn look(source: BorrowedFd<'_>) -> Result<Option<Step>, Errno> {
    let mut fds = [PollFd::new(source, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    let events = fds[0].revents().unwrap_or(PollFlags::empty());
    if events.contains(PollFlags::POLLIN) {
        Ok(None)
    } else if events.is_empty() {
        Ok(Some(Step::Empty))
    } else {
        Ok(Some(Step::End))
    }
}

/// Reads once, into the front of `scratch`.
fn read(source: BorrowedFd<'_>, scratch: &mut [u8], room: usize) -> Result<Step, Errno> {
    let size = room.min(scratch.len());
    match unistd::read(source, &mut scratch[..size]) {
        // EIO is how the master of a terminal says that nobody has the other side open any more. A socket that stands for
        // one says so by ECONNRESET if something was typed that nobody has read.
        Ok(0) | Err(Errno::EIO | Errno::ECONNRESET) => Ok(Step::End),
        Ok(count) => Ok(Step::Moved(count)),
        Err(errno) => Err(errno),
    }
}
