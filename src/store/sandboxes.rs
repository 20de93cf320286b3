//! Sandboxes: an id and the record that the floor above made of it.
//!
//! The record says where a sandbox stands or what is being done to it, so it is the journal too: what is about to be done
//! is put before its first effect, and what was found to be so after its last. Each change brings its event of the node's
//! log, in the same transaction.

use rusqlite::Connection;

use super::events::{self, NewEvent};
use super::{Store, StoreError, bounded, id};
use crate::ids::SandboxId;

impl Store {
    /// Stores the record of a sandbox, in place of an earlier one, and appends an event. Once this has answered, a crash
    /// does not forget it.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn put_sandbox(&self, sandbox: &SandboxId, record: String, event: NewEvent) -> Result<(), StoreError> {
        self.write(putting(sandbox, record, event)?).await
    }

    /// The same without waiting for the disk: for what the next daemon would find out by looking. Changes are made in the
    /// order in which they are handed over, and one that fails is logged.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Gone`].
    pub async fn hand_over_sandbox(
        &self,
        sandbox: &SandboxId,
        record: String,
        event: NewEvent,
    ) -> Result<(), StoreError> {
        self.hand_over(putting(sandbox, record, event)?).await
    }

    /// Removes a sandbox and appends an event. It is no error if it is not there.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn remove_sandbox(&self, sandbox: &SandboxId, event: NewEvent) -> Result<(), StoreError> {
        event.check()?;
        let sandbox = sandbox.clone();
        self.write(move |connection| {
            remove(connection, &sandbox)?;
            events::append(connection, Some(&sandbox), &event).map(drop)
        })
        .await
    }

    /// All sandboxes with their records, in the order in which they were first put.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn sandboxes(&self) -> Result<Vec<(SandboxId, String)>, StoreError> {
        self.read(all).await
    }
}

/// The change that puts a sandbox.
fn putting(
    sandbox: &SandboxId,
    record: String,
    event: NewEvent,
) -> Result<impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static, StoreError> {
    bounded("record", &record)?;
    event.check()?;
    let sandbox = sandbox.clone();
    Ok(move |connection: &Connection| {
        put(connection, &sandbox, &record)?;
        events::append(connection, Some(&sandbox), &event).map(drop)
    })
}

fn put(connection: &Connection, sandbox: &SandboxId, record: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO sandboxes (id, record) VALUES (?1, ?2)
               ON CONFLICT (id) DO UPDATE SET record = excluded.record";
    connection.prepare_cached(sql)?.execute((sandbox.as_str(), record)).map(drop)
}

fn remove(connection: &Connection, sandbox: &SandboxId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?.execute([sandbox.as_str()]).map(drop)
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<(SandboxId, String)>> {
    let mut statement = connection.prepare_cached("SELECT id, record FROM sandboxes ORDER BY number")?;
    statement.query_map([], |row| Ok((id(row, 0)?, row.get(1)?)))?.collect()
}
