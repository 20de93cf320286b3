//! Files of a sandbox.
//!
//! Every operation is a short conversation with the guest, on a connection of its own, on the blocking pool. The guest
//! resolves paths and checks rights as the sandbox's user; content does not pass through it where it can hand over
//! descriptors of regular files, which are read and written here.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time;

use self::content::Content;
use self::conversation::{ANSWER_WAIT, BULK_WAIT, Conversation, LIST_WAIT};
pub use self::edit::{EditError, MAX_EDIT, Occurrences};
pub use self::error::FileError;
pub use self::info::{FileInfo, FileKind};
pub use self::read::{ReadEnd, ReadPart, ReadRange, Reading};
pub use self::search::{Found, GrepOptions, Match, SearchError};
pub use self::write::{Checksum, ChecksumFormatError, WriteOptions, Writing, Written};
use crate::guest::wire::{self, file_reply, file_request};

mod content;
mod conversation;
mod edit;
mod error;
mod hex;
mod info;
mod page;
mod path;
mod read;
mod search;
mod write;

/// File operations of one sandbox at once, readers and writers that stream among them. The guest has a thread for each.
const MAX_OPERATIONS: usize = 32;

/// Most entries of a page.
pub const MAX_PAGE_SIZE: u32 = 10_000;

/// Most levels of a listing.
pub const MAX_DEPTH: u32 = 64;

/// Permission bits of a directory, if the client wants none in particular.
pub const DEFAULT_DIRECTORY_MODE: u32 = 0o755;

/// The files of one sandbox. A handle, cheap to clone.
#[derive(Debug, Clone)]
pub struct Files(Arc<Sandbox>);

#[derive(Debug)]
struct Sandbox {
    /// The guest's, on the node.
    socket: PathBuf,
    user: String,
    workspace: String,
    operations: Arc<Semaphore>,
}

/// How entries are to be listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Where, as the client says it; empty: the workspace.
    pub path: String,
    /// Levels below `path`, [`MAX_DEPTH`] at most; 0 is `path` itself.
    pub depth: u32,
    /// Also names that begin with a dot.
    pub hidden: bool,
    /// Most entries of the page, 1 to [`MAX_PAGE_SIZE`].
    pub limit: u32,
    /// Where the page before ended; empty for the first.
    pub page_token: String,
}

/// A page of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In order: by path, component by component, bytewise, a parent before its children.
    pub entries: Vec<FileInfo>,
    /// For the next page; `None` on the last one.
    pub next_page_token: Option<String>,
}

impl Files {
    /// The files of the sandbox whose guest listens at `socket`, as one of its users sees them. Relative paths begin at
    /// `workspace`.
    #[must_use]
    pub fn new(socket: PathBuf, user: String, workspace: PathBuf) -> Self {
        let workspace = workspace.to_string_lossy().into_owned();
        Self(Arc::new(Sandbox { socket, user, workspace, operations: Arc::new(Semaphore::new(MAX_OPERATIONS)) }))
    }

    /// Opens a regular file and reads its beginning.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn read(&self, path: &str, range: ReadRange) -> Result<Reading, FileError> {
        self.converse(path, move |mut guest| {
            let path = guest.path().to_owned();
            let request = wire::Open { path: path.clone().into() };
            let (info, file) = guest.open(file_request::Body::Open(request), ANSWER_WAIT)?;
            let content = match file {
                Some(file) => Content::Here { file, _permit: guest.end() },
                None => Content::There(Box::new(guest)),
            };
            Reading::begin(FileInfo::at(path.as_bytes(), info), &path, content, range)
        })
        .await
    }

    /// Begins to write a regular file.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn write(&self, options: WriteOptions) -> Result<Writing, FileError> {
        let WriteOptions { path, mode, create_parents, append, expected_sha256 } = options;
        self.converse(&path, move |mut guest| {
            let request = wire::Replace { path: guest.path().into(), mode, create_parents, append };
            let wait = if append { BULK_WAIT } else { ANSWER_WAIT };
            let (_, file) = guest.open(file_request::Body::Replace(request), wait)?;
            Ok(Writing::new(guest, file, expected_sha256))
        })
        .await
    }

    /// Lists entries. Symlinks are shown, not followed, but `path` itself is.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn list(&self, options: ListOptions) -> Result<Page, FileError> {
        let ListOptions { path, depth, hidden, limit, page_token } = options;
        let path = path::resolve(&self.0.workspace, if path.is_empty() { "." } else { &path })?;
        let after = page::cursor(&path, &page_token)?;
        let (depth, limit) = (depth.min(MAX_DEPTH), limit.clamp(1, MAX_PAGE_SIZE));
        self.converse(&path, move |mut guest| {
            let request = wire::List { path: guest.path().into(), depth, hidden, limit, after };
            match guest.ask(file_request::Body::List(request), LIST_WAIT)? {
                file_reply::Body::Listing(listing) => page_of(guest.path(), &listing, limit),
                _ => Err(guest.unexpected()),
            }
        })
        .await
    }

    /// How a file stands; a symlink itself.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn stat(&self, path: &str) -> Result<FileInfo, FileError> {
        self.ask_info(path, |path| file_request::Body::Stat(wire::Stat { path, follow: false })).await
    }

    /// How a file stands, or what a symlink points to.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn stat_target(&self, path: &str) -> Result<FileInfo, FileError> {
        self.ask_info(path, |path| file_request::Body::Stat(wire::Stat { path, follow: true })).await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// See [`FileError`]; [`FileError::Exists`] if anything is there.
    pub async fn mkdir(&self, path: &str, mode: u32) -> Result<FileInfo, FileError> {
        self.ask_info(path, move |path| file_request::Body::Mkdir(wire::Mkdir { path, mode, parents: false })).await
    }

    /// Makes a directory and the parents that are missing; content with one that is there.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn mkdir_all(&self, path: &str, mode: u32) -> Result<FileInfo, FileError> {
        self.ask_info(path, move |path| file_request::Body::Mkdir(wire::Mkdir { path, mode, parents: true })).await
    }

    /// Removes a file or an empty directory; a symlink itself.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn remove(&self, path: &str) -> Result<(), FileError> {
        self.ask_removal(path, false).await
    }

    /// Removes a file, or a directory with all it holds. What an error interrupts stays half done.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn remove_all(&self, path: &str) -> Result<(), FileError> {
        self.ask_removal(path, true).await
    }

    /// Renames a file or directory to a name that is free.
    ///
    /// # Errors
    /// See [`FileError`]; [`FileError::Exists`] if it is not.
    pub async fn rename(&self, from: &str, to: &str) -> Result<FileInfo, FileError> {
        self.ask_rename(from, to, false).await
    }

    /// Renames a file or directory, and replaces what has the name, at once.
    ///
    /// # Errors
    /// See [`FileError`].
    pub async fn rename_over(&self, from: &str, to: &str) -> Result<FileInfo, FileError> {
        self.ask_rename(from, to, true).await
    }

    async fn ask_removal(&self, path: &str, recursive: bool) -> Result<(), FileError> {
        path::refuse_dot(path)?;
        self.converse(path, move |mut guest| {
            let request = wire::Remove { path: guest.path().into(), recursive };
            match guest.ask(file_request::Body::Remove(request), BULK_WAIT)? {
                file_reply::Body::Done(_) => Ok(()),
                _ => Err(guest.unexpected()),
            }
        })
        .await
    }

    async fn ask_rename(&self, from: &str, to: &str, replace: bool) -> Result<FileInfo, FileError> {
        path::refuse_dot(from)?;
        let to = path::resolve(&self.0.workspace, to)?;
        self.converse(from, move |mut guest| {
            let request = wire::Rename { from: guest.path().into(), to: to.clone().into(), replace };
            // The kernel does not say which of the two is at fault.
            guest.speak_of(format!("{} to {to}", guest.path()));
            Ok(FileInfo::at(to.as_bytes(), guest.info(file_request::Body::Rename(request))?))
        })
        .await
    }

    /// Asks about one path for what is answered by how it stands.
    async fn ask_info<F>(&self, path: &str, body: F) -> Result<FileInfo, FileError>
    where
        F: FnOnce(Vec<u8>) -> file_request::Body + Send + 'static,
    {
        self.converse(path, move |mut guest| {
            let path = guest.path().to_owned();
            Ok(FileInfo::at(path.as_bytes(), guest.info(body(path.clone().into()))?))
        })
        .await
    }

    /// Has a conversation about a path on the blocking pool. A caller that stops waiting does not stop it.
    async fn converse<T, F>(&self, path: &str, talk: F) -> Result<T, FileError>
    where
        T: Send + 'static,
        F: FnOnce(Conversation) -> Result<T, FileError> + Send + 'static,
    {
        let path = path::resolve(&self.0.workspace, path)?;
        let permit = self.permit(&path).await?;
        let sandbox = self.0.clone();
        blocking(path.clone(), move || talk(Conversation::begin(&sandbox.socket, &sandbox.user, path, permit)?)).await
    }

    /// Waits for its turn, but not for longer than most operations take.
    async fn permit(&self, path: &str) -> Result<OwnedSemaphorePermit, FileError> {
        let permit = time::timeout(ANSWER_WAIT, self.0.operations.clone().acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| FileError::Busy { path: path.to_owned() })
    }
}

/// What the guest lists, with absolute paths.
fn page_of(path: &str, listing: &wire::Listing, limit: u32) -> Result<Page, FileError> {
    let bound = usize::try_from(limit).unwrap_or(usize::MAX);
    let entries = listing.decode_entries(bound).map_err(|error| FileError::lost(path, error))?;
    let last = entries.last().filter(|_| listing.more);
    let next_page_token = last.map(|entry| page::token(path, &entry.path));
    let absolute = |entry: wire::FileInfo| {
        let separator = if entry.path.is_empty() || path.ends_with('/') { "" } else { "/" };
        let path = [path.as_bytes(), separator.as_bytes(), &entry.path].concat();
        FileInfo::at(&path, entry)
    };
    Ok(Page { entries: entries.into_iter().map(absolute).collect(), next_page_token })
}

/// Does work that blocks, on the pool for that.
async fn blocking<T, F>(path: String, work: F) -> Result<T, FileError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, FileError> + Send + 'static,
{
    joined(&path, tokio::task::spawn_blocking(work).await)?
}

/// What a task has come to. A panic goes on in its owner; a task that never ran is the runtime's shutdown.
fn joined<T>(path: &str, result: Result<T, JoinError>) -> Result<T, FileError> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => FileError::lost(path, error),
    })
}

#[cfg(test)]
mod tests;
