//! Reading: by bytes or by lines, a chunk ahead of the reader.
//!
//! A chunk is read on the blocking pool while the one before is on its way to the client. A client that stalls holds two
//! chunks of memory and no thread.

use std::ops::Range;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use tokio::task::JoinHandle;

use super::content::Content;
use super::{FileError, FileInfo, joined};

/// Bytes of the first chunk: it comes with the answer that the file is open, and most files are no larger.
const FIRST_CHUNK: usize = 64 << 10;

/// Bytes of the chunks after that, which is what a message of the API holds at most.
const CHUNK: usize = 1 << 20;

/// What of a file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRange {
    /// By bytes.
    Bytes {
        /// First byte.
        offset: u64,
        /// Most bytes; `None`: to the end.
        limit: Option<u64>,
    },
    /// By lines, each ended by a newline or by the end of the file.
    Lines {
        /// Lines to skip.
        skip: u64,
        /// Most lines; `None`: to the end.
        limit: Option<u64>,
    },
}

/// Part of what is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadPart {
    /// The next bytes, 1 MiB at most, never none.
    Data(Bytes),
    /// The last part.
    End(ReadEnd),
}

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadEnd {
    /// The end of the file was reached.
    pub eof: bool,
    /// Offset in bytes after the last byte that was read.
    pub next_offset: u64,
}

/// A file that is being read.
#[derive(Debug)]
pub struct Reading {
    /// The file as it was when it was opened.
    pub info: FileInfo,
    path: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The next step has been taken; the source is for the one after it.
    Ready(Source, Step),
    /// It is being taken.
    Ahead(JoinHandle<Result<(Source, Step), FileError>>),
    /// Only the end is left to be said.
    Ending(ReadEnd),
    /// All is said.
    Done,
}

impl Reading {
    /// Reads the first chunk. Blocks.
    pub(super) fn begin(info: FileInfo, path: &str, content: Content, range: ReadRange) -> Result<Self, FileError> {
        let (source, step) = Source::new(path.to_owned(), content, range).step(FIRST_CHUNK)?;
        Ok(Self { info, path: path.to_owned(), state: State::Ready(source, step) })
    }

    /// The next part; `None` after [`ReadPart::End`] or an error. Cancel-safe.
    ///
    /// # Errors
    /// Those of pread(2) on the file.
    pub async fn next(&mut self) -> Result<Option<ReadPart>, FileError> {
        loop {
            if let State::Ahead(task) = &mut self.state {
                let result = task.await;
                self.state = State::Done;
                let (source, step) = joined(&self.path, result)??;
                self.state = State::Ready(source, step);
            }
            match std::mem::replace(&mut self.state, State::Done) {
                State::Ready(source, step) => {
                    self.state = match step.end {
                        Some(end) => State::Ending(end),
                        None => State::Ahead(tokio::task::spawn_blocking(move || source.step(CHUNK))),
                    };
                    if !step.data.is_empty() {
                        return Ok(Some(ReadPart::Data(step.data)));
                    }
                }
                State::Ending(end) => return Ok(Some(ReadPart::End(end))),
                State::Ahead(_) | State::Done => return Ok(None),
            }
        }
    }

    /// The parts as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<ReadPart, FileError>> + Send {
        stream::try_unfold(self, |mut reading| async move { Ok(reading.next().await?.map(|part| (part, reading))) })
    }
}

/// The file, and what of it is still to be read.
#[derive(Debug)]
struct Source {
    path: String,
    /// Holds the permit of the operation until the reader is done.
    content: Content,
    /// Of the next byte to look at.
    offset: u64,
    window: Window,
}

/// What one chunk gave. Empty data without an end: nothing in the chunk was wanted.
#[derive(Debug)]
struct Step {
    data: Bytes,
    end: Option<ReadEnd>,
}

impl Source {
    fn new(path: String, content: Content, range: ReadRange) -> Self {
        let (offset, window) = match range {
            ReadRange::Bytes { offset, limit } => (offset, Window::Bytes { left: limit }),
            ReadRange::Lines { skip, limit } => (0, Window::Lines { skip, left: limit }),
        };
        Self { path, content, offset, window }
    }

    /// Reads a chunk of at most `most` bytes, and finds what is wanted of it.
    fn step(mut self, most: usize) -> Result<(Self, Step), FileError> {
        self.try_step(most).map(|step| (self, step))
    }

    fn try_step(&mut self, most: usize) -> Result<Step, FileError> {
        let mut chunk = vec![0; self.window.most(most)];
        let length = self.read(&mut chunk)?;
        let is_short = length < chunk.len();
        chunk.truncate(length);
        let taken = self.window.take(&chunk);
        let is_done = self.window.is_done();
        self.offset += if is_done { taken.end as u64 } else { length as u64 };
        let end = (is_done || is_short).then_some(self.offset);
        let end = match end {
            // Only looking further tells whether the file ends exactly where the range does.
            Some(next_offset) => Some(ReadEnd { eof: self.read(&mut [0])? == 0, next_offset }),
            None => None,
        };
        Ok(Step { data: Bytes::from(chunk).slice(taken), end })
    }

    /// Fills the buffer from the present offset; answers fewer bytes than that only at the end of the file.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FileError> {
        self.content.read(&self.path, buffer, self.offset)
    }
}

/// Finds what is wanted in chunks that follow each other, however long the lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    Bytes { left: Option<u64> },
    Lines { skip: u64, left: Option<u64> },
}

impl Window {
    /// How much of a chunk of `chunk` bytes there is any use for.
    fn most(self, chunk: usize) -> usize {
        match self {
            Self::Bytes { left: Some(left) } => usize::try_from(left).unwrap_or(chunk).min(chunk),
            Self::Bytes { left: None } | Self::Lines { .. } => chunk,
        }
    }

    /// The part of the next chunk that is wanted. Once the window is done, it is all that is looked at.
    fn take(&mut self, chunk: &[u8]) -> Range<usize> {
        match self {
            Self::Bytes { left } => {
                *left = left.map(|left| left.saturating_sub(chunk.len() as u64));
                0..chunk.len()
            }
            Self::Lines { skip, left } => {
                let start = pass_lines(chunk, skip);
                let length = left.as_mut().map_or(chunk.len() - start, |left| pass_lines(&chunk[start..], left));
                start..start + length
            }
        }
    }

    fn is_done(self) -> bool {
        match self {
            Self::Bytes { left } => left == Some(0),
            Self::Lines { skip, left } => skip == 0 && left == Some(0),
        }
    }
}

/// Passes `count` newlines, and counts them down: answers the position after the last one, or the chunk's end.
fn pass_lines(chunk: &[u8], count: &mut u64) -> usize {
    let is_newline = |byte: &&u8| **byte == b'\n';
    let Some(nth) = count.checked_sub(1) else { return 0 };
    // Counting is fast, as it has no branch; only in the chunk in which the count ends is the place looked for.
    let found = chunk.iter().filter(is_newline).count() as u64;
    if found < *count {
        *count -= found;
        return chunk.len();
    }
    *count = 0;
    let nth = usize::try_from(nth).unwrap_or(usize::MAX);
    chunk.iter().enumerate().filter(|(_, byte)| is_newline(byte)).nth(nth).map_or(chunk.len(), |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    /// What a range of some content gives, with chunks of `most` bytes.
    fn read(content: &[u8], range: ReadRange, most: usize) -> (Vec<u8>, ReadEnd) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let _permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut source = Source::new("/f".to_owned(), Content::Here { file, _permit }, range);
        let mut data = Vec::new();
        loop {
            let (next, step) = source.step(most).unwrap();
            data.extend_from_slice(&step.data);
            match step.end {
                Some(end) => return (data, end),
                None => source = next,
            }
        }
    }

    #[test]
    fn a_range_of_bytes_says_where_it_ended_and_whether_the_file_did() {
        let table = [
            (0, None, "abcdef", true, 6),
            (2, Some(3), "cde", false, 5),
            (2, Some(4), "cdef", true, 6),
            (2, Some(100), "cdef", true, 6),
            (6, None, "", true, 6),
            (99, None, "", true, 99),
            (99, Some(1), "", true, 99),
            (u64::MAX, Some(u64::MAX), "", true, u64::MAX),
        ];
        for (offset, limit, data, eof, next_offset) in table {
            let found = read(b"abcdef", ReadRange::Bytes { offset, limit }, 4);
            assert_eq!(found, (data.into(), ReadEnd { eof, next_offset }), "{offset} {limit:?}");
        }
    }

    #[test]
    fn a_range_of_lines_says_the_same_in_bytes() {
        let table = [
            (0, None, "a\nbb\n\nlast", true, 10),
            (1, Some(1), "bb\n", false, 5),
            (1, Some(2), "bb\n\n", false, 6),
            (3, Some(1), "last", true, 10),
            (3, Some(9), "last", true, 10),
            (4, None, "", true, 10),
            (9, Some(1), "", true, 10),
        ];
        for (skip, limit, data, eof, next_offset) in table {
            let found = read(b"a\nbb\n\nlast", ReadRange::Lines { skip, limit }, 3);
            assert_eq!(found, (data.into(), ReadEnd { eof, next_offset }), "{skip} {limit:?}");
        }
        let end = ReadEnd { eof: true, next_offset: 2 };
        assert_eq!(read(b"a\n", ReadRange::Lines { skip: 0, limit: Some(1) }, 9), (b"a\n".to_vec(), end));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_whatever_the_chunks(
            content in "[a\n]{0,40}",
            skip in 0_usize..12,
            limit in prop::option::of(1_usize..12),
            most in 1_usize..9,
        ) {
            let lines = content.split_inclusive('\n').skip(skip).take(limit.unwrap_or(usize::MAX));
            let expected: String = lines.collect();
            let range = ReadRange::Lines { skip: skip as u64, limit: limit.map(|limit| limit as u64) };
            let (data, end) = read(content.as_bytes(), range, most);
            prop_assert_eq!(&data, expected.as_bytes());
            prop_assert_eq!(end.eof, end.next_offset == content.len() as u64);
            prop_assert!(content.as_bytes()[..usize::try_from(end.next_offset).unwrap()].ends_with(&data));
        }
    }
}
