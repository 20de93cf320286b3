//! A run as its readers see it: `started`, its output from a cursor, `exited`.

use bytes::Bytes;

use super::output::{Chunk, SpoolError, SpoolReader, Stream};
use super::run::{Run, Started};
use super::{Exited, RunError};

/// What a reader gets.
#[derive(Debug, Clone)]
pub enum Event {
    /// First.
    Started(Started),
    /// Bytes of one stream.
    Output {
        /// Which one.
        stream: Stream,
        /// Position of the first byte.
        cursor: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Bytes that are not kept.
    Gap {
        /// Position of the first.
        from: u64,
        /// Position after the last.
        to: u64,
    },
    /// Last.
    Exited(Exited),
}

/// The events of a run, for one reader.
#[derive(Debug)]
pub struct Events {
    run: Run,
    reader: SpoolReader,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Started,
    Output,
    Over,
}

impl Events {
    /// The events of a run that has started, its output from `cursor` on.
    ///
    /// # Errors
    /// [`RunError::CursorBeyond`]; [`RunError::NotFound`] if it has not started.
    pub fn from(run: Run, cursor: u64) -> Result<Self, RunError> {
        let started = run.started().ok_or_else(|| RunError::NotFound(run.id().clone()))?;
        let reader = started.spool.read_from(cursor).map_err(|error| match error {
            SpoolError::CursorBeyond { cursor, len } => RunError::CursorBeyond { cursor, len },
            other => RunError::Output(other),
        })?;
        Ok(Self { run, reader, stage: Stage::Started })
    }

    /// The next event; `None` after the last. Cancel-safe.
    ///
    /// # Errors
    /// [`RunError::Output`] if the spool cannot be read; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Event>, RunError> {
        match self.stage {
            Stage::Started => {
                self.stage = Stage::Output;
                Ok(self.run.started().map(Event::Started))
            }
            Stage::Output => self.next_output().await.map(Some),
            Stage::Over => Ok(None),
        }
    }

    async fn next_output(&mut self) -> Result<Event, RunError> {
        match self.reader.next().await {
            Ok(Chunk::Output { stream, cursor, data }) => Ok(Event::Output { stream, cursor, data }),
            Ok(Chunk::Gap { from, to }) => Ok(Event::Gap { from, to }),
            Ok(Chunk::End) => {
                let exited = self.run.wait_exited().await;
                self.stage = Stage::Over;
                Ok(Event::Exited(exited))
            }
            Err(error) => {
                self.stage = Stage::Over;
                Err(RunError::Output(error))
            }
        }
    }
}
