//! Copies of what brains keep of their conversations: a file for each session, on the node.
//!
//! A brain keeps its conversation in its sandbox. The copy is made when a turn has ended, so that the conversation goes on
//! when the sandbox is destroyed or lost, or when a node that lost its power has lost the end of the file, which no brain
//! writes through to the disk. It is at most a turn behind; what that turn was about, the log tells.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::hands::Hands;
use crate::hands::files::{FileError, ReadPart, ReadRange, SearchError, WriteOptions};
use crate::ids::SessionId;
use crate::runtime::{STATE, Trace};

/// Longest conversation that is copied, in bytes: some thousand turns. A longer one is as safe as its sandbox.
const LONGEST: u64 = 64 << 20;

/// Why a conversation was not copied, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    /// What the brain keeps cannot be found.
    #[error("find what the brain keeps")]
    Find(#[source] SearchError),
    /// It cannot be read or written.
    #[error("the brain's file {path}")]
    Brain {
        /// Where it is, in the sandbox.
        path: String,
        /// Why.
        #[source]
        source: FileError,
    },
    /// The copy cannot be read or written.
    #[error("the copy {}", path.display())]
    Copy {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The copies of a node.
#[derive(Debug, Clone)]
pub struct Transcripts {
    directory: PathBuf,
}

/// What a brain keeps, as it was found.
struct Kept {
    path: String,
    size: u64,
    /// Its beginning: all of it, up to [`LONGEST`].
    content: Bytes,
}

impl Transcripts {
    /// Below a directory, which need not exist.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, session: &SessionId) -> PathBuf {
        self.directory.join(session.as_str())
    }

    /// Copies what a session's brain keeps, if it keeps something; durable once this has answered.
    ///
    /// # Errors
    /// See `TranscriptError`; an earlier copy is as it was.
    pub async fn keep(&self, session: &SessionId, hands: &Hands, trace: &Trace) -> Result<(), TranscriptError> {
        let Some(kept) = find(hands, trace).await? else { return Ok(()) };
        if kept.size > LONGEST {
            tracing::warn!(session.id = %session, bytes = kept.size, "a conversation is too long to be copied");
            return Ok(());
        }
        self.on_disk(session, move |path| write(path, &kept.content)).await
    }

    /// Sees that a session's brain finds its conversation: puts the copy back where that holds more, and takes away what
    /// nothing can be made of and would be in the way. Answers whether there is a conversation.
    ///
    /// # Errors
    /// See `TranscriptError`.
    pub async fn restore(&self, session: &SessionId, hands: &Hands, trace: &Trace) -> Result<bool, TranscriptError> {
        let kept = find(hands, trace).await?;
        let copy = self.on_disk(session, read).await?;
        let (path, size) = kept.as_ref().map_or((trace.file.as_str(), 0), |kept| (kept.path.as_str(), kept.size));
        let at = |source| TranscriptError::Brain { path: path.to_owned(), source };
        // Both are only ever appended to: the longer one is the later one.
        if let Some(copy) = copy.filter(|copy| copy.len() as u64 > size) {
            tracing::info!(session.id = %session, bytes = copy.len(), "a brain gets its conversation back");
            let options = WriteOptions { path: path.to_owned(), create_parents: true, ..WriteOptions::default() };
            let mut writing = hands.files().write(options).await.map_err(at)?;
            writing.push(copy).await.map_err(at)?;
            writing.finish().await.map_err(at)?;
            return Ok(true);
        }
        let Some(kept) = &kept else { return Ok(false) };
        let word = trace.holds.as_bytes();
        let is_kept = kept.size > LONGEST || kept.content.windows(word.len()).any(|window| window == word);
        if !is_kept {
            hands.files().remove(path).await.map_err(at)?;
        }
        Ok(is_kept)
    }

    /// Removes the copy of a session.
    ///
    /// # Errors
    /// `TranscriptError::Copy`.
    pub async fn forget(&self, session: &SessionId) -> Result<(), TranscriptError> {
        self.on_disk(session, |path| match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        })
        .await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        session: &SessionId,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, TranscriptError> {
        let path = self.path(session);
        let done = tokio::task::spawn_blocking({
            let path = path.clone();
            move || work(&path)
        });
        let done = done.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|source| TranscriptError::Copy { path, source })
    }
}

/// What a brain keeps, whose bytes are the sandbox's and mean nothing here.
async fn find(hands: &Hands, trace: &Trace) -> Result<Option<Kept>, TranscriptError> {
    let found = hands.files().glob(&trace.pattern, STATE, 1).await.map_err(TranscriptError::Find)?;
    let Some(path) = found.items.into_iter().next() else { return Ok(None) };
    let path = String::from_utf8_lossy(&path).into_owned();
    let at = |source| TranscriptError::Brain { path: path.clone(), source };
    let range = ReadRange::Bytes { offset: 0, limit: Some(LONGEST) };
    let mut reading = hands.files().read(&path, range).await.map_err(at)?;
    let size = reading.info.size;
    let mut content = Vec::new();
    while let Some(part) = reading.next().await.map_err(at)? {
        if let ReadPart::Data(data) = part {
            content.extend_from_slice(&data);
        }
    }
    let size = size.max(content.len() as u64);
    Ok(Some(Kept { path, size, content: content.into() }))
}

fn read(path: &Path) -> io::Result<Option<Bytes>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, whenever the node loses its power.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}
