//! The tables, as the steps that make them.
//!
//! `PRAGMA user_version` says how many steps a database has behind it. A step that was released is never edited: what
//! changes is a new step at the end.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// From one version to the next.
#[derive(Debug)]
pub(super) struct Step {
    /// What it brings, for the log.
    name: &'static str,
    sql: &'static str,
}

/// All of them, oldest first.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "sandboxes and runs",
        // `number` is the order in which they were made; putting one again keeps it.
        sql: "
            CREATE TABLE sandboxes (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                record TEXT NOT NULL
            ) STRICT;
            CREATE TABLE runs (
                number INTEGER PRIMARY KEY,
                sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
                id TEXT NOT NULL,
                record TEXT NOT NULL,
                UNIQUE (sandbox, id)
            ) STRICT;
        ",
    },
    Step {
        name: "journal of lifecycle steps",
        // A row is a step that was begun and not finished. Its sandbox need not be there: a step may be about to make it.
        // AUTOINCREMENT, so that the id of a finished step is never that of another one.
        sql: "
            CREATE TABLE journal (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                sandbox TEXT NOT NULL,
                step TEXT NOT NULL,
                detail TEXT NOT NULL
            ) STRICT;
            CREATE INDEX journal_by_sandbox ON journal (sandbox);
        ",
    },
    Step {
        name: "events of the node",
        // AUTOINCREMENT, so that seq goes on where it was even when all events were trimmed.
        sql: "
            CREATE TABLE events (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                at_ns INTEGER NOT NULL,
                sandbox TEXT,
                kind TEXT NOT NULL,
                body TEXT NOT NULL
            ) STRICT;
        ",
    },
];

/// Takes the steps that the database lacks, all of them or none.
///
/// # Errors
/// [`StoreError::TooNew`] if it has more behind it than there are, and whatever SQLite says.
pub(super) fn migrate(connection: &mut Connection, steps: &[Step]) -> Result<(), StoreError> {
    const ACTION: &str = "bringing the store to this version";
    let failed = |error| StoreError::sqlite(ACTION, error);
    // At once for writing, so that two programs that start together do not both migrate.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let known = i64::try_from(steps.len()).expect("there are few steps");
    let missing = usize::try_from(found).ok().and_then(|done| steps.get(done..));
    let missing = missing.ok_or(StoreError::TooNew { found, known })?;
    for step in missing {
        tracing::debug!(step = step.name, "migrating the store");
        transaction.execute_batch(step.sql).map_err(failed)?;
    }
    if !missing.is_empty() {
        transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}
