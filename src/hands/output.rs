//! The output of a run: one append-only spool, filled whether or not anyone reads, read by any number from any cursor.
//!
//! A [`SpoolWriter`] moves what a run writes from its pipes (or its terminal) into the files of the spool; [`pump()`] drives
//! it. A [`Spool`] is the handle by which [`SpoolReader`]s are made. A position in the output, stdout and stderr counted
//! together in order of arrival, is a *cursor*.
//!
//! ```text
//!  pipe ──splice──► SpoolWriter ──► data, index ──pread──► SpoolReader (any number, each with its cursor)
//!                        └───────── watch<Extent> ────────►
//! ```
//!
//! Invariants:
//!
//! - The files are made when the first output comes: a silent run has none.
//! - The offset of a byte in `data` is its cursor, always.
//! - `index` says where the output changes from one stream to the other. A record is written before the first byte behind
//!   it is moved, and splice(2) moves bytes inside the kernel. So whenever the daemon is killed, each byte is either in
//!   the pipe or in `data`, and a byte in `data` has its record. A terminal cannot be spliced from: of its output, the one
//!   read that a kill comes in between is lost.
//! - Beyond its cap a spool keeps its head (the first quarter) and its tail; the hole between them grows in steps, and disk
//!   stays below the cap plus one step (an eighth of the cap, at most 1 MiB). The new start of the tail is published before
//!   the hole is punched, and a reader looks at it after its read: so it never takes the zeros of a hole for output.
//! - The index counts towards the cap and takes at most a quarter of it. When it is full, the streams are no longer told
//!   apart: from there all output comes as stdout.
//! - When a write fails (disk full, say), the run goes on: from there its output is counted and dropped.
//!
//! The files survive the death of the daemon, not that of the machine: nothing is synced, as the run dies with the machine.

mod files;
mod layout;
mod pump;
mod reader;
mod writer;

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

pub use layout::Stream;
pub use pump::{Pumped, Sources, pump};
pub use reader::{Spool, SpoolReader};
pub use writer::{Drained, SpoolWriter};

/// What a reader gets next. The cursors of successive chunks follow each other without overlap or hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of one stream.
    Output {
        /// Which one.
        stream: Stream,
        /// Of the first byte.
        cursor: u64,
        /// 1 byte to 256 KiB.
        data: Bytes,
    },
    /// Bytes that are not kept. One gap may follow another.
    Gap {
        /// Cursor of the first of them.
        from: u64,
        /// Cursor after the last of them.
        to: u64,
    },
    /// There is no more, and never will be.
    End,
}

/// Why a spool could not be made, filled or read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file of the spool failed.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The pipe or terminal of a run failed.
    #[error("reading {stream} of the run")]
    Source {
        /// Which one; a terminal is stdout.
        stream: Stream,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The caller asked for output that has not been written yet.
    #[error("cursor {cursor} is beyond the output, which has {len} bytes")]
    CursorBeyond {
        /// As asked for.
        cursor: u64,
        /// Bytes of output so far.
        len: u64,
    },
    /// The writer is gone without having said that the output has ended.
    #[error("the output was abandoned before its end")]
    Abandoned,
    /// The daemon's runtime is shutting down.
    #[error("the daemon is shutting down")]
    Gone,
}

#[cfg(test)]
mod tests;
