//! Sandboxes: an id and the record that the floor above made of it.

use rusqlite::Connection;

use super::{Store, StoreError, bounded, id};
use crate::ids::SandboxId;

impl Store {
    /// Stores the record of a sandbox, in place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn put_sandbox(&self, sandbox: &SandboxId, record: &str) -> Result<(), StoreError> {
        bounded("record", record)?;
        let (sandbox, record) = (sandbox.clone(), record.to_owned());
        self.write(move |connection| put(connection, &sandbox, &record)).await
    }

    /// Removes a sandbox with its runs and its open steps, in one transaction: so it also finishes the step that removes
    /// it. It is no error if it is not there.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<(), StoreError> {
        let sandbox = sandbox.clone();
        self.write(move |connection| remove(connection, &sandbox)).await
    }

    /// All sandboxes with their records, in the order in which they were first put.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn sandboxes(&self) -> Result<Vec<(SandboxId, String)>, StoreError> {
        self.read(all).await
    }
}

/// Stores a record, in place of an earlier one.
pub(super) fn put(connection: &Connection, sandbox: &SandboxId, record: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO sandboxes (id, record) VALUES (?1, ?2)
               ON CONFLICT (id) DO UPDATE SET record = excluded.record";
    connection.prepare_cached(sql)?.execute((sandbox.as_str(), record)).map(drop)
}

fn remove(connection: &Connection, sandbox: &SandboxId) -> rusqlite::Result<()> {
    // Its runs go with it: they refer to it.
    connection.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?.execute([sandbox.as_str()])?;
    connection.prepare_cached("DELETE FROM journal WHERE sandbox = ?1")?.execute([sandbox.as_str()])?;
    Ok(())
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<(SandboxId, String)>> {
    let mut statement = connection.prepare_cached("SELECT id, record FROM sandboxes ORDER BY number")?;
    statement.query_map([], |row| Ok((id(row, 0)?, row.get(1)?)))?.collect()
}
