//! Runs: each of one sandbox, with the record that the floor above made of it. Their output is files, not rows.

use rusqlite::Connection;

use super::{Store, StoreError, bounded, id};
use crate::ids::{RunId, SandboxId};

impl Store {
    /// Stores the record of a run, in place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError::UnknownSandbox`] if the sandbox is not there (any more): so a run that ends late leaves nothing
    /// behind. [`StoreError::TooLarge`], and those of every write.
    pub async fn put_run(&self, sandbox: &SandboxId, run: &RunId, record: &str) -> Result<(), StoreError> {
        bounded("record", record)?;
        let (of, run, record) = (sandbox.clone(), run.clone(), record.to_owned());
        let is_known = self.write(move |connection| put(connection, &of, &run, &record)).await?;
        if is_known { Ok(()) } else { Err(StoreError::UnknownSandbox(sandbox.clone())) }
    }

    /// Removes a run. It is no error if it is not there.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn remove_run(&self, sandbox: &SandboxId, run: &RunId) -> Result<(), StoreError> {
        let (sandbox, run) = (sandbox.clone(), run.clone());
        self.write(move |connection| remove(connection, &sandbox, &run)).await
    }

    /// The runs of a sandbox with their records, in the order in which they were first put.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn runs(&self, sandbox: &SandboxId) -> Result<Vec<(RunId, String)>, StoreError> {
        let sandbox = sandbox.clone();
        self.read(move |connection| of(connection, &sandbox)).await
    }
}

/// Whether the sandbox is there; otherwise it stores nothing.
fn put(connection: &Connection, sandbox: &SandboxId, run: &RunId, record: &str) -> rusqlite::Result<bool> {
    // Asked and not left to the foreign key, whose violation would fail the other changes of the transaction.
    let sql = "INSERT INTO runs (sandbox, id, record) SELECT id, ?2, ?3 FROM sandboxes WHERE id = ?1
               ON CONFLICT (sandbox, id) DO UPDATE SET record = excluded.record";
    let rows = connection.prepare_cached(sql)?.execute((sandbox.as_str(), run.as_str(), record))?;
    Ok(rows > 0)
}

fn remove(connection: &Connection, sandbox: &SandboxId, run: &RunId) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM runs WHERE sandbox = ?1 AND id = ?2")?;
    statement.execute([sandbox.as_str(), run.as_str()]).map(drop)
}

fn of(connection: &Connection, sandbox: &SandboxId) -> rusqlite::Result<Vec<(RunId, String)>> {
    let mut statement = connection.prepare_cached("SELECT id, record FROM runs WHERE sandbox = ?1 ORDER BY number")?;
    statement.query_map([sandbox.as_str()], |row| Ok((id(row, 0)?, row.get(1)?)))?.collect()
}
