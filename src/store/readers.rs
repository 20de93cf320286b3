//! Connections that only read, for the blocking pool. In WAL mode they neither wait for the writer nor hold it up.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{StoreError, connect};

/// How many reads go on at a time. More would only compete for the same disk and the same few cores.
const READERS: u32 = 4;

/// What all reads share. Idle connections are kept, as a new one reads the schema first.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Of the database at `path`. Opens nothing yet.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Arc::default(), permits: Arc::new(Semaphore::new(READERS as usize)) }
    }

    /// Runs `read` on a connection, in a transaction: it sees one state of the database.
    pub(super) async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Gone)?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let reading = tokio::task::spawn_blocking(move || {
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
            };
            let value = read(&*connection.transaction()?)?;
            // A connection that failed is not kept: a new one starts clean.
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            // Given back here and not by the caller, who may have stopped waiting.
            drop(permit);
            Ok(value)
        });
        let read = reading.await.map_err(|_| StoreError::Gone)?;
        read.map_err(|error| StoreError::sqlite("reading the store", error))
    }

    /// Refuses further reads, waits for those under way, and closes the connections.
    pub(super) async fn close(&self) {
        // Fails if another handle has closed them.
        let all = self.permits.acquire_many(READERS).await;
        self.permits.close();
        drop(all);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
