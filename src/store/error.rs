//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;

use super::TEXT_LIMIT;

/// Why the store did not do what it was asked. Causes are shared, as one failed transaction fails all who were in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database file could not be made.
    #[error("making {}", path.display())]
    File {
        /// The database.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The writer's thread could not be started.
    #[error("starting the store's writer")]
    Thread {
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The file system cannot hold a write-ahead log, for example because it is a network's.
    #[error("the store cannot use a write-ahead log here, only journal mode {mode}")]
    NoWal {
        /// What SQLite fell back to.
        mode: String,
    },
    /// A newer program wrote the database.
    #[error("the store has version {found}, and this program knows versions up to {known}")]
    TooNew {
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The disk is full. Nothing was changed, and writes succeed again once there is room.
    #[error("{action}: no room is left on the disk")]
    Full {
        /// What was being done.
        action: &'static str,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// Another program holds a lock on the database for longer than is waited for. Nothing was changed.
    #[error("{action}: another program has locked the database")]
    Locked {
        /// What was being done.
        action: &'static str,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file is no database, or a damaged one.
    #[error("{action}: the database is damaged")]
    Damaged {
        /// What was being done.
        action: &'static str,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// Anything else, such as a disk that fails. After a failed write the daemon must not assume that it was not made.
    #[error("{action}")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A text is too long to be stored.
    #[error("{field} has {len} bytes, and the store takes at most {TEXT_LIMIT}")]
    TooLarge {
        /// The argument.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// Events after the cursor were trimmed.
    #[error("events before {oldest} are no longer kept")]
    Expired {
        /// The `seq` of the oldest event that is kept, or that the next one will have if none is.
        oldest: u64,
    },
    /// The cursor is beyond the newest event, so it is of another store.
    #[error("the newest event is {newest}")]
    Ahead {
        /// Its `seq`.
        newest: u64,
    },
    /// A session was changed by somebody else than the task that writes it. Nothing was changed.
    #[error("the session was changed meanwhile")]
    Overtaken,
    /// The store was closed, or its writer died.
    #[error("the store is gone")]
    Gone,
}

impl StoreError {
    /// Sorts an error of SQLite by what can be done about it.
    pub(super) fn sqlite(action: &'static str, error: rusqlite::Error) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
        // What this program has not written in a column, it did not write.
        let is_foreign = matches!(
            error,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
        );
        let code = error.sqlite_error_code();
        let source = Arc::new(error);
        match code {
            Some(ErrorCode::DiskFull) => Self::Full { action, source },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { action, source },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { action, source },
            None if is_foreign => Self::Damaged { action, source },
            _ => Self::Failed { action, source },
        }
    }
}
