//! What the daemon must know after it died: sandboxes, and the events of the node.
//!
//! The store is one SQLite database. It knows ids, and text that the floors above made and will understand again; what
//! the text means is none of its business.
//!
//! ```text
//!  caller ─┐                              ┌─► wal, synced ─► newest (watch) ─► answers
//!  caller ─┼─ bounded channel ─► writer ──┘
//!  caller ─┘                     one thread; all that waits is one transaction
//!  reader ─► blocking pool ─► a read-only connection of its own
//! ```
//!
//! Invariants:
//!
//! - A write is answered after its transaction is on the disk, never before, and [`Store::newest`] tells of an event only
//!   then. So nothing is published that a crash could take back.
//! - A write that was refused or failed has changed nothing. A full disk fails the writes that meet it, and no others.
//! - Requests of one caller that waits for each answer are made in that order.
//! - The `seq` of events starts at 1, grows by 1, and never comes twice, whatever was trimmed and whoever crashed.
//!
//! A caller that stops waiting does not take its write back: once it is in the channel, it is made.

mod agents;
mod credentials;
mod error;
mod events;
mod log;
mod readers;
mod sandboxes;
mod schema;
mod sessions;
mod tokens;
mod webhooks;
mod writer;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row};
use tokio::sync::{mpsc, watch};

pub use agents::StoredAgent;
pub use credentials::StoredCredential;
pub use error::StoreError;
pub use events::{NewEvent, StoredEvent};
pub use log::{Growth, LogEntry, LogQuery, News};
pub use sessions::{Added, Change, Claim, NewSession, SessionQuery, StoredSession};
pub use webhooks::{StoredDelivery, StoredDestination};

use log::Tails;
use readers::Readers;
use writer::Request;

/// Longest text that the store takes, in bytes: far above any record, and a bound on what a page or a batch can hold.
pub const TEXT_LIMIT: usize = 1 << 20;

/// How many writes may wait for the writer. Twice a batch: so the next one is complete while one is being synced.
const QUEUE: usize = 2 * writer::BATCH;

/// How long another program's lock is waited for: longer than a statement of the `sqlite3` shell takes, and short enough
/// that those who wait behind it hear soon.
const PATIENCE: Duration = Duration::from_secs(1);

/// More than there are statements, so that each is prepared once per connection.
const STATEMENTS: usize = 64;

/// A handle of the store; clones share it. When the last is dropped, the writer finishes what it was given and ends;
/// [`close`](Self::close) is the way that waits for that.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: mpsc::Sender<Request>,
    newest: watch::Receiver<u64>,
    readers: Readers,
    tails: Tails,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the database at `path`, makes it if it is missing (for the owner's eyes only; its directory must be there),
    /// and brings it to this program's version. Blocks.
    ///
    /// # Errors
    /// [`StoreError::TooNew`] if a newer program wrote it, [`StoreError::Damaged`] if it is no database or a broken one,
    /// [`StoreError::Locked`] if another program holds it, and whatever the disk says.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        if let Err(source) = made.map(drop)
            && source.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(StoreError::File { path: path.to_owned(), source: Arc::new(source) });
        }
        let opening = |error| StoreError::sqlite("opening the store", error);
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(opening)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(opening)?;
        if mode != "wal" {
            return Err(StoreError::NoWal { mode });
        }
        connection.pragma_update(None, "synchronous", "FULL").map_err(opening)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(opening)?;
        schema::migrate(&mut connection, schema::STEPS)?;

        let (publish, newest) = watch::channel(events::newest(&connection).map_err(opening)?);
        let (requests, queue) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(connection, queue, &publish))
            .map_err(|source| StoreError::Thread { source: Arc::new(source) })?;
        let readers = Readers::new(path);
        Ok(Self {
            shared: Arc::new(Shared {
                requests,
                newest,
                readers,
                tails: Tails::default(),
                writer: Mutex::new(Some(writer)),
            }),
        })
    }

    /// The `seq` of the newest durable event, 0 before the first. It ends (`changed` fails) when the store does.
    ///
    /// A follower reads pages with [`events`](Self::events) until one is empty and then waits for this to pass its
    /// cursor: replay and live are the same code.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.shared.newest.clone()
    }

    /// Waits for the reads under way, has the writer finish what it was given, and waits for its end. Every later call on
    /// any clone is answered with [`StoreError::Gone`].
    ///
    /// # Errors
    /// [`StoreError::Gone`] if the writer had died before.
    pub async fn close(self) -> Result<(), StoreError> {
        self.shared.readers.close().await;
        // A writer that died takes nothing any more: joining it says so.
        let _ = self.shared.requests.send(Request::Close).await;
        let writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Ok(()) };
        match tokio::task::spawn_blocking(|| writer.join()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StoreError::Gone),
        }
    }

    /// Goes the way of a change, and changes nothing: whether the writer answers, and how soon.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.write(|_| Ok(())).await
    }

    /// Has the writer make a change in its next transaction, and waits until that is durable.
    ///
    /// `make` may be run in one transaction with others, so it refuses by its value: an error of it fails them all.
    async fn write<T, F>(&self, make: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (request, answer) = writer::request(make);
        self.shared.requests.send(request).await.map_err(|_| StoreError::Gone)?;
        answer.await.map_err(|_| StoreError::Gone)?
    }

    /// Has the writer make a change, after those that it was given before, and does not wait for it.
    async fn hand_over<F>(&self, make: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        let (request, _) = writer::request(make);
        self.shared.requests.send(request).await.map_err(|_| StoreError::Gone)
    }

    /// Reads from one state of the database on the blocking pool.
    async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.shared.readers.read(read).await
    }
}

/// A connection with the settings that readers and the writer share. One thread at a time uses it.
fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Refuses a text that is longer than [`TEXT_LIMIT`].
fn bounded(field: &'static str, text: &str) -> Result<(), StoreError> {
    if text.len() > TEXT_LIMIT {
        return Err(StoreError::TooLarge { field, len: text.len() });
    }
    Ok(())
}

/// The id in a column.
fn id<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err = crate::ids::IdError>,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

#[cfg(test)]
mod tests;
